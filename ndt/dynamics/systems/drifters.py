"""Drifters in an ocean's vortex: positions and velocities in a file, snapshot by snapshot.

The file is that of the literature: ``positions`` (T, N, 2), of a scale of its own, and ``velocities`` (T, N, 2), of
which 0.9 lie between two times: of the public HYCOM ocean model, the Gulf of Mexico. Reference: Guan, Atanackovic,
Neklyudov (2026), https://arxiv.org/abs/2605.08550, who arranged it.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ndt.dynamics.snapshots import Snapshots
from ndt.errors import InputError

__all__ = ["STEP", "drifters"]

STEP = 0.9  # time that velocities are by, between two snapshots


def drifters(path: str | Path, held_out_times: Sequence[float] = ()) -> Snapshots:
    """Reads the file as snapshots at times 0, 1, ..., with velocities by these times.

    Arguments:
        path: The file.
        held_out_times: Snapshots that are kept from fitting.

    Raises:
        InputError: if the file or an array is missing, or shapes disagree.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: np.asarray(file[name]) for name in ("positions", "velocities") if name in file.files}
    except (OSError, ValueError) as error:
        raise InputError(path, "content", "an .npz file of arrays", error) from error
    for name in ("positions", "velocities"):
        if name not in found:
            raise InputError(path, name, "an array of that name", ", ".join(found) or "none")
    x, velocity = found["positions"], STEP * found["velocities"]
    if x.ndim != 3 or x.shape != velocity.shape:
        raise InputError(path, "shapes", "(T, N, d) twice", f"{x.shape} and {velocity.shape}")

    return Snapshots.from_arrays(
        x, np.arange(len(x), dtype=float), velocity=velocity, held_out_times=held_out_times
    )  # fmt: skip
