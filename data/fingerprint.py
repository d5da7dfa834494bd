"""Fingerprints of recordings: a small sample of their spike trains that copies, slices and subsets of units share.

A *gram* is the shortest run of consecutive inter-spike intervals of one unit, from a given spike on, that contains
`BITS` bits. An interval of n steps (of 1 ms, or of the bin width of counts) contains as many bits as n has binary
digits, and half a bit if n is 0, so that rare spikes need shorter runs than bursts. Intervals are rounded to 10 us (or
to the bin width), and the run is hashed to 64 bits. Of each unit's hashes those below a power of two are kept, which
depends on the number of its grams so that 32 to 64 are expected to remain. Therefore

- a fingerprint does not depend on the clock: a slice has the grams that lie wholly in its time;
- it depends neither on names and order of units, nor on other units;
- fingerprints of recordings of different length nest, since hashes below the smaller bound are below the larger one.

Grams cross gaps of observation: a copy has the same intervals there. Uninformative grams are left out: those of equal
intervals (clock ticks), and those that occur in a session at two times.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ndt.session import Session

__all__ = ["NOTHING", "VERSION", "Fingerprint", "fingerprint"]

VERSION = 1  # of all constants below: hashes of different versions cannot be compared
QUANTUM = 1e-5  # seconds to which intervals are rounded
STEP = 100  # quanta in a step of 1 ms, in which the bits of an interval are counted
# Clocks of 20, 25, 30, 32 or 40 kHz, of micro- or milliseconds have intervals at rational fractions of a quantum. A
# rounding threshold at the golden ratio is far from all of them, so that rounding errors seldom cross it.
PHASE = 0.6180339887498949
BITS = 96  # of a gram; of spike times rounded to bins, a third is informative
KEPT = 64  # hashes of a unit, at most on average
TWIN = 1e-3  # seconds between equal grams of two units with the same spikes

NOTHING = (float("nan"), float("nan"))  # span of no spike

BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
INVERSE = pow(BASE, -1, 2**64)


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """H hashes of one session, ascending.

    Arguments:
        hash: Hashes of grams, shape (H,), uint64. Spike times and counts, or counts in different bins, have no common
            hash.
        unit: Row of each gram's unit in the session's units, shape (H,), int32.
        time: First spike of each gram, in seconds of the session's clock, shape (H,), float64.
        end: Last spike of each gram, shape (H,), float64.
        span: First and last spike of the session, in seconds; NaN without spikes.
    """

    hash: NDArray[np.uint64]
    unit: NDArray[np.int32]
    time: NDArray[np.float64]
    end: NDArray[np.float64]
    span: tuple[float, float]

    def __len__(self) -> int:
        return len(self.hash)

    def digest(self) -> str:
        """Returns a checksum of the four arrays, which shows whether a file's own are those that were written."""
        arrays = (self.hash, self.unit, self.time, self.end)

        return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()

    @property
    def sound(self) -> bool:
        """Whether types and shapes are those above, hashes ascend, and each gram lies within the span."""
        kinds = ((self.hash, "u"), (self.unit, "i"), (self.time, "f"), (self.end, "f"))
        if any(a.dtype.kind != kind or a.shape != (len(self),) for a, kind in kinds):
            return False
        inside = not len(self) or bool(np.all((self.time >= self.span[0]) & (self.end <= self.span[1])))

        return inside and bool(np.all(self.hash[1:] >= self.hash[:-1]) and np.all(self.time <= self.end))


def fingerprint(session: Session) -> Fingerprint:
    """Returns the fingerprint of a session; it takes one sort by unit and a few passes over each unit's spikes."""
    times, unit = np.asarray(session.spikes.timestamps), np.asarray(session.spikes.unit_index)
    N = session.num_units
    order = np.argsort(unit.astype(np.uint16 if N <= 2**16 else np.int64), kind="stable")  # 16 bits: a radix sort
    number = np.bincount(unit, minlength=N)
    ends = np.cumsum(number)
    powers = _powers(BASE, number.max(initial=0)), _powers(INVERSE, number.max(initial=0))
    found = [_kept(times[order[b - n : b]], session.count_bin, powers) for b, n in zip(ends, number, strict=True)]
    hashes = np.concatenate([h for h, _, _ in found] or [np.zeros(0, np.uint64)])
    first = np.concatenate([t for _, t, _ in found] or [np.zeros(0)])
    last = np.concatenate([t for _, _, t in found] or [np.zeros(0)])
    units = np.repeat(np.arange(N, dtype=np.int32), [len(h) for h, _, _ in found])

    some = _distinct(hashes, first, units)
    span = (float(times[0]), float(times[-1])) if len(times) else NOTHING

    return Fingerprint(hash=hashes[some], unit=units[some], time=first[some], end=last[some], span=span)


def _powers(base: int, number: int) -> NDArray[np.uint64]:
    """Returns the first `number` powers 0, 1, … of `base` modulo 2^64, (number,)."""
    factors = np.full(number, base, np.uint64)
    factors[:1] = 1

    return np.multiply.accumulate(factors)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Applies the finaliser of splitmix64 (Steele, Lea and Flood 2014): every bit depends on every bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)

    return x ^ (x >> np.uint64(31))


def _kept(
    times: NDArray[np.float64], count_bin: float, powers: tuple[NDArray[np.uint64], NDArray[np.uint64]]
) -> tuple[NDArray[np.uint64], NDArray[np.float64], NDArray[np.float64]]:
    """Returns the kept hashes of one unit's grams, and their first and last spikes.

    The hash of intervals i to j - 1 is that of the polynomial sum of value[m] * BASE^(i - m), which is a difference of
    two cumulative sums.
    """
    quantum, step = (count_bin, 1) if count_bin else (QUANTUM, STEP)
    interval = np.floor(np.diff(times) / quantum + PHASE).astype(np.int64)  # (M,)
    M = len(interval)
    half_bits = np.maximum(2 * np.frexp(interval // step)[1].astype(np.int64), 1)  # an interval of 0: half a bit
    run = np.concatenate([[0], np.cumsum(half_bits)])
    end = np.searchsorted(run, run[:-1] + 2 * BITS)
    end = end[: np.searchsorted(end, M, side="right")]  # after the last interval of each complete gram
    K = len(end)

    kind = _mixed(np.array([round(quantum * 1e9)], np.uint64))  # nanoseconds: no two kinds share a hash
    value = _mixed(interval.astype(np.uint64) ^ kind)
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(value * powers[1][:M])])
    hashes = _mixed((total[end] - total[:K]) * powers[0][:K])
    level = int(np.ceil(np.log2(max(K / KEPT, 1))))
    kept = np.flatnonzero(hashes >> np.uint64(64 - level) == 0) if level else np.arange(K)
    changes = np.concatenate([[0], np.cumsum(interval[1:] != interval[:-1])])
    kept = kept[changes[end[kept] - 1] > changes[kept]]

    return hashes[kept], times[kept], times[end[kept]]


def _distinct(hashes: NDArray[np.uint64], times: NDArray[np.float64], units: NDArray[np.int32]) -> NDArray[np.intp]:
    """Returns the rows in the order of their hashes, without hashes that occur at two times."""
    order = np.lexsort((units, times, hashes))
    new = np.flatnonzero(np.diff(hashes[order], prepend=~hashes[order[:1]]))
    last = np.append(new, len(order))[1:] - 1
    once = times[order[last]] - times[order[new]] <= TWIN

    return order[np.repeat(once, last - new + 1)]
