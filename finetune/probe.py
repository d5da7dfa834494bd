"""A linear probe: the best affine readout of a pretrained model's latents, without a step of gradient descent."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from ndt.data.windows import VALID, BinnedSession
from ndt.decoders.ridge import ALPHAS, ridge_weights
from ndt.evaluation.metrics import r2
from ndt.model.inference import per_window
from ndt.model.linear import LinearDecoder
from ndt.model.transformer import NDT
from ndt.segments import Array, Scaler
from ndt.target import part_columns

__all__ = ["fit_classes", "fit_probe", "fit_readout"]

LAGS = (1, 2, 3, 5, 10)  # numbers of bins that are tried
MOST_ROWS = 20_000  # bins, evenly taken, that classes are learned from
ABSENT = -20.0  # logit of a class without a bin to learn from

# R = bins, D = width of latents, F = numbers that a bin is read from, C = columns of what is decoded, K = classes

Masks = NDArray[np.bool_]
Readout = tuple[Array, Array]  # weights (F, C) and bias (C,)


def fit_probe(model: NDT, binned: BinnedSession, targets: NDArray[np.float32], chosen: Masks) -> None:
    """Sets the readout of a model whose decoder is linear, in place.

    Each part is read by ridge regression from the latents of as many bins, and with the penalty, that have the best
    validation R²; classes then by penalised logistic regression from as many bins. Latents stay as they are.

    Arguments:
        model: The model.
        binned: The session's bins.
        targets: What is decoded in its unit, NaN where unlabelled, (R, C).
        chosen: Bins to fit on, (R,).
    """
    decoder, spec = model.decoder, model.spec.target
    assert isinstance(decoder, LinearDecoder), "a probe is a linear decoder"
    assert spec is not None, "it decodes something"
    standard, valid = spec.standardise(targets), binned.split == VALID
    weight, bias = np.zeros((decoder.readout.in_features, len(spec.dims))), np.zeros(len(spec.dims))
    for part, columns in zip(spec.parts, part_columns(spec.parts), strict=True):
        y = standard[:, columns]
        known = np.asarray(~np.isnan(y).any(1))
        asked = _read(model, binned, valid, valid & known)
        moments = np.zeros((1 + decoder.readout.in_features + y.shape[1],) * 2)
        for place, x in _batches(model, binned, chosen):  # of an hour, what is read may not fit into memory at once
            some = np.column_stack([np.ones(len(x)), x, y[place]])[known[place]]
            moments += some.T @ some
        sizes = [n * model.config.width for n in LAGS if n <= decoder.bins]
        w, b = fit_readout(moments, y.shape[1], asked, y[valid & known], sizes)
        if part.kind == "class":
            rows = np.flatnonzero(chosen & known)
            rows = rows[:: -(-len(rows) // MOST_ROWS)]
            taken = np.isin(np.arange(len(binned)), rows)
            learned = _read(model, binned, chosen, taken)[:, : len(w)], y[taken]
            w, b = fit_classes(*learned, asked[:, : len(w)], y[valid & known])
        weight[: len(w), columns], bias[columns] = w, b
    with torch.no_grad():
        decoder.readout.weight.copy_(torch.from_numpy(weight.T))
        decoder.readout.bias.copy_(torch.from_numpy(bias))


def _batches(model: NDT, binned: BinnedSession, chosen: Masks) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yields where some of the chosen bins are in the grid, and what they are read from, (n, F)."""
    decoder, rows = model.decoder, model.vocabulary.rows(binned.session)
    assert isinstance(decoder, LinearDecoder), "a probe is a linear decoder"
    windows = binned.cover(chosen, model.spec.window_bins, rows)

    return per_window(model, windows, lambda batch: decoder.read(batch, model.latents(batch)))


def _read(model: NDT, binned: BinnedSession, chosen: Masks, rows: Masks) -> NDArray[np.float32]:
    """Returns what some of the chosen bins are read from, in their order, (n, F)."""
    return np.concatenate([x[rows[place]] for place, x in _batches(model, binned, chosen)])


def fit_readout(moments: Array, num_columns: int, x: Array, y: Array, sizes: Sequence[int]) -> Readout:
    r"""Returns ridge regression on z-scored columns, as weights and bias for the columns as they are.

    .. math:: \min_{W, b} \|Y - X W - b\|^2 + \alpha \|W\|^2

    Arguments:
        moments: Sum over the rows to fit on of the products of 1, what is read and what is decoded with each other,
            (1 + F + C, 1 + F + C).
        num_columns: Columns C that are decoded.
        x: Rows to choose on, (n, F).
        y: What is true of them, (n, C).
        sizes: How many of the first columns may be read. The number and the penalty of `ALPHAS` with the best R² there
            are taken.
    """
    F = len(moments) - 1 - num_columns
    mean = moments[0, 1:] / moments[0, 0]
    centred = moments[1:, 1:] - moments[0, 0] * np.outer(mean, mean)
    std = np.sqrt(np.maximum(np.diag(centred) / moments[0, 0], 0.0))
    std = np.where(std > 0, std, 1.0)
    products = centred / np.outer(std, std)
    best: tuple[float, Readout] = (-np.inf, (np.zeros((0, num_columns)), mean[F:]))
    for size in sizes:
        for alpha in ALPHAS:
            weight = ridge_weights(products[:size, :size], products[:size, F:], alpha) / std[:size, None] * std[F:]
            bias = mean[F:] - mean[:size] @ weight
            best = max(best, (r2(y, x[:, :size] @ weight + bias), (weight, bias)), key=lambda b: b[0])

    return best[1]


def fit_classes(x: Array, y: Array, valid_x: Array, valid_y: Array) -> Readout:
    r"""Returns multinomial logistic regression on z-scored columns, as weights and bias for the columns as they are.

    .. math:: \min_{W, b} -\sum_t \log \mathrm{softmax}(x_t W + b)_{y_t} + \frac{\alpha}{2} \|W\|^2

    The penalty is the one with the best validation R² of the probabilities (Brier's skill score). A class that the rows
    to fit on lack is next to impossible.

    Arguments:
        x: Rows to fit on, (n, F).
        y: 1 for the true class, else 0, (n, K).
        valid_x: Rows to choose on, (m, F).
        valid_y: The same of them, (m, K).
    """
    from sklearn.linear_model import LogisticRegression

    scale = Scaler.fit([x], [np.ones(len(x), bool)])
    z, asked, label = scale.apply(x), scale.apply(valid_x), np.argmax(y, 1)
    seen = np.unique(label)
    weight, bias = np.zeros((x.shape[1], y.shape[1])), np.where(np.isin(np.arange(y.shape[1]), seen), 0.0, ABSENT)
    best: tuple[float, Readout] = (-np.inf, (weight, bias))
    model = LogisticRegression(max_iter=500, warm_start=True)
    for alpha in reversed(ALPHAS) if len(seen) > 1 else ():  # each starts from the one before, which is smoother
        pair = len(seen) == 2  # one logit in place of two that are opposite: twice as large, and penalised half
        model.set_params(C=(2 if pair else 1) / alpha).fit(z, label)
        weight, bias = weight.copy(), bias.copy()
        weight[:, seen] = (np.r_[-model.coef_, model.coef_] / 2 if pair else model.coef_).T
        bias[seen] = np.r_[-model.intercept_, model.intercept_] / 2 if pair else model.intercept_
        best = max(best, (r2(valid_y, softmax(asked @ weight + bias, axis=1)), (weight, bias)), key=lambda b: b[0])
    weight = best[1][0] / scale.std[:, None]

    return weight, best[1][1] - scale.mean @ weight
