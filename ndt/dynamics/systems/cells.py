"""Embryoid bodies: cells of human embryonic stem cells that differentiate, in five samples over 27 days.

The file is that of the literature (``eb_velocity_v5.npz``): ``pcs`` (R, 100), principal components of each cell's
expression, ``pcs_delta`` (R, 100), their RNA velocity, and ``sample_labels`` (R,), the sample 0 to 4. It is not
shipped; `stand_in` writes one of the same arrays, of a population that grows along a stem and branches in two.

References: Moon et al. (2019), Visualizing structure and transitions in high-dimensional biological data,
https://doi.org/10.1038/s41587-019-0336-3; Tong et al. (2020), TrajectoryNet, https://arxiv.org/abs/2002.04461
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ndt.dynamics.snapshots import Snapshots
from ndt.errors import InputError

__all__ = ["embryoid", "stand_in"]

ARRAYS = ("pcs", "pcs_delta", "sample_labels")
SAMPLES = 5


def embryoid(
    path: str | Path, num_dims: int = 5, held_out: Sequence[float] = (), *, scale: str = "fitted"
) -> Snapshots:
    """Reads cells as snapshots at times 0 to 4, with their RNA velocity.

    Arguments:
        path: The file.
        num_dims: Principal components that are kept, the first.
        held_out: Samples that are kept from fitting.
        scale: Components are centred and divided by the deviation of cells that are ``fitted``, or of ``all``, as
            published scores have it; these have seen the cells they are tested on.

    Raises:
        InputError: if the file or an array is missing, or shapes or labels disagree.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: np.asarray(file[name]) for name in ARRAYS if name in file.files}
    except (OSError, ValueError) as error:
        raise InputError(path, "content", "an .npz file of arrays", error) from error
    for name in ARRAYS:
        if name not in found:
            raise InputError(path, name, "an array of that name", ", ".join(found) or "none")
    x, velocity, label = found["pcs"], found["pcs_delta"], found["sample_labels"]
    if x.ndim != 2 or velocity.shape != x.shape or label.shape != x.shape[:1]:
        raise InputError(path, "shapes", "(R, D), (R, D) and (R,)", f"{x.shape}, {velocity.shape}, {label.shape}")
    if not 1 <= num_dims <= x.shape[1]:
        raise InputError(path, "pcs", f"at least {num_dims} components", x.shape[1])
    levels = np.unique(label)
    if len(levels) < 2 or not set(held_out) < set(levels.tolist()):
        raise InputError(path, "sample_labels", f"two or more samples, among them {list(held_out)}", levels.tolist())
    if scale not in ("fitted", "all"):
        raise InputError("embryoid", "scale", "fitted or all", scale)
    x, velocity = (v[:, :num_dims].astype(np.float64) for v in (x, velocity))
    seen = x if scale == "all" else x[~np.isin(label, held_out)]
    centre, width = seen.mean(0), np.maximum(seen.std(0), 1e-12)
    rows = [label == level for level in levels]

    return Snapshots.from_arrays(
        [((x - centre) / width)[row] for row in rows], levels.astype(float),
        velocity=[(velocity / width)[row] for row in rows], held_out_times=held_out,
    )  # fmt: skip


def stand_in(path: str | Path, num_cells: int = 2000, num_dims: int = 100, seed: int = 0) -> Path:
    """Writes cells that grow along a stem and, from the second sample on, along either of two branches.

    Arguments:
        path: The .npz file to write.
        num_cells: Cells of all samples; these have unlike shares of them, as in the experiment.
        num_dims: Components; five of them carry the tree, the others noise that becomes less and less.
        seed: Of all that is drawn.
    """
    rng = np.random.default_rng(seed)
    label = rng.choice(SAMPLES, num_cells, p=[0.14, 0.23, 0.2, 0.22, 0.21])
    age = label + rng.normal(0, 0.2, num_cells)
    side, other = (rng.choice([-1.0, 1.0], num_cells) for _ in range(2))
    grown = np.maximum(age - 1, 0)  # since the first branch
    later = np.maximum(age - 2.5, 0)
    tree = np.stack([2 * age, 1.2 * side * grown, 0.5 * np.sin(age), 0.8 * later * other, 0.2 * age**2], 1)
    moves = np.stack(
        [np.full(num_cells, 2.0), 1.2 * side * (age > 1), 0.5 * np.cos(age), 0.8 * other * (age > 2.5), 0.4 * age], 1
    )
    noise = 0.4 / np.sqrt(1 + np.arange(num_dims) / 5)
    pcs = noise * rng.normal(size=(num_cells, num_dims))
    delta = 0.1 * noise * rng.normal(size=(num_cells, num_dims))
    pcs[:, : tree.shape[1]] += tree[:, :num_dims]
    delta[:, : tree.shape[1]] += moves[:, :num_dims]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez_compressed(file, pcs=pcs, pcs_delta=delta, sample_labels=label)

    return path
