"""A small run directory as `ndt demo` leaves it, made without training: decoders are truth plus noise."""

import json
from pathlib import Path

import numpy as np

from ndt.data.store import STORE_VERSION, write_manifest, write_session
from ndt.intervals import Intervals
from ndt.reports.label_curve import LabelCurve
from ndt.session import Covariate, Session, Spikes, Units

__all__ = ["CURVE", "SESSION", "fake_run"]

SESSION = "sub-a_ses-1"
CURVE = LabelCurve(
    session=SESSION,
    target="cursor_vel",
    seconds=[15.0, 30.0, 60.0, 120.0],
    lines={
        "ensemble": [[0.52, 0.48, 0.52], [0.6, 0.61, 0.62], [0.67, 0.66, 0.7], [0.72, 0.73, 0.75]],
        "network": [[0.51, 0.47, 0.52], [0.58, 0.6, 0.61], [0.66, 0.65, 0.69], [0.71, 0.72, 0.74]],
        "scratch": [[0.12, 0.21, 0.18], [0.35, 0.33, 0.41], [0.55, 0.58, 0.6], [0.67, 0.69, 0.7]],
        "ridge": [[-0.04] * 3, [0.4] * 3, [0.58] * 3, [0.66] * 3],
        "wiener": [[-1.6] * 3, [0.1] * 3, [0.5] * 3, [0.63] * 3],
        "block_permuted": [[-0.02, -0.01, 0.0]] * 4,
    },
    pretrained_on="the spikes of 40 simulated sessions (4 subjects, 120 s a session, 64 units) for 800 steps",
    valid_seconds=28.0,
)
BIN = 0.05


def _session(session_id: str, rng: np.random.Generator) -> tuple[Session, np.ndarray, np.ndarray]:
    """Twenty-four cosine-tuned units on a wandering cursor, with five unobserved seconds in the middle."""
    time = np.arange(0, 120, BIN)
    steps = np.convolve(rng.normal(size=len(time) + 40), np.hanning(41), "valid")[: len(time)]
    other = np.convolve(rng.normal(size=len(time) + 40), np.hanning(41), "valid")[: len(time)]
    velocity = np.stack([steps, other], 1)
    observed = Intervals([0.0, 105.0], [100.0, 120.0])
    angle = rng.uniform(0, 2 * np.pi, 24)
    tuning = np.stack([np.cos(angle), np.sin(angle)])
    counts = rng.poisson(np.exp(0.25 * velocity @ tuning + np.log(8 * BIN)))
    counts[~observed.contains(time)] = 0
    bins, unit = np.repeat(np.argwhere(counts), counts[counts > 0], axis=0).T
    times = time[bins] + rng.uniform(0, BIN, len(bins))
    order = np.argsort(times)
    covariate = Covariate(
        name="cursor_vel",
        path="processing/behavior/cursor_vel",
        timestamps=time + BIN / 2,
        values=velocity,
        dims=("x", "y"),
        unit="cm/s",
    )
    session = Session(
        session_id=session_id,
        subject="a",
        spikes=Spikes(timestamps=times[order], unit_index=unit[order]),
        units=Units(id=np.array([f"a/array/{n:05d}/0" for n in range(24)])),
        observed=observed,
        covariates={"cursor_vel": covariate},
        dropped=("processing/behavior/eye: 1 sample, fewer than 2",),
    )

    return session, time, velocity


