"""Readers of published snapshot data: drifters in an ocean vortex, and embryoid bodies.

`drifters` reads ``positions`` (T, N, 2) and ``velocities`` (T, N, 2) of the HYCOM ocean model, Gulf of Mexico, as
Guan, Atanackovic, Neklyudov (2026), https://arxiv.org/abs/2605.08550, arranged them.

`embryoid` reads ``eb_velocity_v5.npz``: human embryonic stem cells that differentiate, five samples over 27 days. It
holds ``pcs`` (R, 100), principal components of each cell's expression, ``pcs_delta`` (R, 100), their RNA velocity, and
``sample_labels`` (R,), 0 to 4. The file is not shipped.

References: Moon et al. (2019), Visualizing structure and transitions in high-dimensional biological data,
https://doi.org/10.1038/s41587-019-0336-3; Tong et al. (2020), TrajectoryNet, https://arxiv.org/abs/2002.04461
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ndt.dynamics.snapshots import Snapshots
from ndt.errors import InputError
from ndt.parsing import read_npz

__all__ = ["STEP", "drifters", "embryoid"]

STEP = 0.9  # time between two snapshots in the unit of the drifters' velocities


def drifters(path: str | Path, held_out_times: Sequence[float] = ()) -> Snapshots:
    """Reads drifters as snapshots at times 0, 1, ..., with velocities per unit of that time.

    Arguments:
        path: The file.
        held_out_times: Times of held-out snapshots.

    Raises:
        InputError: if the file or an array is missing, or shapes disagree.
    """
    found = read_npz(path, ("positions", "velocities"))
    x, velocity = found["positions"], found["velocities"]
    if x.ndim != 3 or x.shape != velocity.shape or {x.dtype.kind, velocity.dtype.kind} - {*"fiu"}:
        raise InputError(path, "shapes", "(T, N, d) twice", f"{x.shape} and {velocity.shape}")
    times = np.arange(len(x), dtype=float)

    return Snapshots.from_arrays(x, times, velocity=STEP * velocity, held_out_times=held_out_times)


def embryoid(path: str | Path, num_dims: int = 5, held_out: Sequence[float] = ()) -> Snapshots:
    """Reads cells as snapshots at times 0 to 4, with their RNA velocity, standardised by the cells that are fitted.

    Arguments:
        path: The file.
        num_dims: Number of leading principal components.
        held_out: Held-out samples.

    Raises:
        InputError: if the file or an array is missing, or shapes or labels disagree.
    """
    found = read_npz(path, ("pcs", "pcs_delta", "sample_labels"))
    x, velocity, label = found["pcs"], found["pcs_delta"], found["sample_labels"]
    numbers = not {v.dtype.kind for v in (x, velocity, label)} - {*"fiu"}
    if x.ndim != 2 or velocity.shape != x.shape or label.shape != x.shape[:1] or not numbers:
        raise InputError(path, "shapes", "(R, D), (R, D) and (R,)", f"{x.shape}, {velocity.shape}, {label.shape}")
    if not 1 <= num_dims <= x.shape[1]:
        raise InputError(path, "pcs", f"at least {num_dims} components", x.shape[1])
    levels = np.unique(label)
    if len(levels) < 2 or not set(held_out) < set(levels.tolist()):
        raise InputError(path, "sample_labels", f"two or more samples, among them {list(held_out)}", levels.tolist())
    x, velocity = (v[:, :num_dims].astype(np.float64) for v in (x, velocity))
    fitted = x[~np.isin(label, held_out)]
    centre, width = fitted.mean(0), np.maximum(fitted.std(0), 1e-12)
    rows = [label == level for level in levels]

    return Snapshots.from_arrays(
        [((x - centre) / width)[row] for row in rows], levels.astype(float),
        velocity=[(velocity / width)[row] for row in rows], held_out_times=held_out,
    )  # fmt: skip
