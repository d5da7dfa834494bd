"""Linear probe: ridge or logistic regression of the target on a pretrained model's latents, in closed form."""

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

HISTORIES = (1, 2, 3, 5, 10)  # bins of history, candidates
MOST_ROWS = 20_000  # evenly spaced bins that logistic regression is fitted to
ABSENT = -20.0  # logit of a class without training bins

# R = bins, F = regressors (latents of a bin and its history), C = columns of the target, K = classes

Masks = NDArray[np.bool_]
Readout = tuple[Array, Array]  # weights (F, C) and bias (C,)


def fit_probe(model: NDT, binned: BinnedSession, targets: NDArray[np.float32], chosen: Masks) -> None:
    """Fits the readout of a model with a linear decoder, in place; its latents do not change.

    Ridge regression predicts each part; validation R² selects its history and penalty. Classes are then predicted by
    penalised logistic regression with the same history.

    Arguments:
        model: The model.
        binned: The session's bins.
        targets: Labels in their unit, NaN where unlabelled, (R, C).
        chosen: Bins to fit on, (R,).
    """
    decoder, spec = model.decoder, model.spec.target
    assert isinstance(decoder, LinearDecoder), "a probe is a linear decoder"
    assert spec is not None, "the model has a decoder"
    standard, valid = spec.standardise(targets), binned.split == VALID
    weight, bias = np.zeros((decoder.readout.in_features, len(spec.dims))), np.zeros(len(spec.dims))
    for part, columns in zip(spec.parts, part_columns(spec.parts), strict=True):
        y = standard[:, columns]
        known = np.asarray(~np.isnan(y).any(1))
        valid_x = _read(model, binned, valid, valid & known)
        moments = np.zeros((1 + decoder.readout.in_features + y.shape[1],) * 2)
        for place, x in _batches(model, binned, chosen):  # the regressors of an hour may not fit into memory at once
            labelled = np.column_stack([np.ones(len(x)), x, y[place]])[known[place]]
            moments += labelled.T @ labelled
        sizes = [n * model.config.width for n in HISTORIES if n <= decoder.bins]
        w, b = fit_readout(moments, y.shape[1], valid_x, y[valid & known], sizes)
        if part.kind == "class":
            rows = np.flatnonzero(chosen & known)
            rows = rows[:: -(-len(rows) // MOST_ROWS)]
            sampled = np.isin(np.arange(len(binned)), rows)
            learned = _read(model, binned, chosen, sampled)[:, : len(w)], y[sampled]
            w, b = fit_classes(*learned, valid_x[:, : len(w)], y[valid & known])
        weight[: len(w), columns], bias[columns] = w, b
    with torch.no_grad():
        decoder.readout.weight.copy_(torch.from_numpy(weight.T))
        decoder.readout.bias.copy_(torch.from_numpy(bias))


def _batches(model: NDT, binned: BinnedSession, chosen: Masks) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yields the position of some of the chosen bins, and their regressors, (n, F)."""
    decoder, rows = model.decoder, model.vocabulary.rows(binned.session)
    assert isinstance(decoder, LinearDecoder), "a probe is a linear decoder"
    windows = binned.cover(chosen, model.spec.window_bins, rows)

    return per_window(model, windows, lambda batch: decoder.read(batch, model.latents(batch)))


def _read(model: NDT, binned: BinnedSession, chosen: Masks, rows: Masks) -> NDArray[np.float32]:
    """Returns the regressors of some of the chosen bins, in their order, (n, F)."""
    return np.concatenate([x[rows[place]] for place, x in _batches(model, binned, chosen)])


def fit_readout(moments: Array, num_columns: int, x: Array, y: Array, sizes: Sequence[int]) -> Readout:
    r"""Returns ridge regression on z-scored regressors, as weights and bias for the original ones.

    .. math:: \min_{W, b} \|Y - X W - b\|^2 + \alpha \|W\|^2

    Arguments:
        moments: Sum of the outer products of (1, regressors, target) over the training rows, (1 + F + C, 1 + F + C).
        num_columns: Columns C of the target.
        x: Regressors of the validation rows, (n, F).
        y: Target of the validation rows, (n, C).
        sizes: Candidate numbers of regressors, the first columns; validation selects one, and a penalty of
            `ALPHAS`.
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
    r"""Returns multinomial logistic regression on z-scored regressors, as weights and bias for the original ones.

    .. math:: \min_{W, b} -\sum_t \log \mathrm{softmax}(x_t W + b)_{y_t} + \frac{\alpha}{2} \|W\|^2

    The penalty has the best validation R² of the probabilities (Brier skill score). A class without training rows gets
    the logit `ABSENT`.

    Arguments:
        x: Regressors of the training rows, (n, F).
        y: 1 for the true class, else 0, (n, K).
        valid_x: Regressors of the validation rows, (m, F).
        valid_y: Classes of the validation rows, (m, K).
    """
    from sklearn.linear_model import LogisticRegression

    scale = Scaler.fit([x], [np.ones(len(x), bool)])
    z, valid_z, label = scale.apply(x), scale.apply(valid_x), np.argmax(y, 1)
    seen = np.unique(label)
    weight, bias = np.zeros((x.shape[1], y.shape[1])), np.where(np.isin(np.arange(y.shape[1]), seen), 0.0, ABSENT)
    best: tuple[float, Readout] = (-np.inf, (weight, bias))
    model = LogisticRegression(max_iter=500, warm_start=True)
    for alpha in reversed(ALPHAS) if len(seen) > 1 else ():  # each starts from the solution with the larger penalty
        pair = len(seen) == 2  # sklearn fits one logit, the difference of our two: twice as large, half penalised
        model.set_params(C=(2 if pair else 1) / alpha).fit(z, label)
        weight, bias = weight.copy(), bias.copy()
        weight[:, seen] = (np.r_[-model.coef_, model.coef_] / 2 if pair else model.coef_).T
        bias[seen] = np.r_[-model.intercept_, model.intercept_] / 2 if pair else model.intercept_
        best = max(best, (r2(valid_y, softmax(valid_z @ weight + bias, axis=1)), (weight, bias)), key=lambda b: b[0])
    weight = best[1][0] / scale.std[:, None]

    return weight, best[1][1] - scale.mean @ weight
