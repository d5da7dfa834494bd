"""A temporal convolutional network (TCN) as a decoder: convolutions over a weighted sum of all units' counts."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ndt.decoders.network import Training, best_network, padded, target_loss, to_targets, with_weights
from ndt.evaluation.metrics import r2
from ndt.segments import Array, Masks, Scaler, Segments, labelled, take, with_history

__all__ = ["TCN", "Convolutions", "fit_tcn"]

MEMBERS = 2  # networks whose outputs are averaged
READIN_WIDTH, WIDTH, LAYERS = 32, 128, 4  # dimensions of a unit's read-in weights, of a layer; number of layers
COUNT_DROPOUT, DROPOUT = 0.3, 0.3  # shares of counts set to their mean, and of layers' outputs set to 0, in training
LARGEST = 6.0  # of standardised counts, so that one burst does not dominate the sum over units
TRAINING = Training(  # batches of 32 take twice the time for an equal validation R²
    window_bins=64, warm_bins=0, batch_size=16, steps=400, warmup=50, ema=0.98, valid_every=20, patience=6
)
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 0.05  # AdamW's peak rate and its decay of matrices
READIN_LR_SCALE = 50.0  # read-in weights need to change by order 1 within hundreds of steps
AUXILIARY_WEIGHT = 0.3  # of the loss of auxiliary targets, relative to that of the target
CHUNK = 4096  # bins of one forward pass, after a history as long as the network's memory

# B = windows, T = bins, N = units, E = read-in width, G = width of a layer, V = columns of target and auxiliary targets


class Member(nn.Module):
    """One network: a read-in of counts, and residual convolutions of three taps whose dilation doubles each layer.

    Arguments:
        num_units: Number of units N.
        num_outputs: Outputs V.
        readin_width: Read-in width E.
        width: Width of the layers G.
        num_layers: Number of layers.
    """

    def __init__(self, num_units: int, num_outputs: int, readin_width: int, width: int, num_layers: int) -> None:
        super().__init__()

        self.readin = nn.Parameter(torch.randn(num_units, readin_width))
        self.inputs = nn.Linear(readin_width, width)
        self.layers = nn.ModuleList(nn.Linear(3 * width, width) for _ in range(num_layers))
        self.readout = nn.Linear(width, num_outputs)
        self.count_dropout, self.dropout = nn.Dropout(COUNT_DROPOUT), nn.Dropout(DROPOUT)

    def forward(self, z: Tensor) -> Tensor:
        """Returns outputs, (B, T, V), of standardised counts, (B, T, N)."""
        x = self.inputs(self.count_dropout(z) @ self.readin)
        T = x.shape[1]
        for i, layer in enumerate(self.layers):
            taps = [F.pad(x, (0, 0, back * 2**i, 0))[:, :T] for back in (2, 1, 0)]  # zeros before the segment
            x = x + self.dropout(F.gelu(layer(torch.cat(taps, 2))))

        return self.readout(x)


class Convolutions(nn.Module):
    """Several networks, each with its own loss, dropout and initial weights, so that their mean has a smaller error.

    Reference: Bai et al. (2018), Temporal convolutional networks, https://arxiv.org/abs/1803.01271

    Arguments:
        num_members: Number of networks M.
        sizes: Arguments of `Member`.
    """

    def __init__(self, num_members: int, *sizes: int) -> None:
        super().__init__()

        self.members = nn.ModuleList(Member(*sizes) for _ in range(num_members))
        self.memory = 2 * (2 ** sizes[-1] - 1)  # number of past bins that an output depends on

    def forward(self, z: Tensor) -> Tensor:
        """Returns the outputs of each network, (M, B, T, V), of standardised counts, (B, T, N)."""
        return torch.stack([member(z) for member in self.members])

    @classmethod
    def of(cls, weights: Mapping[str, NDArray[np.float32]]) -> "Convolutions":
        """Returns the networks of a state dictionary, from whose shapes their sizes follow, ready to predict."""
        (N, E), (V, G) = weights["members.0.readin"].shape, weights["members.0.readout.weight"].shape
        num_members, num_layers = (sum(bool(re.fullmatch(p, name)) for name in weights) for p in OF_EACH)
        with torch.random.fork_rng(devices=[]):  # the constructor draws initial weights, which are then replaced
            network = cls(num_members, N, V, E, G, num_layers).eval()

        return with_weights(network, weights)


OF_EACH = r"members\.\d+\.readin", r"members\.0\.layers\.\d+\.weight"  # weights of each member, and of each layer


@dataclass(frozen=True)
class TCN:
    r"""The mean of several networks from standardised counts to z-scored targets, or to the logits of classes.

    A network reads the sum over the :math:`N_t` observed units of their read-in weights :math:`u_n`,

    .. math:: x_t = \frac{1}{\sqrt{N_t}} \sum_n \frac{c_{tn} - \mu_n}{\sqrt{\mu_n + 0.1}}\, u_n .

    Arguments:
        network: The networks, in evaluation mode.
        counts: Scaler of counts: :math:`\mu_n` and :math:`\sqrt{\mu_n + 0.1}`.
        targets: Scaler of targets; unused for classes.
        kind: ``continuous``, ``angle`` or ``class``.
        steps: Optimisation steps, with the best validation R².
        valid_r2: R² on validation rows.
    """

    network: Convolutions
    counts: Scaler
    targets: Scaler
    kind: str
    steps: int
    valid_r2: float

    def predict(self, counts: Segments) -> list[Array]:
        """Returns predictions, one (T, C) a segment, probabilities for classes. Causal; no segment affects another."""
        return [self._predicted(_standardised(x, self.counts)) for x in counts]

    @torch.no_grad()
    def _predicted(self, z: Array) -> Array:
        x, C = torch.from_numpy(z.astype(np.float32))[None], len(self.targets.mean)
        out = [torch.zeros(0, C)]
        for begin in range(0, len(z), CHUNK):
            first = max(begin - self.network.memory, 0)
            found = self.network(x[:, first : begin + CHUNK]).mean(0)[0]
            out.append(found[begin - first :, :C])

        return to_targets(torch.cat(out), self.targets, self.kind)


def fit_tcn(
    counts: Segments,
    targets: Segments,
    train: Masks,
    valid: Masks,
    *,
    bin_size: float,
    kind: str,
    seed: int = 0,
    auxiliary: Segments | None = None,
) -> TCN:
    """Trains the networks and returns them at the step with the best validation R².

    The loss is the squared error of z-scored targets, or the cross-entropy of classes, and 0.3 times the squared error
    of z-scored auxiliary targets. The same seed gives the same networks on one machine; the state of torch's global
    generator does not change.

    Arguments as of `ndt.decoders.gru.fit_gru`; besides:
        auxiliary: Columns to train on at labelled training rows but not to predict, (T, A) a segment; NaN where
            unlabelled.
    """
    train, valid = labelled(targets, train, "train"), labelled(targets, valid, "valid")
    mean, scale_y = Scaler.fit(counts, train).mean, Scaler.fit(targets, train)
    scale_x = Scaler(mean, np.sqrt(mean + 0.1))
    z = padded([_standardised(x, scale_x) for x in counts])
    label = padded(targets if kind == "class" else [scale_y.apply(y) for y in targets])
    other = padded(_z_scored(auxiliary, train) if auxiliary is not None else [np.zeros((len(m), 0)) for m in train])
    history, chosen = with_history(counts, valid, bin_size)
    true = take(targets, valid)
    (C, A), scale_a = (label.shape[1], other.shape[1]), AUXILIARY_WEIGHT

    def loss(rows: Tensor, scored: Tensor) -> Tensor:
        at, out = rows[scored], network(z[rows])[:, scored]  # (M, K, V)
        total = target_loss(out[..., :C].flatten(0, 1), label[at].repeat(MEMBERS, 1), kind)
        known = ~other[at].isnan()
        if known.any():
            total = total + scale_a * (out[..., C:] - other[at])[:, known].square().mean()
        return total

    def score(network: Convolutions) -> float:
        return r2(true, take(TCN(network, scale_x, scale_y, kind, 0, 0.0).predict(history), chosen))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Convolutions(MEMBERS, z.shape[1], C + A, READIN_WIDTH, WIDTH, LAYERS)
        found, step, best = best_network(network, _optimiser(network), loss, score, train, TRAINING, seed)

    return TCN(found, scale_x, scale_y, kind, step, best)


def _standardised(x: NDArray[np.generic], scaler: Scaler) -> Array:
    """Returns standardised counts over the root of the number of observed units, 0 where not observed, (T, N)."""
    observed = (~np.isnan(x)).sum(1, keepdims=True)

    return scaler.apply(x).clip(-LARGEST, LARGEST) / np.sqrt(np.maximum(observed, 1))


def _z_scored(segments: Segments, rows: Masks) -> list[Array]:
    """Returns z-scores over these rows; NaN stays."""
    scaler = Scaler.fit(segments, rows)

    return [(np.asarray(x, np.float64) - scaler.mean) / scaler.std for x in segments]


def _optimiser(network: Convolutions) -> torch.optim.Optimizer:
    """Returns AdamW, which moves read-in weights faster, and decays neither these nor biases."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, weights in network.named_parameters():
        readin = name.endswith("readin")
        decay = 0.0 if readin or weights.ndim < 2 else WEIGHT_DECAY
        groups.setdefault((LEARNING_RATE * (READIN_LR_SCALE if readin else 1.0), decay), []).append(weights)

    return torch.optim.AdamW(
        [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()], betas=(0.9, 0.98)
    )
