r"""A potential that is linear in its weights, a quadratic form and random Fourier features, and ridge regression.

.. math::
    V(x) = \frac{\ell^2}{T^2}\Big[a^\top z + \tfrac12 z^\top Q z
      + \sum_j w_j\,\cos(\omega_j^\top z + b_j)/|\omega_j|\Big]

with z the scaled position; frequencies are drawn once, at several scales. Reference: Rahimi, Recht (2007), Random
features for large-scale kernel machines.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import lsq_linear
from torch import Tensor, nn

from ndt.dynamics.potentials import Scales
from ndt.errors import InputError

__all__ = ["Fourier", "ridge"]

SCALES = (0.5, 1.0, 2.0)  # standard deviations of frequencies, in radians per standard deviation of the data


# N = particles, d = dimensions, F = features


class Fourier(nn.Module):
    """A linear potential, initially 0, of aperiodic positions alone.

    Arguments:
        scales: Scales of the data.
        num_features: Number of Fourier features, besides d + d (d + 1) / 2 of the quadratic form.
        frequency: Factor of the frequencies.

    Example:
        >>> import numpy as np
        >>> ends = np.zeros(2), np.ones(2), np.full(2, np.inf), (0.0, 1.0), np.zeros((1, 0))
        >>> Fourier(Scales(*ends), 16).features(torch.zeros(3, 2)).shape
        torch.Size([3, 21])
    """

    def __init__(self, scales: Scales, num_features: int, frequency: float = 1.0) -> None:
        super().__init__()

        if torch.isfinite(scales.period).any():
            raise InputError("settings", "fourier", "no fourier or gradient_flow with a periodic dimension", "it")
        self.scales = scales
        d = len(scales.centre)
        each = torch.tensor(SCALES).repeat(math.ceil(num_features / len(SCALES)))[:num_features]
        self.register_buffer("omega", torch.randn(num_features, d) * frequency * each[:, None])
        self.register_buffer("shift", 2 * math.pi * torch.rand(num_features))
        self.upper = torch.triu_indices(d, d)
        self.weight = nn.Parameter(torch.zeros(num_features + d + self.upper.shape[1]))

    omega: Tensor
    shift: Tensor

    def features(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N F"]:
        """Returns linear, quadratic and Fourier features, each with a slope of about 1 in scaled positions."""
        z = (x - self.scales.centre) / self.scales.length
        waves = torch.cos(z @ self.omega.T + self.shift) / self.omega.norm(dim=1).clamp(min=0.1)

        return torch.cat([z, z[:, self.upper[0]] * z[:, self.upper[1]] / 2, waves], 1)

    def slopes(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N d F"]:
        """Returns gradients of the features, in closed form."""
        length = self.scales.length
        z = (x - self.scales.centre) / length
        N, d = x.shape
        line = torch.eye(d, dtype=x.dtype).expand(N, -1, -1)
        (i, j), k = self.upper, torch.arange(self.upper.shape[1])
        form = x.new_zeros(N, d, len(k))
        form[:, i, k] += z[:, j] / 2
        form[:, j, k] += z[:, i] / 2
        rise = -torch.sin(z @ self.omega.T + self.shift) / self.omega.norm(dim=1).clamp(min=0.1)

        return torch.cat([line, form, rise[:, None] * self.omega.T], 2) / length[:, None]

    def curvatures(self, x: Float[Tensor, "N d"], v: Float[Tensor, "N d"]) -> Float[Tensor, "N F"]:
        """Returns second derivatives of the features along v, in closed form."""
        z, w = (x - self.scales.centre) / self.scales.length, v / self.scales.length
        bend = -torch.cos(z @ self.omega.T + self.shift) * (w @ self.omega.T) ** 2

        bend = bend / self.omega.norm(dim=1).clamp(min=0.1)

        return torch.cat([torch.zeros_like(x), w[:, self.upper[0]] * w[:, self.upper[1]], bend], 1)

    def forward(self, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        """Returns V, in units of `unit`: squared lengths over squared times."""
        return self.unit * (self.features(x) @ self.weight)

    @property
    def unit(self) -> Tensor:
        """Unit of the weights, in squared units of x over squared time."""
        return self.scales.action / (self.scales.span[1] - self.scales.span[0])


def ridge(
    design: NDArray[np.float64], target: NDArray[np.float64], *, least: float = -np.inf,
    strength: float | NDArray[np.float64] = 1e-4,
) -> NDArray[np.float64]:  # fmt: skip
    """Returns weights of ridge regression, with one penalty or one each; `least` bounds the last weight below."""
    penalty = strength * len(design) * np.maximum(np.mean(design**2, 0), 1e-12)
    gram = design.T @ design + np.diag(penalty)
    root = np.linalg.cholesky(gram)
    low = np.full(design.shape[1], -np.inf)
    low[-1] = least
    found: NDArray[np.float64] = lsq_linear(root.T, np.linalg.solve(root, design.T @ target), (low, np.inf)).x

    return found
