"""A recording made of spike trains that are written down in a test."""

import numpy as np

from ndt.intervals import Intervals
from ndt.session import Session, Spikes, Units


def session_of(trains, observed, unit_observed=None, **fields) -> Session:
    """A recording of units with these spike times; `unit_observed` holds rows of start, end, unit."""
    unit = np.repeat(np.arange(len(trains)), [len(t) for t in trains])
    times = np.concatenate([*(np.asarray(t, float) for t in trains), np.zeros(0)])
    order = np.argsort(times, kind="stable")
    rows = None
    if unit_observed is not None:
        start, end, owner = np.array(unit_observed, float).reshape(-1, 3).T
        rows = Intervals(start, end, {"unit_index": owner.astype(np.int32)})

    return Session(
        session_id="s",
        subject="a",
        spikes=Spikes(timestamps=times[order], unit_index=unit[order].astype(np.int32)),
        units=Units(id=np.array([f"u{n}" for n in range(len(trains))], np.str_), observed=rows),
        observed=Intervals(*np.array(observed, float).reshape(-1, 2).T),
        **fields,
    )
