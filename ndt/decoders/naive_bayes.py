"""Poisson naive Bayes: the posterior over cells of the target (places, headings or classes) given recent counts."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.special import softmax

from ndt.decoders.target_cells import Cells, circle, classes, grid, spread
from ndt.evaluation.metrics import r2
from ndt.segments import Array, Masks, Segments, labelled, take, with_history

__all__ = ["CellBayes", "NaiveBayes", "fit_naive_bayes"]

WINDOWS = (0.1, 0.15, 0.2, 0.26, 0.33, 0.4, 0.6, 0.8, 1.0)  # seconds of counts; one bin is a candidate too
SMOOTHINGS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)  # of tuning curves, in cells
POWERS = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
STEPS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)  # standard deviations from one bin to the next, in cells
NUM_CELLS = {1: 60, 2: 20}  # along each axis, by the number of axes
RARE = 1e-3  # share of training rows beyond either border of a grid, so that tracking errors do not widen all cells
LOST = 1e-12  # share of the prior in each step, which lets a filter recover from a wrong posterior


@dataclass(frozen=True)
class CellBayes:
    r"""Posterior over cells from counts summed over the last w bins; its mean is the estimate.

    .. math:: p_t(m) \propto \pi_t(m) \prod_n \left[\lambda_{mn}^{k_{tn}} e^{-e_{tn} \lambda_{mn}}\right]^\beta, \quad
        \pi_t(m) = \sum_{m'} p_{t-1}(m') P_{m' m}, \quad P_{m' m} \propto K_{m' m}(\sigma) \, \pi(m)

    :math:`k_{tn}` counts the spikes of unit n in the window, and :math:`e_{tn}` the bins of it in which the unit was
    observed. Units are not independent and windows overlap, so the likelihood is overconfident; the power :math:`\beta`
    corrects that. With :math:`\sigma = \infty`, bins are independent: :math:`\pi_t = \pi`.

    Reference: Zhang et al. (1998), J Neurophysiol 79:1017, https://doi.org/10.1152/jn.1998.79.2.1017

    Arguments:
        cells: The M cells.
        rates: Tuning curves :math:`\lambda`, spikes per bin, above 0, (M, N).
        prior: Share of time in each cell :math:`\pi`, above 0, (M,).
        window_bins: Bins w, the current one included.
        smoothing: Standard deviation of the smoothing of tuning curves, in cells.
        power: :math:`\beta`.
        step: :math:`\sigma`, standard deviation of a step from one bin to the next, in cells.
        valid_r2: R² on validation rows.
    """

    cells: Cells
    rates: Array
    prior: Array
    window_bins: int
    smoothing: float
    power: float = 1.0
    step: float = float("inf")
    valid_r2: float = float("nan")

    def __post_init__(self) -> None:
        if self.rates.ndim != 2 or not self.prior.shape == self.rates.shape[:1] == self.cells.values.shape[:1]:
            raise ValueError("rates must be (M, N) and prior (M,) for M cells")
        if not (self.rates > 0).all() or not (self.prior > 0).all():
            raise ValueError("rates and prior must be above 0")
        if self.window_bins < 1 or not self.power > 0 or not self.step > 0:
            raise ValueError("window_bins, power and step must be above 0")

    def predict(self, counts: Segments) -> list[Array]:
        """Returns predictions, one (T, C) a segment: the posterior mean of the cells' values."""
        decoded = []
        for x in counts:
            evidence = self.evidence(*_window_sums([x], self.window_bins))
            decoded.append(self.means(evidence, [self.power], [self.step])[:, 0, 0])

        return decoded

    def evidence(self, spikes: Array, bins: Array) -> Array:
        """Returns the log-likelihood of each cell up to a constant, (T, M), from k and e, (T, N) each."""
        return spikes @ np.log(self.rates).T - bins @ self.rates.T

    def means(self, evidence: Array, powers: Sequence[float], steps: Sequence[float]) -> Array:
        """Returns the posterior means of one segment, for all steps (S) and powers (B), (T, S, B, C)."""
        T, S, B, C = len(evidence), len(steps), len(powers), self.cells.values.shape[1]
        out, beta = np.empty((T, S, B, C)), np.asarray(powers, np.float64)[:, None]
        if np.isinf(steps).all():
            for b, power in enumerate(powers):
                out[:, :, b] = (softmax(np.log(self.prior) + power * evidence, -1) @ self.cells.values)[:, None]
            return out

        kernel = [np.stack(axis) for axis in zip(*map(self.cells.kernel, steps), strict=True)]  # (S, m, m) an axis
        if len(kernel) > 1:
            kernel = [axis[:, None] for axis in kernel]  # the same for every power
        total = spread(np.tile(self.prior, (S, 1, 1)), kernel)  # K π, which normalises the rows of P
        expected = np.broadcast_to(self.prior, (S, B, len(self.prior)))
        for t, e in enumerate(evidence):
            p = softmax(np.log(expected) + beta * e, -1)
            out[t] = p @ self.cells.values
            expected = self.prior * (spread(p / total, kernel) + LOST)

        return out


@dataclass(frozen=True)
class NaiveBayes:
    """Naive Bayes of a target, or of each of its dimensions if joint cells would be too many.

    Arguments:
        parts: One for one or two continuous dimensions, an angle or classes; else one a dimension or angle.
        kind: ``continuous``, ``angle`` or ``class``.
        bin_size: Seconds.
        valid_r2: R² on validation rows.
    """

    parts: tuple[CellBayes, ...]
    kind: str
    bin_size: float
    valid_r2: float

    @property
    def chosen(self) -> dict[str, Any]:
        """The chosen settings, a list over parts each: window in seconds, smoothing and step in cells, power."""
        return {
            "window": [round(p.window_bins * self.bin_size, 9) for p in self.parts],
            "smoothing": [p.smoothing for p in self.parts],
            "power": [p.power for p in self.parts],
            "step": [p.step if np.isfinite(p.step) else None for p in self.parts],
        }

    def predict(self, counts: Segments) -> list[Array]:
        """Returns predictions, one (T, C) a segment: posterior means, or probabilities of classes. Causal."""
        return [np.concatenate(each, 1) for each in zip(*(p.predict(counts) for p in self.parts), strict=True)]


def fit_naive_bayes(
    counts: Segments,
    targets: Segments,
    train: Masks,
    valid: Masks,
    *,
    bin_size: float,
    kind: str,
    max_window_s: float = 1.0,
) -> NaiveBayes:
    """Fits naive Bayes; window, smoothing, power and step have the best validation R².

    Arguments as of `ndt.decoders.ridge.fit_ridge`; besides:
        kind: ``continuous``, ``angle`` (cosine and sine of each) or ``class`` (one column a class, 1 for the true one).
        max_window_s: Longest window, in seconds.
    """
    train, valid = labelled(targets, train, "train"), labelled(targets, valid, "valid")
    y = np.concatenate([np.asarray(v, np.float64) for v in targets])
    fit_on, choose_on, C = np.flatnonzero(np.concatenate(train)), np.flatnonzero(np.concatenate(valid)), y.shape[1]
    row = np.split(np.arange(len(y)), np.cumsum([len(v) for v in targets])[:-1])
    history, _ = with_history(row, valid, bin_size)
    selection = _Selection(counts, fit_on, choose_on, history)
    windows = sorted({1, *(max(1, round(s / bin_size)) for s in WINDOWS if s <= max_window_s + 1e-9)})

    together = {"angle": 2, "class": C, "continuous": C if C in NUM_CELLS else 1}[kind]
    parts = []
    for first in range(0, C, together):
        z = y[:, first : first + together]
        parts.append(selection.best(_cells(kind, z[fit_on]), z, windows))
    score = parts[0].valid_r2
    if len(parts) > 1:
        recent, rows = with_history(counts, valid, bin_size)
        joint = NaiveBayes(tuple(parts), kind, bin_size, score).predict(recent)
        score = r2(take(targets, valid), take(joint, rows))

    return NaiveBayes(tuple(parts), kind, bin_size, score)


def _cells(kind: str, y: Array) -> Cells:
    if kind == "class":
        return classes(y.shape[1])
    if kind == "angle":
        return circle(NUM_CELLS[1])
    low, high = np.quantile(y, [RARE, 1 - RARE], axis=0)

    return grid([np.linspace(a, b, NUM_CELLS[y.shape[1]] + 1) for a, b in zip(low, high, strict=True)])


def _window_sums(counts: Segments, num_bins: int) -> tuple[Array, Array]:
    """Returns spikes, and observed bins, in the last `num_bins` of each row's segment, (R, N) each."""
    sums = []
    for x in counts:
        total = np.stack([np.nan_to_num(x), ~np.isnan(x)]).cumsum(1, dtype=np.float64)  # whole numbers: exact
        before = np.pad(total, ((0, 0), (num_bins, 0), (0, 0)))[:, : len(x)]
        sums.append(total - before)
    spikes, bins = np.concatenate(sums, 1)

    return spikes, bins


@dataclass(frozen=True)
class _Selection:
    """Selects settings one after another, because all combinations would be hundreds.

    Arguments:
        counts: Counts, one (T, N) a segment.
        train: Rows to fit on.
        valid: Rows to choose on.
        history: Runs of rows that hold these and history before them.
    """

    counts: Segments
    train: NDArray[np.int64]
    valid: NDArray[np.int64]
    history: list[NDArray[np.int64]]

    def best(self, cells: Cells, y: Array, windows: list[int]) -> CellBayes:
        """Selects the window, then the smoothing, both with the best power, and then the step."""
        best = _first_best(self._scored(cells, y, w, 1.0) for w in windows)
        best = _first_best(self._scored(cells, y, best.window_bins, s) for s in SMOOTHINGS)
        shorter = sorted({1, math.ceil(best.window_bins / 2)})  # the step adds history

        return _first_best([best, *(self._scored(cells, y, w, best.smoothing, STEPS) for w in shorter)])

    @staticmethod
    def _tuned(cells: Cells, y: Array, sums: tuple[Array, Array], num_bins: int, smoothing: float) -> CellBayes:
        """Returns tuning curves: spikes over observed bins, both smoothed over neighbouring cells."""
        (spikes, bins), M, R = sums, len(cells.values), len(y)
        in_cell = csr_matrix((np.ones(R), (cells.of(y), np.arange(R))), (M, R))
        kernel = cells.kernel(smoothing)
        near_spikes, near_bins, near_time = (spread((in_cell @ x).T, kernel).T for x in (spikes, bins, np.ones((R, 1))))
        # One further window at the unit's mean rate, itself with half a spike more, keeps rates above 0: no spike then
        # excludes a cell.
        mean = (spikes.sum(0) + 0.5) / (bins.sum(0) + 1.0)
        rates = (near_spikes + num_bins * mean) / (near_bins + num_bins)
        time = near_time[:, 0] + 1 / M  # one further bin, uniform over cells

        return CellBayes(cells, rates, time / time.sum(), num_bins, smoothing)

    def _scored(
        self, cells: Cells, y: Array, num_bins: int, smoothing: float, steps: Sequence[float] = (math.inf,)
    ) -> CellBayes:
        """Returns the decoder with these settings and the best power and step; by default bins are independent."""
        spikes, bins = _window_sums(self.counts, num_bins)
        model = self._tuned(cells, y[self.train], (spikes[self.train], bins[self.train]), num_bins, smoothing)
        means = []
        for rows in [self.valid] if np.isinf(steps).all() else self.history:
            found = model.means(model.evidence(spikes[rows], bins[rows]), POWERS, steps)
            means.append(found[np.isin(rows, self.valid)])
        decoded = np.concatenate(means)

        return _first_best(
            replace(model, power=power, step=float(step), valid_r2=r2(y[self.valid], decoded[:, s, b]))
            for s, step in enumerate(steps)
            for b, power in enumerate(POWERS)
        )


def _first_best(models: Iterable[CellBayes]) -> CellBayes:
    """Returns the first model with the best score; the first if no score is defined."""
    return max(models, key=lambda m: np.nan_to_num(m.valid_r2, nan=-np.inf))
