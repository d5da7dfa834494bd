r"""Matches the units of a session to those of an earlier day by their spikes, and copies their embeddings.

Matching needs neither unit names nor labels. It compares what each unit does alone (its rate, autocorrelation,
variance, and coupling to all others) and the correlations of each pair of units at a few lags. It seeks the assignment
P of units of one day to those of the other, each to at most one, with the largest evidence

.. math:: \sum_{ia} P_{ia} U_{ia} + \frac{\tau}{2} \sum_{ia} \sum_{jb} P_{ia} P_{jb} \, Q_{ij,ab}

where U and Q are log likelihood ratios (`SameUnit`) of the statistics of units, and of pairs of units, under the
hypotheses that they are the same and that they are not. This quadratic assignment problem is solved from several starts
by the Frank-Wolfe method.

Reference: Vogelstein et al. (2015), Fast approximate quadratic programming for graph matching,
https://doi.org/10.1371/journal.pone.0121002; `scipy.optimize.quadratic_assignment` solves it for one matrix of weights
and complete assignments.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ndt.data.store import Store
from ndt.data.windows import TRAIN, BinnedSession
from ndt.errors import InputError
from ndt.model.transformer import NDT
from ndt.segments import Array, Scaler, Segments
from ndt.session import Session

__all__ = ["SameUnit", "align", "earlier_days", "match_units"]

# N, M = units of the old day and of the new, K = statistics of a unit or of a pair of units

POSITIONS = ("depth", "rel_x", "rel_y", "rel_z", "x", "y", "z")  # columns of the units table that stay from day to day
WIDTH = 0.1  # seconds of the bins in which units are compared; of 50, 100 and 150 ms the one that matched best
PAIR_LAGS = (0, 1, 2, 4)  # such bins
UNIT_LAGS = (1, 2, 3, 4, 6, 8, 12)
STABILITY = 0.9  # correlation, from day to day, of a unit's statistics
EFFECTIVE_PAIRS = (
    16  # a unit's correlations follow from few latents: their evidence is that of as many independent pairs
)
LEAST_VARIANCE = 0.5  # variance over units, relative to noise, of the directions that are kept
SHARED_UNITS = 0.5  # expected fraction of units that are present on both days
STARTS, SCALE = 40, 3.0  # of the search, and the noise in nats that scatters them
LARGE = 64  # units, beyond which starts become fewer: the time of each grows with the cube
CERTAIN = 1e6  # nats
FEWEST_BINS, FEWEST_UNITS = 50, 3  # of a day, below which only known pairs are matched
COLUMN_STABILITY = 0.95  # correlation, from day to day, of positions and waveforms
LEAST_COLUMN_VARIANCE = 0.05  # fraction of the variance of columns that a direction needs to be kept


def align(
    model: NDT, base: NDT, stores: Sequence[Store], binned: BinnedSession, chosen: NDArray[np.bool_], align_to: str = ""
) -> dict[str, Any]:
    """Copies the embeddings of an earlier day's units to the unknown units that they are matched to, in place.

    Units that the base model knows by their identity are fixed pairs of the matching. Unmatched units keep their
    initial embeddings.

    Arguments:
        model: The model to be adapted; it knows the session's units.
        base: The pretrained model.
        stores: Stores that may hold the earlier day.
        binned: The new day's bins.
        chosen: Bins of it that may be used, (R,).
        align_to: Session id of the earlier day; empty for the subject's last that `base` was trained on.

    Returns:
        ``to``, the earlier session, and the numbers of ``unknown`` units and of those ``matched``.

    Raises:
        InputError: if there is no such day, or the model has no embeddings of units.
    """
    days = earlier_days(base, stores, binned.session)
    if not days:
        where = " and ".join(str(store.root) for store in stores)
        expected = f"a session of {binned.session.subject} that the model was trained on, in {where}, to align units to"
        raise InputError("finetune", "strategy", expected, "none")
    if align_to and align_to not in days:
        raise InputError("settings", "align_to", f"one of: {', '.join(days)}", align_to)
    if not model.KNOWS_UNITS:
        raise InputError("finetune", "strategy", "a base model with unit embeddings", "one of positional embeddings")
    old = BinnedSession(days[align_to or list(days)[-1]], binned.bin_size, base.spec.window_bins * binned.bin_size)
    known = set(base.vocabulary.units)
    unknown = {str(u) for u in binned.session.units.id} - known
    old_names, old_counts, old_columns = _units(old, old.split == TRAIN)
    names, counts, columns = _units(binned, chosen, unknown | set(old_names))
    pairs = [(old_names.index(u), i) for i, u in enumerate(names) if u in old_names]
    shared = [k for k, v in old_columns.items() if k in columns and columns[k].shape[1] == v.shape[1]]
    x, y = (np.column_stack([of[k] for k in shared]) if shared else None for of in (old_columns, columns))
    both = None if x is None or y is None else (x, y)
    matched = match_units(old_counts, counts, binned.bin_size, known=pairs, columns=both)
    found = {u: old_names[i] for u, i in zip(names, matched, strict=True) if i >= 0 and u not in known}
    row = {u: i for i, u in enumerate(model.vocabulary.units)}
    _copy_units(model, [(row[old_name], row[u]) for u, old_name in found.items()])

    return {"to": old.session.session_id, "unknown": len(unknown), "matched": len(found)}


def _units(
    binned: BinnedSession, chosen: NDArray[np.bool_], only: set[str] | None = None
) -> tuple[list[str], list[Array], dict[str, Array]]:
    """Returns units sorted by name: names, counts of each segment, (T, N), and positions and waveforms, (N, K) each."""
    units = binned.session.units
    names = [str(u) for u in units.id]
    order = [i for i in np.argsort(names, kind="stable") if only is None or names[i] in only]
    counts = binned.all_counts()[:, order]
    kept = {k: v for k, v in units.columns.items() if k in POSITIONS or k.startswith("waveform")}
    numbers = {k: np.asarray(v, np.float64) for k, v in kept.items() if np.issubdtype(v.dtype, np.number)}
    columns: dict[str, Array] = {k: v.reshape(len(v), -1)[order] for k, v in numbers.items()}

    return [names[i] for i in order], [counts[a:b] for a, b in binned.runs(chosen)], columns


def earlier_days(base: NDT, stores: Sequence[Store], session: Session) -> dict[str, Session]:
    """Returns the subject's other sessions that the model was trained on and a store holds, in order of date."""
    days = [
        store.session(s)
        for store in reversed(stores)  # the first store's sessions replace those of the others
        for s in base.spec.data
        if s in store.session_ids and s != session.session_id
    ]
    days = sorted((d for d in days if d.subject == session.subject), key=lambda d: (d.recording_date, d.session_id))

    return {day.session_id: day for day in days}


