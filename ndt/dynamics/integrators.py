"""Solvers of dX = f(X, t) dt + eps dW for many samples; without noise, of ordinary differential equations."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ndt.errors import InputError

__all__ = ["METHODS", "integrate", "num_steps"]

Drift = Callable[[Tensor, float], Tensor]
METHODS = ("euler", "heun")
MOST_STEPS = 1_000_000  # of a simulation between two times


def integrate(
    drift: Drift, x0: Float[Tensor, "N d"], times: NDArray[np.float64], *, step: float, method: str = "heun",
    noise: float = 0.0, period: Tensor | None = None, generator: torch.Generator | None = None,
) -> Float[Tensor, "T N d"]:  # fmt: skip
    """Returns samples at all times.

    The Euler-Maruyama scheme is of weak order 1, Heun's of order 2 (for a constant eps). Without noise, steps are equal
    over the whole span and values between them are those of the cubic Hermite interpolant, so that the cost does not
    depend on the number of times. With noise, steps end at the times.

    Arguments:
        drift: Velocity of samples (N, d) at a time.
        x0: Samples at the first time.
        times: Times T, ascending.
        step: Longest step.
        method: One of `METHODS`.
        noise: Diffusion eps.
        period: Period of each dimension, infinite if it has none; samples are wrapped into [0, period).
        generator: Source of the noise.

    Raises:
        InputError: if the method is unknown, or times do not ascend.
    """
    if method not in METHODS:
        raise InputError("simulate", "method", f"one of {', '.join(METHODS)}", method)
    if times.ndim != 1 or not len(times) or not np.all(np.diff(times) > 0) or not step > 0:
        raise InputError("simulate", "times", "one or more, each later than the one before", times.tolist())
    if not noise:
        return _wrapped(_smooth(drift, x0, times, step, method), period)
    frames, x = [x0], x0
    for start, end in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        num = num_steps(end - start, step)
        h = (end - start) / num
        for i in range(num):
            push = torch.randn(x.shape, generator=generator, dtype=x.dtype) * (noise * h**0.5)
            t = start + i * h
            x = _wrapped(_step(method, drift, x, t, h, drift(x, t), push), period)
        frames.append(x)

    return torch.stack(frames)


def num_steps(span: float, step: float) -> int:
    """Returns the number of equal steps, none longer than `step`, that fill a span; at least 1.

    Raises:
        InputError: if they are more than `MOST_STEPS`.
    """
    if not span <= step * MOST_STEPS:
        raise InputError("simulate", "times", f"at most {MOST_STEPS:,} steps of {step:g}", f"a span of {span:g}")

    return max(1, int(np.ceil(span / step - 1e-9)))


def _smooth(drift: Drift, x0: Tensor, times: NDArray[np.float64], step: float, method: str) -> Tensor:
    """Returns solutions without noise at all times, (T, N, d); they are not wrapped."""
    begin, last = float(times[0]), float(times[-1])
    num = num_steps(last - begin, step)
    h = (last - begin) / num
    index = np.minimum(((times - begin) / h).astype(int), num - 1) if h else np.zeros(len(times), int)
    frames, x, speed = [x0], x0, drift(x0, begin)
    for i in range(num if len(times) > 1 else 0):
        new = _step(method, drift, x, begin + i * h, h, speed)
        after = drift(new, begin + (i + 1) * h)
        for time in times[1:][index[1:] == i].tolist():
            a = (time - begin) / h - i
            bend = (a**3 - 2 * a**2 + a) * h * speed + (3 * a**2 - 2 * a**3) * (new - x) + (a**3 - a**2) * h * after
            frames.append(x + bend)
        x, speed = new, after

    return torch.stack(frames)


def _step(
    method: str, drift: Drift, x: Tensor, t: float, h: float, first: Tensor, push: Tensor | float = 0.0
) -> Tensor:
    """Returns samples after a step of h; `first` is the drift at its start and `push` its noise."""
    if method == "euler":
        return x + h * first + push

    return x + h / 2 * (first + drift(x + h * first + push, t + h)) + push


def _wrapped(x: Tensor, period: Tensor | None) -> Tensor:
    if period is None or not (around := torch.isfinite(period)).any():
        return x
    safe = torch.where(around, period, torch.ones_like(period))

    return torch.where(around, torch.remainder(x, safe), x)
