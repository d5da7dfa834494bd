"""Snapshots: samples of populations at several times, unpaired and of any size, or paths of the same particles."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ndt.dynamics.periodic import wrap
from ndt.errors import InputError
from ndt.parsing import read_npz

__all__ = ["Snapshot", "Snapshots"]

Array = NDArray[np.float64]
LARGEST = 1e18  # magnitude of a number; its square fits into single precision

# S = snapshots, R = samples of all of them, d = dimensions, M = trajectories, p = parameters


class Snapshot(NamedTuple):
    """One population at one time: time, samples (N, d), velocities (N, d) if known, and normalised weights (N,)."""

    time: float
    x: Array
    velocity: Array | None
    weight: Array

    def rows(self, num: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Returns rows of `num` random samples, or of all in order if there are fewer; by weight if weights differ."""
        size = len(self.x)
        if np.ptp(self.weight) > 0:
            return rng.choice(size, min(num, size), p=self.weight)

        return np.arange(size) if size <= num else rng.choice(size, num, replace=False)

    @property
    def mean(self) -> Array:
        """Weighted mean, shape (d,)."""
        return np.asarray(self.weight @ self.x)

    @property
    def std(self) -> Array:
        """Weighted standard deviation of each dimension, shape (d,)."""
        return np.asarray(np.sqrt(self.weight @ (self.x - self.mean) ** 2))


