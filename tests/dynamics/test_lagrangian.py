"""Mechanics with friction beside closed forms: order, limits, energy, and the way back."""

import numpy as np
import pytest
import torch

from ndt.dynamics.lagrangian import kick, roll
from ndt.errors import InputError


def harmonic(k: float, gamma: float, t: float) -> tuple[float, float]:
    """x(t) = A x0 + B v0 of x'' = -k x - gamma x'."""
    root = np.sqrt(complex(gamma**2 / 4 - k))
    a, b = -gamma / 2 + root, -gamma / 2 - root
    A = (a * np.exp(b * t) - b * np.exp(a * t)) / (a - b)
    B = (np.exp(a * t) - np.exp(b * t)) / (a - b)

    return float(A.real), float(B.real)


def error(gamma: float, num: int, scale: str = "physical", k: float = 4.0, end: float = 2.0) -> float:
    x = torch.tensor([[1.0], [-0.3]], dtype=torch.float64)
    v = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    found, _ = roll(lambda x, t: -k * x, x, v, np.array([0.0, end]), gamma, step=end / num, scale=scale)
    A, B = harmonic(k * (1 + gamma) if scale == "mobility" else k, gamma, end)

    return float((found[1] - A * x - B * v).abs().max())


@pytest.mark.parametrize("scale", ["physical", "mobility"])
@pytest.mark.parametrize("gamma", [0.0, 0.1, 1.0, 10.0])
def test_steps_are_of_second_order_for_every_friction(gamma, scale) -> None:
    errors = [error(gamma, num, scale) for num in (200, 400, 800)]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.all(np.abs(orders - 2) < 0.1)


def test_free_particles_equal_their_closed_form_with_and_without_friction() -> None:
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    v, times = x.flip(0), np.array([0.0, 0.7, 1.6])
    for gamma in (0.0, 1e-6, 0.5, 20.0):
        found, speed = roll(lambda x, t: torch.zeros_like(x), x, v, times, gamma, step=0.01)
        for k, t in enumerate(times):
            way = t if gamma == 0 else -np.expm1(-gamma * t) / gamma
            torch.testing.assert_close(found[k], x + way * v, rtol=0, atol=5e-5 * gamma + 1e-12)
            torch.testing.assert_close(speed[k], v * np.exp(-gamma * t), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("gamma", [1e3, 1e4])
def test_mobility_at_high_friction_is_the_gradient_flow(gamma) -> None:
    """A population in a harmonic potential of curvature k shrinks as exp(-k t)."""
    x = torch.linspace(-2, 3, 101, dtype=torch.float64)[:, None]
    times = np.array([0.0, 0.5, 1.5])
    found, _ = roll(lambda x, t: -1.3 * x, x, torch.zeros_like(x), times, gamma, step=0.005, scale="mobility")
    for k, t in enumerate(times):
        assert (found[k] - np.exp(-1.3 * t) * x).abs().mean() < 0.02  # W1: order is kept


def test_without_friction_energy_is_conserved_and_time_is_reversible() -> None:
    x = torch.tensor([[1.0, 0.2], [0.3, -1.0]], dtype=torch.float64)
    v, times = torch.tensor([[0.0, 1.0], [0.5, 0.0]], dtype=torch.float64), np.array([0.0, 7.0])

    def force(x, t):
        return -(x**3)

    def energy(x, v):
        return (v**2 / 2 + x**4 / 4).sum()

    drift = []
    for step in (0.04, 0.02):
        ends = roll(force, x, v, times, step=step)
        drift.append(float((energy(ends[0][1], ends[1][1]) - energy(x, v)).abs()))
        back, speed = roll(force, ends[0][1], -ends[1][1], times, step=step)
        torch.testing.assert_close(back[1], x, rtol=0, atol=1e-10)
        torch.testing.assert_close(speed[1], -v, rtol=0, atol=1e-10)
    assert drift[1] < drift[0] / 3


def test_energy_falls_by_the_power_of_friction() -> None:
    """dE/dt = -gamma |v|²."""
    x = torch.tensor([[1.0], [-0.4]], dtype=torch.float64)
    times = np.linspace(0, 2, 401)
    path, speed = roll(lambda x, t: -3 * x, x, 0.5 * x, times, 0.7, step=0.005)
    energy = (speed**2 / 2 + 1.5 * path**2).sum((1, 2)).numpy()
    power = 0.7 * (speed**2).sum((1, 2)).numpy()
    np.testing.assert_allclose(
        energy - energy[0], -np.array([np.trapezoid(power[: i + 1], times[: i + 1]) for i in range(401)]), atol=5e-5
    )


def test_circular_orbits_of_a_vortex_are_kept() -> None:
    """Tracers of a point vortex have a = -G² / (4 pi² r³): second order, though no first-order gradient turns them."""
    strength = 2 * np.pi
    angle = torch.linspace(0, 1, 9, dtype=torch.float64)[:-1]
    r = torch.linspace(0.8, 1.5, 8, dtype=torch.float64)
    x = torch.stack([r * angle.cos(), r * angle.sin()], 1)
    v = strength / (2 * np.pi * r[:, None] ** 2) * torch.stack([-x[:, 1], x[:, 0]], 1)

    def force(x, t):
        square = (x**2).sum(1, keepdim=True)
        return -((strength / (2 * np.pi)) ** 2) * x / square**2

    found, _ = roll(force, x, v, np.array([0.0, 4.0]), step=0.002)
    torch.testing.assert_close(found[1].norm(dim=1), r, rtol=1e-4, atol=0)
    turned = torch.atan2(found[1][:, 1], found[1][:, 0]) - torch.atan2(x[:, 1], x[:, 0])
    wanted = 4.0 / r**2
    torch.testing.assert_close(torch.cos(turned), torch.cos(wanted), rtol=0, atol=1e-3)


def test_kicks_of_little_friction_are_continuous() -> None:
    gamma = torch.tensor([0.0, 1e-9, 1.9e-3, 2.1e-3], dtype=torch.float64)
    _, c = kick(gamma, 0.1)
    torch.testing.assert_close(c, torch.where(gamma > 0, -torch.expm1(-gamma * 0.05) / gamma, 0.05), rtol=1e-8, atol=0)


@pytest.mark.parametrize(
    ("options", "told"), [({"scale": "other"}, "scale: expected one of"), ({"step": 0.0}, "times: expected one")]
)
def test_invalid_rollouts_are_refused(options, told) -> None:
    x = torch.zeros(1, 1)
    with pytest.raises(InputError, match=told):
        roll(lambda x, t: x, x, x, np.array([0.0, 1.0]), **{"step": 0.1, **options})
