"""Likelihoods are Poisson's and the negative binomial's, and finite whatever a wild step makes of the rates."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import TINY, random_window
from scipy.special import gammaln
from scipy.stats import nbinom, poisson
from strategies import seeds

from ndt.likelihood import count_nll, negative_binomial_nll, poisson_nll
from ndt.tokens import pack


def drawn(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log rates, counts and which of them count."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn((40, 3), generator=generator)
    y = torch.poisson(torch.full((40, 3), 2.0), generator=generator).long()
    return z, y, torch.rand((40, 3), generator=generator) < 0.7


@given(seed=seeds)
def test_likelihood_is_poissons(seed) -> None:
    z, y, valid = drawn(seed)
    logs = poisson.logpmf(y.numpy(), z.double().exp().numpy()) + gammaln(y.numpy() + 1.0)
    np.testing.assert_allclose(float(poisson_nll(z, y, valid)), -logs[valid.numpy()].sum(), rtol=1e-5, atol=1e-4)


@given(seed=seeds, dispersion=st.floats(-5.0, 2.0))
def test_likelihood_is_the_negative_binomials(seed, dispersion) -> None:
    """The difference of log-gammas loses digits as the dispersion falls: at exp(-5) some 1e-5 of 120 entries."""
    z, y, valid = drawn(seed)
    a, mean = np.exp(dispersion), z.double().exp().numpy()
    logs = nbinom.logpmf(y.numpy(), 1 / a, 1 / (1 + a * mean)) + gammaln(y.numpy() + 1.0)
    found = negative_binomial_nll(z, torch.full_like(z, dispersion), y, valid)
    np.testing.assert_allclose(float(found), -logs[valid.numpy()].sum(), rtol=1e-4, atol=5e-3)


def test_without_dispersion_it_is_poissons() -> None:
    """The difference falls with the dispersion, and below exp(-7) stays where it is."""
    z, y, valid = drawn(0)
    gaps = [
        abs(float(negative_binomial_nll(z, torch.full_like(z, s), y, valid) - poisson_nll(z, y, valid)))
        for s in (-3.0, -5.0, -7.0, -50.0)
    ]
    assert gaps[1] < gaps[0] / 4
    assert gaps[2] < gaps[1] / 4
    assert gaps[3] == gaps[2] < 1.0  # nats of 84 entries


def test_a_dispersed_likelihood_prefers_the_dispersion_that_there_is() -> None:
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.negative_binomial(2.0, 2.0 / (2.0 + 3.0), 4000))  # a = 1/2 at mean 3
    z, every = torch.full((4000,), float(np.log(3.0))), torch.ones(4000, dtype=torch.bool)
    grid = torch.linspace(-3, 2, 51)
    at = [float(negative_binomial_nll(z, torch.full_like(z, float(s)), y, every)) for s in grid]
    assert abs(float(grid[int(np.argmin(at))]) - np.log(0.5)) < 0.2


@pytest.mark.parametrize("rate", [-1e4, -80.0, 0.0, 8.0, 80.0, 1e4])
@pytest.mark.parametrize("dispersion", [-1e4, -7.0, 3.0, 1e4])
def test_values_and_gradients_are_finite_at_extremes(rate, dispersion) -> None:
    y = torch.tensor([0, 1, 255])
    z, s = torch.full((3,), rate, requires_grad=True), torch.full((3,), dispersion, requires_grad=True)
    every = torch.ones(3, dtype=torch.bool)
    total = poisson_nll(z, y, every) + negative_binomial_nll(z, s, y, every)
    total.backward()
    for found in (total.detach(), z.grad, s.grad):
        assert found.isfinite().all()


def test_what_does_not_count_has_no_gradient_even_where_it_is_not_a_number() -> None:
    z = torch.tensor([0.5, float("nan"), float("inf")], requires_grad=True)
    s = torch.tensor([0.0, float("nan"), float("inf")], requires_grad=True)
    valid = torch.tensor([True, False, False])
    for loss in (poisson_nll(z, torch.arange(3), valid), negative_binomial_nll(z, s, torch.arange(3), valid)):
        assert loss.isfinite()


def test_only_hidden_entries_count() -> None:
    batch = pack([random_window(6, 8, np.random.default_rng(0))], TINY.units_per_patch)
    z = torch.randn((int(batch.wanted.sum()), 3), generator=torch.Generator().manual_seed(0)).requires_grad_()
    hidden, y = batch.hidden[batch.wanted], batch.counts[batch.wanted]
    expected = (z.exp() - y * z)[hidden].sum()
    torch.testing.assert_close(count_nll(z, None, batch), expected)
    (gradient,) = torch.autograd.grad(count_nll(z, None, batch), z)
    torch.testing.assert_close(gradient != 0, hidden)
    s = torch.zeros_like(z)
    expected = negative_binomial_nll(z[hidden], s[hidden], y[hidden], torch.ones(int(hidden.sum()), dtype=torch.bool))
    torch.testing.assert_close(count_nll(z, s, batch), expected)
