"""The likelihood is Poisson's, and finite for extreme log rates."""

import numpy as np
import pytest
import torch
from hypothesis import given
from problems import TINY, random_window
from scipy.special import gammaln
from scipy.stats import poisson
from strategies import seeds

from ndt.model.likelihood import count_nll, poisson_nll
from ndt.model.tokens import pack


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


@pytest.mark.parametrize("rate", [-1e4, -80.0, 0.0, 8.0, 80.0, 1e4])
def test_values_and_gradients_are_finite_at_extremes(rate) -> None:
    z = torch.full((3,), rate, requires_grad=True)
    total = poisson_nll(z, torch.tensor([0, 1, 255]), torch.ones(3, dtype=torch.bool))
    total.backward()
    assert total.detach().isfinite()
    assert z.grad.isfinite().all()


def test_what_does_not_count_has_no_gradient_even_where_it_is_not_a_number() -> None:
    z = torch.tensor([0.5, float("nan"), float("inf")], requires_grad=True)
    loss = poisson_nll(z, torch.arange(3), torch.tensor([True, False, False]))
    loss.backward()
    assert loss.detach().isfinite()
    torch.testing.assert_close(z.grad[1:], torch.zeros(2))


def test_only_hidden_entries_count() -> None:
    batch = pack([random_window(6, 8, np.random.default_rng(0))], TINY.units_per_patch)
    z = torch.randn((int(batch.predicted.sum()), 3), generator=torch.Generator().manual_seed(0)).requires_grad_()
    hidden, y = batch.hidden[batch.predicted], batch.counts[batch.predicted]
    expected = (z.exp() - y * z)[hidden].sum()
    torch.testing.assert_close(count_nll(z, batch), expected)
    (gradient,) = torch.autograd.grad(count_nll(z, batch), z)
    torch.testing.assert_close(gradient != 0, hidden)
