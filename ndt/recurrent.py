"""A small recurrent network as a decoder: what a laboratory trains when ridge is not enough."""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ndt.metrics import r2
from ndt.pieces import Array, Masks, Pieces, Scaler, labelled, stretches, take

__all__ = ["Recurrent", "RecurrentConfig", "fit_recurrent"]

KINDS = ("continuous", "angle", "class")
WARMUP = 20  # steps in which the learning rate rises
REMEMBERED_S = 20.0  # seconds of history with which validation rows are decoded while training
CHUNK = 4096  # bins that are decoded at once; the state goes on to the next

# B = windows in a batch, L = bins in the longest of them, R = rows of all pieces


@dataclass(frozen=True, kw_only=True)
class RecurrentConfig:
    """Size and training of the recurrent network.

    Arguments:
        width: Width D of each recurrent layer.
        num_layers: Recurrent layers.
        input_dropout: Share of counts set to their mean while training.
        dropout: Share of activations dropped behind each layer while training.
        window_bins: Bins of a training window.
        warm_bins: First bins of a window that are not scored, unless the piece begins there; fewer than `window_bins`.
        batch_size: Windows in a step.
        steps: Most optimisation steps; the learning rate falls to 0 over them, as a cosine.
        learning_rate: Peak learning rate of AdamW.
        weight_decay: Of all weights.
        clip: Largest gradient norm.
        ema: Decay of the average of weights that is validated and kept.
        valid_every: Steps between validations.
        patience: Validations without improvement before stopping.
    """

    width: int = 128
    num_layers: int = 1
    input_dropout: float = 0.3
    dropout: float = 0.4
    window_bins: int = 64
    warm_bins: int = 8
    batch_size: int = 48
    steps: int = 180
    learning_rate: float = 8e-3
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.97
    valid_every: int = 20
    patience: int = 5