def _decoder(folder: Path, session_id: str, time: np.ndarray, velocity: np.ndarray, rng: np.random.Generator) -> dict:
    test = (time >= 90) & ~((time >= 100) & (time < 105))
    true = velocity[test]
    decoded = {name: true + sd * rng.normal(size=true.shape) for name, sd in (("network", 1.2), ("ridge", 2.0))}
    decoded["ensemble"] = 0.8 * decoded["network"] + 0.2 * decoded["ridge"]
    r2 = {n: float(1 - np.sum((true - x) ** 2) / np.sum((true - true.mean(0)) ** 2)) for n, x in decoded.items()}
    per_dim = 1 - np.sum((true - decoded["ensemble"]) ** 2, 0) / np.sum((true - true.mean(0)) ** 2, 0)
    metrics = {
        "session": session_id,
        "target": "cursor_vel",
        "seed": 0,
        "test": {
            "r2": r2["ensemble"],
            "r2_uniform": float(per_dim.mean()),
            "r2_per_dim": per_dim.tolist(),
            "num_bins": int(test.sum()),
            "interval_coverage_90": 0.9,
            "interval_half_width": [1.6, 1.6],
        },
        "network": {"r2": r2["network"]},
        "weights": {"network": 0.8, "ridge": 0.2},
        "baselines": {
            "ridge": {"r2": r2["ridge"]},
            "block_permuted": {"r2": -0.02},
            "time_only": {"r2": 0.01},
            "scratch": {"r2": 0.7},
            "oracle": {"r2": 0.95},
        },
        "train_seconds": 1.0,
        "label_seconds": 60.0,
    }
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "config.yaml").write_text("seed: 0\n")
    _curve(folder / "log.jsonl", "r2", lambda step: 0.85 - 0.8 * np.exp(-step / 80), "target")
    np.savez(
        folder / "predictions.npz",
        time=time[test],
        true=true,
        **decoded,
        half_width=np.full(true.shape, 1.6),
        dims=np.array(["x", "y"]),
        unit=np.array("cm/s"),
        segment=(time[test] >= 102).astype(np.int64),
    )

    return metrics


def _curve(path: Path, measure: str, value: object, loss: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for step in range(10, 401, 10):
        lines.append({"step": step, "split": "train", loss: 0.5 + np.exp(-step / 60), "lr": 1e-3, "seconds": step / 10})
        if step % 50 == 0:
            lines.append({"step": step, "split": "valid", measure: value(step), "seconds": step / 10})
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")


def fake_run(run: Path) -> Path:
    """Writes the run and returns its path."""
    rng = np.random.default_rng(0)
    entries, per_session = {}, {}
    (run / "store").mkdir(parents=True)
    for name in (SESSION, "sub-a_ses-2"):
        session, time, velocity = _session(name, rng)
        write_session(session, run / "store" / f"{name}.h5")
        entries[name] = {
            "source": f"{name}.nwb", "sha256": "0" * 64, "size": 1, "subject": "a", "task": "", "units": 24,
            "spikes": len(session.spikes.timestamps), "observed_seconds": 115.0, "segments": 2,
            "covariates": [{"name": "cursor_vel"}], "options": {}, "tool_version": "0",
            "dropped": list(session.dropped),
        }  # fmt: skip
        if name == SESSION:
            per_session[name] = _decoder(run / "finetune" / name, name, time, velocity, rng)
            _curve(run / "scratch" / name / "log.jsonl", "r2", lambda step: 0.7 - 0.7 * np.exp(-step / 150), "target")
            mixing = rng.normal(size=(2, 8))
            latents = np.tanh(0.3 * velocity @ mixing) + 0.1 * rng.normal(size=(len(time), 8))
            (run / "embed").mkdir()
            segment = (time >= 102).astype(np.int64)
            np.savez(run / "embed" / f"{name}.npz", time=time + BIN / 2, latents=latents, segment=segment, options="{}")
    write_manifest(run / "store", {"version": STORE_VERSION, "sessions": entries})

    pretraining = {
        "valid": {"nll": 0.31, "bits_per_spike": 0.21, "null_nll": 0.36},
        "tokens_seen": 4_200_000, "tokens_per_second": 35_000.0, "num_parameters": 412_000, "train_seconds": 120.0,
    }  # fmt: skip
    (run / "pretrain").mkdir()
    (run / "pretrain/metrics.json").write_text(json.dumps(pretraining))
    (run / "pretrain/config.yaml").write_text("model:\n  width: 96\nseed: 0\n")
    _curve(run / "pretrain/log.jsonl", "nll", lambda step: 0.31 + 0.1 * np.exp(-step / 60), "nll")
    CURVE.save(run)
    seconds = {"simulate": 4.0, "ingest": 2.0, "pretrain": 120.0, "finetune": 30.0}
    (run / "metrics.json").write_text(
        json.dumps({"sessions": per_session, "pretrain": pretraining, "seconds": seconds})
    )

    return run
