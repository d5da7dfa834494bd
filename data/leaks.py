"""Detects leaks between sessions of the same recording: training on data that another session holds out.

Shared data leak if they lie in the train split of one session and outside that of the other, as in a copy with other
splits or a slice with another start. Data in both train splits count twice, which gives a warning.
"""

import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import h5py

from ndt.data.fingerprint import NOTHING, VERSION, Fingerprint, fingerprint
from ndt.data.overlaps import Overlap, find_overlaps
from ndt.data.session_checks import check_contained
from ndt.data.splits import split
from ndt.data.store import Store, read_session
from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.parsing import check_regular
from ndt.session import Session

__all__ = ["Blocks", "blocks_of", "check_base", "check_leaks", "check_store", "read_fingerprint", "report_leaks"]

EXPOSED = 1e-3  # seconds; less is rounding at the edges of splits


class Blocks(NamedTuple):
    """Training time and held-out time of a session, in seconds; guards are held out."""

    train: Intervals
    held_out: Intervals


class _Exposure(NamedTuple):
    """Seconds trained in the first session and held out in the second, the reverse, and trained in both."""

    first: float
    second: float
    twice: float


def read_fingerprint(path: str | Path) -> Fingerprint:
    """Returns the fingerprint in a session's file, or computes it if that is missing, outdated or damaged.

    Raises:
        InputError: if there is no such session.
    """
    check_regular(path, "a session's HDF5 file", "file")
    try:
        with h5py.File(path, "r") as opened:
            file: Any = opened
            check_contained(file, Path(path))
            group, times = file["fingerprint"], file["spikes/timestamps"]
            if (group.attrs["version"], group.attrs["num_spikes"]) == (VERSION, len(times)):
                columns = {name: group[name][()] for name in ("hash", "unit", "time", "end")}
                span = (float(times[0]), float(times[-1])) if len(times) else NOTHING
                found = Fingerprint(**columns, span=span)
                if group.attrs.get("digest", found.digest()) == found.digest() and found.sound:
                    return found
    except Exception:
        pass  # a file of another writer, a damaged fingerprint, or no file, which is an error below

    return fingerprint(read_session(path))


def _exposure(overlap: Overlap, blocks: Callable[[str], Blocks]) -> _Exposure:
    shared = Intervals([overlap.first_time[0]], [overlap.first_time[1]])
    first, second = blocks(overlap.first), blocks(overlap.second)
    train, held_out = (Intervals(t.start - overlap.offset, t.end - overlap.offset) & shared for t in second)

    return _Exposure(
        (first.train & held_out).duration, (first.held_out & train).duration, (first.train & train).duration
    )


def check_leaks(overlaps: Collection[Overlap], blocks: Callable[[str], Blocks], leaks: str = "refuse") -> None:
    """Raises, or warns, if overlapping data are trained on in one session and held out in the other.

    Data that are trained on in both sessions count twice, and give a warning.

    Arguments:
        overlaps: Overlaps of sessions.
        blocks: Returns the training and held-out time of a session; called only for sessions with an overlap.
        leaks: ``refuse``, or ``warn`` to continue with a warning.

    Raises:
        InputError: if there is a leak; it names the first and the number of others.
    """
    found = [(o, _exposure(o, blocks)) for o in overlaps]
    bad = [(o, e) for o, e in found if max(e.first, e.second) > EXPOSED]
    if bad:
        _refuse(_error(*bad[0], len(bad) - 1), leaks)
    for o, e in found:
        if e.twice > EXPOSED and (o, e) not in bad:
            text = f"{o.first} and {o.second} share {e.twice:.1f} s of training data: {_description(o)}"
            warnings.warn(text, stacklevel=3)


def _refuse(error: InputError, leaks: str) -> None:
    if leaks == "refuse":
        raise error
    warnings.warn(str(error), stacklevel=4)


def _description(o: Overlap) -> str:
    units = f"at least {o.num_units} units" if o.num_units else "the source"
    part = "" if o.kind == "shared units" else f", {o.shared:.0%} of the shorter"
    times = (f"{a:.3f} to {b:.3f} s of {name}" for (a, b), name in ((o.first_time, o.first), (o.second_time, o.second)))

    return ", ".join([f"{o.kind}: {units}{part}", *times])


def _error(o: Overlap, e: _Exposure, more: int) -> InputError:
    trained, held = (o.first, o.second) if e.first > EXPOSED else (o.second, o.first)
    expected = f"nothing that {held} holds out (leave one of the two out, or set leaks to warn)"
    further = f"; and {more} more such overlaps" if more else ""
    found = f"{max(e.first, e.second):.1f} s of it: {_description(o)}{further}"

    return InputError(trained, "training data", expected, found)


