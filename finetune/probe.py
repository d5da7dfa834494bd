"""A linear probe: the best affine readout of a pretrained model's latents, without a step of gradient descent."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from ndt.baselines import ALPHAS
from ndt.data.windows import VALID, Grid
from ndt.inference import per_window
from ndt.linear import LinearDecoder
from ndt.metrics import r2
from ndt.model import NDT
from ndt.pieces import Array, Scaler
from ndt.target import place_columns

__all__ = ["Moments", "fit_classes", "fit_probe", "fit_readout"]

LAGS = (1, 2, 3, 5, 10)  # numbers of bins that are tried
MOST_ROWS = 20_000  # bins, evenly taken, that classes are learned from

# R = bins, D = width of latents, F = numbers that a bin is read from, C = columns of what is decoded, K = classes

Masks = NDArray[np.bool_]
Readout = tuple[Array, Array]  # weights (F, C) and bias (C,)


def fit_probe(model: NDT, grid: Grid, targets: NDArray[np.float32], chosen: Masks) -> None:
    """Sets the readout of a model whose covariate decoder is linear, in place.

    Each part is read by ridge regression from the latents of as many bins, and with the penalty, that have the best
    validation R²; classes then by penalised logistic regression from as many bins. Latents stay as they are.

    Arguments:
        model: The model.
        grid: The session's bins.
        targets: What is decoded in its unit, NaN where unlabelled, (R, C).
        chosen: Bins to fit on, (R,).
    """
    decoder, spec = model.covariate, model.spec.covariate
    assert isinstance(decoder, LinearDecoder), "a probe is a linear decoder"
    assert spec is not None, "it decodes something"
    standard, valid = spec.standardise(targets), grid.block == VALID
    weight, bias = np.zeros((decoder.readout.in_features, len(spec.dims))), np.zeros(len(spec.dims))
    for part, columns in zip(spec.parts, place_columns(spec.parts), strict=True):
        y = standard[:, columns]
        known = np.asarray(~np.isnan(y).any(1))
        asked = _read(model, grid, valid, valid & known)
        moments = Moments(decoder.readout.in_features, y.shape[1])
        for place, x in _batches(model, grid, chosen):
            moments.add(x[known[place]], y[place][known[place]])
        sizes = [n * model.config.width for n in LAGS if n <= decoder.bins]
        w, b = fit_readout(moments, asked, y[valid & known], sizes)
        if part.kind == "class":
            rows = np.flatnonzero(chosen & known)
            rows = rows[:: -(-len(rows) // MOST_ROWS)]
            taken = np.isin(np.arange(len(grid)), rows)
            learned = _read(model, grid, chosen, taken)[:, : len(w)], y[taken]
            w, b = fit_classes(*learned, asked[:, : len(w)], y[valid & known])
        weight[: len(w), columns], bias[columns] = w, b
    with torch.no_grad():
        decoder.readout.weight.copy_(torch.from_numpy(weight.T))
        decoder.readout.bias.copy_(torch.from_numpy(bias))


def _batches(model: NDT, grid: Grid, chosen: Masks) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yields where some of the chosen bins are in the grid, and what they are read from, (n, F)."""
    decoder, rows = model.covariate, model.vocabulary.rows(grid.session)
    assert isinstance(decoder, LinearDecoder), "a probe is a linear decoder"
    windows = grid.cover(chosen, model.spec.window_bins, rows)

    return per_window(model, windows, lambda batch: decoder.read(batch, model.latents(batch)))


def _read(model: NDT, grid: Grid, chosen: Masks, rows: Masks) -> NDArray[np.float32]:
    """Returns what some of the chosen bins are read from, in their order, (n, F)."""
    return np.concatenate([x[rows[place]] for place, x in _batches(model, grid, chosen)])


class Moments:
    """Sums over rows of what is read, of what is decoded, and of their products, which grow with rows added.

    Arguments:
        num_read: Numbers F that a row is read from.
        num_columns: Columns C that are decoded.
    """

    def __init__(self, num_read: int, num_columns: int) -> None:
        self.rows = 0
        self.x, self.y, self.yy = np.zeros(num_read), np.zeros(num_columns), np.zeros(num_columns)
        self.xx, self.xy = np.zeros((num_read, num_read)), np.zeros((num_read, num_columns))

    def add(self, x: Array, y: Array) -> None:
        """Adds rows, (n, F) and (n, C)."""
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        self.rows += len(x)
        self.x += x.sum(0)
        self.y += y.sum(0)
        self.yy += (y**2).sum(0)
        self.xx += x.T @ x
        self.xy += x.T @ y


