"""Settings of recordings: ingestion into a store, arrays in MATLAB and NumPy files, and the simulator."""

from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from ndt.config.reader import INF, MOST_SEED, choose, require
from ndt.errors import InputError

__all__ = ["AWKWARD", "ArraysConfig", "IngestConfig", "SimulateConfig"]

AWKWARD = ("gaps", "empty_units", "no_electrodes", "heldout", "overlapping_trials", "rate_series")


@dataclass(frozen=True, kw_only=True)
class ArraysConfig:
    """Keys of a ``.mat`` or ``.npz`` file; see `ndt.data.read.array_files`. A dot steps into a MATLAB struct.

    Arguments:
        spikes: Key of the spike times (a cell or object array with one array a unit, or flat times with `unit_index`);
            with `bin_size`, key of counts, bins by units.
        unit_index: Key of the unit of each spike, for flat spike times.
        bin_size: Width in seconds of the bins of counts, which start at 0 and have no gaps.
        covariates: Behaviour to read, as ``name=key``; samples by dimensions, or dimensions by samples if only that
            fits the timestamps.
        timestamps: Key of the timestamps of covariates in seconds; ``name=key`` for a covariate with its own.
        rate: Samples per second of covariates without timestamps, which start at 0.
        observed: Key of the start and end of each observed segment, (M, 2); ``timestamps`` for the time that the
            timestamps of covariates span.
        columns: Columns of units as ``name=key``.
        unit: Physical unit of covariates as ``name=unit``.
        subject: Name of the subject; by default the first part of the file's name.
    """

    spikes: str = "spikes"
    unit_index: str = ""
    bin_size: float = 0.0
    covariates: tuple[str, ...] = ()
    timestamps: tuple[str, ...] = ()
    rate: float = 0.0
    observed: str = ""
    columns: tuple[str, ...] = ()
    unit: tuple[str, ...] = ()
    subject: str = ""

    def __post_init__(self) -> None:
        require(self, {"bin_size": (0, 10), "rate": (0, 1e6)}, "arrays.")


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """Settings of ingestion.

    Arguments:
        unit_identity: ``electrode`` for persistent channels (identity = subject/group/electrode/index on it),
            ``session`` for units that are sorted anew in each session, or the name of a units column that identifies
            units across sessions.
        select: Expression that selects units, over columns of the units table and measured ones, for example
            ``quality == 'good' and rate_hz > 0.5``; empty for all units. See `ndt.data.selection`.
        merge: ``electrode`` sums the units of an electrode into one (threshold crossings); ``none`` keeps them apart.
        duplicates: ``keep`` units that share their spikes, ``drop`` all but the one with most spikes, or ``group`` them
            (a units column `duplicate_group`; masks hide units of a group together).
        covariates: Covariates to keep, by name or end of path; empty for all. ``vel=diff(pos)`` keeps the rate of
            change of ``pos`` under the name ``vel``.
        covariates_at: Position of a covariate's timestamp in its sample interval: ``centre``, ``start`` or ``end``.
        counts: Series of spike counts to read instead of spike times, by name or end of path; if empty, counts are
            read only from files without spike times.
        counts_at: Position of a timestamp of counts in its bin: ``start``, ``centre`` or ``end``.
        cut_silence: Segments longer than this without a spike of any unit, in seconds, count as not observed; 0 for
            none.
        split: Train, validation and test splits: empty for 70, 10 and 20 % of the time, ``TABLE/COLUMN`` for a column
            of a table of intervals (NLB's ``trials/split``), ``first:SECONDS`` for this much training and validation
            time before the test split, ``fold:K/N`` for cross-validation, ``all`` for training time
            alone. With `evaluate`, of those sessions only.
        evaluate: Sessions (patterns of their names) that are left out of pretraining.
        task: Task name; by default that in the file.
        arrays: Keys of ``.mat`` and ``.npz`` files.
        workers: Processes; 0 means one per core.
        cluster: Address of a Dask scheduler that does the work instead, for example ``tcp://head:8786``.
        probe_seconds: Time limit of the child process that opens each file first; 0 for no such test.
        max_gib: Largest array read from a file, in GiB.
    """

    unit_identity: str = "electrode"
    select: str = ""
    merge: str = "none"
    duplicates: str = "keep"
    covariates: tuple[str, ...] = ()
    covariates_at: str = "centre"
    counts: str = ""
    counts_at: str = "start"
    cut_silence: float = 0.0
    split: str = ""
    evaluate: tuple[str, ...] = ()
    task: str = ""
    arrays: ArraysConfig = field(default_factory=ArraysConfig)
    workers: int = 0
    cluster: str = ""
    probe_seconds: float = 60.0
    max_gib: float = 8.0

    def __post_init__(self) -> None:
        require(self, {"cut_silence": (0, INF), "workers": (0, 4096), "probe_seconds": (0, 1e6), "max_gib": (0, 1e6)})
        choose(self, "", merge=("none", "electrode"), duplicates=("keep", "drop", "group"))
        choose(self, "", counts_at=("start", "centre", "end"), covariates_at=("start", "centre", "end"))

    def evaluates(self, session_id: str) -> bool:
        """Whether a session of this name is left out of pretraining."""
        return any(fnmatchcase(session_id, pattern) for pattern in self.evaluate)

    def splits(self, session_id: str) -> bool:
        """Whether `split` applies to a session of this name."""
        return bool(self.split) and (not self.evaluate or self.evaluates(session_id))