@torch.no_grad()
def _copy_units(model: NDT, pairs: list[tuple[int, int]]) -> None:
    """Gives each second unit (a row of the tables) the first one's embedding, whatever site and depth files name."""
    for old, new in pairs:
        model.unit[new] = model.unit[old] + _site(model, old) - _site(model, new)
        if model.readin is not None:
            model.readin[new] = model.readin[old]


def _site(model: NDT, unit: int) -> Tensor:
    """Contribution of site and depth to a unit's embedding."""
    return model.unit_site[model.site_of_unit[unit]].sum(0) + model.depth_of_unit[unit] * model.depth


@dataclass(frozen=True)
class SameUnit:
    r"""Log likelihood ratio of two measurements: of the same unit (or pair of units), over different ones.

    Statistics b vary over units with covariance B, and each day measures them with noise:
    :math:`x = b + e, y = b' + e'`, where b and b' have correlation `STABILITY` for the same unit, else 0. In the
    directions that make B and noise diagonal (variances :math:`\beta, \nu_x, \nu_y`) the log likelihood ratio is

    .. math:: \log \frac{p(x, y \mid \text{same})}{p(x) \, p(y)} = c + \sum_k u_k x_k^2 + v_k y_k^2 + w_k x_k y_k .

    Reference: Ioffe (2006), Probabilistic linear discriminant analysis, https://doi.org/10.1007/11744085_41.

    Arguments:
        old: Statistics of the old day in those directions, centred, (..., K).
        new: Those of the new day, (..., K).
        of_old: u, (K,).
        of_new: v, (K,).
        of_both: w, (K,).
        constant: c.
    """

    old: Array
    new: Array
    of_old: Array
    of_new: Array
    of_both: Array
    constant: float

    @classmethod
    def fit(cls, measure: Callable[[Array], Array], old: Array, new: Array) -> "SameUnit":
        """Fits the covariances; the two halves of each day give its noise.

        Arguments:
            measure: Takes counts, (T, N), and returns statistics, (..., K), NaN where undefined. For a pair of units in
                either order it returns the same values, permuted.
            old: Counts of the old day.
            new: Counts of the new day.
        """
        x, y = measure(old), measure(new)
        noise_x, noise_y = _noise(measure, old), _noise(measure, new)
        noise = (noise_x + noise_y) / 2
        noise.flat[:: len(noise) + 1] += 1e-6 * np.trace(noise) / len(noise) + 1e-12  # for dependent statistics
        total = sum(np.atleast_2d(np.cov(_rows(v).T, bias=True)) for v in (x, y)) / 2 - noise
        between, turn = eigh(total, noise)  # noise is 1 in these directions
        between, turn = between[between > LEAST_VARIANCE], turn[:, between > LEAST_VARIANCE]
        x, y = (np.nan_to_num((v - _rows(v).mean(0)) @ turn) for v in (x, y))
        s, t = (between + np.einsum("ik,ij,jk->k", turn, n, turn) for n in (noise_x, noise_y))
        c = STABILITY * between
        det = s * t - c**2
        constant = float(-0.5 * np.log(det / (s * t)).sum())

        return cls(x, y, (1 / s - t / det) / 2, (1 / t - s / det) / 2, of_both=c / det, constant=constant)

    def units(self) -> Array:
        """Returns the log likelihood ratio of each old unit and each new one, (N, M); statistics are (N, K)."""
        each = (self.old**2 @ self.of_old)[:, None] + (self.new**2 @ self.of_new)[None]

        return each + (self.old * self.of_both) @ self.new.T + self.constant

    def pairs(self, assigned: Array) -> Array:
        r"""Returns :math:`\sum_{jb} P_{jb} Q_{ij,ab}` of each old unit i and new unit a, (N, M).

        Arguments:
            assigned: P, (N, M); statistics are of pairs, (N, N, K), zeros on the diagonal.
        """
        rows, columns = assigned.sum(1), assigned.sum(0)
        found = ((self.old**2 @ self.of_old) @ rows)[:, None] + ((self.new**2 @ self.of_new) @ columns)[None]
        for k, weight in enumerate(self.of_both):
            found += weight * (self.old[..., k] @ assigned @ self.new[..., k].T)
        others = assigned.sum() - rows[:, None] - columns + assigned  # a unit makes no pair with itself

        return found + self.constant * others