@dataclass(frozen=True, kw_only=True)
class Snapshots:
    """Samples of populations, concatenated over snapshots, sorted by trajectory, then by time.

    A trajectory is one population under its own parameters. Its snapshots may have any times and numbers of samples.

    Arguments:
        x: Samples of all snapshots, shape (R, d).
        start: First row of each snapshot, and R at the end, shape (S + 1,).
        time: Time of each snapshot, shape (S,).
        trajectory: Trajectory of each snapshot, from 0, shape (S,).
        mu: Parameters of each trajectory, shape (M, p); p may be 0.
        paired: Whether a row of all snapshots of a trajectory is one particle.
        velocity: Velocities of samples, shape (R, d), if known.
        weight: Weights of samples, shape (R,), not negative; None if equal.
        period: Period of each dimension, infinite if it has none, shape (d,); samples are within [0, period).
        held_out: Whether each snapshot is held out of fitting, shape (S,).

    Raises:
        InputError: if shapes disagree, a value is not finite, a snapshot is empty, or times do not ascend.
    """

    x: Array
    start: NDArray[np.int64]
    time: Array
    trajectory: NDArray[np.int64]
    mu: Array
    paired: bool
    velocity: Array | None = None
    weight: Array | None = None
    period: Array
    held_out: NDArray[np.bool_]

    def __post_init__(self) -> None:
        self._check_shapes()
        for name, values in (("samples", self.x), ("velocities", self.velocity), ("parameters", self.mu)):
            wrong = np.zeros(0, bool) if values is None else ~(np.abs(values) <= LARGEST)
            if wrong.any():
                raise InputError(
                    "snapshots", name, f"finite numbers of at most {LARGEST:g}", f"{int(wrong.sum())} others"
                )
        if self.start[0] or self.start[-1] != len(self.x) or not np.all(np.diff(self.start) > 0):
            raise InputError("snapshots", "samples", "at least one a snapshot", np.diff(self.start).tolist())
        if self.weight is not None and not np.all((self.weight >= 0) & (self.weight <= LARGEST)):
            raise InputError("snapshots", "weights", "numbers of at least 0", "others")
        if not np.all(self.period > 0):
            raise InputError("snapshots", "period", "lengths above 0, infinite for none", self.period.tolist())
        numbers, M = np.unique(self.trajectory), len(self.mu)
        if len(numbers) != M or not np.all(numbers == np.arange(M)) or np.any(np.diff(self.trajectory) < 0):
            raise InputError("snapshots", "trajectory", f"0 to {M - 1} in this order, as there are parameters", numbers)
        for m in range(len(self.mu)):
            mine = self.trajectory == m
            t, sizes = self.time[mine], np.diff(self.start)[mine].tolist()
            if not np.all(np.diff(t) > 0) or not np.all(np.abs(t) <= LARGEST):
                raise InputError("snapshots", f"times of trajectory {m}", "each later than the one before", t.tolist())
            if self.paired and len(set(sizes)) > 1:
                raise InputError("snapshots", f"samples of trajectory {m}", "equal numbers, as they are paired", sizes)

    def _check_shapes(self) -> None:
        """Raises unless arrays hold numbers, in shapes that fit together."""
        R, S, d = len(self.x), len(self.time), self.x.shape[-1] if self.x.ndim == 2 else 0
        shapes = {
            "x": (R, d), "start": (S + 1,), "time": (S,), "velocity": (R, d), "weight": (R,), "period": (d,),
            "trajectory": (S,), "held_out": (S,), "mu": (len(self.mu), *self.mu.shape[1:2]),
        }  # fmt: skip
        for name, shape in shapes.items():
            values = getattr(self, name)
            if values is None:
                continue
            kinds = {"start": "iu", "trajectory": "iu", "held_out": "b"}.get(name, "fiu")
            if values.dtype.kind not in kinds:
                raise InputError("snapshots", name, f"numbers of kind {' or '.join(kinds)}", values.dtype)
            _same(name, values.shape, shape)
        if not S or not d or self.mu.ndim != 2:
            raise InputError(
                "snapshots", "shapes", "samples (R, d) and parameters (M, p)", f"{self.x.shape}, {self.mu.shape}"
            )

    @classmethod
    def from_arrays(
        cls, x: Any, time: Any, mu: ArrayLike | None = None, *, velocity: Any = None, weight: Any = None,
        paired: bool = False, period: ArrayLike | None = None, held_out_times: Sequence[float] = (),
        held_out_mu: Sequence[Any] = (),
    ) -> "Snapshots":  # fmt: skip
        """Builds snapshots from arrays or nested lists.

        Arguments:
            x: Array (T, N, d) or list of T arrays (N_i, d) for one trajectory; array (M, T, N, d) or list of M such
                arrays or lists for several.
            time: Times (T,), common to all trajectories, or a list of the times of each.
            mu: Parameters of each trajectory: (M,) or (M, p).
            velocity: As `x`.
            weight: As `x` without its last dimension.
            paired: Whether row i is the same particle in all snapshots of a trajectory.
            period: Period of each dimension; 0, None or infinity for none.
            held_out_times: Times of held-out snapshots, in all trajectories.
            held_out_mu: Parameters of trajectories to hold out as a whole.

        Example:
            >>> len(Snapshots.from_arrays(np.zeros((3, 5, 2)), [0.0, 0.5, 1.0]))
            3
        """
        populations = _trajectories(x, 2, "samples")
        M = len(populations)
        times = _times(time, M)
        flat = [s for population in populations for s in population]
        d = flat[0].shape[-1]
        for m, (population, t) in enumerate(zip(populations, times, strict=True)):
            _same(f"snapshots of trajectory {m}", (len(population),), (len(t),))
        _same("dimensions of snapshots", tuple(sorted({s.shape[-1] for s in flat})), (d,))
        parameters = np.zeros((M, 0)) if mu is None else np.asarray(mu, np.float64).reshape(np.shape(mu)[0], -1)
        _same("mu", (len(parameters),), (M,))
        moment, trajectory = np.concatenate(times), np.repeat(np.arange(M), [len(t) for t in times])
        held = np.isin(moment, np.asarray(held_out_times, np.float64))
        for each in (np.asarray(each, np.float64).ravel() for each in held_out_mu):
            same = np.all(parameters == each, axis=1) if parameters.shape[1] == len(each) else np.zeros(M, bool)
            if not same.any():
                expected = f"parameters of a trajectory: {parameters.tolist()}"
                raise InputError("snapshots", "held_out_mu", expected, each)
            held |= same[trajectory]

        lengths = np.full(d, np.inf) if period is None else _periods(period)
        _same("period", lengths.shape, (d,))

        return cls(
            x=wrap(np.concatenate(flat), lengths), start=np.concatenate([[0], np.cumsum([len(s) for s in flat])]),
            time=moment, trajectory=trajectory, mu=parameters, paired=paired, period=lengths, held_out=held,
            velocity=None if velocity is None else _joined(velocity, 2, "velocities"),
            weight=None if weight is None else _joined(weight, 1, "weights"),
        )  # fmt: skip

    @classmethod
    def from_npz(cls, path: str | Path) -> "Snapshots":
        """Reads a file of `to_npz`, or arrays ``x`` and ``time`` and others that `from_arrays` takes."""
        found: dict[str, Any] = read_npz(path, ("x", "time"))
        if np.size(found.get("paired", False)) != 1:
            raise InputError(path, "paired", "true or false", found["paired"].shape)
        found["paired"] = bool(np.ravel(found.get("paired", False))[0])
        try:
            return cls(**found) if "start" in found else cls.from_arrays(**found)
        except InputError as error:
            raise InputError(path, error.field, error.expected, error.found) from error
        except (TypeError, ValueError, IndexError) as error:
            raise InputError(path, "content", "the arrays of snapshots", error) from error

    def to_npz(self, path: str | Path) -> Path:
        """Writes the arrays to a file and returns its path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.npz")
        arrays = {name: value for name, value in vars(self).items() if value is not None}
        np.savez_compressed(temporary, **arrays)
        temporary.replace(path)

        return path

    def __len__(self) -> int:
        return len(self.time)

    def __getitem__(self, i: int) -> Snapshot:
        rows = slice(self.start[i], self.start[i + 1])
        weight = np.ones(len(self.x[rows])) if self.weight is None else self.weight[rows]

        return Snapshot(
            float(self.time[i]), self.x[rows], None if self.velocity is None else self.velocity[rows],
            weight / max(weight.sum(), np.finfo(float).tiny),
        )  # fmt: skip

    @property
    def num_trajectories(self) -> int:
        """Number of trajectories M."""
        return len(self.mu)

    @property
    def num_dims(self) -> int:
        """Dimension d of a sample."""
        return self.x.shape[1]

    @property
    def span(self) -> tuple[float, float]:
        """First and last time of all snapshots."""
        return float(self.time.min()), float(self.time.max())

    def of(self, trajectory: int) -> list[Snapshot]:
        """Returns a trajectory's snapshots in the order of time."""
        return [self[int(i)] for i in np.flatnonzero(self.trajectory == trajectory)]

    def select(self, chosen: NDArray[np.bool_]) -> "Snapshots":
        """Returns the chosen snapshots, shape (S,), without trajectories that have none left."""
        if not chosen.any():
            raise InputError("snapshots", "chosen", "at least one snapshot", "none")
        kept, size = np.unique(self.trajectory[chosen]), np.diff(self.start)

        return replace(
            self, **self._samples(np.repeat(chosen, size)), start=np.concatenate([[0], np.cumsum(size[chosen])]),
            time=self.time[chosen], trajectory=np.searchsorted(kept, self.trajectory[chosen]), mu=self.mu[kept],
            held_out=self.held_out[chosen],
        )  # fmt: skip

    def split(
        self, fraction: float, rng: np.random.Generator, least: int = 200
    ) -> tuple["Snapshots", "Snapshots | None"]:
        """Splits off a fraction of each snapshot's samples; paired particles stay paired.

        Arguments:
            fraction: Fraction of samples, below 1.
            rng: Source of the draws.
            least: If a snapshot has fewer samples, or the fraction is 0, all samples and None are returned.
        """
        if not fraction or np.diff(self.start).min() < least:
            return self, None
        apart = np.zeros(len(self.x), bool)
        for m in range(self.num_trajectories):
            for k, i in enumerate(np.flatnonzero(self.trajectory == m)):
                size = int(self.start[i + 1] - self.start[i])
                if k == 0 or not self.paired:
                    rows = rng.permutation(size)[: max(round(fraction * size), 1)]
                apart[self.start[i] + rows] = True

        return self._rows(~apart), self._rows(apart)

    def head(self, num: int) -> "Snapshots":
        """Returns the first `num` samples of each snapshot."""
        index = np.arange(len(self.x)) - np.repeat(self.start[:-1], np.diff(self.start))
        return self._rows(index < num)

    def _rows(self, chosen: NDArray[np.bool_]) -> "Snapshots":
        """Returns chosen samples, shape (R,), of all snapshots."""
        return replace(
            self, **self._samples(chosen), start=np.concatenate([[0], np.cumsum(chosen)[self.start[1:] - 1]])
        )

    def _samples(self, chosen: NDArray[np.bool_]) -> dict[str, Any]:
        arrays = {"x": self.x, "velocity": self.velocity, "weight": self.weight}
        return {name: None if values is None else values[chosen] for name, values in arrays.items()}

    @property
    def fitted(self) -> "Snapshots":
        """Snapshots that are not held out."""
        return self.select(~self.held_out)


