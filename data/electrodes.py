"""Who a file's units are: their columns, electrodes, probes and regions."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.data.reading import Reading
from ndt.data.series import NWB
from ndt.data.tables import column_values

__all__ = ["unit_columns"]

Columns = dict[str, NDArray[np.generic]]
SKIPPED = ("spike_times", "obs_intervals", "electrodes", "electrode_group")
UNKNOWN = {"", "unknown", "none", "nan"}
PLACE = ("rel_x", "rel_y", "rel_z", "x", "y", "z")  # columns of electrodes, in micrometres


def unit_columns(nwb: NWB, num_units: int, reading: Reading) -> Columns:
    """Returns the columns of N units, each (N,), by name.

    Beside the file's own: `electrode` (row of the unit's first electrode, -1 without one), `group` (its probe),
    `location` (region), `depth` and `rel_x` … `z` where electrodes have them, and `nwb_id`. A file that counts spikes
    of channels may have no units table at all: then only these.
    """
    units, columns = nwb.units, {}
    table = units is not None and len(units) == num_units
    for name in units.colnames if table else ():
        if name in SKIPPED:
            continue
        values = None if name.startswith("waveform") else column_values(units[name], reading, f"units/{name}")
        if values is None or len(values) != num_units:
            reading.dropped.append(f"units/{name}: a column of this kind is not read")
        else:
            columns[name] = values
    if units is not None and not table and len(units):
        reading.warnings.append(f"units: {len(units)} rows do not fit {num_units} units, and are not used")
    electrode, group, location = _electrodes(nwb if table else None, num_units, reading)
    found: Columns = {"location": location, "group": group, "electrode": electrode}
    columns = _places(nwb, electrode, reading) | found | columns
    columns.setdefault("nwb_id", np.asarray(units.id.data[:]) if table else np.arange(num_units))
    if table and len(set(np.asarray(units.id.data[:]).tolist())) < num_units:
        reading.warnings.append("units/id: the same id stands for several units; they are kept apart by their rows")

    return dict(sorted(columns.items()))


def _electrodes(nwb: NWB, N: int, reading: Reading) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[Any]]:
    """Returns for each unit the row of its first electrode (-1: none), its group's name and its region."""
    electrode, groups, location = np.full(N, -1), [None] * N, [""] * N
    units, table = (None, None) if nwb is None else (nwb.units, nwb.electrodes)
    if units is not None and "electrode_group" in units.colnames:
        groups = list(units["electrode_group"].data[:])
    if table is not None:
        electrode = _rows(units, table, N, reading)
        used = set(electrode.tolist()) - {-1} if "group" in table.colnames else set()
        of_rows = {e: table["group"].data[e] for e in used}  # each costs an object to be found
        regions = (
            column_values(table["location"], reading, "electrodes/location") if "location" in table.colnames else None
        )
        groups = [of_rows.get(e) if e >= 0 else g for e, g in zip(electrode.tolist(), groups, strict=True)]
        location = [str(regions[e]) if e >= 0 and regions is not None else "" for e in electrode]
    location = [  # where the electrode says nothing the group's own region may say more
        str(g.location or here) if here.lower() in UNKNOWN and g is not None else here
        for here, g in zip(location, groups, strict=True)
    ]

    return electrode, np.array(["" if g is None else g.name for g in groups], np.str_), np.array(location, np.str_)


def _rows(units: NWB, table: NWB, N: int, reading: Reading) -> NDArray[np.int64]:
    """Returns each unit's first row of the electrodes table; -1 for none."""
    electrode = np.full(N, -1)
    if "electrodes" in units.colnames:
        column = units["electrodes"]
        flat = getattr(column, "target", column)
        rows = reading.array(flat.data, "units/electrodes", np.int64)
        ends = (
            reading.array(column.data, "units/electrodes_index", np.int64)
            if flat is not column
            else np.arange(1, N + 1)
        )
        starts = np.r_[0, ends[:-1]]
        if len(ends) != N or np.any(ends < starts) or (N and ends[-1] != len(rows)):
            raise reading.error("units/electrodes_index", f"to end at {len(rows)} values", ends[-1:])
        some = ends > starts
        electrode[some] = rows[starts[some]]
    elif "peak_channel_id" in units.colnames:  # Allen's files name the channel, which is the electrode's id
        channels = reading.array(units["peak_channel_id"].data, "units/peak_channel_id")
        of_id = {channel: row for row, channel in enumerate(np.asarray(table.id.data[:]).tolist())}
        electrode = np.array([of_id.get(channel, -1) for channel in channels.tolist()], np.int64).reshape(N)
    bad = electrode[(electrode < -1) | (electrode >= len(table))]
    if len(bad):
        raise reading.error("units/electrodes", f"rows of {len(table)} electrodes", bad[0])

    return electrode


def _places(nwb: NWB, electrode: NDArray[np.int64], reading: Reading) -> Columns:
    """Returns where each unit's electrode lies, in micrometres, where the file says so and electrodes differ.

    `depth` is the last coordinate that does.
    """
    found: Columns = {}
    if nwb.electrodes is None or not (electrode >= 0).any():
        return found
    for name in PLACE:
        if name in nwb.electrodes.colnames:
            values = reading.array(nwb.electrodes[name].data, f"electrodes/{name}", np.float64)
            if np.isfinite(values).any() and len(np.unique(values)) > 1:
                found[name] = np.where(electrode >= 0, values[np.maximum(electrode, 0)], np.nan)
    for name in ("z", "rel_z"):
        if name in found:
            found["depth"] = found[name]

    return found
