r"""Potential functionals of a population, by networks and in closed form.

A functional U of N particles is the mean of a number f of each particle, and gives each the acceleration

.. math:: U[\hat p] = \frac1N\sum_i f_i(x_1, \dots, x_N), \qquad a_j = -N\,\nabla_{x_j} U = -\nabla_{x_j}\sum_i f_i

which is unchanged if every particle is duplicated. All terms are invariant to the order of particles.

- ``external``: f = V(x), a network of one particle (`ndt.dynamics.potentials.Potential`), conditioned on parameters
  and, optionally, time.
- ``fourier``: the same, linear in its weights (`ndt.dynamics.features.Fourier`), without time and parameters.
- ``pairwise``: f = ½ mean over others of W(|x - y|), a network of the distance.
- ``attention``: softmax attention over particles. Like ``pairwise``, it takes N² time.
- ``deep_sets``: f = g(x, mean of φ(y)), in time proportional to N.
- entropy, T log ρ(x): :math:`U = T\int\rho\log\rho`, pressure of an isothermal gas, or diffusion where friction rules;
  Fisher, :math:`\tfrac{\hbar^2}{8}|\nabla\log\rho(x)|^2`: a quantum particle's (Madelung). ρ is a Gaussian of the
  sample moments, or a kernel density.

References: Guan, Atanackovic, Neklyudov (2026), https://arxiv.org/abs/2605.08550, proposition 3.1; Madelung (1927),
Quantentheorie in hydrodynamischer Form, https://doi.org/10.1007/BF01400372; Zaheer et al. (2017), Deep sets,
https://arxiv.org/abs/1703.06114
"""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ndt.config.dynamics import FunctionalConfig
from ndt.dynamics.features import Fourier
from ndt.dynamics.potentials import Potential, Scales

__all__ = ["Functional", "gaussian_log_density", "kernel_log_density"]

HEADS = 4  # of attention

# N = particles, d = dimensions, p = parameters


def gaussian_log_density(x: Float[Tensor, "N d"], at: Float[Tensor, "K d"]) -> Float[Tensor, " K"]:
    """Returns the log density, at positions, of the Gaussian with the moments of samples."""
    mean = x.mean(0)
    centred = x - mean
    covariance = centred.T @ centred / len(x) + 1e-9 * torch.eye(x.shape[1], dtype=x.dtype)
    root = torch.linalg.cholesky(covariance)
    z = torch.linalg.solve_triangular(root, (at - mean).T, upper=False)

    return -z.square().sum(0) / 2 - root.diagonal().log().sum() - x.shape[1] / 2 * math.log(2 * math.pi)


def kernel_log_density(x: Float[Tensor, "N d"], at: Float[Tensor, "K d"]) -> Float[Tensor, " K"]:
    """Returns the log of a kernel density of samples at positions, its bandwidth by Silverman's rule.

    Reference: Silverman (1986), Density estimation for statistics and data analysis.
    """
    N, d = x.shape
    width = x.detach().std(0).clamp(min=1e-9) * (4 / ((d + 2) * N)) ** (1 / (d + 4))
    far = ((at[:, None] - x[None]) / width).square().sum(-1) / 2

    return torch.logsumexp(-far, 1) - math.log(N) - width.log().sum() - d / 2 * math.log(2 * math.pi)


DENSITIES = {"gaussian": gaussian_log_density, "kernel": kernel_log_density}


def _slope(x: Tensor, density: str) -> Tensor:
    """Returns grad log ρ at samples, for a fixed density: gradients do not pass through the kernel centres."""
    with torch.enable_grad():
        at = x + torch.zeros_like(x).requires_grad_()
        (slope,) = torch.autograd.grad(DENSITIES[density](x, at).sum(), at, create_graph=True)

    return slope


class _Attention(nn.Module):
    """A transformer layer over particles, and one number per particle."""

    def __init__(self, num_inputs: int, width: int) -> None:
        super().__init__()

        self.first = nn.Linear(num_inputs, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.mix = nn.Linear(width, 3 * width, bias=False)
        self.back = nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        self.last = nn.Linear(width, 1)

    def forward(self, z: Float[Tensor, "N inputs"]) -> Float[Tensor, " N"]:
        h = self.first(z)
        q, k, v = rearrange(self.mix(self.norms[0](h)), "n (three heads c) -> three heads n c", three=3, heads=HEADS)
        share = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1)  # written out: it is differentiated twice
        h = h + self.back(rearrange(share @ v, "heads n c -> n (heads c)"))
        h = h + self.feed(self.norms[1](h))

        return self.last(h)[:, 0]


def _network(num_inputs: int, width: int, num_outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(num_inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, num_outputs)
    )  # fmt: skip