def _rows(measures: Array) -> Array:
    rows = measures.reshape(-1, measures.shape[-1])
    return rows[~np.isnan(rows).any(1)]


def _noise(measure: Callable[[Array], Array], counts: Array) -> Array:
    """Covariance of a day's noise: a quarter of that of the halves' difference, as each half has twice as much."""
    half = len(counts) // 2
    rows = _rows(measure(counts[:half]) - measure(counts[half:]))

    return rows.T @ rows / len(rows) / 4


def match_units(
    old: Segments,
    new: Segments,
    bin_size: float,
    *,
    known: Sequence[tuple[int, int]] = (),
    columns: tuple[Array, Array] | None = None,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Returns the old unit that each new unit is matched to, -1 for none, (M,).

    Arguments:
        old: Counts of the old day in bins, one (T, N) a segment; NaN where a unit was not observed.
        new: Those of the new day, one (T, M) a segment.
        bin_size: Seconds.
        known: Old and new unit of each pair that is known to be the same.
        columns: Positions and waveforms of units, (N, K) and (M, K); columns with a NaN are left out.
        seed: Seed of the starts of the search.
    """
    width = max(1, round(WIDTH / bin_size))
    x, y = _rebinned(old, width), _rebinned(new, width)
    first, second = np.array(known, np.int64).reshape(-1, 2).T
    if min(*(int((~np.isnan(v)).any(1).sum()) for v in (x, y))) < FEWEST_BINS or min(len(x.T), len(y.T)) < FEWEST_UNITS:
        matched = np.full(len(y.T), -1)
        matched[second] = first
        return matched
    unit_evidence, pair_evidence = SameUnit.fit(_unit_statistics, x, y).units(), SameUnit.fit(_pair_statistics, x, y)
    if columns is not None:
        unit_evidence += _column_evidence(*columns)
    unit_evidence[first] = unit_evidence[:, second] = -CERTAIN
    unit_evidence[first, second] = CERTAIN
    assigned = _assign(unit_evidence, pair_evidence, seed)

    return np.where(assigned.any(0), assigned.argmax(0), -1)


def _rebinned(segments: Segments, width: int) -> Array:
    """Returns counts in bins `width` times as wide, segments concatenated with unobserved (NaN) bins between them."""
    apart, found = np.full((max(*PAIR_LAGS, *UNIT_LAGS), segments[0].shape[1]), np.nan), []
    for segment in segments:
        whole = len(segment) // width
        found += [np.asarray(segment[: whole * width], np.float64).reshape(whole, width, -1).sum(1), apart]

    return np.concatenate(found)


def _standard(counts: Array) -> tuple[Array, Array]:
    """Returns z-scores, 0 where a unit was not observed or never changed, and 1 where it was observed, (T, N) each."""
    z = Scaler.fit([counts], [np.ones(len(counts), bool)]).apply(counts)

    return z, (~np.isnan(counts)).astype(np.float64)


def _unit_statistics(counts: Array) -> Array:
    """Statistics of each unit: rate, variance over mean, autocorrelation, coupling to all others before it, (N, K)."""
    z, seen = _standard(counts)
    number = np.maximum(seen.sum(0), 1)
    mean = np.nansum(counts, 0) / number
    variance = np.nansum((counts - mean) ** 2, 0) / number
    found = [np.log(mean + 1e-3), np.log((variance + 1e-3) / (mean + 1e-3))]  # silent units stay finite
    found += [_mean_product(z, z, seen, lag) for lag in UNIT_LAGS]
    others = z.sum(1, keepdims=True) - z
    others /= np.maximum(others.std(0), 1e-9)
    found += [_mean_product(z, others, seen, lag) for lag in PAIR_LAGS]

    return np.stack(found, 1)


def _mean_product(later: Array, earlier: Array, seen: Array, lag: int) -> Array:
    number = (seen[lag:] * seen[: len(seen) - lag]).sum(0)

    return (later[lag:] * earlier[: len(seen) - lag]).sum(0) / np.maximum(number, 1)


def _pair_statistics(counts: Array) -> Array:
    """Correlations of each pair of units, with either unit lagging; NaN on the diagonal, (N, N, K)."""
    z, seen = _standard(counts)
    T, found = len(z), []
    for lag in PAIR_LAGS:
        matrix = z[lag:].T @ z[: T - lag] / np.maximum(seen[lag:].T @ seen[: T - lag], 1)
        np.fill_diagonal(matrix, np.nan)
        found += [matrix, matrix.T] if lag else [matrix]

    return np.stack(found, -1)


def _column_evidence(old: Array, new: Array) -> Array:
    """Returns the log likelihood ratio of the columns of each old unit and each new one, (N, M)."""
    both = np.concatenate([old, new])
    both = both[:, np.isfinite(both).all(0) & (both.std(0) > 0)]
    if not both.shape[1]:
        return np.zeros((len(old), len(new)))
    both = (both - both.mean(0)) / both.std(0)
    variance, turn = np.linalg.eigh(np.atleast_2d(np.cov(both.T, bias=True)))
    chosen = variance > LEAST_COLUMN_VARIANCE * variance.sum()
    x, y = np.split(both @ turn[:, chosen] / np.sqrt(variance[chosen]), [len(old)])
    left, K = 1 - COLUMN_STABILITY**2, x.shape[1]
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1)[None]

    return (COLUMN_STABILITY * x @ y.T - COLUMN_STABILITY**2 / 2 * squares) / left - K / 2 * np.log(left)


def _assign(unit_evidence: Array, pair_evidence: SameUnit, seed: int) -> Array:
    """Returns the assignment with the largest evidence over all starts: zeros and ones, (N, M)."""
    N, M = unit_evidence.shape
    rng, even = np.random.default_rng(seed), np.full((N, M), 1 / max(N, M))
    weight = min(1.0, EFFECTIVE_PAIRS / min(N, M))
    rewarded = unit_evidence + np.log(SHARED_UNITS / (1 - SHARED_UNITS) / max(N, M))  # prior odds of one pair
    best: Array = np.zeros((N, M))
    most = -np.inf
    starts = max(2, round(STARTS * min(1.0, LARGE / max(N, M)) ** 2))
    for start in range(starts):
        scattered = unit_evidence + SCALE * start / starts * rng.standard_normal((N, M))
        found = _frank_wolfe(unit_evidence, pair_evidence, (even + _full_assignment(scattered)) / 2 if start else even)
        for _ in range(10):
            gains = weight * pair_evidence.pairs(found)
            evidence = float((found * (rewarded + gains / 2)).sum())
            if evidence > most:
                best, most = found, evidence
            before, found = found, _partial_assignment(rewarded + gains)
            if not (before != found).any():
                break

    return _local_search(rewarded, weight, pair_evidence, best)


def _local_search(rewarded: Array, weight: float, pair_evidence: SameUnit, assigned: Array) -> Array:
    """Removes and adds pairs, one at a time, while evidence grows."""
    assigned = assigned.copy()
    for _ in range(4 * len(assigned)):
        gains = rewarded + weight * pair_evidence.pairs(assigned)
        free = (assigned.sum(1) == 0)[:, None] & (assigned.sum(0) == 0)[None]
        gains = np.where(assigned > 0, -gains, np.where(free, gains, -np.inf))
        if gains.max() <= 1e-9:
            break
        at = np.unravel_index(gains.argmax(), gains.shape)
        assigned[at] = 1 - assigned[at]

    return assigned


def _frank_wolfe(unit_evidence: Array, pair_evidence: SameUnit, assigned: Array) -> Array:
    """Maximises evidence from a doubly stochastic start, and returns an assignment of min(N, M) units."""
    for _ in range(30):
        slope = unit_evidence + pair_evidence.pairs(assigned)
        step = _full_assignment(slope) - assigned
        gain = float((slope * step).sum())
        if gain < 1e-6:
            break
        bend = float((step * pair_evidence.pairs(step)).sum())
        assigned = assigned + (1.0 if bend >= 0 else min(1.0, -gain / bend)) * step

    return _full_assignment(assigned)


def _full_assignment(evidence: Array) -> Array:
    rows, columns = linear_sum_assignment(evidence, maximize=True)
    assigned = np.zeros_like(evidence)
    assigned[rows, columns] = 1.0

    return assigned


def _partial_assignment(evidence: Array) -> Array:
    """Assigns units whose evidence is positive."""
    return _full_assignment(np.maximum(evidence, 0.0)) * (evidence > 0)
