"""Windows of counts to patches of units x one bin, packed one after another.

A token is one bin of one patch, a patch at most P units. Nothing is padded but the last patch of a session; units that
are missing there, and units that were not observed in a bin, are marked invalid: they enter neither input nor loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Batch", "Window", "pack"]

# B = windows, T = bins, N = units, P = units of a patch, L = tokens of all windows together, U = units of all windows
# together, R = bins of all windows together, C = covariate dimensions


@dataclass(frozen=True, kw_only=True)
class Window:
    """An uninterrupted run of T bins of one session, with its N units in the order of their identities.

    Arguments:
        counts: Spikes per bin, shape (T, N).
        valid: Whether the unit was observed in the bin, shape (T, N).
        unit: Row of each unit in the model's vocabulary, shape (N,).
        context: Row of each context token in the model's vocabulary, shape (K,).
        hidden: Patches that the model must predict, shape (T, ceil(N / P)); None hides nothing.
        target: Covariates at the bins, NaN where there is no label, shape (T, C); None where no decoder is trained.
        index: Place of the window's bins in the session's grid: (first, last + 1).
    """

    counts: NDArray[np.uint8]
    valid: NDArray[np.bool_]
    unit: NDArray[np.int64]
    context: NDArray[np.int64]
    hidden: NDArray[np.bool_] | None = None
    target: NDArray[np.float32] | None = None
    index: tuple[int, int] = (0, 0)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B packed windows.

    Arguments:
        counts: Spikes of each unit of each token, shape (L, P); 0 where invalid.
        valid: Whether that unit exists and was observed, shape (L, P).
        member: Index of that unit in `unit`, shape (L, P); 0 where invalid.
        hidden: Whether the token is to be predicted, shape (L,).
        time: Bin of the token within its window, shape (L,).
        slot: Patch of the token within its window, shape (L,).
        window: Window of the token, ascending, shape (L,).
        unit: Row of each unit of the windows' sessions in the model's vocabulary, shape (U,).
        context: Rows of the windows' context tokens in the model's vocabulary, shape (B, K).
        target: Covariates at all bins, NaN where there is no label, shape (R, C).
        bin_time: Bin within its window, shape (R,).
        bin_window: Window of the bin, ascending, shape (R,).
    """

    counts: Int[Tensor, "L P"]
    valid: Bool[Tensor, "L P"]
    member: Int[Tensor, "L P"]
    hidden: Bool[Tensor, " L"]
    time: Int[Tensor, " L"]
    slot: Int[Tensor, " L"]
    window: Int[Tensor, " L"]
    unit: Int[Tensor, " U"]
    context: Int[Tensor, "B K"]
    target: Float[Tensor, "R C"]
    bin_time: Int[Tensor, " R"]
    bin_window: Int[Tensor, " R"]

    @property
    def num_windows(self) -> int:
        """Number of windows B."""
        return len(self.context)

    def bin_index(self) -> Int[Tensor, " L"]:
        """Returns the row of each token's bin among all bins of the batch."""
        lengths = torch.bincount(self.bin_window, minlength=self.num_windows)

        return (lengths.cumsum(0) - lengths)[self.window] + self.time

    def to(self, device: torch.device | str) -> "Batch":
        """Returns the batch on a device."""
        return Batch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def _patches(x: NDArray[np.generic], P: int) -> NDArray[np.generic]:
    """Cuts (…, N) into (…, ceil(N / P), P), filled up with zeros."""
    N = x.shape[-1]
    padded = np.zeros((*x.shape[:-1], -(-N // P) * P), x.dtype)
    padded[..., :N] = x

    return rearrange(padded, "... (s p) -> ... s p", p=P)


def _tokens(w: Window, P: int, start: int) -> dict[str, NDArray[np.generic]]:
    """The tokens of one window with a valid unit, one a row; its units are numbered from `start`."""
    T, N = w.counts.shape
    valid = _patches(w.valid, P)  # (T, S, P)
    S = valid.shape[1]
    columns = {
        "counts": _patches(np.where(w.valid, w.counts, 0), P),
        "valid": valid,
        "member": np.where(valid, _patches(np.arange(N) + start, P), 0),
        "hidden": np.zeros((T, S), bool) if w.hidden is None else w.hidden,
        "time": np.repeat(np.arange(T), S).reshape(T, S),
        "slot": np.tile(np.arange(S), (T, 1)),
    }

    return {name: x[valid.any(-1)] for name, x in columns.items()}


def pack(windows: Sequence[Window], units_per_patch: int) -> Batch:
    """Packs windows into a batch. Tokens without a single valid unit are left out."""
    units: list[NDArray[np.int64]] = []
    start: dict[bytes, int] = {}
    for w in windows:  # windows of one session share their units
        if (key := w.unit.tobytes()) not in start:
            start[key] = sum(len(u) for u in units)
            units.append(w.unit)
    parts = [_tokens(w, units_per_patch, start[w.unit.tobytes()]) for w in windows]
    sizes = [len(p["time"]) for p in parts]

    lengths = [len(w.counts) for w in windows]
    empty = [np.zeros((T, 0), np.float32) for T in lengths]
    targets = [e if w.target is None else w.target for w, e in zip(windows, empty, strict=True)]
    tensors = {name: torch.from_numpy(np.concatenate([p[name] for p in parts])) for name in parts[0]}
    tensors |= {
        "window": torch.from_numpy(np.repeat(np.arange(len(windows)), sizes)),
        "unit": torch.from_numpy(np.concatenate(units)),
        "context": torch.from_numpy(np.stack([w.context for w in windows])),
        "target": torch.from_numpy(np.concatenate(targets)),
        "bin_time": torch.from_numpy(np.concatenate([np.arange(T) for T in lengths])),
        "bin_window": torch.from_numpy(np.repeat(np.arange(len(windows)), lengths)),
    }

    return Batch(**{k: v.long() if v.dtype == torch.uint8 else v for k, v in tensors.items()})
