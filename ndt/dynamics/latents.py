"""Latents of a recording as a population that moves: a trial is a particle, from an event on."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.signal import savgol_filter

from ndt.config_dynamics import TrialsConfig
from ndt.dynamics.snapshots import Snapshots
from ndt.errors import InputError

__all__ = ["Rotation", "read_trials", "rotation", "trials"]

# R = bins, D = latents, T = bins of a trial, N = trials, d = components


def trials(
    latents: NDArray[np.floating], time: NDArray[np.float64], onsets: ArrayLike, duration: float, num_components: int,
    smooth: float = 0.0,
) -> tuple[Snapshots, float]:  # fmt: skip
    """Returns trials in their first principal components, and the share of variance that these have.

    Components are those of the bins within trials, scaled by one number so that all together have the variance d.
    Positions and velocities of each trial are those of cubics that are fitted in a window about each bin (Savitzky and
    Golay's filter); without a window, positions are as they are, and velocities central differences.

    Arguments:
        latents: One row a bin, as `ndt embed` exports them, shape (R, D).
        time: Centre of each bin in seconds, shape (R,).
        onsets: Where trials begin, in seconds; trials that a gap cuts are left out.
        duration: How much of each trial is taken, in seconds.
        num_components: Components d.
        smooth: Window of the cubics in seconds, shorter than a trial; 0 for none.

    Raises:
        InputError: if no trial is whole, or there are not as many latents.
    """
    if not 1 <= num_components <= latents.shape[1]:
        raise InputError("latents", "num_components", f"1 to {latents.shape[1]}", num_components)
    whole = Snapshots.from_latents(latents, time, onsets, duration)
    centred = whole.x - whole.x.mean(0)
    _, size, axes = np.linalg.svd(centred, full_matrices=False)
    power = size**2 / len(centred)
    x = centred @ axes[:num_components].T / np.sqrt(power[:num_components].mean())
    paths = x.reshape(len(whole), -1, num_components)  # (T, N, d)
    step = float(np.median(np.diff(whole.time)))
    window = 2 * int(smooth / step / 2) + 1
    if window >= 5:
        if window > len(paths):
            raise InputError("latents", "smooth", f"less than a trial, {len(paths) * step:g} s", smooth)
        velocity = savgol_filter(paths, window, 3, deriv=1, delta=step, axis=0)
        paths = savgol_filter(paths, window, 3, axis=0)
    else:
        velocity = np.gradient(paths, whole.time, axis=0, edge_order=2 if len(whole) > 2 else 1)

    return (
        Snapshots.from_arrays(paths, whole.time, velocity=velocity, paired=True),
        float(power[:num_components].sum() / power.sum()),
    )


class Rotation(NamedTuple):
    """The fastest rotation of paths: its frequency, in Hz where time is in seconds, and R² of the linear system."""

    frequency: float
    r2: float


def rotation(paths: NDArray[np.float64], times: NDArray[np.float64]) -> Rotation:
    r"""Returns the frequency at which a population turns, by the linear system :math:`\dot x = A(x - c)` nearest to it.

    It is the imaginary part over 2π of the eigenvalue of A that has the largest one. A is fitted to central differences
    of the paths by least squares; they are the sines of what they stand for, which is undone.

    Reference: Churchland et al. (2012), Neural population dynamics during reaching,
    https://doi.org/10.1038/nature11129, without their constraint on A.

    Arguments:
        paths: Positions, shape (T, N, d), T at least 3.
        times: Evenly spaced, shape (T,).
    """
    if len(paths) < 3 or len(times) != len(paths):
        raise InputError("rotation", "times", "at least three, as many as positions", len(times))
    h = float(np.mean(np.diff(times)))
    rate = ((paths[2:] - paths[:-2]) / (2 * h)).reshape(-1, paths.shape[2])
    at = np.column_stack([paths[1:-1].reshape(len(rate), -1), np.ones(len(rate))])
    found = np.linalg.lstsq(at, rate, rcond=None)[0]
    left = float(((rate - at @ found) ** 2).sum() / ((rate - rate.mean(0)) ** 2).sum())
    fastest = float(np.abs(np.linalg.eigvals(found[:-1].T).imag).max())

    return Rotation(float(np.arcsin(min(fastest * h, 1.0)) / h / (2 * np.pi)), 1 - left)


def read_trials(path: str | Path, config: TrialsConfig) -> Snapshots:
    """Reads what ``ndt embed`` exported, aligned to an event of the trials of the recording.

    Arguments:
        path: The .npz file.
        config: Of which recording, event and length.

    Raises:
        InputError: if files do not belong together, or there is no such event.
    """
    from ndt.data.read import read

    if not config.nwb:
        raise InputError("settings", "trials.nwb", "the NWB file of the session whose latents these are", "none")
    with np.load(path, allow_pickle=False) as file:
        for name in ("latents", "time", "options"):
            if name not in file.files:
                raise InputError(path, name, "an array of that name, as ndt embed writes it", ", ".join(file.files))
        latents, time, options = file["latents"], file["time"], json.loads(str(file["options"]))
    session = read(config.nwb)
    if session.session_id != options.get("session", session.session_id):
        raise InputError(config.nwb, "session", options["session"], session.session_id)
    if "trials" not in session.intervals:
        raise InputError(config.nwb, "trials", "a table of trials", ", ".join(session.intervals) or "none")
    table = session.intervals["trials"]
    onsets = table.start if config.event == "start_time" else table.end

    return trials(latents, time, onsets, config.duration, config.num_components, config.smooth)[0]
