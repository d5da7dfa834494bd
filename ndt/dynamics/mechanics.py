r"""Particles that obey :math:`\ddot x = a(x, t) - \gamma\,\dot x`, of the second order for every friction.

A step of h is a half kick, a drift and a half kick, with one force:

.. math:: v \leftarrow m v + c\,a(x), \quad x \leftarrow x + h v, \quad v \leftarrow m v + c\,a(x),
   \qquad m = e^{-\gamma h / 2},\; c = \frac{1 - m}{\gamma}

A kick solves :math:`\dot v = a - \gamma v` exactly. Without friction it is Verlet's leapfrog, which runs backwards and
keeps energy. In the scale of ``mobility`` forces are (1 + γ) a: without friction that is the same, and with ever more
of it velocities become a, a gradient flow; γ may then travel from one to the other while it is learned, and the
physical potential is (1 + γ) times the fitted one.

Reference: Guan, Atanackovic, Neklyudov (2026), A call to Lagrangian action: learning population mechanics from temporal
snapshots, https://arxiv.org/abs/2605.08550, whose kick is of the first order; this one follows from the equation.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ndt.errors import InputError

__all__ = ["SCALES", "kick", "roll"]

Force = Callable[[Tensor, float], Tensor]
SCALES = ("physical", "mobility")


def kick(gamma: Tensor, h: float, scale: str = "physical") -> tuple[Tensor, Tensor]:
    """Returns what half a step leaves of a velocity, m, and the share of the force that it adds, c."""
    half = gamma * (h / 2)
    small = half < 1e-4
    share = torch.where(small, 1 - half / 2, -torch.expm1(-half) / torch.where(small, torch.ones_like(half), half))
    c = share * (h / 2)

    return torch.exp(-half), c * (1 + gamma) if scale == "mobility" else c


def roll(
    force: Force,
    x: Float[Tensor, "*B N d"],
    v: Float[Tensor, "*B N d"],
    times: NDArray[np.float64],
    gamma: Tensor | float = 0.0,
    *,
    step: float,
    scale: str = "physical",
) -> tuple[Float[Tensor, "T *B N d"], Float[Tensor, "T *B N d"]]:
    """Returns positions and velocities at all times; gradients pass through all of it, forces included.

    Arguments:
        force: Acceleration of particles at positions and a time, without friction.
        x: Positions at the first time.
        v: Velocities there.
        times: Times T, ascending.
        gamma: Friction, not negative, per unit of time.
        step: Longest step; between two times all are equal.
        scale: ``physical``, or ``mobility``: forces times 1 + gamma.

    Raises:
        InputError: if times do not ascend, or the scale is unknown.
    """
    if scale not in SCALES:
        raise InputError("roll", "scale", f"one of {', '.join(SCALES)}", scale)
    if not len(times) or not np.all(np.diff(times) > 0) or not step > 0:
        raise InputError("roll", "times", "one or more, each later than the one before", list(times))
    friction = torch.as_tensor(gamma, dtype=x.dtype)
    found = [(x, v)]
    a = force(x, float(times[0]))
    for start, end in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        num = max(1, int(np.ceil((end - start) / step - 1e-9)))
        h = (end - start) / num
        m, c = kick(friction, h, scale)
        for i in range(num):
            v = m * v + c * a
            x = x + h * v
            a = force(x, start + (i + 1) * h)
            v = m * v + c * a
        found.append((x, v))
    positions, velocities = zip(*found, strict=True)

    return torch.stack(positions), torch.stack(velocities)