def fit_readout(
    moments: Moments, x: Array, y: Array, sizes: Sequence[int], alphas: Sequence[float] = ALPHAS
) -> Readout:
    r"""Returns ridge regression on z-scored columns, as weights and bias for the columns as they are.

    .. math:: \min_{W, b} \|Y - X W - b\|^2 + \alpha \|W\|^2

    Arguments:
        moments: Of the rows to fit on.
        x: Rows to choose on, (n, F).
        y: What is true of them, (n, C).
        sizes: How many of the first columns may be read; the number with the best R² there is.
        alphas: Penalties; so is the penalty.
    """
    mean, mean_y = moments.x / moments.rows, moments.y / moments.rows
    std, std_y = (
        np.sqrt(np.maximum(square / moments.rows - m**2, 0.0))
        for square, m in ((np.diag(moments.xx), mean), (moments.yy, mean_y))
    )
    std, std_y = (np.where(s > 0, s, 1.0) for s in (std, std_y))
    gram = (moments.xx - moments.rows * np.outer(mean, mean)) / np.outer(std, std)
    cross = (moments.xy - moments.rows * np.outer(mean, mean_y)) / np.outer(std, std_y)
    best: tuple[float, Readout] = (-np.inf, (np.zeros((0, len(mean_y))), mean_y))
    for size in sizes:
        for alpha in alphas:
            factor = cho_factor(gram[:size, :size] + alpha * np.eye(size), overwrite_a=True, check_finite=False)
            weight = cho_solve(factor, cross[:size], check_finite=False) / std[:size, None] * std_y
            bias = mean_y - mean[:size] @ weight
            best = max(best, (r2(y, x[:, :size] @ weight + bias), (weight, bias)), key=lambda b: b[0])

    return best[1]


def fit_classes(x: Array, y: Array, valid_x: Array, valid_y: Array) -> Readout:
    r"""Returns multinomial logistic regression on z-scored columns, as weights and bias for the columns as they are.

    .. math:: \min_{W, b} -\sum_t \log \mathrm{softmax}(x_t W + b)_{y_t} + \frac{\alpha}{2} \|W\|^2

    The penalty is the one with the best validation R² of the probabilities (Brier's skill score).

    Arguments:
        x: Rows to fit on, (n, F).
        y: 1 for the true class, else 0, (n, K).
        valid_x: Rows to choose on, (m, F).
        valid_y: The same of them, (m, K).
    """
    scale = Scaler.fit([x], [np.ones(len(x), bool)])
    z, asked = scale.apply(x), scale.apply(valid_x)
    best: tuple[float, Array] = (-np.inf, np.zeros((x.shape[1] + 1, y.shape[1])))
    start = best[1]
    for alpha in reversed(ALPHAS):  # each starts from the one before, which is smoother
        start = _logistic(z, np.asarray(y, np.float64), alpha, start)
        score = r2(valid_y, softmax(asked @ start[:-1] + start[-1], axis=1))
        best = max(best, (score, start), key=lambda b: b[0])
    weight = best[1][:-1] / scale.std[:, None]

    return weight, best[1][-1] - scale.mean @ weight


def _logistic(z: Array, y: Array, alpha: float, start: Array) -> Array:
    """Returns weights with the bias as their last row, (F + 1, K)."""

    def loss(flat: Array) -> tuple[float, Array]:
        w = flat.reshape(start.shape)
        log_p = log_softmax(z @ w[:-1] + w[-1], axis=1)
        error = np.exp(log_p) - y
        slope = np.concatenate([z.T @ error + alpha * w[:-1], error.sum(0, keepdims=True)])

        return float(-(y * log_p).sum() + alpha / 2 * (w[:-1] ** 2).sum()), slope.ravel()

    found: Array = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 500}).x

    return found.reshape(start.shape)
