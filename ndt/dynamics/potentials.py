r"""Potentials s(x; t, mu) whose gradient moves a population: networks of x conditioned on time and parameters.

Time and parameters condition it by one of three methods (`PotentialConfig.kind`). CoLoRA, the default, is

.. math:: C(x) = x\,[W + A\,\mathrm{diag}(\alpha(t, \mu))\,B] + b,

where a small network computes :math:`\alpha` of all layers, once for all particles of a time slice. Lengths, times and
parameters are standardised, and the potential is scaled by length² / time, so that results do not depend on units.

Reference: Berman, Peherstorfer (2024), CoLoRA: Continuous low-rank adaptation for reduced implicit neural modeling of
parameterized partial differential equations, https://arxiv.org/abs/2402.14646
"""

import math
import warnings
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.functional import silu

from ndt.config.dynamics import PotentialConfig
from ndt.dynamics.snapshots import Snapshots
from ndt.errors import InputError

__all__ = ["Potential", "Scales", "scales_of"]

Array = NDArray[np.float64]

RANK = 4  # of the CoLoRA updates

# B = slices, each at a time of a trajectory, N = particles of a slice, d = dimensions, p = parameters


class Scales(nn.Module):
    """Scales of lengths, times and parameters, as buffers that are saved with a model.

    Arguments:
        centre: Centre of positions, shape (d,).
        length: Scale of each dimension, positive, shape (d,).
        period: Period of each dimension, infinite if it has none, shape (d,).
        span: First and last time.
        mu: Fitted parameters, shape (M, p).
    """

    def __init__(self, centre: Array, length: Array, period: Array, span: tuple[float, float], mu: Array) -> None:
        super().__init__()

        for name, value in (("centre", centre), ("length", length), ("period", period), ("span", np.array(span))):
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32))
        spread = mu.std(0)
        self.register_buffer("mu_mean", torch.as_tensor(mu.mean(0), dtype=torch.float32))
        self.register_buffer("mu_scale", torch.as_tensor(np.where(spread > 0, spread, 1.0), dtype=torch.float32))
        self.register_buffer("mu_range", torch.as_tensor(np.stack([mu.min(0), mu.max(0)]), dtype=torch.float32))

    centre: Tensor
    length: Tensor
    period: Tensor
    span: Tensor
    mu_mean: Tensor
    mu_scale: Tensor
    mu_range: Tensor

    def condition(self, t: Tensor, mu: Tensor) -> Tensor:
        """Returns time and parameters, scaled: time to [-1, 1] over the span, parameters to deviations; (B, 1 + p)."""
        start, end = self.span
        return torch.cat([(2 * (t - start) / (end - start) - 1)[:, None], (mu - self.mu_mean) / self.mu_scale], 1)

    def mu_tensor(self, mu: ArrayLike | None) -> Tensor:
        """Returns the parameters of one trajectory as (p,); None if the model has none."""
        values, p = np.zeros(0) if mu is None else np.ravel(np.asarray(mu, np.float64)), len(self.mu_mean)
        if len(values) != p:
            raise InputError("simulate", "mu", f"({p},)", values.shape)

        return torch.as_tensor(values, dtype=torch.float32)

    def initial(self, x0: ArrayLike, mu: ArrayLike | None) -> tuple[Tensor, Tensor]:
        """Returns the samples (N, d) and parameters (p,) of a simulation; warns of parameters out of range."""
        x, parameters = torch.as_tensor(np.asarray(x0), dtype=torch.float32), self.mu_tensor(mu)
        if x.ndim != 2 or x.shape[1] != len(self.centre):
            raise InputError("simulate", "x0", f"(N, {len(self.centre)})", tuple(x.shape))
        for j, (value, (low, high)) in enumerate(zip(parameters.tolist(), self.mu_range.T.tolist(), strict=True)):
            over = max(low - value, value - high)
            if over > 1e-6 * max(abs(low), abs(high)):  # of single precision
                share = f", {over / (high - low):.0%} of that range" if high > low else ""
                name = f"mu[{j}]" if len(parameters) > 1 else "mu"
                outside = f"lies outside the fitted range {low:g} to {high:g} by {over:.3g}{share}"
                warnings.warn(f"{name} = {value:g} {outside}", stacklevel=3)

        return x, parameters

    @property
    def action(self) -> Tensor:
        """Scale of a potential: squared length over time."""
        return self.length.square().mean() / (self.span[1] - self.span[0])


def scales_of(seen: Snapshots) -> Scales:
    """Returns the scales of snapshots that are fitted."""
    spread, around = seen.x.std(0), np.isfinite(seen.period)
    length = np.where(around, seen.period / (2 * np.pi), np.where(spread > 0, spread, 1.0))

    return Scales(np.where(around, 0.0, seen.x.mean(0)), length, seen.period, seen.span, seen.mu)


