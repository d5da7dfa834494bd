"""Base of all dynamics models: interpolation, forecasts and scores from `advance`, and files of weights."""

import math
from abc import ABC, abstractmethod
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from ndt.config.dynamics import VELOCITIES
from ndt.config.reader import fill_config
from ndt.dynamics.distances import roll_out, score
from ndt.dynamics.interpolants import transport_pairs
from ndt.dynamics.periodic import nearest, wrap
from ndt.dynamics.potentials import Scales
from ndt.dynamics.snapshots import Snapshot, Snapshots
from ndt.errors import InputError
from ndt.model.checkpoint import load_weights, save_weights, shapes_of, write_json
from ndt.parsing import read_json
from ndt.schema import Within

__all__ = ["Head", "read_shape", "read_weights", "save_model"]

Array = NDArray[np.float64]

C = TypeVar("C")


class _Saved(TypedDict):
    method: str
    config: dict[str, Any]
    num_dims: Annotated[int, Within(1, 10_000)]
    num_parameters: Annotated[int, Within(0, 10_000)]
    periodic: list[bool]
    velocity: NotRequired[Literal[VELOCITIES]]  # type: ignore[valid-type]
    step: NotRequired[Annotated[float, Within(0)]]


class Head(ABC):
    """A model that advances populations in time. Simulations never start from a held-out snapshot."""

    @abstractmethod
    def advance(
        self, snapshot: Snapshot, times: ArrayLike, mu: ArrayLike | None = None, *, seed: int = 0, **options: Any
    ) -> Array:
        """Advances a snapshot's samples to times, of which its own is the first; shape (T, N, d)."""

    def motion(
        self, snapshot: Snapshot, times: ArrayLike, mu: ArrayLike | None = None, *, seed: int = 0, **options: Any
    ) -> tuple[Array, Array | None]:
        """Returns what `advance` does, and the velocities if the model's particles have their own."""
        return self.advance(snapshot, times, mu, seed=seed, **options), None

    def interpolate(
        self, snapshots: Snapshots, times: ArrayLike, trajectory: int = 0, *, endpoint_conditioned: bool = False,
        **options: Any,
    ) -> Array:  # fmt: skip
        """Returns samples at times, each advanced from the latest snapshot before it; shape (T, N, d).

        Arguments:
            snapshots: Where simulations start.
            times: Times T, in any order.
            trajectory: Index of the trajectory.
            endpoint_conditioned: Whether paths are corrected so that they end in the next snapshot, if there is one.
                The error at its time, paired by optimal transport, is spread over the path: by a cubic that also
                matches the snapshot's velocities if model and snapshot have them, else in proportion to time.
            options: Options of the simulation.
        """
        known, mu = _known(snapshots, trajectory), snapshots.mu[trajectory]
        times, moments = np.asarray(times, np.float64), np.array([s.time for s in known])
        if np.any(times < moments[0]):
            raise InputError("interpolate", "times", f"at least {moments[0]:g}, the first snapshot's", times.min())
        parts: dict[int, Array] = {}  # by index in `times`: (N, d)
        for k in np.unique(start := np.searchsorted(moments, times, side="right") - 1):
            mine = np.flatnonzero(start == k)
            last = moments[k + 1 : k + 2] if endpoint_conditioned else moments[:0]
            steps, index = np.unique(np.concatenate([[moments[k]], times[mine], last]), return_inverse=True)
            path, velocity = self.motion(known[k], steps, mu, **options)
            if len(last):
                path = _conditioned(path, velocity, steps, known[k + 1], snapshots.period)
            parts |= zip(mine.tolist(), path[index[1 : 1 + len(mine)]], strict=True)
        n = min(len(part) for part in parts.values())

        return np.stack([parts[i][:n] for i in range(len(times))])

    def forecast(
        self, snapshots: Snapshots, times: ArrayLike, trajectory: int = 0, *,
        forecast_from: Literal["first", "last"] = "last", **options: Any,
    ) -> Array:  # fmt: skip
        """Returns samples at times after a trajectory's last snapshot, shape (T, N, d).

        Arguments:
            snapshots: Where simulations start.
            times: Times T, ascending.
            trajectory: Index of the trajectory.
            forecast_from: Whether to start at the ``first`` or the ``last`` snapshot.
            options: Options of the simulation.
        """
        known, times = _known(snapshots, trajectory), np.asarray(times, np.float64)
        if np.any(times <= known[-1].time):
            raise InputError("forecast", "times", f"after {known[-1].time:g}, the last snapshot's", times.min())
        start = known[0 if forecast_from == "first" else -1]

        return self.advance(start, [start.time, *times], snapshots.mu[trajectory], **options)[1:]

    def score(self, snapshots: Snapshots, *, seed: int = 0, **options: Any) -> list[dict[str, float]]:
        """Simulates each trajectory from its first snapshot and scores it; see `ndt.dynamics.distances.score`."""
        return score(roll_out(self.advance, snapshots, seed=seed, **options), snapshots, seed=seed)


