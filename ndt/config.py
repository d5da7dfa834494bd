"""All settings, as frozen dataclasses; importing this costs no torch, so that every ``--help`` is quick."""

from dataclasses import dataclass, field

__all__ = ["FinetuneConfig", "IngestConfig", "ModelConfig", "PretrainConfig", "SimulateConfig"]


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """How NWB files become a store.

    Arguments:
        unit_identity: ``electrode`` for persistent channels (identity = subject/group/electrode/index on it), ``session``
            for units sorted anew each session, else the name of a units column that identifies units across sessions.
        task: Task name; by default read from the file.
        workers: Processes; 0 means one per core.
        probe_seconds: How long opening a file may take in the child process that tries it first.
        strict: Whether the first file that fails ends the run.
    """

    unit_identity: str = "electrode"
    task: str = ""
    workers: int = 0
    probe_seconds: float = 60.0
    strict: bool = False


@dataclass(frozen=True, kw_only=True)
class SimulateConfig:
    """A simulated population recorded in several sessions; see `ndt.data.synthetic`.

    Arguments:
        num_subjects: Subjects; each has its own array.
        num_sessions: Recordings of each subject.
        num_units: Units of each recording.
        num_electrodes: Electrodes of each array; at least `num_units`.
        num_latents: Dimensions K of the shared dynamics.
        seconds: Length of each recording.
        persistence: Share of units that stay from one recording of a subject to the next.
        drift: Standard deviation of a staying unit's change of tuning between recordings, relative to its tuning.
        mean_rate_hz: Mean firing rate.
        dynamics: ``nonlinear`` (default) or ``linear_gaussian``, where ridge or Kalman should win.
        spiking: ``poisson`` or ``negative_binomial`` (over-dispersed).
        dispersion: Variance over mean minus one at mean 1, for over-dispersed spikes.
        awkward: Which awkward things to include: ``gaps empty_units no_electrodes heldout overlapping_trials rate_series``.
        seed: Seed of everything.
    """

    num_subjects: int = 2
    num_sessions: int = 4
    num_units: int = 64
    num_electrodes: int = 96
    num_latents: int = 6
    seconds: float = 300.0
    persistence: float = 0.7
    drift: float = 0.2
    mean_rate_hz: float = 8.0
    dynamics: str = "nonlinear"
    spiking: str = "poisson"
    dispersion: float = 0.5
    awkward: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture of the transformer; filled in by its own issue's measurements.

    Arguments:
        width: Width D of tokens.
        num_layers: Encoder layers.
        num_decoder_layers: Layers of the masked decoder and of the covariate decoder.
        num_heads: Attention heads H.
        units_per_patch: Units in one patch.
        unit_width: Dimensions of a unit's learned vector.
        max_count: Counts above this are clipped.
        max_bins: Longest window in bins (size of the time table).
        feedforward: Hidden width of the feed-forward block over `width`.
        dropout: Dropout probability.
        positions: How time enters: ``rotary`` (relative) or ``learned`` (a table of `max_bins` rows, as in NDT2).
    """

    width: int = 128
    num_layers: int = 4
    num_decoder_layers: int = 2
    num_heads: int = 4
    units_per_patch: int = 32
    unit_width: int = 32
    max_count: int = 20
    max_bins: int = 200
    feedforward: int = 2
    dropout: float = 0.1
    positions: str = "rotary"


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Masked pretraining (the lead fills this in)."""

    model: ModelConfig = field(default_factory=ModelConfig)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Fine-tuning (the lead fills this in)."""

    seed: int = 0
