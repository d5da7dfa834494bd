r"""Linear decoders of labels per trial: logistic regression for classes, ridge regression for quantities and angles.

The features of a trial are square roots of its counts in B parts of equal length, about 100 ms each, z-scored over
training trials. A part enters once its last bin has passed; before, and where a unit or the part was not observed, its
features are 0, the training mean. So there is an estimate at every bin, from the part of the trial so far.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from ndt.decoders.ridge import ALPHAS
from ndt.evaluation.metrics import r2
from ndt.segments import Array, Masks, Scaler, Segments, labelled, take

__all__ = ["TrialDecoder", "fit_trial_decoder"]

PART_S = 0.1  # seconds of a part
MOST_PARTS = 10  # of long trials, whose parts are then longer
FEWEST_VALID = 20  # validation trials that choose a penalty
FOLDS = 5
ALPHA = 1e3  # where trials are too few to choose one

# T = bins of a segment, M = trials, B = parts of a trial, N = units, C = columns


@dataclass(frozen=True)
class TrialDecoder:
    r"""Logistic or ridge regression on counts in parts of a trial.

    .. math:: \eta_t = b + \sum_{p \le P(t)} \sum_n z_{pn} w_{pn}

    with the z-scored features :math:`z` of the :math:`P(t)` parts that have passed at bin t. The estimate is
    :math:`\eta` for continuous targets and angles, and its softmax for classes.

    Arguments:
        weights: Weights w, (B N, C).
        intercept: Intercept b, (C,); minus infinity for a class without a training trial.
        features: Scaler of root counts, of B N columns.
        edges: Bins from the trial's start at which parts begin and end, ascending, B + 1 of them.
        kind: ``continuous``, ``angle`` or ``class``.
        alpha: Penalty of half the squared weights; scikit-learn's 1 / C for classes.
        valid_r2: R² on validation trials.
    """

    weights: Array
    intercept: Array
    features: Scaler
    edges: tuple[int, ...]
    kind: str
    alpha: float
    valid_r2: float

    def predict(self, counts: Segments, bins_since_start: Segments) -> list[Array]:
        """Returns predictions, one (T, C) a segment; outside trials they are those of a trial's start. Causal.

        Arguments:
            counts: Counts, one (T, N) a segment; NaN where a unit was not observed.
            bins_since_start: Bins since the trial began, 0 in its first bin and -1 outside trials, one (T,) a segment.
        """
        return [self._segment(x, np.asarray(s, np.int64)) for x, s in zip(counts, bins_since_start, strict=True)]

    def _segment(self, counts: NDArray[np.generic], since: NDArray[np.int64]) -> Array:
        trial, passed, root = _root_counts(counts, since, self.edges)
        M, B, C = len(root), len(self.edges) - 1, len(self.intercept)
        z = self.features.apply(root).reshape(M, B, -1)
        each = np.einsum("mbn,bnc->mbc", z, self.weights.reshape(B, -1, C))
        total = np.pad(np.cumsum(each, 1), ((0, 1), (1, 0), (0, 0)))  # of trial -1 and of no part: 0
        eta = self.intercept + total[trial, passed]

        return np.asarray(softmax(eta, 1)) if self.kind == "class" else eta


def fit_trial_decoder(
    counts: Segments,
    targets: Segments,
    train: Masks,
    valid: Masks,
    bins_since_start: Segments,
    *,
    bin_size: float,
    kind: str,
    alphas: Sequence[float] = ALPHAS,
) -> TrialDecoder:
    """Fits ridge regression, or for classes logistic regression in which all classes have the same total weight.

    The penalty has the least log loss (squared error) on validation trials if they are at least 20 and have every
    class; else in cross-validation within training trials if each class has five; else it is 1000. Parts divide the
    median training trial; bins after it are not used.

    Arguments as of `ndt.decoders.ridge.fit_ridge`, with the row at which a trial is decoded (its last) in `train` and
    `valid`; besides:
        bins_since_start: As of `TrialDecoder.predict`.
        kind: ``continuous``, ``angle`` or ``class``.

    Raises:
        InputError: if the training trials are fewer than 2.
    """
    train, valid = labelled(targets, train, "train"), [np.asarray(m) for m in valid]
    y = take(targets, train)
    edges = _edges(take(bins_since_start, train) + 1, bin_size)
    x = _at_rows(counts, bins_since_start, train, edges)
    features = Scaler.fit([x], [np.ones(len(x), bool)])
    known = [m & ~np.isnan(np.asarray(v, np.float64)).any(1) for m, v in zip(valid, targets, strict=True)]
    y_valid, z = take(targets, known), features.apply(x)
    z_valid = features.apply(_at_rows(counts, bins_since_start, known, edges))
    # The solution lies in the span of the trials, so few trials of many features need few coefficients.
    basis = np.linalg.qr(z.T)[0] if z.shape[0] < z.shape[1] else np.eye(z.shape[1])
    z, z_valid = z @ basis, z_valid @ basis
    alpha = _alpha(kind, z, y, z_valid, y_valid, alphas)
    weights, intercept = _solved(kind, z, y, alpha)
    eta = z_valid @ weights + intercept
    score = r2(y_valid, softmax(eta, 1) if kind == "class" else eta)

    return TrialDecoder(basis @ weights, intercept, features, edges, kind, alpha, score)


def _edges(lengths: Array, bin_size: float) -> tuple[int, ...]:
    typical = max(int(np.median(lengths)), 1)
    num_parts = int(np.clip(round(typical * bin_size / PART_S), 1, min(MOST_PARTS, typical)))

    return tuple(np.round(np.linspace(0, typical, num_parts + 1)).astype(int).tolist())


def _root_counts(
    counts: NDArray[np.generic], since: NDArray[np.int64], edges: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """Returns trial (-1 outside) and parts passed at each bin, (T,), and root counts, (M, B N), NaN if not observed."""
    x = np.asarray(counts, np.float64)
    inside, before = since >= 0, np.r_[-1, since[:-1]]
    new = inside & ((before < 0) | (since != before + 1))
    trial = np.where(inside, np.cumsum(new) - 1, -1)
    passed = np.where(inside, np.searchsorted(edges[1:], since + 1, side="right"), 0)
    first = np.flatnonzero(new)
    end = first + np.bincount(trial[inside], minlength=len(first))
    total = np.pad(np.nan_to_num(x).cumsum(0), ((1, 0), (0, 0)))
    absent = np.pad(np.isnan(x).cumsum(0), ((1, 0), (0, 0)))
    begin = first - since[first]  # of the trial; before the segment if its start was not observed
    a, b = (begin[:, None] + np.array(side) for side in (edges[:-1], edges[1:]))  # (M, B)
    whole = (a >= first[:, None]) & (b <= end[:, None])
    a, b = np.where(whole, a, 0), np.where(whole, b, 0)
    known = whole[..., None] & (absent[b] == absent[a])

    return trial, passed, np.where(known, np.sqrt(total[b] - total[a]), np.nan).reshape(len(first), -1)


def _at_rows(counts: Segments, bins_since_start: Segments, rows: Masks, edges: tuple[int, ...]) -> Array:
    """Returns the root counts of the trials at selected rows, (M, B N); NaN in parts that have not passed there."""
    found = []
    for x, s, chosen in zip(counts, bins_since_start, rows, strict=True):
        if not chosen.any():
            continue
        trial, passed, root = _root_counts(x, np.asarray(s, np.int64), edges)
        at = np.flatnonzero(chosen)
        assert (trial[at] >= 0).all(), "trials are decoded at bins inside them"
        later = np.arange(len(edges) - 1) >= passed[at, None]  # (M, B)
        found.append(np.where(np.repeat(later, x.shape[1], 1), np.nan, root[trial[at]]))

    return np.concatenate(found) if found else np.zeros((0, counts[0].shape[1] * (len(edges) - 1)))


def _alpha(kind: str, z: Array, y: Array, z_valid: Array, y_valid: Array, alphas: Sequence[float]) -> float:
    """Returns the chosen penalty."""
    needed = (y.sum(0) > 0) if kind == "class" else np.ones(1, bool)
    every = kind != "class" or bool(np.all(y_valid.sum(0)[needed] > 0))
    if len(y_valid) >= FEWEST_VALID and every:
        pairs = [(z, y, z_valid, y_valid)]
    elif (y.sum(0)[needed].min() if kind == "class" else len(y)) >= FOLDS:
        fold = _folds(y.argmax(1) if kind == "class" else np.zeros(len(y), np.int64))
        pairs = [(z[fold != k], y[fold != k], z[fold == k], y[fold == k]) for k in range(FOLDS)]
    else:
        return ALPHA

    def loss(alpha: float) -> float:
        total = 0.0
        for fit_z, fit_y, new_z, new_y in pairs:
            weights, intercept = _solved(kind, fit_z, fit_y, alpha)
            total += _loss(kind, new_y, new_z @ weights + intercept)
        return total

    return float(min(alphas, key=loss))


def _folds(label: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the fold of each trial, (M,): equal runs of time within each class."""
    fold = np.empty(len(label), np.int64)
    for k in np.unique(label):
        rows = np.flatnonzero(label == k)
        fold[rows] = np.arange(len(rows)) * FOLDS // len(rows)

    return fold


