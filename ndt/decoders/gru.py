"""A small recurrent network (GRU) as a decoder."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ndt.decoders.network import Training, best_network, padded, target_loss, to_targets, with_weights
from ndt.evaluation.metrics import r2
from ndt.segments import Array, Masks, Scaler, Segments, labelled, take, with_history

__all__ = ["Network", "GRU", "fit_gru"]

WIDTH = 128  # of the recurrent layer
INPUT_DROPOUT, DROPOUT = 0.3, 0.4  # shares of counts set to their mean, and of activations set to 0, in training
TRAINING = Training(
    window_bins=64, warm_bins=8, batch_size=48, steps=180, warmup=20, ema=0.97, valid_every=20, patience=5
)
LEARNING_RATE, WEIGHT_DECAY = 8e-3, 0.01  # AdamW's peak rate and decay
CHUNK = 4096  # bins of one forward pass; the state carries over to the next

# B = windows in a batch, T = bins


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

        return with_weights(network, weights)


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

        return to_targets(torch.cat(out), self.targets, self.kind)


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
    z = padded([scale_x.apply(x) for x in counts])
    label = padded(targets if kind == "class" else [scale_y.apply(y) for y in targets])
    history, chosen = with_history(counts, valid, bin_size)
    true = take(targets, valid)

    def loss(rows: Tensor, scored: Tensor) -> Tensor:
        return target_loss(network(z[rows])[0][scored], label[rows[scored]], kind)

    def score(network: Network) -> float:
        return r2(true, take(GRU(network, scale_x, scale_y, kind, 0, 0.0).predict(history), chosen))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(z.shape[1], label.shape[1], WIDTH)
        optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        found, step, best = best_network(network, optimiser, loss, score, train, TRAINING, seed)

    return GRU(found, scale_x, scale_y, kind, step, best)
