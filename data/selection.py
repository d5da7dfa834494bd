"""Prepares a recording for the store: selects covariates and units, merges and names units, assigns splits."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ndt.config import IngestConfig
from ndt.data.covariates import derivative, find_covariate
from ndt.data.expressions import chosen_units
from ndt.data.read.context import by_unit, joined, named, observed_spikes, slope_of
from ndt.data.splits import assign_splits
from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.session import Session, Spikes, Units

__all__ = ["cut_silence", "group_duplicates", "identities", "merge_electrodes", "prepare", "take_units"]

Rows = NDArray[np.int64]


def prepare(session: Session, config: IngestConfig) -> Session:
    """Returns a recording as it is stored, with covariates and units selected and named, and splits assigned.

    Raises:
        InputError: if no unit is left, or a setting names something that the recording lacks.
    """
    where = session.source.get("path", session.session_id)
    session = _covariates(session, config, where)
    if config.select:
        from ndt.data.inspection.quality import unit_measures

        columns = {**unit_measures(session), **session.units.columns}
        keep = np.flatnonzero(chosen_units(config.select, columns, where))
        lost = session.num_units - len(keep)
        text = f"units: {lost} of {session.num_units} fail select='{config.select}'"
        session = take_units(session, keep, text if lost else "")
    if session.num_units == 0:
        raise InputError(where, "select", "an expression that keeps at least one unit", repr(config.select))
    if config.merge == "electrode":
        session = merge_electrodes(session)
    session = replace(session, units=replace(session.units, id=identities(session, config, where)))
    if config.duplicates != "keep":
        session = group_duplicates(session, drop=config.duplicates == "drop")
    if config.cut_silence:
        session = cut_silence(session, config.cut_silence)

    return assign_splits(session, config.split) if config.splits(session.session_id) else session


def _covariates(session: Session, config: IngestConfig, where: object) -> Session:
    """Returns a session with the requested covariates and rates of change, with timestamps at interval centres."""
    kept, shift = session.covariates, {"start": 0.5, "centre": 0.0, "end": -0.5}[config.covariates_at]
    if config.covariates:
        plain = tuple(name for name in config.covariates if slope_of(name) is None)
        kept = {n: c for n, c in session.covariates.items() if named(c.path, plain) or n in plain}
        for word in config.covariates:
            if (of := slope_of(word)) is not None:
                name, position = word.partition("=")[0], find_covariate(session, of)
                slope = derivative(position.timestamps, position.values)
                unit = f"{position.unit}/s" if position.unit else ""
                kept[name] = replace(position, name=name, path=f"{position.path}/{name}", values=slope, unit=unit)
        if not kept:
            expected = f"some of {', '.join(session.covariates) or 'none'}"
            raise InputError(where, "covariates", expected, config.covariates)
    if shift:
        kept = {n: replace(c, timestamps=c.timestamps + shift * c.interval) for n, c in kept.items()}

    return replace(session, covariates=kept)


def take_units(session: Session, keep: Rows, message: str = "") -> Session:
    """Returns a session with some of its units, in the given order, and a message on those left out."""
    new = np.full(session.num_units, -1)
    new[keep] = np.arange(len(keep))
    unit = new[session.spikes.unit_index]
    spikes = Spikes(timestamps=session.spikes.timestamps[unit >= 0], unit_index=unit[unit >= 0].astype(np.int32))
    units, observed = session.units, session.observed
    of_units = units.observed
    if of_units is not None:
        owner = new[of_units.columns["unit_index"]]
        of_units = of_units.select(owner >= 0)
        of_units = Intervals(of_units.start, of_units.end, {"unit_index": owner[owner >= 0].astype(np.int32)})
        observed = of_units.coalesce()
    columns = {name: values[keep] for name, values in units.columns.items()}

    return replace(
        session,
        spikes=spikes,
        units=Units(id=units.id[keep], columns=columns, observed=of_units),
        observed=observed,
        dropped=(*session.dropped, message) if message else session.dropped,
    )


def merge_electrodes(session: Session) -> Session:
    """Returns a session in which the units of an electrode are merged into one with all their spikes.

    A merged unit is observed when all of its units are. Columns in which they differ are left out; units without
    electrode are unchanged.
    """
    columns, N = session.units.columns, session.num_units
    electrode, group = columns.get("electrode"), columns.get("group")
    if electrode is None or group is None:
        where = session.source.get("path", session.session_id)
        raise InputError(where, "merge", "units with an electrode", "none")
    alone = np.where(np.asarray(electrode) < 0, np.arange(N), -1)  # units without electrode have keys of their own
    keys = [(str(g), int(e), int(a)) for g, e, a in zip(group, electrode, alone, strict=True)]
    numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    new = np.array([numbers[key] for key in keys])
    first = np.unique(new, return_index=True)[1]
    kept = {name: values[first] for name, values in columns.items() if _agree(values, values[first][new])}
    if "heldout" in columns:
        kept["heldout"] = np.bincount(new, columns["heldout"].astype(float)) > 0
    lost = sorted(columns.keys() - kept.keys())
    messages = [f"units: {N} were merged into {len(first)} electrodes"]
    messages += [f"units/{name}: units of an electrode differ in it" for name in lost]
    of_units = session.units.observed
    spikes = Spikes(timestamps=session.spikes.timestamps, unit_index=new[session.spikes.unit_index].astype(np.int32))
    units = Units(
        id=session.units.id[first],
        columns=kept,
        observed=None if of_units is None else _together(by_unit(of_units, N), new),
    )
    merged = replace(session, spikes=spikes, units=units, dropped=(*session.dropped, *messages))

    return merged if units.observed is None else _within_observed(merged)


def _agree(values: NDArray[np.generic], of_first: NDArray[np.generic]) -> bool:
    nan = (values != values) & (of_first != of_first)

    return bool(np.all((values == of_first) | nan))


def _together(each: list[Intervals], new: Rows) -> Intervals:
    """Returns the time when all units of each merged unit were observed."""
    merged: dict[int, Intervals] = {}
    for n, own in zip(new.tolist(), each, strict=True):
        merged[n] = merged[n] & own if n in merged else own.coalesce()

    return joined([merged[n] for n in range(len(merged))])


def _within_observed(session: Session) -> Session:
    """Returns a session without spikes outside the observed time of their unit."""
    of_units, (times, unit) = session.units.observed, (session.spikes.timestamps, session.spikes.unit_index)
    observed = session.observed if of_units is None else of_units.coalesce()
    order = np.argsort(unit, kind="stable")

    return replace(session, observed=observed, spikes=observed_spikes(times[order], unit[order], observed, of_units))


def identities(session: Session, config: IngestConfig, where: object) -> NDArray[np.str_]:
    """Returns the identity of each unit (`IngestConfig.unit_identity`); units without electrode keep theirs."""
    columns, identity = session.units.columns, config.unit_identity
    if identity == "session":
        return np.array([f"{session.session_id}/unit/{n:05d}" for n in range(session.num_units)], np.str_)
    if identity == "electrode":
        if "electrode" not in columns or "group" not in columns:
            return session.units.id
        ids: list[str] = []
        seen: dict[tuple[str, int] | None, int] = {}
        for n, (e, g) in enumerate(zip(columns["electrode"], columns["group"], strict=True)):
            on = (str(g), int(e)) if e >= 0 else None
            index = seen[on] = seen.get(on, -1) + 1
            ids.append(f"{session.subject}/{g}/{e:05d}/{index}" if on else str(session.units.id[n]))
        return np.array(ids, np.str_)
    if identity not in columns:
        choices = f"electrode, session or one of the units columns {', '.join(sorted(columns))}"
        raise InputError(where, "unit_identity", choices, identity)
    values, counts = np.unique(columns[identity], return_counts=True)
    if np.any(counts > 1):
        raise InputError(where, f"units/{identity}", "distinct values", f"{values[counts > 1][0]} twice")

    return np.array([f"{session.subject}/{value}" for value in columns[identity]], np.str_)


def group_duplicates(session: Session, drop: bool) -> Session:
    """Returns a session whose units with shared spikes have a number in `duplicate_group` (-1: none), or are dropped.

    Of duplicates, the unit with most spikes is kept.
    """
    from ndt.data.inspection.synchrony import groups, measure_synchrony

    pairs = measure_synchrony(session).pairs  # pairs with cross-talk only are grouped, but not dropped
    group = groups([p for p in pairs if p.kind == "duplicate"] if drop else pairs, session.num_units)
    if not drop:
        columns = {**session.units.columns, "duplicate_group": group}
        return replace(session, units=replace(session.units, columns=columns))
    number = np.bincount(session.spikes.unit_index, minlength=session.num_units)
    keep = [
        n
        for n in range(session.num_units)
        if group[n] < 0 or n == max(np.flatnonzero(group == group[n]), key=lambda m: (number[m], -m))
    ]
    gone = ", ".join(map(str, session.units.id[np.setdiff1d(np.arange(session.num_units), keep)]))

    return take_units(session, np.array(keep), f"units: duplicates of others: {gone}" if gone else "")


def cut_silence(session: Session, seconds: float) -> Session:
    """Returns a session in which time without any spike for longer than this counts as not observed."""
    times, half = np.asarray(session.spikes.timestamps), session.count_bin / 2
    segments = session.observed.coalesce()
    points = np.sort(np.concatenate([times, segments.start, segments.end]))
    a, b = points[:-1], points[1:]
    spiked = np.isin(a, times), np.isin(b, times)
    long = b - a > seconds
    after_spike = a + half if half else np.nextafter(a, np.inf)  # the spike itself is observed
    after = np.where(spiked[0], after_spike, a)
    silent = Intervals(after[long], np.where(spiked[1], b - half, b)[long]) & segments
    if len(silent) == 0:
        return session
    of_units = session.units.observed
    if of_units is not None:
        of_units = joined([own - silent for own in by_unit(of_units, session.num_units)])
    text = f"observed time: {silent.duration:.1f} s in {len(silent)} segments without a spike were cut (cut_silence)"

    return replace(
        session,
        observed=segments - silent,
        units=replace(session.units, observed=of_units),
        dropped=(*session.dropped, text),
    )