def _same(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if tuple(found) != tuple(expected):
        raise InputError("snapshots", name, f"shape {tuple(expected)}", tuple(found))


def _trajectories(x: Any, inner: int, name: str) -> list[list[Array]]:
    """Returns a list of snapshots for each trajectory; a snapshot has `inner` dimensions."""
    try:
        depth = _depth(x)
        if depth == inner + 1:
            x = [x]
        elif depth != inner + 2:
            raise ValueError(f"{depth} dimensions")
        return [[np.asarray(s, np.float64) for s in population] for population in x]
    except (TypeError, ValueError) as error:
        shape = "T, N, d" if inner == 2 else "T, N"
        raise InputError("snapshots", name, f"({shape}) or (M, {shape}), or lists of such", error) from error


def _depth(x: Any) -> int:
    return x.ndim if hasattr(x, "ndim") else 1 + _depth(x[0]) if isinstance(x, list | tuple) and x else 0


def _times(time: Any, num_trajectories: int) -> list[Array]:
    if _depth(time) == 1:
        return [np.asarray(time, np.float64)] * num_trajectories
    times = [np.asarray(t, np.float64) for t in time]
    _same("lists of times", (len(times),), (num_trajectories,))

    return times


def _joined(values: Any, inner: int, name: str) -> Array:
    return np.concatenate([s for population in _trajectories(values, inner, name) for s in population])


def _periods(period: ArrayLike) -> Array:
    found = np.array([np.inf if p is None or p == 0 else p for p in np.ravel(np.asarray(period, object))], np.float64)
    if not np.all(found > 0):
        raise InputError("snapshots", "period", "lengths above 0, or 0 for none", period)

    return found