def blocks_of(session: Session, guard: float, trained: bool = True) -> Blocks:
    """Returns training and held-out time; a session that cannot be split or is not trained has no training time."""
    observed = session.observed.coalesce()
    try:
        train = split(session, guard).train
    except InputError:
        return Blocks(Intervals.empty(), observed)

    return Blocks(train if trained else Intervals.empty(), observed - train)


def _prints(store: Store) -> tuple[dict[str, Fingerprint], dict[str, str]]:
    sessions = store.manifest["sessions"]
    sources = {name: str(entry.get("sha256", "")) for name, entry in sessions.items()}

    return {name: read_fingerprint(store.path(name)) for name in store.session_ids}, sources


def check_store(store: Store, trained: Collection[str], guard: float, leaks: str = "refuse") -> None:
    """Checks the training sessions of a store against each other and against the held-out time of all its sessions.

    Sessions with the role ``evaluate`` are held out completely.

    Arguments:
        store: The store.
        trained: Training sessions.
        guard: Guard between splits in seconds.
        leaks: ``refuse`` or ``warn``.

    Raises:
        InputError: if a session trains on data that another holds out.
    """

    def blocks(name: str) -> Blocks:
        kept = store.manifest["sessions"][name].get("role") == "evaluate" and name not in trained
        observed = store.session(name).observed.coalesce()
        return Blocks(Intervals.empty(), observed) if kept else blocks_of(store.session(name), guard, name in trained)

    overlaps = [o for o in find_overlaps(*_prints(store)) if o.first in trained or o.second in trained]
    check_leaks(overlaps, blocks, leaks)


def check_base(
    data: Mapping[str, str],
    base: str | Path | None,
    store: Store,
    session: str,
    guard: float,
    leaks: str = "refuse",
    *,
    own_splits: bool = False,
) -> None:
    """Checks that no training session of a model contains data that this session holds out.

    If the model's store is missing or has changed, only files can be compared: the same file under the same name has
    the same splits; under another name its splits are unknown, which is an error.

    Arguments:
        data: SHA-256 of the source by training session of the model.
        base: Folder of the model's store, if known.
        store: The session's store.
        session: The session.
        guard: Guard between splits in seconds.
        leaks: ``refuse`` or ``warn``.
        own_splits: Whether the run has splits of its own, such as ``fold:1/5``. Over all folds each moment of the
            session is held out, so the model may have been trained on none of it.

    Raises:
        InputError: if there is a leak, or if there may be one.
    """
    own = store.session(session)
    if own_splits and session in data and data[session] in ("", str(own.source.get("sha256", ""))):
        expected = "a base model that was not trained on this session, since other splits hold out other parts of it"
        _refuse(InputError(session, "split", f"{expected} (set leaks to warn to go on)", "one that was"), leaks)
    try:
        theirs = None if base is None else Store(base)
    except InputError:  # the store is missing
        theirs = None
    sources = {session: str(own.source.get("sha256", ""))}
    prints, origin = {session: read_fingerprint(store.path(session))}, {}
    for name, digest in data.items():
        if theirs is None or str(theirs.manifest["sessions"].get(name, {}).get("sha256", "")) != digest:
            if name != session and digest and digest == sources[session]:
                expected = "a base model trained on this file under the same name only, or its store, to compare times"
                expected += " (set leaks to warn to go on)"
                _refuse(InputError(session, "training data", expected, f"it as {name}"), leaks)
        elif name != session or not theirs.root.samefile(store.root):
            key = f"{name} of the base model" if name == session else name
            origin[key], sources[key], prints[key] = name, digest, read_fingerprint(theirs.path(name))

    def blocks(name: str) -> Blocks:
        if name == session:
            held_out = own.observed.coalesce() if own_splits else blocks_of(own, guard).held_out
            return Blocks(Intervals.empty(), held_out)
        assert theirs is not None, "overlaps with the model's sessions come from its store"
        return Blocks(blocks_of(theirs.session(origin[name]), guard).train, Intervals.empty())

    check_leaks([o for o in find_overlaps(prints, sources) if session in (o.first, o.second)], blocks, leaks)


def report_leaks(store: Store, guard: float = 2.0) -> list[dict[str, Any]]:
    """Returns each overlap of a store's sessions as JSON, with its leaks if all sessions were training sessions.

    Added to the fields of `Overlap`: ``leak``, whether one session trains on data that the other holds out;
    ``exposed_seconds`` of such data; ``trained_twice_seconds``.

    Arguments:
        store: The store.
        guard: Guard between splits in seconds: the context window of the model.
    """
    found = []
    for overlap in find_overlaps(*_prints(store)):
        e = _exposure(overlap, lambda name: blocks_of(store.session(name), guard))
        leak = {"leak": max(e.first, e.second) > EXPOSED, "exposed_seconds": e.first + e.second}
        found.append(asdict(overlap) | leak | {"trained_twice_seconds": e.twice})

    return found
