"""Fine-tuning strategies: stages of training, and the parts of a pretrained model that learn in each."""

from dataclasses import dataclass, replace

from ndt.config import FinetuneConfig
from ndt.errors import InputError
from ndt.model.transformer import NDT, TABLES

__all__ = ["Stage", "choose_strategy", "part_of", "stages"]

PARTS = ("embeddings", "heads", "backbone")


@dataclass(frozen=True)
class Stage:
    """A stage of training.

    Arguments:
        steps: Its number of steps.
        learns: Parts of the model (`part_of`) that learn.
    """

    steps: int
    learns: tuple[str, ...]


def part_of(name: str) -> str:
    """Returns the part of the model that a parameter belongs to.

    ``embeddings`` are the rows of units, sites and contexts; ``heads`` read the target; ``backbone`` is all else.
    """
    if name in TABLES:
        return "embeddings"

    return "heads" if name.startswith(("heads.", "decoder.")) else "backbone"


def stages(config: FinetuneConfig, pretrained: bool) -> tuple[Stage, ...]:
    """Returns the stages of a run, in order; together they have the steps of `config.train`, or none.

    From scratch, all learns in one stage. Of a pretrained model, embeddings and heads learn first (`freeze_steps`);
    with the strategy ``full`` then all of it, with ``heads`` no more, and with ``none`` nothing at all.
    """
    steps, first = config.train.steps, min(config.freeze_steps, config.train.steps)
    if not pretrained:
        return (Stage(steps, PARTS),)
    if config.strategy == "none":
        return ()
    if config.strategy == "heads":
        return (Stage(steps, PARTS[:2]),)

    return tuple(s for s in (Stage(first, PARTS[:2]), Stage(steps - first, PARTS)) if s.steps)


def choose_strategy(config: FinetuneConfig, base: NDT | None, labels: float) -> FinetuneConfig:
    """Returns settings with the requested strategy, or, for ``auto``, with ``full``, or ``none`` without labels.

    Without labels there are no ensemble weights to fit: the network alone is the decoder.

    Arguments:
        config: Fine-tuning; uses `strategy`.
        base: The pretrained model; None for a model from scratch.
        labels: Seconds of labelled data to use.

    Raises:
        InputError: if the strategy needs a pretrained model, or one with a target, and there is none.
    """
    if config.strategy == "auto":  # without labels, a model without a target is refused below, one from scratch later
        config = replace(config, strategy="full" if labels or base is None else "none")
    if base is None and config.strategy != "full":
        raise InputError("settings", "strategy", "full, for a model from scratch", config.strategy)
    if config.strategy == "none":
        if base is None or base.spec.target is None:
            expected = "a base model with a target (ndt pretrain with a target, or ndt finetune), for none"
            raise InputError("finetune", "strategy", expected, "one without a target")
        config = replace(config, ensemble=("network",))

    return config