def _loss(kind: str, y: Array, eta: Array) -> float:
    """Returns the squared error, or the log loss with the same total weight for each class that occurs."""
    if kind != "class":
        return float(np.sum((y - eta) ** 2))
    number = y.sum(0)
    each = -np.sum(np.where(y > 0, log_softmax(eta, 1), 0.0), 0)

    return float(np.sum(each[number > 0] / number[number > 0]))


def _solved(kind: str, z: Array, y: Array, alpha: float) -> tuple[Array, Array]:
    """Returns weights, (F, C), and intercept, (C,)."""
    from sklearn.linear_model import LogisticRegression, Ridge

    if kind != "class":
        ridge: Any = Ridge(alpha=alpha).fit(z, y)
        return np.asarray(ridge.coef_).reshape(y.shape[1], -1).T, np.asarray(ridge.intercept_).reshape(-1)
    if len(classes := np.flatnonzero(y.sum(0))) == 1:  # nothing to tell apart
        return np.zeros((z.shape[1], y.shape[1])), np.where(np.arange(y.shape[1]) == classes[0], 0.0, -np.inf)
    model: Any = LogisticRegression(C=1 / alpha, class_weight="balanced", max_iter=2000)
    model.fit(z, y.argmax(1))
    coefficients, constant = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # log odds of the second class
        coefficients, constant = (np.stack([-v[0], v[0]]) / 2 for v in (coefficients, constant))
    weights, intercept = np.zeros((z.shape[1], y.shape[1])), np.full(y.shape[1], -np.inf)
    weights[:, model.classes_], intercept[model.classes_] = coefficients.T, constant

    return weights, intercept
