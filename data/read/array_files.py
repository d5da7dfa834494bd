"""Reads ``.mat`` and ``.npz`` files into `Session`; `ndt.config.data.ArraysConfig` names the keys.

Spike times are a cell array, one cell per unit::

    ArraysConfig(spikes="spikes", covariates=("hand_pos", "hand_vel"), timestamps=("t",))

Or they are flat with a `unit_index`, whose values name the units; or counts with a `bin_size`.

A cell array of channels by sorts, as in the files of Indy and Loco (Zenodo 3854034), gives a unit for each cell with
spikes, with columns `channel` (row, from 0) and `sort` (0: crossings that belong to no sorted unit). Among `columns`,
``electrode=KEY`` gives the electrode of each channel or unit: numbers, or names that end in a number, whose first word
becomes `group` and `location` (``M1 001``). ``merge: electrode`` then sums the sorts of a channel.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.config.data import ArraysConfig
from ndt.data.read.archive import load_arrays, texts
from ndt.data.read.arrays import Series, from_arrays
from ndt.data.read.counted import lay_bins
from ndt.data.read.file_probe import file_source, session_id_of
from ndt.errors import InputError
from ndt.session import Session

__all__ = ["read_arrays"]

Value = NDArray[Any]
Columns = dict[str, NDArray[Any]]


def read_arrays(
    path: str | Path,
    config: ArraysConfig | None = None,
    max_gib: float = 8.0,
    probe_seconds: float = 60.0,
) -> Session:
    """Reads one recording from a ``.mat`` or ``.npz`` file.

    Arguments:
        path: The file.
        config: Keys of the file.
        max_gib: Largest array that is read, in GiB.
        probe_seconds: Time limit of the child process that opens a file before MATLAB 7.3; 0 for no test.

    Raises:
        InputError: if the file has an error or does not fit the settings.

    Example:
        >>> config = ArraysConfig(covariates=("cursor_pos",), timestamps=("t",))
        >>> read_arrays("indy_20160407_02.mat", config).covariates["cursor_pos"].dims  # doctest: +SKIP
        ('0', '1')
    """
    path, config = Path(path), config or ArraysConfig()
    keys = _Keys.of(config, path)
    file = _File(path, keys, load_arrays(path, keys.all(config), max_gib, probe_seconds))
    session = from_arrays(
        **_layout(file, config),
        session_id=session_id_of(path),
        subject=config.subject or re.split(r"[_-]", path.stem.removeprefix("sub-"))[0],
        covariates={name: _covariate(file, name, config) for name in keys.covariates},
        units=keys.physical,
        observed=_observed(file, config.observed, keys),
        source=file_source(path),
    )

    return replace(session, dropped=(*file.dropped, *session.dropped))


@dataclass(frozen=True)
class _Keys:
    """Keys by the name of the covariate or column that they hold."""

    covariates: dict[str, str]
    columns: dict[str, str]
    timestamps: dict[str, str]  # by covariate; "*" for all others
    physical: dict[str, str]

    @classmethod
    def of(cls, config: ArraysConfig, path: Path) -> "_Keys":
        covariates = _pairs(config.covariates, path, "arrays.covariates")
        timestamps = _pairs((w if "=" in w else f"*={w}" for w in config.timestamps), path, "arrays.timestamps")
        unknown = sorted(set(timestamps) - {"*", *covariates})
        if unknown:
            known = ", ".join(covariates) or "none"
            raise InputError(path, "arrays.timestamps", f"names of covariates: {known}", repr(unknown[0]))
        columns, unit = _pairs(config.columns, path, "arrays.columns"), _pairs(config.unit, path, "arrays.unit")

        return cls(covariates, columns, timestamps, unit)

    def all(self, config: ArraysConfig) -> list[str]:
        """Returns all keys to read."""
        observed = "" if config.observed == "timestamps" else config.observed
        found = [config.spikes, config.unit_index, observed]
        found += [*self.covariates.values(), *self.columns.values(), *self.timestamps.values()]

        return [key for key in found if key]


def _pairs(words: Iterable[str], path: Path, field: str) -> dict[str, str]:
    """Returns keys by name from words ``name=key``; the name of a key alone is its last part."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, key = (part.strip() for part in word.partition("="))
        name, key = (name, key) if equals else (name.split(".")[-1], name)
        if not name or not key or name in found:
            raise InputError(path, field, "words name=key, each name once", repr(word))
        found[name] = key

    return found


@dataclass(frozen=True)
class _File:
    """Values read from a file, and messages on what is left out; grows."""

    path: Path
    keys: _Keys
    values: dict[str, Value]
    dropped: list[str] = field(default_factory=list)

    def vector(self, key: str) -> Value:
        """Returns numbers of one dimension."""
        value = _vector(self.values[key])
        if value is None:
            raise self.error(key, "a list of numbers")
        return value

    def error(self, key: str, expected: str) -> InputError:
        """Returns the error to raise about a value."""
        value = self.values[key]
        kind = "cells" if value.dtype == object else "text" if value.dtype.kind in "US" else f"type {value.dtype}"

        return InputError(self.path, key, expected, f"shape {value.shape} of {kind}")


def _vector(value: Value) -> Value | None:
    """Returns numbers with at most one dimension that is not 1; None for anything else."""
    long = [size for size in value.shape if size != 1]

    return value.ravel() if value.dtype.kind in "biuf" and (len(long) <= 1 or value.size == 0) else None