class Functional(nn.Module):
    """A sum of functionals.

    Arguments:
        config: Terms and their sizes.
        scales: Scales of the data.

    Example:
        >>> import numpy as np
        >>> ends = np.zeros(2), np.ones(2), np.full(2, np.inf), (0.0, 1.0), np.zeros((1, 0))
        >>> psi = Functional(FunctionalConfig(), Scales(*ends))
        >>> psi.acceleration(torch.zeros(5, 2), 0.0, torch.zeros(0)).shape
        torch.Size([5, 2])
    """

    def __init__(self, config: FunctionalConfig, scales: Scales) -> None:
        super().__init__()

        self.config, self.scales = config, scales
        num = len(scales.centre) + len(scales.mu_mean)
        around = torch.isfinite(scales.period)
        num += int(around.sum())  # a sine and a cosine each
        self.external = Potential(config.potential, scales) if "external" in config.terms else None
        self.fourier = Fourier(scales, config.fourier_features) if "fourier" in config.terms else None
        self.pairwise = _network(1 + len(scales.mu_mean), config.width, 1) if "pairwise" in config.terms else None
        self.attention = _Attention(num, config.width) if "attention" in config.terms else None
        self.encoder = _network(num, config.width, config.width) if "deep_sets" in config.terms else None
        self.decoder = _network(num + config.width, config.width, 1) if "deep_sets" in config.terms else None
        for network in (self.pairwise, self.decoder):
            if network is not None:
                nn.init.zeros_(network[-1].weight)  # type: ignore[arg-type]
        if self.attention is not None:
            nn.init.zeros_(self.attention.last.weight)

    def forward(self, x: Float[Tensor, "N d"], time: float, mu: Float[Tensor, " p"]) -> Float[Tensor, " N"]:
        """Returns f of each particle, in squared units of x over those of time, squared."""
        config, scale = self.config, self.scales
        found = x.new_zeros(len(x))
        if self.external is not None:
            moment = torch.full((1,), time if config.use_time else float(scale.span[0]), dtype=x.dtype)
            found = found + self.external(x[None], moment, mu[None])[0] / self._span
        if self.fourier is not None:
            found = found + self.fourier(x)
        unit = self.scales.action / self._span
        if self.pairwise is not None:
            found = found + unit * self._pairs(x, mu)
        if self.attention is not None or self.encoder is not None:
            z = self._features(x, mu)
            if self.attention is not None:
                found = found + unit * self.attention(z)
            if self.encoder is not None and self.decoder is not None:
                others = self.encoder(z).mean(0).expand(len(z), -1)
                found = found + unit * self.decoder(torch.cat([z, others], 1))[:, 0]
        if config.entropy:
            found = found + config.entropy * DENSITIES[config.density](x, x)
        if config.fisher:
            found = found + config.fisher**2 / 8 * _slope(x, config.density).square().sum(1)

        return found

    def acceleration(self, x: Float[Tensor, "N d"], time: float, mu: Float[Tensor, " p"]) -> Float[Tensor, "N d"]:
        """Returns the acceleration of each particle; the graph is kept if gradients are enabled."""
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            at = x if x.requires_grad else x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self(at, time, mu).sum(), at, create_graph=keep)

        return -slope

    @property
    def _span(self) -> Tensor:
        return self.scales.span[1] - self.scales.span[0]

    def _features(self, x: Tensor, mu: Tensor) -> Tensor:
        """Returns scaled positions, periodic ones as sine and cosine, and parameters, (N, inputs)."""
        scale = self.scales
        around = torch.isfinite(scale.period)
        flat = ((x - scale.centre) / scale.length)[:, ~around]
        angle = 2 * math.pi * x[:, around] / scale.period[around]
        given = ((mu - scale.mu_mean) / scale.mu_scale).expand(len(x), -1)

        return torch.cat([flat, angle.sin(), angle.cos(), given], 1)

    def _pairs(self, x: Tensor, mu: Tensor) -> Tensor:
        """Returns half the mean of W over all particles, (N,); W is smooth in the squared scaled distance."""
        assert self.pairwise is not None, "it is a term"
        scale = self.scales
        gap = x[:, None] - x[None]
        around = torch.isfinite(scale.period)
        turns = torch.where(around, scale.period, torch.ones_like(scale.period)) / math.pi
        chord = torch.where(around, turns * torch.sin(gap / turns), gap)  # periodic: the chord of the circle
        square = (chord / scale.length).square().sum(-1, keepdim=True)
        given = ((mu - scale.mu_mean) / scale.mu_scale).expand(*square.shape[:2], -1)
        h = torch.cat([square / (1 + square), given], -1) if len(mu) else square / (1 + square)

        return self.pairwise(h)[..., 0].mean(1) / 2
