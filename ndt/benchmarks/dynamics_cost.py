"""``ndt bench dynamics_cost``: seconds of one optimisation step of HOAM and of WLM against problem size."""

import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from ndt.benchmarks.timing import interleaved, row
from ndt.config import BenchConfig
from ndt.config.dynamics import FunctionalConfig, HOAMConfig, PotentialConfig, WLMConfig
from ndt.dynamics.batches import Batch
from ndt.dynamics.hoam import HOAM
from ndt.dynamics.interpolants import interpolants
from ndt.dynamics.lagrangian import Lagrangian
from ndt.dynamics.losses import loss_of
from ndt.dynamics.potentials import Potential, scales_of
from ndt.dynamics.snapshots import Snapshots
from ndt.train.studies import run_all

__all__ = ["dynamics_cost"]

BASE = {"particles": 64, "dimensions": 4, "nodes": 16}
AXES: Mapping[str, tuple[int, ...]] = {
    "particles": (64, 128, 256, 512, 1024, 2048),
    "dimensions": (4, 8, 16, 32, 64, 128),
    "nodes": (16, 32, 64, 128, 256, 512),
}
SIZES = (250, 500, 1000, 2000, 4000, 8000, 16000, 32000)
ROLLOUTS: Mapping[str, tuple[str, str, int]] = {  # a term, a loss, and the largest number of particles
    "external.assignment": ("external", "assignment", 1000),
    "attention.sinkhorn": ("attention", "sinkhorn", 2000),
    "external.sliced": ("external", "sliced", SIZES[-1]),
    "deep_sets.sliced": ("deep_sets", "sliced", SIZES[-1]),
}
POTENTIAL = PotentialConfig(kind="concat", width=32, depth=3, time_frequencies=0)


def dynamics_cost(config: BenchConfig) -> list[dict[str, Any]]:
    """Measures a step of fitting, without the optimiser's update, at growing sizes on one thread.

    For HOAM each axis grows by itself from 64 particles, 4 dimensions and 16 nodes. For WLM a step is a rollout of five
    solver steps in two dimensions, its loss and gradient. A row's value is the time at the largest size and its peer
    the time at half that size; rows of ``exponent`` have the slope of log time over the last factor of four.
    """
    return run_all([lambda: _rows(config)], 1, "timing", progress=False)[0]


def _rows(config: BenchConfig) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for axis, sizes in AXES.items():
        steps = {size: _hoam_step(**{**BASE, axis: size}) for size in sizes}
        rows += _grown(f"dynamics_cost.hoam.{axis}", steps, config.repeats)
    for name, (term, loss, most) in ROLLOUTS.items():
        rollouts = {size: _wlm_step(term, loss, size) for size in SIZES if size <= most}
        rows += _grown(f"dynamics_cost.wlm.{name}", rollouts, config.repeats)

    return rows


def _grown(name: str, steps: Mapping[int, Callable[[], None]], repeats: int) -> list[dict[str, Any]]:
    """Returns rows of seconds and of their growth, from steps by size."""
    sizes = list(steps)
    taken = [statistics.median(interleaved({"step": step}, repeats)["step"]) for step in steps.values()]
    k = min(3, len(sizes))
    exponent = math.log(taken[-1] / taken[-k]) / math.log(sizes[-1] / sizes[-k])

    return [
        row(f"{name}.seconds.{sizes[-1]}", taken[-1:], "s", f"{sizes[-2]}", taken[-2:-1])
        | {"sizes": sizes, "values": taken},
        row(f"{name}.exponent", [exponent], "exponent"),
    ]


def _hoam_step(particles: int, dimensions: int, nodes: int) -> Callable[[], None]:
    rng = np.random.default_rng(0)
    seen = Snapshots.from_arrays(rng.normal(size=(1, 3, 4096, dimensions)), [0.0, 0.5, 1.0], paired=True)
    config = HOAMConfig(noise=0.1, num_nodes=nodes, num_particles=particles)
    model, paths = HOAM(config), interpolants(seen, "paths", rng)
    potential, probes = Potential(config.potential, scales_of(seen)), torch.Generator().manual_seed(0)

    def step() -> None:
        potential.zero_grad()
        model._loss(potential, Batch.drawn(paths, seen.mu, config, rng), probes).mean().backward()  # type: ignore[no-untyped-call]

    return step


def _wlm_step(term: str, loss: str, size: int) -> Callable[[], None]:
    rng = np.random.default_rng(0)
    x, y = (torch.as_tensor(rng.normal(size=(size, 2)), dtype=torch.float32) for _ in range(2))
    seen = Snapshots.from_arrays(np.stack([x.numpy(), y.numpy()]), [0.0, 1.0])
    functional = FunctionalConfig(terms=(term,), potential=POTENTIAL, width=32)
    model = Lagrangian(WLMConfig(functional=functional), scales_of(seen), learned=False)
    compared = loss_of(loss, size, size)

    def step() -> None:
        found, _ = model.roll(x, torch.zeros_like(x), np.array([0.0, 1.0]), torch.zeros(0), 0.2)
        compared(found[1], y).backward()  # type: ignore[no-untyped-call]

    return step