class _Layer(nn.Module):
    """One conditioned layer, which takes `num_inputs` numbers of the conditioner."""

    def __init__(self, kind: str, inner: int, outer: int, num_conditions: int) -> None:
        super().__init__()

        self.kind = kind
        self.linear = nn.Linear(inner + (num_conditions if kind == "concat" else 0), outer)
        nn.init.normal_(self.linear.weight, std=1 / math.sqrt(self.linear.in_features))
        nn.init.zeros_(self.linear.bias)
        if kind == "colora":
            self.down = nn.Parameter(torch.randn(inner, RANK) / math.sqrt(inner))
            self.up = nn.Parameter(torch.zeros(RANK, outer))
        self.num_inputs = {"colora": RANK, "film": 2 * outer, "concat": 0}[kind]

    def forward(self, x: Float[Tensor, "B N inner"], given: Float[Tensor, "B own"]) -> Float[Tensor, "B N outer"]:
        if self.kind == "colora":
            return self.linear(x) + ((x @ self.down) * given[:, None]) @ self.up
        if self.kind == "film":
            scale, shift = given[:, None].chunk(2, dim=-1)
            return self.linear(x) * (1 + scale) + shift

        return self.linear(torch.cat([x, given[:, None].expand(-1, x.shape[1], -1)], -1))


class Potential(nn.Module):
    r"""A potential.

    .. math:: s(x; t, \mu) = \frac{\ell^2}{T}\,[f(z; t, \mu) + z^\top a(t, \mu) + \tfrac12 z^\top Q(t, \mu)\,z]

    with z the scaled position; periodic dimensions enter f only, as sines and cosines.

    Arguments:
        config: The network.
        scales: Scales of the data.

    Example:
        >>> ends = np.zeros(2), np.ones(2), np.full(2, np.inf), (0.0, 1.0), np.zeros((1, 0))
        >>> Potential(PotentialConfig(), Scales(*ends))(torch.zeros(3, 5, 2), torch.zeros(3), torch.zeros(3, 0)).shape
        torch.Size([3, 5])
    """

    def __init__(self, config: PotentialConfig, scales: Scales) -> None:
        super().__init__()

        self.config, self.scales = config, scales
        around = torch.isfinite(scales.period)
        self.flat, self.round = torch.nonzero(~around).ravel().tolist(), torch.nonzero(around).ravel().tolist()
        num_features = len(self.flat) + 2 * config.harmonics * len(self.round)
        self.num_conditions = 1 + scales.mu_mean.numel() + 2 * config.time_frequencies
        widths = [num_features, *[config.width] * (config.depth - 1), 1]
        layers = [_Layer(config.kind, a, b, self.num_conditions) for a, b in pairwise(widths)]
        self.parts = [layer.num_inputs for layer in layers]
        self.layers = nn.ModuleList(layers)
        self.upper = torch.triu_indices(len(self.flat), len(self.flat))
        num_quadratic = len(self.flat) + self.upper.shape[1]
        num_outputs = sum(self.parts) + num_quadratic
        self.conditioner = nn.Sequential(
            nn.Linear(self.num_conditions, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, num_outputs)
        )
        with torch.no_grad():  # the initial potential depends on x alone, and has no quadratic form
            last: nn.Linear = self.conditioner[-1]  # type: ignore[assignment]
            last.weight.mul_(0.1 if config.kind == "film" else 1.0)
            last.weight[sum(self.parts) :] = 0
            last.bias[sum(self.parts) :] = 0

    def forward(
        self, x: Float[Tensor, "B N d"], t: Float[Tensor, " B"], mu: Float[Tensor, "B p"]
    ) -> Float[Tensor, "B N"]:
        """Returns potentials, in squared units of x over the unit of time.

        Arguments:
            x: Positions.
            t: Time of each slice.
            mu: Parameters of each slice.
        """
        condition = self._condition(t, mu)
        outputs = self.conditioner(condition)
        z = ((x - self.scales.centre) / self.scales.length)[..., self.flat]  # (B, N, flat)
        h = torch.cat([z, self._around(x)], -1) if self.round else z
        given = outputs[:, : sum(self.parts)].split(self.parts, 1)
        for i, layer in enumerate(self.layers):
            h = layer(h, condition if self.config.kind == "concat" else given[i])
            h = silu(h) if i + 1 < len(self.layers) else h
        s = h[..., 0]
        if self.flat:
            s = s + self._quadratic(z, outputs[:, sum(self.parts) :])

        return self.scales.action * s

    def _condition(self, t: Tensor, mu: Tensor) -> Tensor:
        plain = self.scales.condition(t, mu)
        orders = torch.arange(1, self.config.time_frequencies + 1, device=t.device)
        angles = math.pi / 2 * plain[:, :1] * orders  # half a period over the span: the condition need not repeat

        return torch.cat([plain, angles.sin(), angles.cos()], 1)

    def _around(self, x: Tensor) -> Tensor:
        """Returns sines and cosines of periodic dimensions, (B, N, 2 · harmonics · round)."""
        orders = torch.arange(1, self.config.harmonics + 1, device=x.device)
        angles = (2 * math.pi * x[..., self.round] / self.scales.period[self.round])[..., None] * orders

        return torch.cat([angles.sin(), angles.cos()], -1).flatten(2)

    def _quadratic(self, z: Tensor, outputs: Tensor) -> Tensor:
        d = len(self.flat)
        slope, entries = outputs[:, :d], outputs[:, d:]
        form = outputs.new_zeros(len(outputs), d, d).index_put(
            (torch.arange(len(outputs))[:, None], self.upper[0][None], self.upper[1][None]), entries
        )
        half = torch.einsum("bni,bij,bnj->bn", z, form, z) / 2

        return torch.einsum("bni,bi->bn", z, slope) + half
