"""Settings of recordings: how files become sessions, and what the simulator writes."""

from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from ndt.config.reader import INF, choose, require

__all__ = ["ArraysConfig", "IngestConfig", "SimulateConfig"]


@dataclass(frozen=True, kw_only=True)
class ArraysConfig:
    """Where a ``.mat`` or ``.npz`` file has what; see `ndt.data.read.array_files`. Keys of nested MATLAB structs have dots.

    Arguments:
        spikes: Key of the spike times (a cell or object array, one array a unit; or flat times with `unit_index`), or
            with `bin_size` of counts, bins by units.
        unit_index: Key of each spike's unit, where `spikes` is flat.
        bin_size: Width in seconds of the bins of counts, which begin at 0 and follow one another.
        transposed: Whether counts are units by bins.
        covariates: What to decode, as ``name=key``; samples by dimensions, or the other way round where that fits the
            timestamps.
        timestamps: Key of the timestamps of covariates in seconds; or as ``name=key`` for each that has its own.
        rate: Samples a second of covariates without timestamps; they begin at 0.
        observed: Key of the start and end of each observed segment, rows of two; or ``timestamps`` for the time that
            those of covariates span.
        columns: Columns of units as ``name=key``.
        unit: Physical unit of covariates as ``name=unit``.
        subject: Subject's name; by default the first part of the file's name.
    """

    spikes: str = "spikes"
    unit_index: str = ""
    bin_size: float = 0.0
    transposed: bool = False
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
    """How recordings become a store.

    Arguments:
        unit_identity: ``electrode`` for persistent channels (identity = subject/group/electrode/index on it),
            ``session`` for units sorted anew each session, else the name of a units column that identifies units across
            sessions.
        select: Which units to keep, as an expression over columns of the units table and measured ones, for example
            ``quality == 'good' and rate_hz > 0.5``; empty for all. See `ndt.data.selection`.
        merge: ``electrode`` sums the units of an electrode into one (threshold crossings); ``none`` keeps them apart.
        duplicates: What to do with units that share their spikes: ``keep``, ``drop`` all but the one with most spikes,
            or ``group`` (a units column `duplicate_group`, whose units are hidden together).
        covariates: Covariates to keep, by name or end of path; empty for all. ``vel=diff(pos)`` keeps the rate of
            change of one under a name of its own.
        covariates_at: Where in its interval a sample of a covariate stands: ``centre``, or ``start`` or ``end`` where
            it is a mean over what follows or precedes it.
        counts: Series of spike counts to read in place of spike times, by name or end of path; empty takes one where a
            file has no spike times.
        counts_at: Where in its bin a timestamp of counts lies: ``start``, ``centre`` or ``end``.
        cut_silence: A segment of more seconds than this without a spike of any unit counts as not observed; 0 for none.
        split: Blocks of training, validation and test: empty for 70, 10 and 20 % of the time, ``TABLE/COLUMN`` for a
            column of a table of intervals (NLB's ``trials/split``), ``first:SECONDS`` for so many seconds of training
            and validation before the test split. Where `evaluate` names sessions, of those alone.
        evaluate: Sessions (patterns of their names) that pretraining leaves out.
        task: Task name; by default read from the file.
        arrays: Where ``.mat`` and ``.npz`` files have what.
        workers: Processes; 0 means one per core.
        cluster: Address of a Dask scheduler that does the work instead, for example ``tcp://head:8786``.
        probe_seconds: How long opening a file may take in the child process that tries it first.
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
        require(self, {"cut_silence": (0, INF), "workers": (0, INF), "probe_seconds": (0, INF), "max_gib": (0, INF)})
        choose(self, "", merge=("none", "electrode"), duplicates=("keep", "drop", "group"))
        choose(self, "", counts_at=("start", "centre", "end"), covariates_at=("start", "centre", "end"))

    def evaluates(self, session_id: str) -> bool:
        """Whether pretraining leaves a session of this name out."""
        return any(fnmatchcase(session_id, pattern) for pattern in self.evaluate)

    def splits(self, session_id: str) -> bool:
        """Whether `split` is meant for a session of this name."""
        return bool(self.split) and (not self.evaluate or self.evaluates(session_id))


@dataclass(frozen=True, kw_only=True)
class SimulateConfig:
    """A simulated population recorded in several sessions; see `ndt.data.simulate.recordings`.

    Arguments:
        num_subjects: Subjects; each has its own array.
        num_sessions: Recordings of each subject.
        num_units: Units of each recording.
        num_electrodes: Electrodes of each subject; at least `num_units`.
        num_regions: Regions among which they lie, at most 4. All follow the same latents.
        num_latents: Dimensions K of the shared dynamics, at least 5.
        seconds: Length of each recording.
        persistence: Share of units that stay from one recording of a subject to the next.
        drift: Standard deviation of a staying unit's change of tuning between recordings, relative to its tuning.
        mean_rate_hz: Mean firing rate; the linear-Gaussian population fires five times as much.
        dynamics: ``nonlinear`` (default), ``linear_gaussian``, where ridge or Kalman should win, or ``rotational``:
            movement rotates within trials, from a state of each; the oracle does not know of it.
        spiking: ``poisson`` or ``negative_binomial`` (over-dispersed).
        dispersion: Variance over mean minus one at mean 1, of counts in 50 ms bins, for over-dispersed spikes.
        awkward: Which awkward things to include: ``gaps empty_units no_electrodes heldout overlapping_trials
            rate_series``.
        workers: Processes; 0 means one per core. Files do not depend on it.
        seed: Seed of everything.
    """

    num_subjects: int = 2
    num_sessions: int = 4
    num_units: int = 64
    num_electrodes: int = 96
    num_regions: int = 1
    num_latents: int = 6
    seconds: float = 300.0
    persistence: float = 0.7
    drift: float = 0.2
    mean_rate_hz: float = 8.0
    dynamics: str = "nonlinear"
    spiking: str = "poisson"
    dispersion: float = 0.5
    awkward: tuple[str, ...] = ()
    workers: int = 0
    seed: int = 0
