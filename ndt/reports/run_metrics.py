"""Schemas of the JSON files in run directories that reports read; a score that is undefined is null."""

from typing import Annotated, Any, Literal, NotRequired, Required, TypedDict

from ndt.errors import InputError
from ndt.schema import Count, Positive, Within

__all__ = ["DecoderMetrics", "DemoMetrics", "PretrainingMetrics", "RotationResult", "check_lengths"]

Number = float | None
Numbers = list[float | None]


class Scores(TypedDict, total=False):
    """Scores of one predictor of one target."""

    r2: Number
    rmse: Number
    correlation: Number
    median_error_deg: Number
    mean_error_deg: Number
    accuracy: Number
    balanced_accuracy: Number
    log_loss: Number
    left_out: str


class Test(Scores, total=False):
    """Scores of the ensemble on the test split, with uncertainty and coverage."""

    r2: Required[Number]  # type: ignore[misc]
    r2_per_dim: Numbers
    r2_interval_95: tuple[Number, Number]
    num_bins: Number
    num_trials: Number
    chance: Number
    recall: Numbers
    class_counts: list[Count]
    reference: str
    over_reference: Number
    over_reference_error: Number
    out_of_distribution: Number
    interval_coverage_90: Number
    interval_coverage_90_error: Number
    interval_calibration_error: Number
    interval_attained: Number
    interval_half_width: Numbers
    interval_set_size: Numbers
    adaptive_coverage_90: Number
    adaptive_coverage_90_error: Number
    adaptive_half_width: Numbers
    adaptive_set_size: Numbers


class PartMetrics(TypedDict, total=False):
    """Scores of one target."""

    target: str
    kind: Literal["continuous", "angle", "class"]
    dims: list[str]
    unit: str
    test: Test
    network: Scores
    baselines: dict[str, Scores]
    weights: dict[str, Annotated[float, Within(0, 1)]]


class InputDriftMetrics(TypedDict, total=False):
    """Drift of the input in the test split."""

    silent_units: list[str]
    rate_shift: Number
    flagged: Number


class DecoderMetrics(PartMetrics, total=False):
    """metrics.json of a fine-tuning run: facts on the run, and the scores of its first target."""

    session: Required[str]
    target: Required[str]  # type: ignore[misc]
    targets: dict[str, PartMetrics]
    seed: Count
    strategy: str
    steps: Count | None
    train_seconds: Number
    label_seconds: Number
    bin_size: Positive | None
    lag: Number
    lags: dict[str, Number]
    valid: dict[str, Any]
    input_drift: InputDriftMetrics


class PretrainingValid(TypedDict, total=False):
    """Scores on the validation split."""

    bits_per_spike: Number
    bits_per_spike_smoother: Number
    nll: Number
    r2: Number


class PretrainingMetrics(TypedDict, total=False):
    """metrics.json of a pretraining run."""

    valid: Required[PretrainingValid]
    tokens_seen: Number
    tokens_per_second: Number
    num_parameters: Number
    train_seconds: Number


class DemoMetrics(TypedDict):
    """What the metrics.json of a demo has besides."""

    sessions: NotRequired[dict[str, DecoderMetrics]]
    seconds: NotRequired[dict[str, float]]


class Frequency(TypedDict):
    """Rotation of one model."""

    frequency: float
    r2: Number


class RotationResult(TypedDict):
    """rotation.json of a demo."""

    true_hz: Positive
    num_trials: Count
    found: dict[str, Frequency]


def check_lengths(metrics: DecoderMetrics, where: object) -> None:
    """Raises unless lists of classes and of dimensions are as long as the names of these."""
    for name, part in (("", metrics), *metrics.get("targets", {}).items()):
        test, field = part.get("test", {}), f"targets.{name}.test" if name else "test"
        dims = len(part.get("dims", metrics.get("dims", ())))
        for key in ("recall", "class_counts"):
            if key in test and len(test[key]) != dims:  # type: ignore[literal-required]
                found = len(test[key])  # type: ignore[literal-required]
                raise InputError(where, f"{field}.{key}", f"a value of each of {dims} classes", found)
