"""Functionals of a population beside closed forms, and what all of them must keep."""

import numpy as np
import pytest
import torch

from ndt.config.dynamics import FunctionalConfig, PotentialConfig
from ndt.dynamics.functionals import DENSITIES, Functional
from ndt.dynamics.potentials import Scales
from ndt.errors import InputError

NONE = torch.zeros(0, dtype=torch.float64)
SMALL = PotentialConfig(kind="concat", width=8, depth=2, time_frequencies=1, harmonics=1)
LEARNED = [
    ("external",),
    ("fourier",),
    ("pairwise",),
    ("attention",),
    ("deep_sets",),
    ("external", "pairwise", "attention", "deep_sets"),
]


def functional(terms=(), period=(np.inf, np.inf), **options) -> Functional:
    torch.manual_seed(0)
    scales = Scales(np.array([0.3, -0.2]), np.array([1.2, 0.7]), np.array(period), (0.0, 2.0), np.zeros((1, 0)))
    config = FunctionalConfig(terms=terms, potential=SMALL, width=8, **options)
    found = Functional(config, scales).double()
    with torch.no_grad():
        for parameter in found.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))

    return found


def white(num: int, seed: int = 0) -> torch.Tensor:
    """Samples whose mean is 0 and covariance the identity, exactly."""
    z = np.random.default_rng(seed).normal(size=(num, 2))
    z -= z.mean(0)

    return torch.as_tensor(z @ np.linalg.inv(np.linalg.cholesky(z.T @ z / num)).T)


@pytest.mark.parametrize("terms", LEARNED)
def test_accelerations_are_permutation_equivariant_and_unchanged_by_duplication(terms) -> None:
    psi, x = functional(terms), white(12)
    a = psi.acceleration(x, 0.5, NONE)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(psi.acceleration(x[order], 0.5, NONE), a[order])
    torch.testing.assert_close(psi.acceleration(torch.cat([x, x]), 0.5, NONE), torch.cat([a, a]))
    assert a.abs().max() > 1e-3


@pytest.mark.parametrize("terms", LEARNED)
def test_accelerations_are_minus_n_times_the_gradient_of_the_functional(terms) -> None:
    psi, x = functional(terms), white(7)
    a = psi.acceleration(x, 0.5, NONE)
    for i, j in ((0, 0), (3, 1), (6, 0)):
        up, down = x.clone(), x.clone()
        up[i, j] += 1e-6
        down[i, j] -= 1e-6
        change = (psi(up, 0.5, NONE).mean() - psi(down, 0.5, NONE).mean()) / 2e-6
        torch.testing.assert_close(a[i, j], -len(x) * change, rtol=1e-6, atol=1e-8)


def test_the_fourier_term_refuses_periodic_dimensions() -> None:
    with pytest.raises(
        InputError, match="fourier: expected no fourier or gradient_flow with a periodic dimension, found it"
    ):
        functional(("fourier",), period=(3.0, np.inf))


@pytest.mark.parametrize("terms", [terms for terms in LEARNED if terms != ("fourier",)])
def test_accelerations_are_periodic(terms) -> None:
    psi, x = functional(terms, period=(3.0, np.inf)), white(9)
    turned = x + torch.tensor([3.0, 0.0], dtype=torch.float64) * torch.arange(9)[:, None]
    torch.testing.assert_close(psi.acceleration(turned, 0.5, NONE), psi.acceleration(x, 0.5, NONE))


def test_pressure_and_quantum_force_of_a_gaussian_are_their_closed_forms() -> None:
    """T x / sigma² outwards, and hbar² x / (4 sigma⁴): exactly, by the moments."""
    for sigma in (0.5, 2.0):
        x = sigma * white(50)
        pressure = functional(entropy=0.7, density="gaussian").acceleration(x, 0.0, NONE)
        torch.testing.assert_close(pressure, 0.7 * x / sigma**2, rtol=1e-5, atol=1e-6)
        quantum = functional(fisher=0.9, density="gaussian").acceleration(x, 0.0, NONE)
        torch.testing.assert_close(quantum, 0.9**2 * x / (4 * sigma**4), rtol=1e-5, atol=1e-6)


def test_a_functional_with_a_fisher_term_has_a_value_without_gradients() -> None:
    psi, x = functional(fisher=0.9), white(20)
    with torch.no_grad():
        found = psi(x, 0.0, NONE)
    torch.testing.assert_close(found, psi(x, 0.0, NONE).detach())


def test_kernel_density_pressure_is_close_to_that_of_the_gaussian() -> None:
    """A kernel widens what it sees; within a fifth, of a thousand samples, where most of them are."""
    x = white(1000)
    found = functional(entropy=1.0, density="kernel").acceleration(x, 0.0, NONE)
    near = x.norm(dim=1) < 1.5
    slope = (found[near] * x[near]).sum() / x[near].square().sum()
    np.testing.assert_allclose(slope.item(), 1.0, atol=0.2)


@pytest.mark.parametrize("density", sorted(DENSITIES))
def test_densities_sum_to_one(density) -> None:
    x = white(100)
    grid = torch.cartesian_prod(*[torch.linspace(-6, 6, 121, dtype=torch.float64)] * 2)
    np.testing.assert_allclose(DENSITIES[density](x, grid).exp().sum().item() * 0.1**2, 1.0, atol=1e-3)


def test_only_use_time_makes_the_potential_time_dependent() -> None:
    x = white(5)
    for use_time in (False, True):
        psi = functional(("external",), use_time=use_time)
        moved = (psi.acceleration(x, 0.1, NONE) - psi.acceleration(x, 1.9, NONE)).abs().max()
        assert (moved > 1e-6) == use_time


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"terms": ("magnetic",)}, "functional.terms: expected some of"),
        ({"width": 7}, "functional.width: expected a multiple of 4"),
    ],
)
def test_invalid_functionals_are_refused(options, told) -> None:
    with pytest.raises(InputError, match=told):
        FunctionalConfig(**options)


def test_the_fourier_term_is_linear_in_its_weights_and_starts_at_0() -> None:
    model = functional(("fourier",), fourier_features=7)
    model.fourier.weight.data.zero_()
    x = torch.randn(5, 2, dtype=torch.float64)
    torch.testing.assert_close(model.acceleration(x, 0.0, NONE), torch.zeros_like(x))
    form = model.fourier
    with torch.no_grad():
        form.weight.normal_()
    expected = -form.unit * form.slopes(x) @ form.weight
    torch.testing.assert_close(model.acceleration(x, 0.0, NONE), expected)
