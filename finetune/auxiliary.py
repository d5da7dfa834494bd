"""What a decoder learns beside what it delivers: where the hand is, to say better how it moves."""

import numpy as np
from numpy.typing import NDArray

from ndt.data.targets import build_targets, offers
from ndt.data.windows import BinnedSession
from ndt.errors import InputError
from ndt.finetune.unlabelled import FEWEST
from ndt.model.checkpoint import TargetSpec
from ndt.target import Part, Target, labelled

__all__ = ["auxiliary_parts", "auxiliary_values"]

# R = bins, A = columns of all auxiliary parts


def auxiliary_parts(binned: BinnedSession, names: str, target: Target, chosen: NDArray[np.bool_]) -> tuple[Part, ...]:
    """Returns what is learned beside a target.

    Arguments:
        binned: The session's bins.
        names: Names as of `build_targets`; ``auto`` for all other series that have labels at training bins and vary
            there; empty for nothing.
        target: What is delivered.
        chosen: Training bins, (R,).

    Raises:
        InputError: if a name fits nothing or several things, is delivered already, or cannot be learned.
    """
    ensemble = {part.name for part in target.parts}
    if names == "auto":
        each = [_built(binned, name, target) for name in binned.session.covariates if name not in ensemble]
        return tuple(one.parts[0] for one in each if _rows(one, chosen).any())
    found: list[Part] = []
    for name in filter(None, map(str.strip, names.split(","))):
        one = _built(binned, name, target)
        part, where = one.parts[0], binned.session.session_id
        if part.name in ensemble | {p.name for p in found}:
            raise InputError(where, "auxiliary", f"each once, and others than {target.name}", part.name)
        if not _rows(one, chosen).any():
            expected = f"at least {FEWEST} training bins with a label of {part.name}, which vary"
            raise InputError(where, "auxiliary", expected, int((chosen & labelled(one)).sum()))
        found.append(part)

    return tuple(found)


def auxiliary_values(
    binned: BinnedSession, parts: tuple[Part, ...], target: Target, chosen: NDArray[np.bool_]
) -> Target:
    """Returns these parts at training bins, in standard deviations from their mean there; NaN elsewhere.

    A part that the session has not, or has otherwise, is NaN: a decoder that once learned it goes on without.
    """
    found = Target.unlabelled(parts, len(binned), target.lag)
    for i, part in enumerate(parts):
        one = _built(binned, part.request, target) if offers(binned.session, part.request) else None
        if one is not None and one.parts == (part,) and (rows := _rows(one, chosen)).any():
            spec = TargetSpec.fitted(one, rows, binned.session.session_id)
            found.values[rows, found.columns(i)] = spec.standardise(one.values[rows])

    return found


def _built(binned: BinnedSession, name: str, target: Target) -> Target:
    return build_targets(binned.session, [name], binned.start, binned.bin_size, lag=target.lag, split=binned.split)


def _rows(one: Target, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns the training bins with a label, (R,); none where that is too few to learn from, or all the same."""
    rows = chosen & labelled(one)
    enough = rows.sum() >= FEWEST and bool(np.all(one.values[rows].std(0) > 0))

    return rows if enough else np.zeros_like(rows)
