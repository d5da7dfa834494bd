"""Ways to adapt a pretrained model to a session: what learns, and from what."""

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
    """A way to adapt.

    Arguments:
        learns: Which parts of the model learn; see `part_of`.
        masked: Whether all steps are on the masked loss, which needs no labels; weights are then chosen by the
            likelihood on the validation split, else by R² there.
        decoder: What kind of decoder the model is given (`ModelConfig.decoder`), and fitted when the steps
            are done; empty for the one that it has, or a new one of its kind.
        aligned: Whether new units start as those of an earlier day that they are matched to.
    """

    learns: tuple[str, ...]
    masked: bool = False
    decoder: str = ""
    aligned: bool = False

    @property
    def labelled(self) -> bool:
        """Whether it needs labels of the session."""
        return not self.masked or bool(self.decoder)

    def learns_decoder(self, new: tuple[str, ...]) -> bool:
        """Whether labels teach all of the decoder, which is pretrained unless `new` names it."""
        return not self.masked and (part_of("decoder.", new) in self.learns)


STRATEGIES = {
    "full": Strategy(learns=("tables", "input", "trunk", "new")),
    "contexts": Strategy(learns=("tables", "input", "new")),
    "probe": Strategy(learns=("tables",), masked=True, decoder="linear"),
    "unsupervised": Strategy(learns=("tables",), masked=True),
    "align": Strategy(learns=("tables",), masked=True, aligned=True),
}


def part_of(name: str, new: tuple[str, ...] = ()) -> str:
    """Returns the part of the model that a parameter belongs to.

    ``tables`` are what is known of sessions, units and places; ``new`` is what was not pretrained; ``input`` turns
    counts into tokens; ``trunk`` is all else.

    Arguments:
        name: Name of the parameter.
        new: How the names of parameters begin that were not pretrained.
    """
    if name in TABLES:
        return "tables"
    if name.startswith(new):
        return "new"

    return "input" if name.startswith("embed.") else "trunk"


def choose_strategy(
    config: FinetuneConfig, base: NDT | None, stores: Sequence[Store], session: Session, labels: float
) -> FinetuneConfig:
    """Returns settings that name the way: the one that is asked for, or by this rule where that is open (``auto``).

    =================  ==================  =====================================  ================
    pretrained model   seconds of labels   units of the session                   way
    =================  ==================  =====================================  ================
    none               any                                                        ``full``
    any                any                                                        ``full``
    with a decoder     none                some unknown, and an earlier day       ``align``
    with a decoder     none                others                                 ``unsupervised``
    =================  ==================  =====================================  ================

    Where more than half of the units are unknown, and there is an earlier day of the subject that the model was trained
    on, `align_to` names that day too, whatever the way: units then start as those that they are matched to.

    What it rests on: on a simulated day half of whose units changed (`ndt.benchmarks.adaptation`), ``full`` and ``contexts``
    decode equally well from 15 to 210 s of labels, and ``probe`` worse; on a recorded second day with a minute of them,
    months later, ``full`` is far above ``contexts``. Nothing is lost by it: most of its steps are those of
    ``contexts`` (`freeze_steps`), and validation chooses among all. Without labels an adapted model is above an
    unadapted one, and level with labels of a minute; under new names alignment alone finds the units.

    Arguments:
        config: Fine-tuning; uses `strategy` and `align_to`.
        base: The pretrained model; None for none.
        stores: Where earlier days may be.
        session: The session.
        labels: Seconds of labels in the training split that are to be used.

    Raises:
        InputError: if the way needs a pretrained model or a decoder, and there is none.
    """
    if base is None:
        if config.strategy not in ("auto", "full") or config.align_to:
            found = f"align_to {config.align_to}" if config.strategy in ("auto", "full") else config.strategy
            raise InputError("settings", "strategy", "full, and no align_to, where there is no pretrained model", found)
        return replace(config, strategy="full")
    if config.strategy == "auto":
        config = _by_rule(config, base, stores, session, labels)
    if not STRATEGIES[config.strategy].labelled and base.spec.target is None:
        expected = f"a base model that decodes (ndt pretrain with a target, or ndt finetune), for {config.strategy}"
        raise InputError("finetune", "strategy", expected, "one without a decoder")

    return config


def _by_rule(
    config: FinetuneConfig, base: NDT, stores: Sequence[Store], session: Session, labels: float
) -> FinetuneConfig:
    unknown = len(set(map(str, session.units.id)) - set(base.vocabulary.units))
    days = list(earlier_days(base, stores, session)) if unknown and base.KNOWS_UNITS else []
    if labels or base.spec.target is None:  # without a decoder only labels help, and their want is said
        strategy = "full"
    else:
        strategy = "align" if days else "unsupervised"
    if days and unknown > session.num_units / 2 and not config.align_to:
        config = replace(config, align_to=days[-1])

    return replace(config, strategy=strategy)
