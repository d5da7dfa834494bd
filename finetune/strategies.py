"""Fine-tuning strategies: which parameters of a pretrained model learn, and from which loss."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ndt.config import FinetuneConfig
from ndt.data.store import Store
from ndt.errors import InputError
from ndt.finetune.alignment import earlier_days
from ndt.model.transformer import NDT, TABLES
from ndt.session import Session

__all__ = ["STRATEGIES", "Strategy", "choose_strategy", "part_of"]


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """A fine-tuning strategy.

    Arguments:
        learns: Parts of the model that learn; see `part_of`.
        masked: Whether all steps are on the masked loss, which needs no labels; validation then selects weights by
            likelihood, else by R².
        decoder: Decoder (`ModelConfig.decoder`) that is fitted in closed form after the steps; empty to keep the
            model's decoder, or train a new one of its kind.
        aligned: Whether unknown units start as the units of an earlier day that they are matched to.
    """

    learns: tuple[str, ...]
    masked: bool = False
    decoder: str = ""
    aligned: bool = False

    @property
    def labelled(self) -> bool:
        """Whether the strategy needs labels of the session."""
        return not self.masked or bool(self.decoder)

    def learns_decoder(self, new: tuple[str, ...]) -> bool:
        """Whether all of the decoder learns from labels; the decoder is pretrained unless `new` names it."""
        return not self.masked and (part_of("decoder.", new) in self.learns)


STRATEGIES = {
    "full": Strategy(learns=("embeddings", "input", "backbone", "new")),
    "contexts": Strategy(learns=("embeddings", "input", "new")),
    "probe": Strategy(learns=("embeddings",), masked=True, decoder="linear"),
    "unsupervised": Strategy(learns=("embeddings",), masked=True),
    "align": Strategy(learns=("embeddings",), masked=True, aligned=True),
}


def part_of(name: str, new: tuple[str, ...] = ()) -> str:
    """Returns the part of the model that a parameter belongs to.

    ``embeddings`` are those of units and contexts; ``new`` was not pretrained; ``input`` turns counts into tokens;
    ``backbone`` is all else.

    Arguments:
        name: Name of the parameter.
        new: Prefixes of the names of parameters that were not pretrained.
    """
    if name in TABLES:
        return "embeddings"
    if name.startswith(new):
        return "new"

    return "input" if name.startswith("embed.") else "backbone"


def choose_strategy(
    config: FinetuneConfig, base: NDT | None, stores: Sequence[Store], session: Session, labels: float
) -> FinetuneConfig:
    """Returns settings with the requested strategy, or, for ``auto``, with the one that this rule gives.

    =================  ==================  =====================================  ================
    pretrained model   seconds of labels   units of the session                   strategy
    =================  ==================  =====================================  ================
    none               any                                                        ``full``
    any                any                                                        ``full``
    with a decoder     none                some unknown, and an earlier day       ``align``
    with a decoder     none                others                                 ``unsupervised``
    =================  ==================  =====================================  ================

    If more than half of the units are unknown, and the model was trained on an earlier day of the subject, `align_to`
    names that day under every strategy: units then start as those that they are matched to.

    Evidence: on a simulated day with half of the units changed (`ndt.benchmarks.adaptation`), ``full`` and ``contexts``
    decode equally well from 15 to 210 s of labels, and ``probe`` worse; on a recorded day months later, with a minute
    of labels, ``full`` is far above ``contexts``. Most steps of ``full`` are those of ``contexts`` (`freeze_steps`),
    and validation selects among all. Without labels an adapted model is above an unadapted one, and as good as with a
    minute of labels; if all units have new identities, only alignment finds them.

    Arguments:
        config: Fine-tuning; uses `strategy` and `align_to`.
        base: The pretrained model; None for a model from scratch.
        stores: Stores that may hold earlier days.
        session: The session.
        labels: Seconds of labelled data to use.

    Raises:
        InputError: if the strategy needs a pretrained model or decoder, and there is none.
    """
    if base is None:
        if config.strategy not in ("auto", "full") or config.align_to:
            found = f"align_to {config.align_to}" if config.strategy in ("auto", "full") else config.strategy
            raise InputError("settings", "strategy", "full, and no align_to, for a model from scratch", found)
        return replace(config, strategy="full")
    if config.strategy == "auto":
        unknown = len(set(map(str, session.units.id)) - set(base.vocabulary.units))
        days = list(earlier_days(base, stores, session)) if unknown and base.KNOWS_UNITS else []
        unsupervised = "align" if days else "unsupervised"
        # Without labels, session_labels refuses a model without a decoder.
        config = replace(config, strategy="full" if labels or base.spec.target is None else unsupervised)
        if days and unknown > session.num_units / 2 and not config.align_to:
            config = replace(config, align_to=days[-1])
    if not STRATEGIES[config.strategy].labelled and base.spec.target is None:
        expected = f"a base model with a decoder (ndt pretrain with a target, or ndt finetune), for {config.strategy}"
        raise InputError("finetune", "strategy", expected, "one without a decoder")

    return config
