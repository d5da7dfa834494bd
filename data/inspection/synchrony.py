r"""Units of one session that share spikes: duplicates and cross-talk.

For units a and b, a the less active of the two while both were observed, S is the number of a's spikes then, and C the
number of those that have a partner in b within ± ½ ms (the window); each spike counts once. The pair shares C / S. The
expected C by chance, from spikes n and rates r in up to 256 cells p of time with at least 200 spikes of the population
each, so that slow changes of both rates do not count as synchrony, is

.. math:: E = \sum_p n_{ap} (1 - e^{-2 \, \mathrm{window} \, r_{bp}})

Three effects besides chance bring spikes together; each raises the threshold λ that C must exceed:

- Coarse or shared clocks, and artefacts on all channels, affect every pair. E is multiplied by the session's typical
  C / E, the median over pairs, if that is above 1.
- Synchronous neurons fire within milliseconds of each other, copies of spikes much closer. λ is therefore at least the
  largest count at the lags ± 2, 5, 10 and 20 ms. Synchrony sharper than a millisecond is indistinguishable from
  cross-talk, and a copy from synchrony in a train so regular that most intervals equal one of those lags.
- Few spikes meet by luck. The tail of the Poisson distribution with mean λ at C must be below 1 % over all pairs
  together (Bonferroni), and C at least 10.

In a long recording the smallest excess is significant. C must therefore also be at least 2 λ, and (C - λ) / (S - λ),
the share of copies if all other spikes meet as λ predicts, at least 0.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.special import gammainc

from ndt.data.inspection.presence import SLIVER, firing, spikes_by_unit, unit_segments
from ndt.intervals import Intervals
from ndt.session import Session

__all__ = ["WINDOW", "Pair", "Synchrony", "count_shared", "groups", "measure_synchrony", "time_grid"]

WINDOW = 0.0005  # seconds
DUPLICATE, CROSS_TALK = 0.5, 0.1
LAGS = np.array([-0.020, -0.010, -0.005, -0.002, 0.002, 0.005, 0.010, 0.020])  # seconds
FEWEST, FACTOR, CHANCE = 10, 2.0, 0.01
ENOUGH_PAIRS = 10  # for a typical pair
MOST_PAIRS = 10_000  # listed

CELLS, CELL_SPIKES, CUTS = 256, 200, 4_096
MOST_SPIKES, MOST_MEETINGS = 3_000_000, 50_000_000
GRID_SPIKES = 100_000  # from which the grid of times is estimated
CHUNK = 1 << 17  # spikes per pass of the count of partners
ROWS = 256  # units per pass of the comparison with all others
LAG_SPIKES = 1_000  # of each pair, for each lag

Array = NDArray[np.float64]
Single = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two units that share more spikes than chance and synchrony explain.

    Arguments:
        first: Row of one unit.
        second: Row of the other; greater than `first`.
        kind: ``duplicate`` if at least half of the less active one's spikes are shared, else ``cross-talk``.
        shared: Share of the less active one's spikes that have a partner in the other.
        expected: Largest share that chance, the session's typical pair and neighbouring lags explain.
    """

    first: int
    second: int
    kind: Literal["duplicate", "cross-talk"]
    shared: float
    expected: float


class Synchrony(NamedTuple):
    """Pairs that share spikes; C / E of the typical pair; reason if nothing was assessed, else empty."""

    pairs: tuple[Pair, ...]
    typical: float = 1.0
    unassessed: str = ""