class Network(nn.Module):
    """Gated recurrent units and a linear readout.

    Reference: Cho et al. (2014), https://arxiv.org/abs/1406.1078

    Arguments:
        num_units: Number of units N.
        num_outputs: Columns C of the target.
        config: Size and dropout.
    """

    def __init__(self, num_units: int, num_outputs: int, config: RecurrentConfig) -> None:
        super().__init__()

        between = config.dropout if config.num_layers > 1 else 0.0  # torch warns of one behind a single layer
        self.input_dropout, self.dropout = nn.Dropout(config.input_dropout), nn.Dropout(config.dropout)
        self.recurrent = nn.GRU(num_units, config.width, config.num_layers, batch_first=True, dropout=between)
        self.readout = nn.Linear(config.width, num_outputs)

    def forward(self, z: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns outputs, (B, T, C), of z-scored counts, (B, T, N), and the state to go on from."""
        hidden, after = self.recurrent(self.input_dropout(z), state)

        return self.readout(self.dropout(hidden)), after


@dataclass(frozen=True)
class Recurrent:
    """A recurrent network from z-scored counts to z-scored targets, or to the logits of classes.

    Arguments:
        network: The network, as it is to be used.
        counts: Scaler of counts.
        targets: Scaler of targets; of classes, unused.
        kind: ``continuous``, ``angle`` or ``class``.
        steps: Optimisation steps after which validation liked it best.
        valid_r2: R² on validation rows.
    """

    network: Network
    counts: Scaler
    targets: Scaler
    kind: str
    steps: int
    valid_r2: float

    def predict(self, counts: Pieces) -> list[Array]:
        """Returns targets, one (T, C) a piece; of classes, probabilities. Causal; each piece begins from nothing."""
        return [self._decoded(self.counts.apply(x)) for x in counts]

    @torch.no_grad()
    def _decoded(self, z: Array) -> Array:
        weight, state, out = self.network.readout.weight, None, []
        for part in torch.from_numpy(z.astype(np.float32)).split(CHUNK) if len(z) else ():
            found, state = self.network(part[None].to(weight.device), state)
            out.append(found[0])
        logits = (torch.cat(out) if out else weight.new_zeros(0, len(weight))).double().cpu()

        return logits.softmax(1).numpy() if self.kind == "class" else self.targets.invert(logits.numpy())

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Returns all of it as arrays by name, float32 the weights and float64 the rest, to be written to a file."""
        scalers = {f"{name}_{k}": v for name in ("counts", "targets") for k, v in vars(getattr(self, name)).items()}
        numbers = {"kind": KINDS.index(self.kind), "steps": self.steps, "valid_r2": self.valid_r2}
        weights = {f"network.{name}": v.cpu().numpy().copy() for name, v in self.network.state_dict().items()}

        return {name: np.array(v, np.float64) for name, v in (scalers | numbers).items()} | weights

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Recurrent":
        """Returns the decoder that `arrays` came from, on the CPU."""
        weights = {
            name.removeprefix("network."): torch.from_numpy(np.array(v, np.float32))
            for name, v in arrays.items()
            if name.startswith("network.")
        }
        num_layers = sum(name.startswith("recurrent.weight_hh_l") for name in weights)
        size = RecurrentConfig(width=weights["readout.weight"].shape[1], num_layers=num_layers)
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and then replaced
            network = Network(weights["recurrent.weight_ih_l0"].shape[1], len(weights["readout.bias"]), size).eval()
        network.load_state_dict(weights)
        found = {name: np.asarray(v, np.float64) for name, v in arrays.items() if not name.startswith("network.")}
        counts, targets = (Scaler(found[f"{name}_mean"], found[f"{name}_std"]) for name in ("counts", "targets"))

        return cls(network, counts, targets, KINDS[int(found["kind"])], int(found["steps"]), float(found["valid_r2"]))


def fit_recurrent(
    counts: Pieces,
    targets: Pieces,
    train: Masks,
    valid: Masks,
    *,
    bin_size: float,
    kind: str,
    seed: int = 0,
    config: RecurrentConfig | None = None,
    device: str = "cpu",
) -> Recurrent:
    """Trains the network; how long is what has the best validation R².

    Squared error of z-scored targets is least, of classes cross-entropy. The same seed gives the same network on the
    same machine; torch's own generator is left as it was.

    Arguments as of `ndt.baselines.fit_ridge`; besides:
        kind: What columns are: ``continuous``, ``angle`` or ``class`` (one column a class, 1 for the true one).
        seed: Seed of weights, windows and dropout.
        config: Size and training.
        device: Where to train; what is returned lies on the CPU.
    """
    config = config or RecurrentConfig()
    train, valid = labelled(targets, train, "train"), labelled(targets, valid, "valid")
    scale_x, scale_y = Scaler.fit(counts, train), Scaler.fit(targets, train)
    x, y = [scale_x.apply(k) for k in counts], [v if kind == "class" else scale_y.apply(v) for v in targets]
    heard, chosen = stretches(counts, valid, round(REMEMBERED_S / bin_size))
    true, place = take(targets, valid), torch.device(device)
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        torch.manual_seed(seed)
        network = Network(x[0].shape[1], y[0].shape[1], config).to(place)
        average = copy.deepcopy(network).eval()
        best: Recurrent | None = None
        for step in _trained(network, average, x, y, train, kind, seed, config):
            if step % config.valid_every and step != config.steps:
                continue
            model = Recurrent(average, scale_x, scale_y, kind, step, float("nan"))
            score = r2(true, take(model.predict(heard), chosen))
            if best is None or score > best.valid_r2:
                best = Recurrent(copy.deepcopy(average), scale_x, scale_y, kind, step, score)
            if step - best.steps >= config.patience * config.valid_every:
                break
    assert best is not None, "at least one step is made"
    best.network.cpu()

    return best


def _trained(
    network: Network,
    average: Network,
    x: list[Array],
    y: Pieces,
    train: Masks,
    kind: str,
    seed: int,
    config: RecurrentConfig,
) -> Iterator[int]:
    """Trains a network, and yields the number of each step when it and the average of its weights have been moved."""
    place = network.readout.weight.device
    z, label = (torch.from_numpy(np.pad(np.concatenate(a), ((0, 1), (0, 0)))).float().to(place) for a in (x, y))
    label.nan_to_num_()  # the last row of both is for what a shorter window lacks
    windows = _windows([len(m) for m in train], np.concatenate(list(train)), config, np.random.default_rng(seed))
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    for step in range(1, config.steps + 1):
        rows, scored = _batch(list(islice(windows, config.batch_size)), len(z) - 1)
        rows, scored = rows.to(place), scored.to(place)
        cosine = (1 + math.cos(math.pi * (step - 1) / config.steps)) / 2
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * cosine * min(step / WARMUP, 1.0)
        network.train()
        out = network(z[rows])[0][scored]
        loss = F.cross_entropy(out, label[rows[scored]]) if kind == "class" else F.mse_loss(out, label[rows[scored]])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        optimiser.step()
        kept = min(config.ema, step / (step + 9))  # an average over all steps until there are enough
        with torch.no_grad():
            for a, w in zip(average.parameters(), network.parameters(), strict=True):
                a.lerp_(w, 1 - kept)
        yield step


Window = tuple[NDArray[np.int64], NDArray[np.bool_]]


def _windows(
    lengths: list[int], train: NDArray[np.bool_], config: RecurrentConfig, rng: np.random.Generator
) -> Iterator[Window]:
    """Yields windows without end: their rows, and which are scored.

    Each pass over the pieces lays them anew, a window's first bins over the last of the one before, so that it scores
    each training row once and with bins before it.
    """
    step = config.window_bins - config.warm_bins
    first = np.cumsum(lengths) - lengths
    while True:
        windows = []
        for begin, length in zip(first, lengths, strict=True):
            for start in range(-int(rng.integers(step)) if length > config.window_bins else 0, length, step):
                rows = begin + np.arange(max(start, 0), min(start + config.window_bins, length))
                scored = train[rows] & ((np.arange(len(rows)) >= config.warm_bins) | (start <= 0))
                if scored.any():
                    windows.append((rows, scored))
        for i in rng.permutation(len(windows)):
            yield windows[i]


def _batch(windows: list[Window], empty: int) -> tuple[Tensor, Tensor]:
    """Returns rows and which are scored, (B, L) each; a row `empty`, unscored, where a window is shorter."""
    longest = max(len(rows) for rows, _ in windows)
    batch, known = np.full((len(windows), longest), empty), np.zeros((len(windows), longest), bool)
    for i, (rows, scored) in enumerate(windows):
        batch[i, : len(rows)], known[i, : len(rows)] = rows, scored

    return torch.from_numpy(batch), torch.from_numpy(known)
