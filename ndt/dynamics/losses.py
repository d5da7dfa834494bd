r"""Differentiable losses between samples of two populations, for rollouts.

All take samples (N, d) and (K, d), and return a number that is 0 for equal samples, in squared units of x; the energy
distance is in units of x. `loss_of` chooses by size.

- Exact optimal transport of equal numbers of samples, by assignment; its gradient is that of the cost at a fixed
  assignment (envelope theorem).
- Sinkhorn's divergence, debiased: :math:`S(x, y) = OT(x, y) - OT(x, x)/2 - OT(y, y)/2` with entropy of strength blur²,
  in the log domain, annealed from a blur as wide as the data. Gradients by the envelope theorem.
- The energy distance :math:`2E|x - y| - E|x - x'| - E|y - y'|`.
- Squared W2 along random directions.

References: Feydy, Séjourné, Vialard, Amari, Trouvé, Peyré (2019), Interpolating between optimal transport and MMD using
Sinkhorn divergences, https://arxiv.org/abs/1810.08278; Székely, Rizzo (2013), Energy statistics,
https://doi.org/10.1016/j.jspi.2013.03.018; Bonneel et al. (2015), https://doi.org/10.1007/s10851-014-0506-3
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ndt.errors import InputError

__all__ = ["LOSSES", "assignment", "energy_distance", "loss_of", "sinkhorn", "sliced"]

Loss = Callable[[Tensor, Tensor], Tensor]
EXACT, DENSE = 400, 2000  # most samples of an assignment, and of a matrix of all pairs


def assignment(x: Float[Tensor, "N d"], y: Float[Tensor, "K d"]) -> Float[Tensor, ""]:
    """Returns the least mean squared distance of pairs; N = K. It is NaN if a distance is not finite."""
    if len(x) != len(y):
        raise InputError("loss", "assignment", "as many samples on both sides", f"{len(x)} and {len(y)}")
    cost = torch.cdist(x.detach(), y.detach()).square()
    if not cost.isfinite().all():
        return cost.new_tensor(math.nan)
    rows, columns = linear_sum_assignment(cost.double().cpu().numpy())

    return (x[torch.as_tensor(rows)] - y[torch.as_tensor(columns)]).square().sum(1).mean()


def sinkhorn(
    x: Float[Tensor, "N d"], y: Float[Tensor, "K d"], *, blur: float = 0.05, scaling: float = 0.7, rounds: int = 5
) -> Float[Tensor, ""]:
    """Returns the debiased divergence for the cost |x - y|² / 2, times 2.

    Arguments:
        x: Samples that gradients pass to.
        y: Others.
        blur: Length that entropy blurs by.
        scaling: Factor by which that shrinks from the data's width, a step each; nearer to 1 is more exact.
        rounds: Updates at the last of it.
    """
    both = torch.cat([x, y]).detach()
    wide = max(float((both.max(0).values - both.min(0).values).norm()), 2 * blur)
    num = math.ceil(math.log(wide / blur) / -math.log(scaling))
    strengths = [(wide * scaling**k) ** 2 for k in range(num)] + [blur**2] * rounds
    xy, xx, yy = (_potentials(a, b, strengths) for a, b in ((x, y), (x, x), (y, y)))

    return 2 * (xy[0].mean() + xy[1].mean() - xx[0].mean() - yy[0].mean())


def _potentials(x: Tensor, y: Tensor, strengths: list[float]) -> tuple[Tensor, Tensor]:
    """Returns the two potentials of transport at samples; gradients pass through the last update alone.

    At the fixed point the potentials' own change has no part in the gradient of the cost; of x to itself both are one.
    """
    alone = x is y
    with torch.no_grad():
        cost = torch.cdist(x, y).square() / 2
        f, g = _softmin(cost, strengths[0]), _softmin(cost.T, strengths[0])
        for eps in strengths:
            new_f, new_g = _softmin(cost - g, eps), _softmin(cost.T - f, eps)
            f, g = (f + new_f) / 2, (g + new_g) / 2
    eps = strengths[-1]
    to_x = _squared(x, y.detach()) / 2
    last = _softmin(to_x - g, eps)
    if alone:
        return last, last

    return last, _softmin(_squared(y, x.detach()) / 2 - f, eps)


def _softmin(cost: Tensor, eps: float) -> Tensor:
    return -eps * (torch.logsumexp(-cost / eps, 1) - math.log(cost.shape[1]))


def _squared(x: Tensor, y: Tensor) -> Tensor:
    """Returns squared distances whose gradient is finite where they are 0."""
    return (x[:, None] - y[None]).square().sum(-1)


def energy_distance(x: Float[Tensor, "N d"], y: Float[Tensor, "K d"]) -> Float[Tensor, ""]:
    """Returns the energy distance (V-statistic: pairs of a sample with itself included)."""
    return 2 * _apart(x, y) - _apart(x, x) - _apart(y, y)


def _apart(x: Tensor, y: Tensor) -> Tensor:
    return (_squared(x, y) + 1e-12).sqrt().mean()


def sliced(
    x: Float[Tensor, "N d"], y: Float[Tensor, "K d"], *, num_slices: int = 64, generator: torch.Generator | None = None
) -> Float[Tensor, ""]:
    """Returns the mean squared W2 along random directions."""
    directions = torch.randn(x.shape[1], num_slices, generator=generator, dtype=x.dtype)
    directions = directions / directions.norm(dim=0)
    n = max(len(x), len(y))
    levels = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    a, b = ((v @ directions).sort(0).values[(levels * len(v)).long().clamp(max=len(v) - 1)] for v in (x, y))

    return (a - b).square().mean()


LOSSES: dict[str, Loss] = {
    "assignment": assignment, "sinkhorn": sinkhorn, "energy": energy_distance, "sliced": sliced,
}  # fmt: skip


def loss_of(name: str, num: int, other: int) -> Loss:
    """Returns a loss by name; ``auto``: assignment of equal numbers up to 400, Sinkhorn's up to 2,000, else sliced."""
    if name != "auto":
        return LOSSES[name]
    if num == other and num <= EXACT:
        return assignment

    return sinkhorn if max(num, other) <= DENSE else sliced