def _conditioned(path: Array, velocity: Array | None, times: Array, end: Snapshot, period: Array) -> Array:
    """Returns paths (T, N, d) with the same start that end in the samples of a snapshot at the last time."""
    simulated = Snapshot(end.time, path[-1], None, np.full(len(path[-1]), 1 / len(path[-1])))
    rows, others = transport_pairs(simulated, end, period, np.random.default_rng(0))
    path, error = path[:, rows], nearest(end.x[others] - path[-1, rows], period)
    span = times[-1] - times[0]
    a = ((times - times[0]) / span)[:, None, None]
    if velocity is None or end.velocity is None:
        return wrap(path + a * error, period)
    slope = span * (end.velocity[others] - velocity[-1, rows])

    return wrap(path + (3 * a**2 - 2 * a**3) * error + (a**3 - a**2) * slope, period)


def _known(snapshots: Snapshots, trajectory: int) -> list[Snapshot]:
    held = snapshots.held_out[snapshots.trajectory == trajectory]
    known = [s for s, out in zip(snapshots.of(trajectory), held, strict=True) if not out]

    return known or snapshots.of(trajectory)[:1]  # the start of a trajectory that is held out as a whole


def save_model(folder: str | Path, method: str, model: nn.Module, scales: Scales, config: Any, **more: Any) -> Path:
    """Writes weights and scales to ``model.safetensors`` and what their shapes follow from to ``model.json``.

    Arguments:
        folder: Folder to write to, which is returned.
        method: Name that `read_shape` checks.
        model: Fitted model; `scales` are a part of it.
        scales: Scales of the data.
        config: Settings of the model.
        more: Further entries of ``model.json``.
    """
    from ndt import __version__

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model.state_dict(), folder / "model.safetensors")
    shape = {"num_dims": len(scales.centre), "num_parameters": len(scales.mu_mean)}
    periodic = torch.isfinite(scales.period).tolist()
    versions = {"ndt": __version__, "torch": torch.__version__}
    found = {"method": method, "versions": versions, "config": asdict(config), **shape, "periodic": periodic, **more}
    write_json(folder / "model.json", found)

    return folder


def read_shape(
    folder: str | Path, method: str, config: type[C], more: tuple[str, ...] = ()
) -> tuple[C, Scales, dict[str, Any]]:
    """Returns the settings, scales of the right shapes for `read_weights` to fill, and all of ``model.json``.

    Arguments:
        folder: Folder of the model.
        method: Name that `save_model` wrote.
        config: Class of the settings.
        more: Further entries that ``model.json`` must hold.

    Raises:
        InputError: if the file is missing, of another method, or incomplete.
    """
    path = Path(folder) / "model.json"
    found: dict[str, Any] = read_json(path, _Saved)
    if found["method"] != method:
        raise InputError(path, "method", method, found["method"])
    for name in more:
        if name not in found:
            raise InputError(path, name, "an entry of that name", "none")
    d, p = found["num_dims"], found["num_parameters"]
    if len(found["periodic"]) != d:
        raise InputError(path, "periodic", f"a value of each of {d} dimensions", len(found["periodic"]))
    shapes = shapes_of(Path(folder) / "model.safetensors")  # before memory is taken for a model of these sizes
    own = {name: shapes.get(f"scales.{name}") for name in ("centre", "mu_mean")}
    if own != {"centre": (d,), "mu_mean": (p,)}:
        raise InputError(path, "num_dims", "the sizes of model.safetensors", f"{d} and {p} parameters")
    period = np.where(found["periodic"], 1.0, np.inf)
    scales = Scales(np.zeros(d), np.ones(d), period, (0.0, 1.0), np.zeros((1, p)))
    filled = fill_config(config, found["config"], path, "config")
    _check_sizes(filled, shapes, path)

    return filled, scales, found


def _check_sizes(config: Any, shapes: dict[str, tuple[int, ...]], path: Path) -> None:
    """Raises if the potential's network alone has more weights than the file."""
    potential = getattr(config, "potential", None)
    if potential is None and "external" in config.functional.terms:
        potential = config.functional.potential
    least = 0 if potential is None else max(potential.depth - 2, 0) * potential.width**2
    if least > (stored := sum(map(math.prod, shapes.values()))):
        raise InputError(path, "config", f"a network of at most {stored:,} weights, as the file has", f"{least:,}")


def read_weights(model: nn.Module, folder: str | Path) -> None:
    """Reads weights and scales into a model and sets it to evaluation mode, without gradients.

    Periods may be infinite, and so may minus the logarithm of friction.

    Raises:
        InputError: if the file is missing or not of this model, or a scale is not positive.
    """
    path = Path(folder) / "model.safetensors"
    load_weights(model.requires_grad_(False).eval(), path, unbounded=("scales.period", "log_friction"))
    for scales in (module for module in model.modules() if isinstance(module, Scales)):
        for name in ("length", "period", "mu_scale"):
            if not (getattr(scales, name) > 0).all():
                raise InputError(path, f"scales.{name}", "numbers above 0", float(getattr(scales, name).min()))
        if not scales.span[0] < scales.span[1]:
            raise InputError(path, "scales.span", "a first time before the last", scales.span.tolist())