@dataclass(frozen=True, kw_only=True)
class SimulateConfig:
    """Settings of a simulated population recorded in several sessions; see `ndt.data.simulate.recordings`.

    Arguments:
        num_subjects: Subjects; each has its own array.
        num_sessions: Recordings of each subject.
        num_units: Units of each recording.
        num_electrodes: Electrodes of each subject; at least `num_units`.
        num_regions: Brain regions among which the electrodes are divided, at most 4. All follow the same latents.
        seconds: Length of each recording.
        persistence: Fraction of units that stay from one recording of a subject to the next.
        drift: Standard deviation of a staying unit's change of tuning between recordings, relative to its tuning.
        mean_rate_hz: Mean firing rate.
        dynamics: ``nonlinear``, or ``rotational``: latents rotate within trials from an initial state of each trial,
            which the oracle does not know.
        awkward: Irregularities to include: ``gaps empty_units no_electrodes heldout overlapping_trials rate_series``.
        workers: Processes; 0 means one per core. Files do not depend on it.
        seed: Seed.
    """

    num_subjects: int = 2
    num_sessions: int = 4
    num_units: int = 64
    num_electrodes: int = 96
    num_regions: int = 1
    seconds: float = 300.0
    persistence: float = 0.7
    drift: float = 0.2
    mean_rate_hz: float = 8.0
    dynamics: str = "nonlinear"
    awkward: tuple[str, ...] = ()
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        least = 3 if "empty_units" in self.awkward else 1
        require(self, {"num_subjects": (1, 702), "num_sessions": (1, 99), "num_units": (least, 1_000_000)})
        require(self, {"num_electrodes": (self.num_units, 1_000_000), "num_regions": (1, 4), "seconds": (1, 1e7)})
        require(self, {"persistence": (0, 1), "drift": (0, 1), "mean_rate_hz": (1e-3, 1e3)})
        require(self, {"workers": (0, 4096), "seed": (0, MOST_SEED)})
        choose(self, "", dynamics=("nonlinear", "rotational"))
        for name in self.awkward:
            if name not in AWKWARD:
                raise InputError("settings", "awkward", f"some of {', '.join(AWKWARD)}", name)
        if self.dynamics == "rotational" and "overlapping_trials" in self.awkward:
            raise InputError("settings", "awkward", "no overlapping_trials with rotational dynamics", self.awkward)
