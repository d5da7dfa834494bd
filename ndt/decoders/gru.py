"""A small recurrent network (GRU) as a decoder."""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ndt.evaluation.metrics import r2
from ndt.segments import Array, Masks, Scaler, Segments, labelled, take, with_history

__all__ = ["Network", "GRU", "fit_gru"]

WIDTH = 128  # of the recurrent layer
INPUT_DROPOUT, DROPOUT = 0.3, 0.4  # shares of counts set to their mean, and of activations set to 0, in training
WINDOW_BINS = 64  # of a training window
WARM_BINS = 8  # at a window's start, outside the loss unless the segment begins there
BATCH_SIZE = 48  # windows
STEPS, WARMUP = 180, 20  # optimisation steps at most, and those of linear warm-up; a cosine takes the rate to 0
LEARNING_RATE, WEIGHT_DECAY, CLIP = 8e-3, 0.01, 1.0  # AdamW's peak rate and decay, and the largest gradient norm
EMA = 0.97  # decay of the moving average of weights, which is validated and kept
VALID_EVERY, PATIENCE = 20, 5  # steps between validations, and validations without improvement before stopping
CHUNK = 4096  # bins of one forward pass; the state carries over to the next

# B = windows in a batch, L = bins in the longest of them, R = rows of all segments


class Network(nn.Module):
    """A layer of gated recurrent units with a linear readout.

    Reference: Cho et al. (2014), https://arxiv.org/abs/1406.1078

    Arguments:
        num_units: Number of units N.
        num_outputs: Columns C of the target.
        width: Width D.
    """

    def __init__(self, num_units: int, num_outputs: int, width: int) -> None:
        super().__init__()

        self.input_dropout, self.dropout = nn.Dropout(INPUT_DROPOUT), nn.Dropout(DROPOUT)
        self.gru = nn.GRU(num_units, width, batch_first=True)
        self.readout = nn.Linear(width, num_outputs)

    def forward(self, z: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns outputs, (B, T, C), of z-scored counts, (B, T, N), and the final state."""
        hidden, after = self.gru(self.input_dropout(z), state)

        return self.readout(self.dropout(hidden)), after

    @classmethod
    def of(cls, weights: Mapping[str, NDArray[np.float32]]) -> "Network":
        """Returns the network of a state dictionary, from whose shapes its sizes follow, ready to predict."""
        (C, D), N = weights["readout.weight"].shape, weights["gru.weight_ih_l0"].shape[1]
        with torch.random.fork_rng(devices=[]):  # the constructor draws initial weights, which are then replaced
            network = cls(N, C, D).eval()
        network.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()})

        return network


@dataclass(frozen=True)
class GRU:
    """A recurrent network from z-scored counts to z-scored targets, or to the logits of classes.

    Arguments:
        network: The network, in evaluation mode.
        counts: Scaler of counts.
        targets: Scaler of targets; unused for classes.
        kind: ``continuous``, ``angle`` or ``class``.
        steps: Optimisation steps, with the best validation R².
        valid_r2: R² on validation rows.
    """

    network: Network
    counts: Scaler
    targets: Scaler
    kind: str
    steps: int
    valid_r2: float

    def predict(self, counts: Segments) -> list[Array]:
        """Returns predictions, one (T, C) a segment, probabilities for classes. Causal; no state crosses segments."""
        return [self._predicted(self.counts.apply(x)) for x in counts]

    @torch.no_grad()
    def _predicted(self, z: Array) -> Array:
        state, out = None, [torch.zeros(0, self.network.readout.out_features)]
        for part in torch.from_numpy(z.astype(np.float32)).split(CHUNK) if len(z) else ():
            found, state = self.network(part[None], state)
            out.append(found[0])
        logits = torch.cat(out).double()

        return logits.softmax(1).numpy() if self.kind == "class" else self.targets.invert(logits.numpy())


def fit_gru(
    counts: Segments, targets: Segments, train: Masks, valid: Masks, *, bin_size: float, kind: str, seed: int = 0
) -> GRU:
    """Trains the network and returns it at the step with the best validation R².

    The loss is the squared error of z-scored targets, or the cross-entropy of classes. The same seed gives the same
    network on one machine; the state of torch's global generator does not change.

    Arguments as of `ndt.decoders.ridge.fit_ridge`; besides:
        kind: ``continuous``, ``angle`` or ``class`` (one column a class, 1 for the true one).
        seed: Seed of weights, windows and dropout.
    """
    train, valid = labelled(targets, train, "train"), labelled(targets, valid, "valid")
    scale_x, scale_y = Scaler.fit(counts, train), Scaler.fit(targets, train)
    x, y = [scale_x.apply(k) for k in counts], [v if kind == "class" else scale_y.apply(v) for v in targets]
    history, chosen = with_history(counts, valid, bin_size)
    true = take(targets, valid)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(x[0].shape[1], y[0].shape[1], WIDTH)
        average = copy.deepcopy(network).eval()
        best: GRU | None = None
        for step in _train(network, average, x, y, train, kind, seed):
            if step % VALID_EVERY and step != STEPS:
                continue
            model = GRU(average, scale_x, scale_y, kind, step, float("nan"))
            score = r2(true, take(model.predict(history), chosen))
            if best is None or score > best.valid_r2:
                best = GRU(copy.deepcopy(average), scale_x, scale_y, kind, step, score)
            if step - best.steps >= PATIENCE * VALID_EVERY:
                break
    assert best is not None, "at least one step"

    return best


def _train(
    network: Network, average: Network, x: list[Array], y: Segments, train: Masks, kind: str, seed: int
) -> Iterator[int]:
    """Trains a network and the moving average of its weights; yields the number of each step after it."""
    z, label = (torch.from_numpy(np.pad(np.concatenate(a), ((0, 1), (0, 0)))).float() for a in (x, y))
    label.nan_to_num_()  # the last row of both pads shorter windows
    windows = _windows([len(m) for m in train], np.concatenate(list(train)), np.random.default_rng(seed))
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for step in range(1, STEPS + 1):
        rows, scored = _batch(list(islice(windows, BATCH_SIZE)), len(z) - 1)
        cosine = (1 + math.cos(math.pi * (step - 1) / STEPS)) / 2
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * cosine * min(step / WARMUP, 1.0)
        network.train()
        out = network(z[rows])[0][scored]
        loss = F.cross_entropy(out, label[rows[scored]]) if kind == "class" else F.mse_loss(out, label[rows[scored]])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimiser.step()
        kept = min(EMA, step / (step + 9))  # a plain mean over the first steps
        with torch.no_grad():
            for a, w in zip(average.parameters(), network.parameters(), strict=True):
                a.lerp_(w, 1 - kept)
        yield step


Window = tuple[NDArray[np.int64], NDArray[np.bool_]]


def _windows(lengths: list[int], train: NDArray[np.bool_], rng: np.random.Generator) -> Iterator[Window]:
    """Yields windows without end: their rows, and which of these are in the loss.

    Each pass over the segments draws new starts. Windows overlap by the bins outside the loss, so each training row is
    in the loss once a pass, with bins before it.
    """
    step = WINDOW_BINS - WARM_BINS
    first = np.cumsum(lengths) - lengths
    while True:
        windows = []
        for begin, length in zip(first, lengths, strict=True):
            for start in range(-int(rng.integers(step)) if length > WINDOW_BINS else 0, length, step):
                rows = begin + np.arange(max(start, 0), min(start + WINDOW_BINS, length))
                scored = train[rows] & ((np.arange(len(rows)) >= WARM_BINS) | (start <= 0))
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
