"""``ndt bench dynamics_cost``: time and memory of one step of fitting against particles, dimensions and nodes."""

import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.ticker import FuncFormatter, LogLocator

from ndt.benchmarks.timing import interleaved, row, run_folder
from ndt.config import BenchConfig
from ndt.config_dynamics import HOAMConfig
from ndt.dynamics.batches import Batch
from ndt.dynamics.between import bridges
from ndt.dynamics.fitting import threads
from ndt.dynamics.hoam import HOAM
from ndt.dynamics.potentials import Potential, scales_of
from ndt.dynamics.snapshots import Snapshots
from ndt.page import write_text
from ndt.plots import BLUE, GRID, ORANGE, page_figure

__all__ = ["AXES", "dynamics_cost", "peak"]

BASE = {"particles": 64, "dimensions": 4, "nodes": 16}
AXES: Mapping[str, tuple[int, ...]] = {
    "particles": (64, 128, 256, 512, 1024, 2048),
    "dimensions": (4, 8, 16, 32, 64, 128),
    "nodes": (16, 32, 64, 128, 256, 512),
}
STEPS = 5

# In a process of its own, which tells its largest resident memory: the kernel's figure since exec.
_MEMORY = """
import sys
from ndt.benchmarks.dynamics_cost import peak
print(peak(*map(int, sys.argv[1:])))
"""


def dynamics_cost(config: BenchConfig) -> list[dict[str, Any]]:
    """Measures steps of fitting at growing sizes, one thread, and writes ``cost.svg`` into `config.out`.

    Each axis grows by itself from 64 particles, 4 dimensions, 16 nodes. A row's value is that of its largest size, its
    peer the one before it, of half the size: with cost in proportion to size their ratio is 2, and below it where a
    part of the cost is fixed. Memory is what a process has at most, less what it had before the step.
    """
    rows: list[dict[str, Any]] = []
    found: dict[str, dict[str, list[float]]] = {}
    for axis, sizes in AXES.items():
        found[axis] = {"seconds": [], "MiB": []}
        for size in sizes:
            shape = {**BASE, axis: size}
            taken = [_seconds(**shape) for _ in range(config.repeats)]
            found[axis]["seconds"].append(statistics.median(taken))
            arguments = [sys.executable, "-c", _MEMORY, *(str(shape[name]) for name in BASE)]
            told = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
            found[axis]["MiB"].append(float(told))
        for unit, values in found[axis].items():
            name = f"dynamics_cost.{axis}.{unit}"
            rows.append(
                row(f"{name}.{sizes[-1]}", values[-1:], unit, f"{sizes[-2]}", values[-2:-1])
                | {"sizes": list(sizes), "values": values}
            )
    with run_folder(config.out) as out:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "cost.svg", _drawn(found))

    return rows


def _stepping(particles: int, dimensions: int, nodes: int) -> Callable[[], None]:
    """Returns what does a step of fitting, but for the optimiser's own."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 3, 4096, dimensions))
    seen = Snapshots.from_arrays(x, [0.0, 0.5, 1.0], paired=True)
    config = HOAMConfig(noise=0.1, num_nodes=nodes, num_particles=particles, threads=1)
    model, paths = HOAM(config), bridges(seen, "paths", rng)
    potential, probes = Potential(config.potential, scales_of(seen)), torch.Generator().manual_seed(0)

    def step() -> None:
        potential.zero_grad()
        model._loss(potential, Batch.drawn(paths, seen.mu, config, rng), probes).mean().backward()  # type: ignore[no-untyped-call]

    return step


def _seconds(particles: int, dimensions: int, nodes: int) -> float:
    """Returns seconds of a step, the median of some after the first."""
    step = _stepping(particles, dimensions, nodes)
    with threads(1):
        taken = interleaved({"step": step}, STEPS)["step"]

    return statistics.median(taken)


def peak(particles: int, dimensions: int, nodes: int) -> float:
    """Returns MiB that a step takes at most beyond what is there before; by the kernel, in a new process."""
    _stepping(1, dimensions, 1)()  # what the libraries take once
    step = _stepping(particles, dimensions, nodes)
    before = _resident()
    step()

    return (_resident() - before) / 1024


def _resident() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


def _drawn(found: dict[str, dict[str, list[float]]]) -> str:
    """Draws cost against each size, both on logarithmic axes, beside what grows in proportion."""
    with page_figure(4.6, 2, len(found), sharex="col") as sheet:
        for column, (axis, of) in enumerate(found.items()):
            sizes = np.array(AXES[axis], float)
            for line, (unit, colour) in enumerate((("seconds", BLUE), ("MiB", ORANGE))):
                ax, values = sheet.axes[line, column], np.array(of[unit]) * (1000 if unit == "seconds" else 1)
                ax.plot(sizes, values, "o-", color=colour, markersize=4)
                ax.plot(sizes, values[-1] * sizes / sizes[-1], "--", color=GRID, zorder=0, label="in proportion")
                ax.set(xscale="log", yscale="log")
                ax.set_xticks(sizes, [f"{size:g}" for size in sizes], fontsize=8)
                ax.minorticks_off()
                ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                ax.grid(color=GRID, linewidth=0.5)
                if column == 0:
                    ax.set_ylabel("milliseconds a step" if unit == "seconds" else "memory (MiB)")
                if line == 1:
                    ax.set_xlabel(axis + (" a node" if axis == "particles" else ""))
        sheet.axes[0, 0].legend(fontsize=7.5)
    text: str = sheet.svg

    return text
