"""Finds sessions that share data: copies, prefixes and slices of a recording, or some of its units.

Two sessions share data if at least `LEAST` hashes of their fingerprints are equal at one offset between the two clocks,
to half a millisecond. Chance coincidences are negligible: two hashes are equal by chance only if intervals with 96 bits
are. Unrelated half hours of 96 units had no common hash, even with spikes in bins of 10 to 50 ms, where a third of the
bits is informative; with half the bits there were up to n = 288. These lay at random among the M = 72,000 offsets of
such bins: the expected number of offsets with six is M (n / M)^6 / 6! < 1e-12, and for all pairs of a thousand sessions
less than one in a million stores.

Not detected: copies whose spike times were rounded, resampled or sorted again; spike times against counts, and counts
in other bins; segments with fewer than six grams of some ten spikes each.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ndt.data.fingerprint import Fingerprint

__all__ = ["Overlap", "find_overlaps"]

LEAST = 6  # hashes at one offset
SPREAD = 5e-4  # seconds between neighbouring offsets that count as one
COPIES = 4  # each hash is compared with this number of following copies, in the order of their sessions
EDGE = 8  # mean distances between shared hashes; the overlap begins within this distance of the first of them


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Data that two sessions share.

    Arguments:
        first: The first session in the order of names.
        second: The second session.
        kind: ``same file`` (equal SHA-256), ``same recording`` (at least nine tenths of the time of both), ``slice``
            (less of one of them, or of both) or ``shared units`` (some of the units).
        num_units: Lower bound of the number of shared units. 0 for equal files with different spikes, for example if
            one was merged by electrode.
        shared: Estimated fraction of the smaller session that the other contains, 0 to 1.
        offset: Clock of the second session minus that of the first, in seconds; median over hashes.
        first_time: Start and end of the overlap in the clock of the first session.
        second_time: Start and end of the overlap in the clock of the second session.
    """

    first: str
    second: str
    kind: str
    num_units: int
    shared: float
    offset: float
    first_time: tuple[float, float]
    second_time: tuple[float, float]


def find_overlaps(fingerprints: Mapping[str, Fingerprint], sources: Mapping[str, str] | None = None) -> list[Overlap]:
    """Returns the overlaps of sessions, ordered by names and offset; a pair has several if its offset changes.

    All hashes are sorted once; pairs of sessions without equal hashes cost nothing.

    Arguments:
        fingerprints: Fingerprints by session.
        sources: SHA-256 of the source file by session, if known.
    """
    names, sources = sorted(fingerprints), sources or {}
    prints = [fingerprints[name] for name in names]
    found = [_overlap(names, prints, *rows) for rows in _coherent(prints)]
    by_file = defaultdict(list)
    for name in names:
        by_file[sources.get(name, "")].append(name)
    by_file.pop("", None)
    same_file = {pair for some in by_file.values() for pair in itertools.combinations(some, 2)}
    found = [replace(o, kind="same file") if (o.first, o.second) in same_file else o for o in found]
    for pair in same_file - {(o.first, o.second) for o in found}:
        spans = np.array([fingerprints[name].span for name in pair])
        if not np.isnan(spans).all():  # sessions without spikes share nothing
            found.append(_same_file(*pair, (float(np.nanmin(spans)), float(np.nanmax(spans)))))

    return sorted(found, key=lambda o: (o.first, o.second, o.offset))


def _same_file(first: str, second: str, span: tuple[float, float]) -> Overlap:
    return Overlap(
        first=first, second=second, kind="same file", num_units=0, shared=1.0, offset=0.0, first_time=span,
        second_time=span,
    )  # fmt: skip


def _coherent(prints: list[Fingerprint]) -> Iterator[tuple[int, int, NDArray[np.intp], NDArray[np.intp]]]:
    """Yields two sessions and the rows of both fingerprints that agree at one offset, for each offset."""
    sizes = [len(p) for p in prints]
    begin = np.cumsum([0, *sizes])
    session = np.repeat(np.arange(len(prints)), sizes)
    hashes = np.concatenate([p.hash for p in prints] or [np.zeros(0, np.uint64)])
    time = np.concatenate([p.time for p in prints] or [np.zeros(0)])
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    links = [np.zeros((2, 0), np.intp)]
    for step in range(1, COPIES + 1):
        same = np.flatnonzero(ordered[step:] == ordered[:-step])
        if len(same) == 0:
            break
        links.append(np.stack([order[same], order[same + step]]))
    a, b = np.concatenate(links, 1)
    a, b = a[session[a] != session[b]], b[session[a] != session[b]]

    pair, offset = session[a] * len(prints) + session[b], time[b] - time[a]
    by = np.lexsort((offset, pair))
    a, b, pair, offset = a[by], b[by], pair[by], offset[by]
    new = np.flatnonzero((np.diff(pair, prepend=-1) != 0) | (np.diff(offset, prepend=-np.inf) > SPREAD))
    last = np.append(new, len(by))[1:]
    for i, j in zip(new, last, strict=True):
        if j - i >= LEAST and len(np.unique(hashes[a[i:j]])) >= LEAST:  # two units with the same spikes count once
            first, second = int(session[a[i]]), int(session[b[i]])
            yield first, second, a[i:j] - begin[first], b[i:j] - begin[second]


def _overlap(
    names: list[str], prints: list[Fingerprint], i: int, j: int, a: NDArray[np.intp], b: NDArray[np.intp]
) -> Overlap:
    """Returns the overlap of two sessions from the rows of their fingerprints that agree."""
    first, second = prints[i], prints[j]
    offset = float(np.median(second.time[b] - first.time[a]))
    low, high = first.time[a].min(), first.end[a].max()
    # Fingerprints nest: all hashes of the smaller session that lie in the overlap are shared.
    part = max(
        len(np.unique(rows)) / np.count_nonzero((p.time >= low + d - SPREAD) & (p.end <= high + d + SPREAD))
        for p, rows, d in ((first, a, 0.0), (second, b, offset))
    )
    edge = EDGE * (high - low) / len(np.unique(a))
    start, end = max(first.span[0], second.span[0] - offset), min(first.span[1], second.span[1] - offset)
    start = start if low - start <= edge else low
    end = end if end - high <= edge else high
    covered = [(end - start) / (p.span[1] - p.span[0]) for p in (first, second)]
    whole = "same recording" if min(covered) >= 0.9 else "slice"

    return Overlap(
        first=names[i],
        second=names[j],
        kind=whole if part >= 0.5 else "shared units",
        num_units=min(len(np.unique(first.unit[a])), len(np.unique(second.unit[b]))),
        shared=float(min(part * max(covered), 1.0)),
        offset=offset,
        first_time=(float(start), float(end)),
        second_time=(float(start + offset), float(end + offset)),
    )
