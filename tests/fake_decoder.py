"""Run directories of decoders of each kind, made without training: truth plus noise, scored and given intervals."""

from pathlib import Path

import numpy as np

from ndt.evaluation.bootstrap import block_bootstrap_r2
from ndt.evaluation.conformal import Conformal
from ndt.evaluation.metrics import confusion, score
from ndt.model.checkpoint import write_json

__all__ = ["CLASSES", "PARTS", "fake_decoder", "part_of"]

BIN = 0.05
CLASSES = ("left", "centre", "right", "up")
PARTS = {  # name -> kind, columns, unit
    "hand_vel": ("continuous", ("x", "y"), "cm/s"),
    "heading": ("angle", ("cos(yaw)", "sin(yaw)"), ""),
    "trials/target": ("class", CLASSES, ""),
}
CONTROLS = {
    "time_only": 0.02,
    "block_permuted": -0.03,
    "circularly_shifted": -3.2,
}  # the last is far below what an axis can show
WEIGHTS = {"network": 0.7, "ridge": 0.3}


def _smooth(rng: np.random.Generator, num_bins: int, columns: int, attention_window: int = 30) -> np.ndarray:
    noise = rng.normal(size=(num_bins + attention_window - 1, columns))
    window = np.hanning(attention_window + 2)[1:-1]

    return np.stack([np.convolve(c, window / np.linalg.norm(window), "valid") for c in noise.T], 1)


def _decoded(kind: str, num_bins: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What is true, and what the network and ridge say of it."""
    error = {name: _smooth(rng, num_bins, 2, 6) for name in ("network", "ridge")}
    if kind == "continuous":
        true = 12 * _smooth(rng, num_bins, 2)
        return {"true": true, "network": true + 3 * error["network"], "ridge": 0.8 * true + 5 * error["ridge"]}
    if kind == "angle":
        angle = np.cumsum(0.08 * _smooth(rng, num_bins, 1)[:, 0])
        found = {"true": np.stack([np.cos(angle), np.sin(angle)], 1)}
        for name, spread in (("network", 0.25), ("ridge", 0.5)):
            found[name] = 0.9 * found["true"] + spread * error[name]
        return found
    label = np.repeat(rng.integers(len(CLASSES), size=num_bins // 25 + 1), 25)[:num_bins]
    true = np.eye(len(CLASSES))[label]
    found = {"true": true}
    for name, spread in (("network", 1.0), ("ridge", 1.6)):
        logit = 2.2 * true + spread * _smooth(rng, num_bins, len(CLASSES), 12)
        found[name] = np.exp(logit) / np.exp(logit).sum(1, keepdims=True)

    return found


def part_of(name: str, num_bins: int = 1200, seed: int = 0) -> tuple[dict, dict[str, np.ndarray]]:
    """Returns what metrics.json and predictions.npz say of one target, as `ndt.finetune.scoring` does.

    The first half is validation, of which only intervals are made.
    """
    kind, columns, unit = PARTS[name]
    p = _decoded(kind, 2 * num_bins, np.random.default_rng(seed))
    p["ensemble"] = WEIGHTS["network"] * p["network"] + WEIGHTS["ridge"] * p["ridge"]
    valid, p = ({n: v[half] for n, v in p.items()} for half in (slice(num_bins), slice(num_bins, None)))
    conformal = Conformal.fit(valid["true"], valid["ensemble"], kind)
    p["true"][num_bins // 2 : num_bins // 2 + 20] = np.nan  # a second without labels
    p["half_width"], p["adaptive_half_width"] = (f(*a) for f, a in (
        (conformal.half_width, (p["ensemble"],)), (conformal.adapt, (p["true"], p["ensemble"])),
    ))  # fmt: skip
    segment = _pieces(num_bins)[1]
    known = np.isfinite(p["true"]).all(1)
    true, ensemble = p["true"][known], p["ensemble"][known]

    def scores(member: str) -> dict:
        return score(p["true"], p[member], kind)

    bootstrap = block_bootstrap_r2(true, ensemble, segment[known])
    over = block_bootstrap_r2(true, ensemble, segment[known], reference=p["ridge"][known])
    test = scores("ensemble") | conformal.measure(true, ensemble, segment[known])
    test |= {"r2_interval_95": list(bootstrap.interval()), "r2_error": bootstrap.error, "out_of_distribution": 0.05}
    test |= {"reference": "ridge", "over_reference": over.value, "over_reference_error": over.error}
    if kind == "class":
        test["class_counts"] = confusion(true, ensemble).sum(1).tolist()
    baselines = {n: {"r2": r2} for n, r2 in CONTROLS.items()}
    baselines |= {"ridge": scores("ridge") | {"alpha": 1.0, "num_lags": 5}}
    for n, spoiled in (("wiener", 0.5), ("kalman", 0.7), ("gru", 0.9), ("ridge_time_gain", 0.95)):
        baselines[n] = score(p["true"], spoiled * p["ridge"], kind)
    baselines["naive_bayes"] = {"left_out": "too few bins with spikes"}
    metrics = {
        "target": name, "kind": kind, "dims": list(columns), "unit": unit, "test": test,
        "network": scores("network"), "valid": {"network": 0.8, "ridge": 0.7, "ensemble": 0.82},
        "weights": dict(WEIGHTS), "baselines": baselines,
    }  # fmt: skip

    return metrics, p | {"dims": np.array(columns), "unit": np.array(unit), "kind": np.array(kind)}


def _pieces(num_bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Time of each bin and its segment: after a third there is a gap of four seconds."""
    segment = (np.arange(num_bins) >= num_bins // 3).astype(np.int64)

    return 300.0 + BIN * np.arange(num_bins) + 4.0 * segment + BIN / 2, segment


def fake_decoder(run: Path, *names: str, num_bins: int = 1200, seed: int = 0) -> dict:
    """Writes the run of a decoder of these targets and returns its metrics."""
    run.mkdir(parents=True, exist_ok=True)
    time, segment = _pieces(num_bins)
    outside = (np.arange(num_bins) // 40 % 20) == 3
    arrays: dict[str, np.ndarray] = {"time": time, "segment": segment, "out_of_distribution": outside}
    targets = {}
    for i, name in enumerate(names):
        targets[name], found = part_of(name, num_bins, seed + i)
        arrays |= {f"{name}/{key}" if i else key: value for key, value in found.items()}
    metrics = {
        "session": "sub-b_ses-2", "seed": 3, "bin_size": BIN, "lag": 0.1, "strategy": "full",
        "lags": {"0": 0.61, "0.1": 0.66, "0.2": 0.58}, "label_seconds": 60.0, "train_seconds": 21.0, "steps": 400,
        "input_drift": {"silent_units": ["b/array/00007/0"], "rate_shift": -4.2, "flagged": float(outside.mean())},
        **targets[names[0]], "targets": targets,
    }  # fmt: skip
    np.savez(run / "predictions.npz", **arrays)
    write_json(run / "metrics.json", metrics)

    return metrics
