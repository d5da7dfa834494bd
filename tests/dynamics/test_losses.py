"""Losses between populations: closed forms, each other, and gradients beside finite differences."""

import numpy as np
import pytest
import torch
from scipy.stats import energy_distance as scipy_energy

from ndt.dynamics.distances import wasserstein
from ndt.dynamics.losses import LOSSES, assignment, energy_distance, loss_of, sinkhorn, sliced
from ndt.errors import InputError


def samples(seed: int, num: int = 40, dims: int = 2, shift: float = 0.0) -> torch.Tensor:
    return shift + torch.randn(num, dims, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_losses_of_equal_populations_are_0(name) -> None:
    x = samples(0)
    torch.testing.assert_close(LOSSES[name](x, x.flip(0)), torch.zeros((), dtype=x.dtype), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["assignment", "sinkhorn", "sliced"])
def test_the_distance_of_a_shifted_population_is_the_shift(name) -> None:
    x, step = samples(1), torch.tensor([0.6, -0.8], dtype=torch.float64)
    squared = 1.0 if name != "sliced" else 0.5  # the mean of a direction's square in two dimensions
    found = LOSSES[name](x, x + step) if name != "sliced" else sliced(x, x + step, num_slices=20_000)
    torch.testing.assert_close(found, torch.tensor(squared, dtype=x.dtype), rtol=0.02, atol=0)


def test_assignment_is_squared_w2_and_the_sinkhorn_divergence_approaches_it() -> None:
    x, y = samples(2), samples(3, shift=0.5)
    exact = wasserstein(x.numpy(), y.numpy()) ** 2
    np.testing.assert_allclose(assignment(x, y).item(), exact, rtol=1e-9)
    errors = [abs(sinkhorn(x, y, blur=blur, scaling=0.9).item() - exact) for blur in (0.5, 0.1)]
    assert errors[1] < 0.01 * exact
    assert errors[1] < errors[0]


def test_the_energy_distance_equals_scipys() -> None:
    x, y = samples(4, dims=1), samples(5, num=30, dims=1, shift=0.3)
    expected = scipy_energy(x.ravel().numpy(), y.ravel().numpy()) ** 2
    np.testing.assert_allclose(energy_distance(x, y).item(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["assignment", "energy", "sliced"])
def test_gradients_equal_finite_differences(name) -> None:
    x, y = samples(6, num=7).requires_grad_(), samples(7, num=7, shift=0.4)
    loss = LOSSES[name] if name != "sliced" else lambda a, b: sliced(a, b, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda a: loss(a, y), (x,), eps=1e-6, atol=1e-6)


def test_the_converged_sinkhorn_gradient_equals_finite_differences() -> None:
    """The envelope theorem leaves out how potentials change, which is nothing at the fixed point alone."""
    x, y = samples(8, num=7), samples(9, num=9, shift=0.4)

    def loss(a):
        return sinkhorn(a, y, blur=0.5, rounds=300)

    at = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(at), at)
    for i, j in ((0, 0), (3, 1), (6, 0)):
        up, down = x.clone(), x.clone()
        up[i, j] += 1e-5
        down[i, j] -= 1e-5
        expected = (loss(up) - loss(down)) / 2e-5
        torch.testing.assert_close(found[i, j], expected, rtol=1e-3, atol=1e-5)


def test_the_automatic_loss_depends_on_size() -> None:
    assert loss_of("auto", 100, 100) is assignment
    assert loss_of("auto", 100, 90) is sinkhorn
    assert loss_of("auto", 1000, 1000) is sinkhorn
    assert loss_of("auto", 5000, 100) is sliced
    assert loss_of("energy", 5000, 100) is energy_distance


def test_an_assignment_of_unequal_numbers_is_refused() -> None:
    with pytest.raises(InputError, match="assignment: expected as many samples on both sides, found 3 and 4"):
        assignment(torch.zeros(3, 1), torch.zeros(4, 1))
