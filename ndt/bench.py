"""Benchmarks. A row's peer is measured in the same run, on the same bins."""

import os
import platform
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ndt.ablation import ablation, presets
from ndt.config import StudyConfig
from ndt.curve import curve
from ndt.errors import InputError

__all__ = ["BENCHMARKS", "bench"]

RECORDINGS = ("sub-m1", "sub-s1", "sub-chewie/*20131003*", "sub-chewie/*20131219*", "sub-A2929")


def bench(name: str, seeds: int = 3, out: str | Path | None = None, study: StudyConfig | None = None) -> dict[str, Any]:
    """Runs a benchmark and returns its hardware and rows.

    A row has ``name``, ``value``, ``unit``, ``peer``, ``peer_value``, ``ratio`` and ``spread``; values are medians over
    seeds, the spread is largest minus smallest value. Rows of studies have ``difference``, the mean over paired seeds,
    ``standard_error`` and ``budget`` too.

    Arguments:
        name: One of `BENCHMARKS`.
        seeds: How many seeds.
        out: Folder for the runs; by default one that is removed. A study goes on where an earlier one ended there.
        study: Settings of a study; other benchmarks have none.
    """
    if name not in BENCHMARKS:
        raise InputError("ndt bench", "name", f"one of: {', '.join(BENCHMARKS)}", name)
    if seeds < 1:
        raise InputError("ndt bench", "--seeds", "at least 1", seeds)
    if study not in (None, StudyConfig()) and name not in STUDIES:
        raise InputError("ndt bench", "settings", f"none but of {', '.join(STUDIES)}", f"some of {name}")
    run = partial(STUDIES[name], study=study) if name in STUDIES else BENCHMARKS[name]
    if out is not None:
        return {"hardware": _hardware(), "rows": run(Path(out), seeds)}
    with tempfile.TemporaryDirectory() as folder:
        return {"hardware": _hardware(), "rows": run(Path(folder), seeds)}


def _hardware() -> dict[str, Any]:
    import torch

    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _demo(out: Path, seeds: int) -> list[dict[str, Any]]:
    """A new simulated day from a minute of labels."""
    from ndt.demo import demo

    runs = [demo(out=out / f"seed{s}", seed=s, progress=False) for s in range(seeds)]

    return _rows("demo", [next(iter(r["sessions"].values())) for r in runs])


def _recordings(out: Path, seeds: int) -> list[dict[str, Any]]:
    """Real recordings under the folder that NDT_DATA names, each by itself."""
    from ndt.demo import demo

    root, rows = Path(os.environ.get("NDT_DATA", "../shared/data")), []
    for pattern in RECORDINGS:
        files = sorted(map(str, root.glob(pattern if "*" in pattern else f"{pattern}/*.nwb")))
        if not files:
            raise InputError(root, "NDT_DATA", f"a recording {pattern}", "none")
        name = Path(files[0]).name.partition("_behavior")[0]
        runs = [demo(files, out / name / f"seed{s}", seed=s, progress=False, scratch=False) for s in range(seeds)]
        rows += _rows(name, [next(iter(r["sessions"].values())) for r in runs])

    return rows


def _rows(name: str, sessions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a peer: the network alone, then the delivered blend beside ridge."""
    ridge = [s["baselines"]["ridge"]["r2"] for s in sessions]
    network = [s["network"]["r2"] for s in sessions]
    rows = []
    for peer in sessions[0]["baselines"]:
        rows.append(_row(f"{name}.network", network, peer, [s["baselines"][peer]["r2"] for s in sessions]))
    rows.append(_row(f"{name}.delivered", [s["test"]["r2"] for s in sessions], "ridge", ridge))

    return rows


def _row(name: str, values: list[float], peer: str, peers: list[float]) -> dict[str, Any]:
    value, against = statistics.median(values), statistics.median(peers)

    return {
        "name": name,
        "value": value,
        "unit": "R2",
        "peer": peer,
        "peer_value": against,
        "ratio": value / against if against > 0 else None,  # controls are at 0
        "spread": max(values) - min(values),
        "values": values,
        "peer_values": peers,
    }


STUDIES = {"ablation": ablation, "presets": presets, "curve": curve}  # take settings
BENCHMARKS: dict[str, Callable[[Path, int], list[dict[str, Any]]]] = {
    "demo": _demo,
    "recordings": _recordings,
    **STUDIES,
}
