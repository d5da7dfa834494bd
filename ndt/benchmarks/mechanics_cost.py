"""``ndt bench mechanics_cost``: seconds of a step of fitting mechanics against particles, by functional and loss."""

import math
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.ticker import FuncFormatter, LogLocator

from ndt.benchmarks.timing import row, run_folder
from ndt.config import BenchConfig
from ndt.config_dynamics import FunctionalConfig, PotentialConfig, WLMConfig
from ndt.dynamics.fitting import threads
from ndt.dynamics.lagrangian import Lagrangian
from ndt.dynamics.losses import loss_of
from ndt.dynamics.potentials import scales_of
from ndt.dynamics.snapshots import Snapshots
from ndt.page import write_text
from ndt.plots import BLUE, CRIMSON, GRID, ORANGE, PURPLE, QUIET, page_figure

__all__ = ["WAYS", "mechanics_cost"]

SIZES = (250, 500, 1000, 2000, 4000, 8000, 16000, 32000)
WAYS: Mapping[str, tuple[str, str, int]] = {  # a term, a loss, and the most particles that are tried
    "external, assignment": ("external", "assignment", 1000),
    "attention, Sinkhorn": ("attention", "sinkhorn", 2000),
    "external, sliced": ("external", "sliced", SIZES[-1]),
    "sets, sliced": ("sets", "sliced", SIZES[-1]),
}
COLOURS = dict(zip(WAYS, (ORANGE, PURPLE, BLUE, CRIMSON), strict=True))
POTENTIAL = PotentialConfig(kind="concat", width=32, depth=3, time_frequencies=0)


def mechanics_cost(config: BenchConfig) -> list[dict[str, Any]]:
    """Measures a rollout of five steps, its loss and gradient, in two dimensions on one thread; draws ``cost.svg``.

    A row's value is that of the largest size of a way, its peer the one before it, of half the size: with cost in
    proportion to size their ratio is 2, with its square 4. Rows of ``slope`` have the exponent between a quarter of the
    largest size and it.
    """
    rows: list[dict[str, Any]] = []
    found: dict[str, list[float]] = {}
    with threads(1):
        for name, (term, loss, most) in WAYS.items():
            sizes = [size for size in SIZES if size <= most]
            found[name] = [_seconds(term, loss, size, config.repeats) for size in sizes]
            told = name.replace(", ", ".").lower()
            own, before = found[name][-1:], found[name][-2:-1]
            rows.append(
                row(f"mechanics_cost.{told}.seconds.{sizes[-1]}", own, "s", f"{sizes[-2]}", before)
                | {"sizes": sizes, "values": found[name]}
            )
            slope = math.log(found[name][-1] / found[name][-3]) / math.log(sizes[-1] / sizes[-3])
            rows.append(row(f"mechanics_cost.{told}.slope", [slope], "exponent", None, []))
    with run_folder(config.out) as out:
        Path(out).mkdir(parents=True, exist_ok=True)
        write_text(out / "cost.svg", _drawn(found))

    return rows


def _seconds(term: str, loss: str, size: int, repeats: int) -> float:
    """Returns seconds of a step, the median of some after the first."""
    rng = np.random.default_rng(0)
    x, y = (torch.as_tensor(rng.normal(size=(size, 2)), dtype=torch.float32) for _ in range(2))
    seen = Snapshots.from_arrays(np.stack([x.numpy(), y.numpy()]), [0.0, 1.0])
    functional = FunctionalConfig(terms=(term,), potential=POTENTIAL, width=32)
    model = Lagrangian(WLMConfig(functional=functional), scales_of(seen), learned=False)
    compared, mu, taken = loss_of(loss, size, size), torch.zeros(0), []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        made, _ = model.roll(x, torch.zeros_like(x), np.array([0.0, 1.0]), mu, 0.2)
        compared(made[1], y).backward()  # type: ignore[no-untyped-call]
        taken.append(time.perf_counter() - began)

    return statistics.median(taken[1:])


def _drawn(found: dict[str, list[float]]) -> str:
    """Draws seconds against particles, both on logarithmic axes, beside what grows in proportion and by the square."""
    with page_figure(3.6, 1, 1) as sheet:
        ax = sheet.axes[0, 0]
        for name, values in found.items():
            ax.plot(SIZES[: len(values)], values, "o-", color=COLOURS[name], markersize=4, label=name)
        ends = np.array([2000.0, SIZES[-1]])
        base = found["external, sliced"][3]
        ax.plot(ends, base * ends / ends[0], "--", color=QUIET, zorder=0, label="in proportion")
        ax.plot([ends[0], 8000], [base, base * 16], ":", color=QUIET, zorder=0, label="by the square")
        ax.set(xscale="log", yscale="log", xlabel="particles", ylabel="seconds a step of fitting")
        ax.set_xticks(SIZES, [f"{size:,}" for size in SIZES], fontsize=8)
        ax.minorticks_off()
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.grid(color=GRID, linewidth=0.5)
        ax.legend(fontsize=8)
    text: str = sheet.svg

    return text
