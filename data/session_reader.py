"""Makes sessions of the groups of an HDF5 file, with arrays that are views of a memory map of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ndt.intervals import Intervals
from ndt.parsing import parse_json
from ndt.session import Covariate, Session, Spikes, Units

__all__ = ["SessionReader"]


class SessionReader:
    """Reads groups of one file in the layout of `ndt.data.store`; all arrays are views of one memory map.

    Arguments:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes = np.memmap(path, np.uint8, "r")

    def array(self, dataset: Any) -> NDArray[Any]:
        """Returns the values of a dataset."""
        offset = dataset.id.get_offset()
        if offset is None or dataset.dtype.hasobject:  # empty, chunked or compressed, or strings of variable length
            return np.asarray(dataset[()])
        mapped: NDArray[Any] = self.bytes[offset : offset + dataset.nbytes].view(dataset.dtype)
        return mapped.reshape(dataset.shape)

    def columns(self, group: Any) -> dict[str, NDArray[Any]]:
        """Returns the datasets of a group by name."""
        text = {key.decode() for name in ("_unicode_keys", "_utf8_keys") for key in group.attrs.get(name, ())}
        arrays = {key: self.array(value) for key, value in group.items() if isinstance(value, h5py.Dataset)}
        return {key: _text(values) if key in text else values for key, values in arrays.items()}

    def intervals(self, group: Any) -> Intervals:
        """Returns the table of a group, in memory."""
        columns = {key: np.array(values) for key, values in self.columns(group).items()}  # short: in memory
        return Intervals(columns.pop("start"), columns.pop("end"), columns)

    def session(self, file: Any) -> Session:
        """Returns the session of an open file."""
        spikes, units = self.columns(file["spikes"]), self.columns(file["units"])
        ids = units.pop("id") if "id" in units else np.arange(1 + max(spikes["unit_index"], default=-1)).astype(str)
        about = {name: dict(file[name].attrs) if name in file else {} for name in ("brainset", "subject", "session")}
        brainset, session = about["brainset"], about["session"]
        messages = self.columns(file["session"]) if "session" in file else {}
        covariates: dict[str, Covariate] = {}
        intervals: dict[str, Intervals] = {}
        for name in file:
            self.collect(file[name], covariates, intervals)

        return Session(
            session_id=str(session.get("id", self.path.stem)),
            subject=str(about["subject"].get("id", "")),
            task=str(session.get("task", "")),
            recording_date=str(session.get("recording_date", "")),
            spikes=Spikes(timestamps=spikes["timestamps"], unit_index=spikes["unit_index"]),
            units=Units(
                id=_text(ids) if ids.dtype.kind in "SO" else ids.astype(str),
                columns={key: np.array(values) for key, values in units.items()},
                observed=self.intervals(file["units_observed"]) if "units_observed" in file else None,
            ),
            observed=self.intervals(file["domain"]),
            covariates=covariates,
            intervals=intervals,
            source={
                "path": brainset.get("source", ""),
                "sha256": brainset.get("origin_version", ""),
                "size": int(brainset.get("size", 0)),
                "conventions": parse_json(str(brainset.get("conventions", "{}")), dict[str, Any], self.path),
            },
            dropped=tuple(value.decode() for value in messages.get("dropped", ())),
            warnings=tuple(value.decode() for value in messages.get("warnings", ())),
            count_bin=float(session.get("count_bin", 0.0)),
        )

    def collect(self, group: Any, covariates: dict[str, Covariate], intervals: dict[str, Intervals]) -> None:
        """Adds a group's covariates or its table, or those of its subgroups."""
        kind = group.attrs.get("object") if isinstance(group, h5py.Group) else None
        name = str(group.name).strip("/")
        if kind == "Data":
            for inner in group:
                self.collect(group[inner], covariates, intervals)
        elif kind == "Interval" and name != "units_observed" and name.split("/")[-1] != "domain":
            intervals[str(group.attrs.get("name", name))] = self.intervals(group)
        elif kind in ("IrregularTimeSeries", "RegularTimeSeries") and name != "spikes":
            for covariate in self.series(group, name):
                covariates[covariate.name] = covariate

    def series(self, group: Any, name: str) -> Iterator[Covariate]:
        """Yields the covariates of a group: one of our stores, or one for each array of other writers."""
        columns, attrs = self.columns(group), group.attrs
        times = columns.pop("timestamps", None)
        columns.pop("timestamp_indices_1s", None)
        for key, values in columns.items():
            if values.dtype.kind not in "biuf" or values.ndim not in (1, 2):
                continue
            if times is None:
                times = group["domain/start"][0] + np.arange(len(values)) / attrs["sampling_rate"]
            values = values[:, None] if values.ndim == 1 else values  # (M, C)
            dims = map(str, range(values.shape[1]))
            if "dims" in attrs:
                dims = parse_json(str(attrs["dims"]), list[str], self.path, f"{name}/dims")
            yield Covariate(
                name=str(attrs.get("name", f"{name}/{key}")),
                path=str(attrs.get("path", f"{name}/{key}")),
                timestamps=times,
                values=values,
                dims=tuple(dims),
                unit=str(attrs.get("unit", "")),
                angular=bool(attrs.get("angular", False)),
            )


def _text(values: NDArray[Any]) -> NDArray[Any]:
    flat = [value.decode() if isinstance(value, bytes) else str(value) for value in values.ravel()]
    return np.array(flat, np.str_).reshape(values.shape)
