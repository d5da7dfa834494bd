"""Training that the decoders which are networks share: windows, averaged weights and the best validation."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ndt.segments import Array, Masks, Scaler, Segments

__all__ = ["Training", "best_network", "padded", "target_loss", "to_targets", "with_weights"]

CLIP = 1.0  # largest norm of the gradient

M = TypeVar("M", bound=nn.Module)

# B = windows in a batch, L = bins in the longest of them, R = rows of all segments


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of `best_network`.

    Arguments:
        window_bins: Bins of a training window.
        warm_bins: Bins at a window's start that are outside the loss unless the segment begins there.
        batch_size: Windows per step.
        steps: Optimisation steps at most; a cosine takes the learning rates to 0 over them.
        warmup: Steps of linear warm-up.
        ema: Decay of the moving average of weights, which is validated and kept.
        valid_every: Steps between validations.
        patience: Validations without improvement before training stops.
    """

    window_bins: int
    warm_bins: int
    batch_size: int
    steps: int
    warmup: int
    ema: float
    valid_every: int
    patience: int


def best_network(
    network: M,
    optimiser: torch.optim.Optimizer,
    loss: Callable[[Tensor, Tensor], Tensor],
    score: Callable[[M], float],
    train: Masks,
    training: Training,
    seed: int,
) -> tuple[M, int, float]:
    """Trains a network; returns the average of its weights with the best validation, its step and its score.

    Arguments:
        network: The network.
        optimiser: Optimiser of its parameters; its learning rates are the largest.
        loss: Loss of the network, of row numbers and which of these are scored, (B, L) each. Row R, which is never
            scored, pads shorter windows; see `padded`.
        score: Score of a network on validation, higher is better.
        train: Which bins may be scored, (T,) each segment, R bins together.
        training: Settings.
        seed: Seed of windows.
    """
    average = copy.deepcopy(network).eval()
    rates = [group["lr"] for group in optimiser.param_groups]
    windows, num_rows = _windows(train, training, np.random.default_rng(seed)), sum(map(len, train))
    best: tuple[M, int, float] | None = None
    for step in range(1, training.steps + 1):
        cosine = (1 + math.cos(math.pi * (step - 1) / training.steps)) / 2
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * cosine * min(step / training.warmup, 1.0)
        network.train()
        optimiser.zero_grad()
        loss(*_batch(list(islice(windows, training.batch_size)), num_rows)).backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimiser.step()
        kept = min(training.ema, step / (step + 9))  # a plain mean over the first steps
        with torch.no_grad():
            for a, w in zip(average.parameters(), network.parameters(), strict=True):
                a.lerp_(w, 1 - kept)
        if step % training.valid_every and step != training.steps:
            continue
        found = score(average)
        if best is None or found > best[2]:
            best = copy.deepcopy(average), step, found
        if step - best[1] >= training.patience * training.valid_every:
            break
    assert best is not None, "at least one step"

    return best


def padded(segments: Segments) -> Tensor:
    """Returns the rows of all segments, and a row of zeros after them, (R + 1, C), float32."""
    rows = np.concatenate([np.asarray(x, np.float32) for x in segments])

    return torch.from_numpy(np.pad(rows, ((0, 1), (0, 0))))


def with_weights(network: M, weights: Mapping[str, NDArray[np.float32]]) -> M:
    """Returns a network with the weights of a state dictionary; raises ValueError if their type is another."""
    if wrong := [name for name, w in weights.items() if w.dtype != np.float32]:
        raise ValueError(f"{wrong[0]} must be float32, got {weights[wrong[0]].dtype}")
    network.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()})

    return network


def target_loss(outputs: Tensor, labels: Tensor, kind: str) -> Tensor:
    """Returns the mean squared error of z-scored targets, or the cross-entropy of classes, of (K, C) each."""
    return F.cross_entropy(outputs, labels) if kind == "class" else F.mse_loss(outputs, labels)


def to_targets(outputs: Tensor, targets: Scaler, kind: str) -> Array:
    """Returns targets in their unit, or the probabilities of classes, of a network's outputs, (T, C) each."""
    found = outputs.double()

    return found.softmax(1).numpy() if kind == "class" else targets.invert(found.numpy())


Window = tuple[NDArray[np.int64], NDArray[np.bool_]]


def _windows(train: Masks, training: Training, rng: np.random.Generator) -> Iterator[Window]:
    """Yields windows without end: their rows, and which of these are in the loss.

    Each pass over the segments draws new starts. Windows overlap by the bins outside the loss, so each training row is
    in the loss once a pass, with bins before it.
    """
    size, warm = training.window_bins, training.warm_bins
    lengths, scorable = [len(m) for m in train], np.concatenate(list(train))
    first, step = np.cumsum(lengths) - lengths, size - warm
    while True:
        windows = []
        for begin, length in zip(first, lengths, strict=True):
            for start in range(-int(rng.integers(step)) if length > size else 0, length, step):
                rows = begin + np.arange(max(start, 0), min(start + size, length))
                scored = scorable[rows] & ((np.arange(len(rows)) >= warm) | (start <= 0))
                if scored.any():
                    windows.append((rows, scored))
        for i in rng.permutation(len(windows)):
            yield windows[i]


def _batch(windows: list[Window], empty: int) -> tuple[Tensor, Tensor]:
    """Returns rows, and which are in the loss, (B, L) each; row `empty`, outside the loss, pads shorter windows."""
    longest = max(len(rows) for rows, _ in windows)
    batch, known = np.full((len(windows), longest), empty), np.zeros((len(windows), longest), bool)
    for i, (rows, scored) in enumerate(windows):
        batch[i, : len(rows)], known[i, : len(rows)] = rows, scored

    return torch.from_numpy(batch), torch.from_numpy(known)
