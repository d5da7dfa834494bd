"""`Session`: the spikes, units, covariates, intervals and observed time of one recording."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.intervals import Intervals

__all__ = ["Covariate", "Session", "Spikes", "Units"]


@dataclass(frozen=True, kw_only=True)
class Spikes:
    """S spikes of all units, ascending in time.

    Arguments:
        timestamps: Seconds on the file's clock, ascending, shape (S,), float64.
        unit_index: Row of each spike's unit in `Units`, shape (S,), integer.
    """

    timestamps: NDArray[np.float64]
    unit_index: NDArray[np.integer]


@dataclass(frozen=True, kw_only=True)
class Units:
    """Identity, columns and observed time of N units.

    Arguments:
        id: Identity of each unit, unique within the session, shape (N,). Two sessions share a unit if they share its
            identity: "subject/group/electrode/index" for persistent channels, else prefixed by the session.
        columns: The file's further columns (location, group, quality, heldout, …), each of length N.
        observed: Observed time of each unit as intervals with a column ``unit_index``; None if every unit was observed
            whenever the session was.
    """

    id: NDArray[Any]
    columns: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    observed: Intervals | None = None

    def __len__(self) -> int:
        return len(self.id)


@dataclass(frozen=True, kw_only=True)
class Covariate:
    """A series recorded with the spikes: M samples of C dimensions.

    Arguments:
        name: Shortest unambiguous name, for example ``hand_vel`` or ``CompassDirection/ry``.
        path: Path inside the NWB file, for example ``processing/behavior/hand_vel``.
        timestamps: Seconds, ascending, shape (M,), float64.
        values: Samples with conversion and offset applied, shape (M, C); NaN if missing.
        dims: Names of the C dimensions.
        unit: Physical unit.
        angular: Whether values are angles in radians; decoders then use cosine and sine.
    """

    name: str
    path: str
    timestamps: NDArray[np.float64]
    values: NDArray[np.floating]
    dims: tuple[str, ...]
    unit: str
    angular: bool = False

    @property
    def interval(self) -> float:
        """Median time between samples, in seconds."""
        return float(np.median(np.diff(self.timestamps))) if len(self.timestamps) > 1 else float("nan")


@dataclass(frozen=True, kw_only=True)
class Session:
    """One recording.

    Arguments:
        session_id: Identifier, unique in a store, for example ``sub-m1_ses-stevenson2011``.
        subject: Subject identifier.
        task: Task name; may be empty.
        recording_date: ISO 8601 date and time; may be empty.
        spikes: Spike times and their units, within observed time.
        units: Units and their columns.
        observed: Sorted, disjoint intervals in which at least one unit was observed, without invalid times.
        covariates: By name.
        intervals: Tables of intervals by name: ``trials``, ``epochs``, … rows as in the file.
        source: The source file: ``path``, ``sha256``, ``size`` …
        dropped: Sentences that name data left out, and why.
        warnings: Sentences that name questionable data.
        count_bin: Bin width in seconds of a source that holds counts: spikes lie at the centres of its bins, and
            segments begin on bin edges. 0 if spike times are known.
    """

    session_id: str
    subject: str
    spikes: Spikes
    units: Units
    observed: Intervals
    task: str = ""
    recording_date: str = ""
    covariates: dict[str, Covariate] = field(default_factory=dict)
    intervals: dict[str, Intervals] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    count_bin: float = 0.0

    @property
    def num_units(self) -> int:
        """Number of units N."""
        return len(self.units)
