"""Starts the units of a new day as those of an earlier one that they are matched to, without names and labels."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ndt.data.store import Store
from ndt.data.windows import TRAIN, BinnedSession
from ndt.errors import InputError
from ndt.finetune.unit_matching import match_units
from ndt.model.transformer import NDT
from ndt.segments import Array
from ndt.session import Session

__all__ = ["align", "earlier_days"]

LASTING = ("depth", "rel_x", "rel_y", "rel_z", "x", "y", "z")  # columns of units that say where they are


def align(
    model: NDT, base: NDT, stores: Sequence[Store], binned: BinnedSession, chosen: NDArray[np.bool_], align_to: str = ""
) -> dict[str, Any]:
    """Gives units that the base model does not know the vectors of old units that they are matched to, in place.

    Units that it knows by their identity are pairs that the others are matched beside. What is matched to nothing
    starts where it would have.

    Arguments:
        model: The model to be adapted; it knows the session's units.
        base: The model that it came from.
        stores: Where the old day may be.
        binned: The new day's bins.
        chosen: Bins of it that may be looked at, (R,).
        align_to: Session id of the old day; empty for the last of the subject that `base` was trained on.

    Returns:
        The old day's session, and numbers of units: unknown, and matched of those.

    Raises:
        InputError: if there is no such day.
    """
    new = binned.session
    old = _old_day(base, stores, new, align_to)
    if not model.KNOWS_UNITS:
        raise InputError("finetune", "strategy", "a base model whose units are vectors, to align them", "one of slots")
    there = BinnedSession(old, binned.bin_size, base.spec.window_bins * binned.bin_size)
    known, first = set(base.vocabulary.units), _Units.of(old, there, there.split == TRAIN)
    unknown = [str(u) for u in new.units.id if str(u) not in known]
    second = _Units.of(new, binned, chosen, {*unknown, *first.names})
    pairs = [(first.names.index(u), i) for i, u in enumerate(second.names) if u in first.names]
    columns = _shared(first.columns, second.columns)
    matched = match_units(first.counts, second.counts, binned.bin_size, known=pairs, columns=columns)
    row = {u: i for i, u in enumerate(model.vocabulary.units)}
    found = {u: first.names[i] for u, i in zip(second.names, matched, strict=True) if i >= 0 and u not in known}
    _copy_units(model, [(row[first_name], row[u]) for u, first_name in found.items()])

    return {"to": old.session_id, "unknown": len(unknown), "matched": len(found)}


class _Units(NamedTuple):
    """Units of a day in the order of their names: those, counts of each segment, and what the file says of them."""

    names: list[str]
    counts: list[Array]
    columns: dict[str, Array]

    @classmethod
    def of(
        cls, session: Session, binned: BinnedSession, chosen: NDArray[np.bool_], predicted: set[str] | None = None
    ) -> "_Units":
        names = [str(u) for u in session.units.id]
        order = [i for i in np.argsort(names, kind="stable") if predicted is None or names[i] in predicted]
        counts = binned.all_counts()[:, order]
        columns = {k: v for k, v in session.units.columns.items() if k in LASTING or k.startswith("waveform")}
        numbers = {k: np.asarray(v, np.float64) for k, v in columns.items() if np.issubdtype(v.dtype, np.number)}

        return cls(
            [names[i] for i in order],
            [counts[a:b] for a, b in binned.runs(chosen)],
            {k: v.reshape(len(v), -1)[order] for k, v in numbers.items()},
        )


def _shared(first: dict[str, Array], second: dict[str, Array]) -> tuple[Array, Array] | None:
    """Returns the columns that both days have in one shape, (N, K) and (M, K); None where there is none."""
    both = [k for k, v in first.items() if k in second and second[k].shape[1] == v.shape[1]]

    if not both:
        return None
    x, y = (np.concatenate([columns[k] for k in both], 1) for columns in (first, second))

    return x, y


def _old_day(base: NDT, stores: Sequence[Store], new: Session, align_to: str) -> Session:
    days = earlier_days(base, stores, new)
    if not days:
        where = " and ".join(str(store.root) for store in stores)
        expected = f"a session of {new.subject} that the model was trained on, in {where}, to align units to"
        raise InputError("finetune", "strategy", expected, "none")
    if align_to and align_to not in days:
        raise InputError("settings", "align_to", f"one of: {', '.join(days)}", align_to)

    return days[align_to or list(days)[-1]]


def earlier_days(base: NDT, stores: Sequence[Store], session: Session) -> dict[str, Session]:
    """Returns the subject's other sessions that the model was trained on and a store holds, in order of date."""
    days = [
        store.session(s)
        for store in reversed(stores)  # the first store's are found first
        for s in base.spec.data
        if s in store.session_ids and s != session.session_id
    ]
    days = sorted((d for d in days if d.subject == session.subject), key=lambda d: (d.recording_date, d.session_id))

    return {day.session_id: day for day in days}


@torch.no_grad()
def _copy_units(model: NDT, pairs: list[tuple[int, int]]) -> None:
    """Makes each second unit, a row of the tables, what the first is, whatever probe and depth their files name."""
    for old, new in pairs:
        model.unit[new] = model.unit[old] + _where(model, old) - _where(model, new)
        if model.readin is not None:
            model.readin[new] = model.readin[old]


def _where(model: NDT, unit: int) -> Tensor:
    """What place and depth add to a unit's vector."""
    return model.unit_site[model.site_of_unit[unit]].sum(0) + model.depth_of_unit[unit] * model.depth
