"""``ndt bench inference``: what a trajectory takes: by one solve, by a solve for each time, by the simulator."""

import time as clock
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.benchmarks.dynamics import SETTINGS, fitted
from ndt.benchmarks.timing import interleaved, row
from ndt.config import StudyConfig
from ndt.dynamics.distances import sliced_w2
from ndt.dynamics.per_time import PerTime
from ndt.dynamics.systems.named import SYSTEMS

__all__ = ["inference"]

SYSTEM, MU, NUM_PARTICLES = "two_stream", 1.25, 2000
SOLVES = {"hoam": (20, 30, 50, 100, 400), "flow": (2, 3, 5, 10, 20)}  # steps: of a trajectory, and of each time
CLOSE = 1.02  # a solve is fine enough whose score is within so much of the finest one's


def inference(out: Path, seeds: int, study: StudyConfig | None = None) -> list[dict[str, Any]]:
    """Times a whole trajectory, 201 snapshots of 2,000 particles, under a parameter that no fit saw.

    Each model is solved by as few steps as leave its score (sliced W2) within 2 % of what its finest solve has. Flow
    matching is timed on every tenth snapshot, and a solve of one knows nothing of another: the whole takes ten times as
    long. Repeats are `seeds`, in turns, on one thread.

    Arguments:
        out: Folder of the study; the fit of ``ndt bench dynamics`` is taken where it is there.
        seeds: Repeats of each timing.
        study: Not used: clocks run one at a time.
    """
    del study
    system, config = SYSTEMS[SYSTEM], SETTINGS[SYSTEM]
    model = fitted(SYSTEM, 0, out)
    peer = PerTime(config.per_time).fit(system.snapshots(config.num_particles, 0))
    times, few = system.times, system.times[::10]
    truth = system.model.simulate([MU], NUM_PARTICLES, times, seed=1)
    first, period = truth.of(0)[0], truth.period
    seen = [s.x for s in truth.of(0)[::10]]

    def flow(steps: int) -> NDArray[np.float64]:
        peer.config = replace(peer.config, solver_steps=steps)
        return peer.advance(first, few, [MU])

    calls: dict[str, Callable[[int], NDArray[np.float64]]] = {
        "hoam": lambda steps: model.advance(first, times, [MU], step=float(times[-1]) / steps)[::10],
        "flow": flow,
    }
    rows: list[dict[str, Any]] = []
    chosen = {name: _finest(name, call, seen, period, rows) for name, call in calls.items()}
    seconds = interleaved(
        {
            "hoam": lambda: calls["hoam"](chosen["hoam"]),
            "flow": lambda: flow(chosen["flow"]),
            "simulator": lambda: system.model.simulate([MU], NUM_PARTICLES, times, seed=1),
        },
        seeds,
    )  # fmt: skip
    seconds["flow"] = [10 * s for s in seconds["flow"]]
    for name in ("flow", "simulator"):
        rows.append(row(f"inference.hoam.{chosen['hoam']}_steps", seconds["hoam"], "s", name, seconds[name]))

    return rows


def _finest(
    name: str, solve: Callable[[int], NDArray[np.float64]], seen: list[NDArray[np.float64]],
    period: NDArray[np.float64], rows: list[dict[str, Any]],
) -> int:  # fmt: skip
    """Returns the fewest steps that are as good as the most, and adds a row for score and seconds of each number."""
    scores = {}
    for steps in SOLVES[name]:
        began = clock.perf_counter()
        made = solve(steps)
        taken = (clock.perf_counter() - began) * (10 if name == "flow" else 1)
        apart = [sliced_w2(a, b, period=period) for a, b in zip(made[1:], seen[1:], strict=True)]
        scores[steps] = float(np.mean(apart))
        rows.append(row(f"inference.{name}.{steps}_steps.score", [scores[steps]], "sliced W2"))
        rows.append(row(f"inference.{name}.{steps}_steps.seconds", [taken], "s"))

    return min(steps for steps, value in scores.items() if value <= CLOSE * scores[SOLVES[name][-1]])
