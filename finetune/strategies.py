"""Fine-tuning strategies: stages of training, and the parts of a pretrained model that learn in each."""

from dataclasses import dataclass, replace

from ndt.config import FinetuneConfig
from ndt.errors import InputError
from ndt.model.transformer import NDT, TABLES

__all__ = ["UNLABELLED", "Stage", "choose_strategy", "part_of", "stages"]

PARTS = ("embeddings", "heads", "backbone")
UNLABELLED = ("unlabelled", "none")  # strategies that need no labels


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
    with the strategy ``full`` then all of it, with ``heads`` no more. With ``unlabelled`` embeddings alone learn, with
    ``none`` nothing.
    """
    steps, first = config.train.steps, min(config.freeze_steps, config.train.steps)
    if not pretrained:
        return (Stage(steps, PARTS),)
    if config.strategy == "none":
        return ()
    if config.strategy in ("heads", "unlabelled"):
        return (Stage(steps, PARTS[: 2 if config.strategy == "heads" else 1]),)

    return tuple(s for s in (Stage(first, PARTS[:2]), Stage(steps - first, PARTS)) if s.steps)


def choose_strategy(config: FinetuneConfig, base: NDT | None, labels: float) -> FinetuneConfig:
    """Returns settings with the requested strategy, or, for ``auto``, with ``full``, or ``unlabelled`` without labels.

    Without labels there are no ensemble weights to fit: the network alone is the decoder. All windows are then masked.

    Arguments:
        config: Fine-tuning; uses `strategy`.
        base: The pretrained model; None for a model from scratch.
        labels: Seconds of labelled data to use.

    Raises:
        InputError: if the strategy needs a pretrained model, or one with a target, and there is none.
    """
    if config.strategy == "auto":  # without labels, a model without a target is refused below, one from scratch later
        config = replace(config, strategy="full" if labels or base is None else "unlabelled")
    if base is None and config.strategy != "full":
        raise InputError("settings", "strategy", "full, for a model from scratch", config.strategy)
    if config.strategy in UNLABELLED:
        if base is None or base.spec.target is None:
            expected = f"a base model with a target (from ndt pretrain or ndt finetune), for {config.strategy}"
            raise InputError("finetune", "strategy", expected, "one without a target")
        config = replace(config, ensemble=("network",), mask=replace(config.mask, share=1.0))

    return config
