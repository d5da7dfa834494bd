"""`ndt bench`: runs benchmarks by name. The peer of a row is measured in the same run, on the same data."""

import importlib
from typing import Any

from ndt.config import BenchConfig
from ndt.errors import InputError

__all__ = ["BENCHMARKS", "backends", "bench"]

BENCHMARKS = {  # module and function in `ndt.benchmarks`, imported when they run
    "attention": "attention.attention",
    "train": "train.train",
    "demo": "decoding.demo",
    "recordings": "recordings.recordings",
    "gaps": "gaps.gaps",
    "ablation": "ablation.ablation",
    "presets": "ablation.presets",
    "curve": "curve.curve",
    "adaptation": "adaptation.adaptation",
    "transfer": "transfer.transfer",
    "dynamics": "dynamics.dynamics",
    "ocean": "ocean.ocean",
    "mechanics": "mechanics.mechanics",
    "dynamics_cost": "dynamics_cost.dynamics_cost",
}
DYNAMICS = ("dynamics", "ocean", "mechanics")
STUDIES = ("ablation", "presets", "curve", "recordings", "adaptation", "transfer", *DYNAMICS)  # many runs each


def bench(name: str, config: BenchConfig | None = None) -> dict[str, Any]:
    """Runs a benchmark and returns its hardware and rows.

    `ndt.benchmarks.timing.row` describes the rows.

    Arguments:
        name: One of `BENCHMARKS`.
        config: Settings; each benchmark uses some of them.
    """
    if name not in BENCHMARKS:
        raise InputError("ndt bench", "name", f"one of: {', '.join(BENCHMARKS)}", name)
    from ndt.benchmarks.timing import hardware, run_folder

    config = config or BenchConfig()
    if config.study != BenchConfig().study and name not in STUDIES:
        raise InputError("ndt bench", "study", f"no settings but of {', '.join(STUDIES)}", f"some of {name}")
    module, _, function = BENCHMARKS[name].partition(".")
    run = getattr(importlib.import_module(f"ndt.benchmarks.{module}"), function)
    if name in STUDIES:
        with run_folder(config.out) as out:
            return {"hardware": hardware(), "rows": run(out, config.seeds, config.study)}

    return {"hardware": hardware(), "rows": run(config)}


def backends(name: str) -> dict[str, Any]:
    """Returns the kernel of packed attention that this machine uses for each mask and precision, and why no other."""
    if name != "attention":
        raise InputError("ndt bench", "--list", "the benchmark attention", name)
    from ndt.benchmarks.attention import list_backends
    from ndt.benchmarks.timing import hardware

    return {"hardware": hardware(), "backends": list_backends()}
