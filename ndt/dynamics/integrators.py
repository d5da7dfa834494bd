"""Solvers of dX = f(X, t) dt + eps dW for many samples at once; without noise they are those of ordinary equations."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ndt.errors import InputError

__all__ = ["METHODS", "integrate"]

Drift = Callable[[Tensor, float], Tensor]
METHODS = ("euler", "heun", "rk4")


def integrate(
    drift: Drift,
    x0: Float[Tensor, "M N d"],
    times: NDArray[np.float64],
    *,
    step: float,
    method: str = "heun",
    noise: float = 0.0,
    period: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "M T N d"]:
    """Returns samples at all times.

    Euler and Maruyama's scheme is of order 1 in the mean of smooth functions, Heun's of order 2 (its noise is that of a
    constant eps), Runge and Kutta's of order 4, without noise only.

    Arguments:
        drift: Velocity of samples (M, N, d) at a time.
        x0: Samples at the first time.
        times: Times T, ascending.
        step: Longest step; between two times all are equal.
        method: One of `METHODS`.
        noise: Diffusion eps.
        period: Period of each dimension, infinite where there is none; samples come back within [0, period).
        generator: Source of the noise.

    Raises:
        InputError: if the method is unknown or does not allow noise, or times do not ascend.
    """
    if method not in METHODS:
        raise InputError("simulate", "method", f"one of {', '.join(METHODS)}", method)
    if method == "rk4" and noise:
        raise InputError("simulate", "method", "euler or heun where there is noise", method)
    if times.ndim != 1 or not len(times) or not np.all(np.diff(times) > 0) or not step > 0:
        raise InputError("simulate", "times", "one or more, each later than the one before", times.tolist())
    frames, x = [x0], x0
    for start, end in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        num = max(1, int(np.ceil((end - start) / step - 1e-9)))
        h = (end - start) / num
        for i in range(num):
            push = torch.randn(x.shape, generator=generator, dtype=x.dtype) * (noise * h**0.5) if noise else 0.0
            x = _STEPS[method](drift, x, start + i * h, h, push)
            if period is not None:
                x = _wrapped(x, period)
        frames.append(x)

    return torch.stack(frames, 1)


def _euler(drift: Drift, x: Tensor, t: float, h: float, push: Tensor | float) -> Tensor:
    return x + h * drift(x, t) + push


def _heun(drift: Drift, x: Tensor, t: float, h: float, push: Tensor | float) -> Tensor:
    first = drift(x, t)
    second = drift(x + h * first + push, t + h)

    return x + h / 2 * (first + second) + push


def _rk4(drift: Drift, x: Tensor, t: float, h: float, push: Tensor | float) -> Tensor:
    del push  # there is none
    a = drift(x, t)
    b = drift(x + h / 2 * a, t + h / 2)
    c = drift(x + h / 2 * b, t + h / 2)
    d = drift(x + h * c, t + h)

    return x + h / 6 * (a + 2 * b + 2 * c + d)


_STEPS = {"euler": _euler, "heun": _heun, "rk4": _rk4}


def _wrapped(x: Tensor, period: Tensor) -> Tensor:
    around = torch.isfinite(period)
    if not around.any():
        return x
    safe = torch.where(around, period, torch.ones_like(period))

    return torch.where(around, torch.remainder(x, safe), x)
