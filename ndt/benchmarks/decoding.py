"""How well decoders decode beside their peers, on simulated and on real recordings."""

import os
from pathlib import Path
from typing import Any

from ndt.benchmarks.timing import row, run_folder
from ndt.config import BenchConfig
from ndt.errors import InputError

__all__ = ["demo", "recordings"]

RECORDINGS = ("sub-m1", "sub-s1", "sub-chewie/*20131003*", "sub-chewie/*20131219*", "sub-A2929")


def demo(config: BenchConfig) -> list[dict[str, Any]]:
    """Decodes a new simulated day from a minute of labels."""
    from ndt.demo import demo

    with run_folder(config.out) as out:
        runs = [demo(out=out / f"seed{s}", seed=s, progress=False) for s in range(config.seeds)]

    return _rows("demo", [next(iter(r["sessions"].values())) for r in runs])


def recordings(config: BenchConfig) -> list[dict[str, Any]]:
    """Decodes the real recordings under the folder that NDT_DATA names, each by itself."""
    from ndt.demo import demo

    root, rows = Path(os.environ.get("NDT_DATA", "../shared/data")), []
    for pattern in RECORDINGS:
        files = sorted(map(str, root.glob(pattern if "*" in pattern else f"{pattern}/*.nwb")))
        if not files:
            raise InputError(root, "NDT_DATA", f"a recording {pattern}", "none")
        name = Path(files[0]).name.partition("_behavior")[0]
        with run_folder(config.out) as out:
            seeds = range(config.seeds)
            runs = [demo(files, out / name / f"seed{s}", seed=s, progress=False, scratch=False) for s in seeds]
        rows += _rows(name, [next(iter(r["sessions"].values())) for r in runs])

    return rows


def _rows(name: str, sessions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a peer: the network alone, then the delivered blend beside ridge."""
    scores = {peer: [s["baselines"][peer]["r2"] for s in sessions] for peer in sessions[0]["baselines"]}
    network = [s["network"]["r2"] for s in sessions]
    delivered = row(f"{name}.delivered", [s["test"]["r2"] for s in sessions], "R2", "ridge", scores["ridge"])

    return [*(row(f"{name}.network", network, "R2", peer, theirs) for peer, theirs in scores.items()), delivered]