class _Candidates(NamedTuple):
    """Q pairs, the less active unit first, with S, C and λ of each."""

    less: NDArray[np.int64]
    more: NDArray[np.int64]
    spikes: NDArray[np.floating]
    shared: NDArray[np.int32]
    chance: NDArray[np.floating]

    def stands_out(self, num_pairs: int) -> "_Candidates":
        """Returns the pairs whose C exceeds λ by all criteria."""
        S, C, chance = self.spikes, self.shared, self.chance
        copied = (C - chance) / np.maximum(S - chance, SLIVER)  # if S = λ, C - λ is not positive
        keep = (FEWEST <= C) & (C >= FACTOR * chance) & (copied >= CROSS_TALK)
        keep[keep] = gammainc(C[keep], chance[keep]) < CHANCE / num_pairs  # P(X >= C)

        return self.rows(np.flatnonzero(keep))

    def rows(self, rows: NDArray[np.int64]) -> "_Candidates":
        return _Candidates(self.less[rows], self.more[rows], self.spikes[rows], self.shared[rows], self.chance[rows])


def measure_synchrony(session: Session) -> Synchrony:
    """Returns at most 10,000 pairs of duplicates and cross-talk, largest share first, or why they are unknown.

    Of more than about 3 million spikes, evenly spaced segments of time are read. Memory is about 16 N² bytes for N
    units and a few hundred MB. Times on a grid coarser than the window, and counts in bins, are not assessed.
    """
    reason = _unknowable(session)
    if reason or session.num_units < 2 or not len(session.spikes.timestamps):
        return Synchrony((), unassessed=reason)
    times, unit, cells = _sample(session)
    counts = count_shared(times, unit, session.num_units)
    if counts is None or len(times) == 0:
        return Synchrony((), unassessed="too many spikes lie at the same time")

    spikes = spikes_by_unit(times, unit, session.num_units)
    firing_units = sum(len(s) > 0 for s in spikes)
    num_pairs = max(firing_units * (firing_units - 1) // 2, 1)
    found, typical = _candidates(*_rates(session, spikes, cells), counts, num_pairs)
    found = found._replace(chance=found.chance * typical).stands_out(num_pairs)
    found = found.rows(np.lexsort((found.more, found.less, -found.shared / found.spikes))[:MOST_PAIRS])
    lagged = [_at_lags(spikes[a], spikes[b]) for a, b in zip(found.less, found.more, strict=True)]
    found = found._replace(chance=np.maximum(found.chance, np.array(lagged, float))).stands_out(num_pairs)

    return Synchrony(tuple(map(_pair, *found)), typical)


def _pair(less: int, more: int, spikes: float, shared: float, chance: float) -> Pair:
    share = float(shared / spikes)
    return Pair(
        first=int(min(less, more)),
        second=int(max(less, more)),
        kind="duplicate" if share >= DUPLICATE else "cross-talk",
        shared=min(share, 1.0),  # partners just outside the read segments count, spikes there do not
        expected=float(chance / spikes),
    )


def groups(pairs: Sequence[Pair], num_units: int) -> NDArray[np.int64]:
    """Returns the number, from 0, of each unit's connected group of pairs, shape (N,); -1 for units in no pair."""
    a, b = np.array([(p.first, p.second) for p in pairs], np.int64).reshape(-1, 2).T
    graph = coo_matrix((np.ones(len(a)), (a, b)), shape=(num_units, num_units))
    label = connected_components(graph, directed=False)[1]
    joined = np.isin(np.arange(num_units), np.r_[a, b])
    found = np.full(num_units, -1, np.int64)
    found[joined] = np.unique(label[joined], return_inverse=True)[1]

    return found


def time_grid(session: Session) -> float:
    """Returns the step in seconds of which all inter-spike intervals are multiples; 0 if there is none.

    Intervals are known to a microsecond, so steps below about 0.2 ms are not found. There must be 30 intervals of at
    most 20 steps and less than a second, and 99 % of them multiples to a hundredth of a step.
    """
    times, unit = session.spikes.timestamps, session.spikes.unit_index
    first = slice(0, GRID_SPIKES)
    found = [np.diff(s) for s in spikes_by_unit(np.asarray(times[first]), np.asarray(unit[first]), session.num_units)]
    isi = np.concatenate([*found, np.zeros(0)])
    isi = np.round(isi[isi < 1.0], 6)
    gaps: Array = np.diff(np.unique(np.r_[0.0, isi]))
    step = float(np.median(gaps)) if len(gaps) else 0.0
    isi = isi[(isi > 0) & (isi < 20.5 * step)]
    if len(isi) < 30:
        return 0.0
    multiple = np.maximum(np.round(isi / step), 1.0)
    step = float(isi.sum() / multiple.sum())  # the error of the first estimate, up to a microsecond, adds up

    return step if np.mean(np.abs(isi / step - multiple) > 0.01) < 0.01 else 0.0


def _unknowable(session: Session) -> str:
    if session.count_bin > 0:
        return f"spikes were counted in bins of {1000 * session.count_bin:g} ms"
    step = time_grid(session)
    return f"spike times are multiples of {1000 * step:g} ms" if step > 1.001 * WINDOW else ""


def _sample(session: Session) -> tuple[Array, NDArray[np.int64], Intervals]:
    """Returns spikes and their units from evenly spaced segments of time, and those segments: the cells.

    The cells contain all spikes unless spikes, or their expected meetings, are too many. Borders are times of spikes,
    so that simultaneous spikes stay in one cell.
    """
    times, unit = session.spikes.timestamps, session.spikes.unit_index
    S, observed = len(times), session.observed.coalesce()
    meetings = 1 + S * WINDOW / max(observed.duration, WINDOW)
    most = int(min(MOST_SPIKES, MOST_MEETINGS / meetings))
    P = int(np.clip(S // CELL_SPIKES, 1, CELLS))
    first = np.arange(P + 1) * S // P
    begin = np.array(times[first[:-1]], float)
    end = np.r_[begin[1:], np.nextafter(times[S - 1], np.inf)]
    if most < S:
        end = np.minimum(end, times[np.minimum(first[:-1] + max(most // P, 1), S - 1)])
    else:
        begin[0], end[-1] = min(observed.start[0], begin[0]), max(observed.end[-1], end[-1])
    slices = [slice(a, b) for a, b in zip(*np.searchsorted(times, [begin, end]), strict=True)]

    return (
        np.concatenate([times[s] for s in slices]),
        np.concatenate([unit[s] for s in slices]).astype(np.int64),
        Intervals(begin, end),
    )


def count_shared(times: Array, unit: NDArray[np.int64], num_units: int, chunk: int = CHUNK) -> NDArray[np.int32] | None:
    """Returns the number of spikes of unit a with a partner in unit b within ± `WINDOW`, shape (N, N), diagonal 0.

    Spike i is compared with i + 1, i + 2, … while any is near. Only the first of b's near spikes is its partner: the
    one whose predecessor in b is not near. Returns None if spikes meet too often to be counted.
    """
    window, S, N = WINDOW + SLIVER, len(times), num_units
    before, counts, met = _previous(times, unit, N), np.zeros(N * N, np.int32), 0
    for start in range(0, S, chunk):
        i, k, codes = np.arange(start, min(start + chunk, S)), 0, []
        while len(i):
            k += 1
            i = i[: np.searchsorted(i, S - k)]
            i = i[times[i + k] - times[i] <= window]
            met += len(i)
            if met > 4 * MOST_MEETINGS:
                return None
            j, u, v = i + k, unit[i], unit[i + k]
            forth = (before[j] - times[i] < -window) & (u != v)
            back = (before[i] - times[j] < -window) & (u != v)
            codes += [u[forth] * N + v[forth], v[back] * N + u[back]]
        counts += np.bincount(np.concatenate(codes), minlength=N * N).astype(np.int32)

    return counts.reshape(N, N)


def _previous(times: Array, unit: NDArray[np.int64], N: int) -> Array:
    """Returns the time of the previous spike of each spike's unit, -inf for the first."""
    order = np.argsort(unit.astype(np.uint16) if N < 2**16 else unit, kind="stable")
    previous = np.full(len(times), -np.inf)
    same = unit[order[1:]] == unit[order[:-1]]
    previous[order[1:][same]] = times[order[:-1][same]]

    return previous


def _candidates(
    n: Single, there: Single, meets: Single, counts: NDArray[np.int32], num_pairs: int
) -> tuple[_Candidates, float]:
    """Returns the pairs that exceed λ = E, and the typical C / E, at least 1; arguments as `_rates` returns."""
    fires = np.flatnonzero(n.any(axis=0))
    stride = max(1, len(fires) // 1_000)
    found, ratio, weight = [], [], []
    for rows in np.array_split(fires, max(1, -(-len(fires) // ROWS))):
        S, S_back = n[:, rows].T @ there, there[:, rows].T @ n  # (rows, N): of rows in others, of others in rows
        E, E_back = n[:, rows].T @ meets, meets[:, rows].T @ n
        C, C_back = counts[rows], counts[:, rows].T
        forth = (S < S_back) | ((S == S_back) & (C >= C_back))
        S, E, C = np.where(forth, S, S_back), np.where(forth, E, E_back), np.where(forth, C, C_back)
        r, b = np.nonzero((np.arange(n.shape[1]) > rows[:, None]) & (S > 0))
        a, ahead = rows[r], forth[r, b]
        some = _Candidates(np.where(ahead, a, b), np.where(ahead, b, a), S[r, b], C[r, b], E[r, b])
        found.append(some.stands_out(num_pairs))
        typical = (some.chance > 0) & (a % stride == 0)
        ratio.append(some.shared[typical] / some.chance[typical])
        weight.append(np.minimum(some.chance[typical], 5.0))  # the ratio of rare meetings is noisy

    together = _Candidates(*(np.concatenate(values) for values in zip(*found, strict=True)))
    return together, _typical(np.concatenate(ratio), np.concatenate(weight))


def _typical(ratio: Array, weight: Array) -> float:
    """Returns the weighted median of the pairs' C / E, at least 1; 1 for few pairs."""
    if len(ratio) < ENOUGH_PAIRS:
        return 1.0
    order = np.argsort(ratio, kind="stable")
    run = np.cumsum(weight[order], dtype=np.float64)

    return max(1.0, float(ratio[order][np.searchsorted(run, run[-1] / 2)]))


def _rates(session: Session, spikes: Sequence[Array], cells: Intervals) -> tuple[Single, Single, Single]:
    """Returns for each cell and unit its spikes, its observed share, and the probability that a spike meets one of it.

    If units differ in observed time, cells are cut at its starts and ends. Of more than 4,096 such times an even
    selection is used, so that a unit may be observed for part of a cell.
    """
    edges, rows = np.unique(np.r_[cells.start, cells.end]), session.units.observed
    if rows is not None:
        cuts = np.unique(np.r_[rows.start, rows.end])
        edges = np.unique(np.r_[edges, cuts[:: max(1, -(-len(cuts) // CUTS))]])
    inside = cells.contains(edges[:-1])
    n, seconds = (values[inside] for values in firing(spikes, unit_segments(session), edges))
    longest = seconds.max(axis=1, keepdims=True)
    there = seconds / np.where(longest > 0, longest, 1.0)
    meets = there * -np.expm1(-2 * WINDOW * n / np.where(seconds > 0, seconds, np.inf))

    return n.astype(np.float32), there.astype(np.float32), meets.astype(np.float32)


def _at_lags(a: Array, b: Array) -> float:
    """Returns the largest number of a's spikes with a partner in b over the lags, from a sample of a's spikes."""
    some = a[:: -(-len(a) // LAG_SPIKES)]
    earliest = some + LAGS[:, None] - WINDOW - SLIVER  # (lags, spikes)
    j = np.searchsorted(b, earliest)
    near = (j < len(b)) & (b[np.minimum(j, len(b) - 1)] - earliest <= 2 * (WINDOW + SLIVER))

    return float(near.mean(axis=1).max() * len(a))