def _layout(file: _File, config: ArraysConfig) -> dict[str, Any]:
    """Returns the arguments of `from_arrays` about spikes and units."""
    value = file.values[config.spikes]
    if value.dtype == object:
        if config.unit_index or config.bin_size:
            raise file.error(config.spikes, "numbers, since unit_index or bin_size is set")
        return _of_cells(file, config)
    if value.dtype.kind in "biuf" and config.unit_index:
        return _of_flat(file, config)
    if value.dtype.kind in "biuf" and config.bin_size:
        if value.ndim != 2:
            raise file.error(config.spikes, "counts, bins by units")
        return {"spikes": value, "unit_columns": _columns(file, value.shape[1]), "bin_size": config.bin_size}

    raise file.error(config.spikes, "a cell array of spike times; or flat times and unit_index; or counts and bin_size")


def _of_cells(file: _File, config: ArraysConfig) -> dict[str, Any]:
    """Returns a unit for each cell; of channels by sorts, for cells with spikes and the first cell of each channel."""
    cells = file.values[config.spikes]
    binned = cells.ndim == 2 and min(cells.shape) > 1
    cells = cells if binned else cells.reshape(-1, 1)
    trains = [[_vector(cell) for cell in row] for row in cells]
    kept = [(n, u) for n, row in enumerate(trains) for u, t in enumerate(row) if t is not None and (len(t) or u == 0)]
    wrong = [(n, u) for n, row in enumerate(trains) for u, train in enumerate(row) if train is None]
    if not kept:
        raise file.error(config.spikes, "cells that are lists of spike times")
    name, row, sort = config.spikes, *np.array(kept).T
    if wrong:
        first = cells[wrong[0]]
        text = f"{name}: {len(wrong)} cells are not lists of times, the first {wrong[0]} of shape {first.shape}"
        file.dropped.append(text)
    if (empty := cells.size - len(kept) - len(wrong)) > 0:
        file.dropped.append(f"{name}: {empty} of {cells.size} cells are empty and give no units")
    columns = {key: value[row] for key, value in _columns(file, len(cells)).items()}
    if binned:
        columns = {"channel": row, "sort": sort, "electrode": row, "group": np.full(len(row), "")} | columns

    return {"spikes": [trains[n][u] for n, u in kept], "unit_columns": columns}


def _of_flat(file: _File, config: ArraysConfig) -> dict[str, Any]:
    """Returns a unit for each value of the index; if columns have more rows, the values are row numbers from 0."""
    index = file.vector(config.unit_index)
    labels, unit = np.unique(index, return_inverse=True)
    if len(labels) == 0 or not np.all(labels == np.floor(labels)):  # NaN: not
        raise file.error(config.unit_index, "a whole number for each spike")
    labels = labels.astype(np.int64)
    rows = {file.values[key].size for key in file.keys.columns.values()}
    N = rows.pop() if len(rows) == 1 else len(labels)
    if N != len(labels):
        if labels[0] < 0 or labels[-1] >= N:
            found = f"{len(labels)} from {labels[0]} to {labels[-1]}"
            expected = f"as many values as units, or rows of {N} units from 0"
            raise InputError(file.path, config.unit_index, expected, found)
        labels, unit = np.arange(N), index.astype(np.int64)

    columns = {"label": labels} | _columns(file, N)

    return {"spikes": file.vector(config.spikes), "unit_columns": columns, "unit_index": unit.ravel()}


def _columns(file: _File, N: int) -> Columns:
    """Returns the columns of N units or channels; names of electrodes become number, group and location."""
    found: Columns = {}
    for name, key in file.keys.columns.items():
        text = texts(file.values[key])
        values = np.array(text, np.str_) if text is not None else file.vector(key)
        if len(values) != N:
            raise file.error(key, f"one value for each of {N} units or channels")
        found[name] = values
    names = found.get("electrode", np.zeros(0))
    if names.dtype.kind == "U":
        parts = [re.fullmatch(r"(.*?)[\s_-]*(\d+)", name.strip()) for name in names.tolist()]
        if not all(parts):
            expected = "names that end in a number, for example M1 001"
            raise InputError(file.path, file.keys.columns["electrode"], expected, repr(str(names[parts.index(None)])))
        group = np.array([part.group(1) for part in parts if part], np.str_)
        number = np.array([int(part.group(2)) for part in parts if part], np.int64)
        found = {"group": group, "location": group, **found, "electrode": number, "electrode_name": names}
    if "electrode" in found:
        found.setdefault("group", np.zeros(N, "U1"))

    return found


def _covariate(file: _File, name: str, config: ArraysConfig) -> Series:
    """Returns timestamps and values of a covariate; without timestamps and rate it has one value per bin of counts."""
    key, stamps = file.keys.covariates[name], file.keys.timestamps.get(name, file.keys.timestamps.get("*", ""))
    values = file.values[key]
    if values.dtype.kind not in "biuf" or values.ndim > 2:
        raise file.error(key, "samples by dimensions")
    values = values.reshape(-1, 1) if _vector(values) is not None else values
    if stamps:
        times = file.vector(stamps).astype(np.float64)
    elif config.rate:
        times = np.arange(len(values)) / config.rate
    elif config.bin_size and not config.unit_index:
        times = lay_bins(0.0, config.bin_size, len(file.values[config.spikes]), file.path).centre
    else:
        raise InputError(file.path, f"arrays.timestamps of {name}", "a key of timestamps, or a rate", "neither")
    if len(values) != len(times) and values.shape[1] == len(times):
        values = values.T

    return times, values


def _observed(file: _File, key: str, keys: _Keys) -> Value | None:
    """Returns rows of start and end; None without the setting `observed`."""
    if not key:
        return None
    if key != "timestamps":
        return file.values[key]
    if not keys.timestamps:
        raise InputError(file.path, "arrays.observed", "timestamps of covariates (arrays.timestamps)", "none")
    times = [file.vector(k) for k in keys.timestamps.values()]
    start, end = min(t.min() for t in times), max(t.max() + np.median(np.diff(t)) for t in times)

    return np.array([[start, end]])
