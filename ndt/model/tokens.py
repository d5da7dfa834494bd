"""Tokens: windows of spike counts, cut into patches of units and packed into one batch without padding.

A token is one bin of one patch; a patch has at most P units. Each entry of a token (a unit in a bin) is visible, hidden
(to be predicted) or invalid (not observed, or padding of a session's last patch). The encoder skips tokens without a
visible entry; a batch leaves out tokens without a valid entry.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ndt.errors import InputError

__all__ = ["ACTIVITY", "Batch", "Window", "pack"]

# Measures of a unit's activity in unlabelled time, see `ndt.data.activity`.
ACTIVITY = (
    *("mean_count", "log_rate", "fano", "autocorrelation_1", "autocorrelation_2", "autocorrelation_4", "population"),
    *(f"response_{i}" for i in range(10)),
    *(f"response_shape_{i}" for i in range(10)),
)

# B = windows, T = bins, N = units, A = measures of activity, P = units of a patch, L = tokens of all windows together,
# U = units of all windows together, J = patches of units of all windows together, R = bins of all windows together,
# K = context rows of all windows together, C = target columns, H = parts of the target


@dataclass(frozen=True, kw_only=True)
class Window:
    """T consecutive bins of one session, with its N units sorted by identity.

    Arguments:
        counts: Spikes per bin, shape (T, N).
        valid: Whether the unit was observed in the bin, shape (T, N).
        unit: Row of each unit in the model's vocabulary, shape (N,).
        context: Row of each context in the model's vocabulary, shape (K,).
        activity: `ACTIVITY` of each unit in this session, shape (N, A); None for that of the model.
        hidden: Entries that the model must predict, shape (T, N); None hides nothing.
        target: Targets at the bins, NaN without a label, shape (T, C); None if no decoder is trained.
        trial: For each part of the target, the trial (row of its table) at each bin, -1 for none, shape (T, H).
        index: Bins of the window in the binned session: (first, last + 1).
        session: Id of the session, for error messages.
    """

    counts: NDArray[np.uint8]
    valid: NDArray[np.bool_]
    unit: NDArray[np.int64]
    context: NDArray[np.int64]
    activity: NDArray[np.float32] | None = None
    hidden: NDArray[np.bool_] | None = None
    target: NDArray[np.float32] | None = None
    trial: NDArray[np.int64] | None = None
    index: tuple[int, int] = (0, 0)
    session: str = ""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B packed windows; tokens are ordered by window, bin and slot.

    Arguments:
        counts: Spikes of each entry, shape (L, P), uint8; 0 where invalid.
        valid: Whether the entry exists and was observed, shape (L, P).
        hidden: Whether the entry is to be predicted, shape (L, P); False where invalid.
        patch: Row of the token's patch in `members`, shape (L,).
        members: Index in `unit` of each unit of each patch, shape (J, P); 0 at padding.
        time: Bin of the token within its window, shape (L,).
        slot: Index of the token's patch within its window, shape (L,).
        window: Window of the token, ascending, shape (L,).
        unit: Row of each unit of the windows' sessions in the model's vocabulary, shape (U,).
        activity: `ACTIVITY` of each of these units in its session, shape (U, A); NaN for that of the model.
        context: Row of each context in the model's vocabulary, shape (K,).
        context_window: Window of the context, ascending, shape (K,).
        target: Targets at all bins, NaN without a label, shape (R, C).
        bin_time: Bin within its window, shape (R,).
        bin_window: Window of the bin, ascending, shape (R,).
        num_windows: Windows B.
        trial: For each part of the target, the trial at each bin, -1 for none, shape (R, H).
        sessions: Ids of the sessions in the batch.
    """

    counts: Int[Tensor, "L P"]
    valid: Bool[Tensor, "L P"]
    hidden: Bool[Tensor, "L P"]
    patch: Int[Tensor, " L"]
    members: Int[Tensor, "J P"]
    time: Int[Tensor, " L"]
    slot: Int[Tensor, " L"]
    window: Int[Tensor, " L"]
    unit: Int[Tensor, " U"]
    activity: Float[Tensor, "U A"]
    context: Int[Tensor, " K"]
    context_window: Int[Tensor, " K"]
    target: Float[Tensor, "R C"]
    bin_time: Int[Tensor, " R"]
    bin_window: Int[Tensor, " R"]
    trial: Int[Tensor, "R H"]
    num_windows: int
    sessions: tuple[str, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Number of tokens L."""
        return len(self.time)

    @property
    def seen(self) -> Bool[Tensor, "L P"]:
        """Visible entries."""
        return self.valid & ~self.hidden

    @property
    def visible(self) -> Bool[Tensor, " L"]:
        """Tokens with a visible entry."""
        return self.seen.any(-1)

    @property
    def predicted(self) -> Bool[Tensor, " L"]:
        """Tokens with a hidden entry."""
        return self.hidden.any(-1)

    def bin_index(self) -> Int[Tensor, " L"]:
        """Returns the row of each token's bin among all bins of the batch."""
        lengths = torch.bincount(self.bin_window, minlength=self.num_windows)

        return (lengths.cumsum(0) - lengths)[self.window] + self.time

    def to(self, device: torch.device | str) -> "Batch":
        """Returns the batch on a device."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in values.items()}

        return Batch(**moved)


def _entries(windows: Sequence[Window], P: int, size: int) -> dict[str, NDArray[np.generic]]:
    """Entries of all tokens, (L, size), including tokens without a valid entry; each array is written once."""
    sizes = [len(w.counts) * -(-w.counts.shape[1] // P) for w in windows]
    L = sum(sizes)
    counts, valid, hidden = np.zeros((L, size), np.uint8), np.zeros((L, size), bool), np.zeros((L, size), bool)
    first = 0
    for w, tokens in zip(windows, sizes, strict=True):
        T, N = w.counts.shape
        units = [x[first : first + tokens].reshape(T, -1)[:, :N] for x in (counts, valid, hidden)]  # views, (T, N)
        np.multiply(w.counts, w.valid, out=units[0], casting="unsafe")
        units[1][:] = w.valid
        if w.hidden is not None:
            np.logical_and(w.hidden, w.valid, out=units[2])
        first += tokens

    return {"counts": counts, "valid": valid, "hidden": hidden}


def _positions(windows: Sequence[Window], P: int, first: Sequence[int]) -> dict[str, NDArray[np.int64]]:
    """Bin, slot, patch and window of all tokens, (L,); patches of window i are numbered from ``first[i]``."""
    bins = np.array([len(w.counts) for w in windows])
    slots = np.array([-(-w.counts.shape[1] // P) for w in windows])
    window = np.repeat(np.arange(len(windows)), bins * slots)
    index = np.arange(len(window)) - np.repeat(np.cumsum(bins * slots) - bins * slots, bins * slots)
    time, slot = np.divmod(index, slots[window])

    return {"time": time, "slot": slot, "patch": np.asarray(first)[window] + slot, "window": window}


def _populations(windows: Sequence[Window], P: int, size: int) -> tuple[list[int], dict[str, NDArray[np.generic]]]:
    """Units and patches of the batch; windows of one session share units, and those in one order share patches.

    Returns the first patch of each window, and the batch's units, their activity, and the members of its patches.

    Arguments:
        windows: The windows.
        P: Units in one patch.
        size: Entries of a token, at most `P`.
    """
    units: list[NDArray[np.int64]] = []
    members: list[NDArray[np.int64]] = []
    activity: list[NDArray[np.float32]] = []
    first: list[int] = []
    populations: dict[tuple[bytes, bytes], int] = {}  # first unit of each population
    shared: dict[tuple[int, bytes], int] = {}  # first patch of each order of a population
    num_units = num_patches = 0
    for w in windows:
        N, order = len(w.unit), np.argsort(w.unit, kind="stable")
        rows = np.full((N, len(ACTIVITY)), np.nan, np.float32) if w.activity is None else w.activity[order]
        if (key := (w.unit[order].tobytes(), rows.tobytes())) not in populations:
            populations[key] = num_units
            units.append(w.unit[order])
            activity.append(rows.astype(np.float32))
            num_units += N
        if (patches := (populations[key], w.unit.tobytes())) not in shared:
            shared[patches] = num_patches
            padded = np.zeros((-(-N // P), size), np.int64)
            padded.reshape(-1)[:N] = populations[key] + np.argsort(order)  # size is P where there are several patches
            members.append(padded)
            num_patches += len(padded)
        first.append(shared[patches])
    arrays: dict[str, NDArray[np.generic]] = {"members": np.concatenate(members), "unit": np.concatenate(units)}
    arrays["activity"] = np.concatenate(activity)

    return first, arrays


def pack(windows: Sequence[Window], units_per_patch: int) -> Batch:
    """Packs windows into a batch without padding; tokens without a valid entry are left out.

    Raises:
        InputError: if there is no window, or windows have targets of different dimensions.
    """
    if not windows:
        raise InputError("batch", "windows", "at least one", "none")
    dims = sorted({w.target.shape[1] for w in windows if w.target is not None})
    if len(dims) > 1:
        raise InputError("batch", "targets", "of the same dimensions in all windows", f"{dims} dimensions")
    size = min(units_per_patch, max(w.counts.shape[1] for w in windows))  # entries of a token: small sessions pad less
    first, population = _populations(windows, units_per_patch, size)
    arrays = _entries(windows, units_per_patch, size) | _positions(windows, units_per_patch, first)
    valid = arrays["valid"].any(1)
    if not valid.all():
        arrays = {name: x[valid] for name, x in arrays.items()}

    lengths = [len(w.counts) for w in windows]
    C = dims[0] if dims else 0
    targets = [np.full((len(w.counts), C), np.nan, np.float32) if w.target is None else w.target for w in windows]
    H = max((w.trial.shape[1] for w in windows if w.trial is not None), default=0)
    trials = [np.full((len(w.counts), H), -1, np.int64) if w.trial is None else w.trial for w in windows]
    numbers = np.arange(len(windows))
    arrays |= population | {
        "context": np.concatenate([w.context for w in windows]),
        "context_window": np.repeat(numbers, [len(w.context) for w in windows]),
        "target": np.concatenate(targets),
        "trial": np.concatenate(trials),
        "bin_time": np.concatenate([np.arange(T) for T in lengths]),
        "bin_window": np.repeat(numbers, lengths),
    }

    sessions = tuple(dict.fromkeys(w.session for w in windows if w.session))
    tensors: dict[str, Any] = {name: torch.from_numpy(x) for name, x in arrays.items()}

    return Batch(**tensors, num_windows=len(windows), sessions=sessions)
