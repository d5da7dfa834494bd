"""Solvers: their order on a known solution, in the mean where there is noise, and round periodic dimensions."""

import numpy as np
import pytest
import torch

from ndt.dynamics.integrators import integrate
from ndt.errors import InputError


def spiral(x: torch.Tensor, t: float) -> torch.Tensor:
    return x @ torch.tensor([[-0.5, 2.0], [-2.0, -0.5]], dtype=x.dtype) * (1 + t)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2)])
def test_errors_fall_at_the_order_of_the_method(method, order) -> None:
    x0 = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    clock = 1.5  # the integral of 1 + t
    turn = torch.matrix_exp(clock * torch.tensor([[-0.5, 2.0], [-2.0, -0.5]], dtype=torch.float64))
    steps = np.array([0.04, 0.02, 0.01])
    errors = [
        float((integrate(spiral, x0, np.array([0.0, 1.0]), step=h, method=method)[-1] - x0 @ turn).norm())
        for h in steps
    ]
    np.testing.assert_allclose(np.polyfit(np.log(steps), np.log(errors), 1)[0], order, atol=0.15)


def test_values_between_steps_have_the_same_order() -> None:
    x0, times = torch.tensor([[1.0, 0.5]], dtype=torch.float64), np.array([0.0, 0.013, 0.37, 0.61, 0.987])
    turns = torch.tensor([[-0.5, 2.0], [-2.0, -0.5]], dtype=torch.float64)
    exact = torch.cat([x0 @ torch.matrix_exp((t + t**2 / 2) * turns) for t in times])
    steps = np.array([0.08, 0.04, 0.02])
    errors = [float((integrate(spiral, x0, times, step=h)[:, 0] - exact).abs().max()) for h in steps]
    assert np.polyfit(np.log(steps), np.log(errors), 1)[0] > 2 - 0.2


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_noise_has_the_law_of_ornstein_and_uhlenbeck(method) -> None:
    n, rate, noise = 40_000, 2.0, 0.7
    x0 = torch.ones(n, 1, dtype=torch.float64)
    found = integrate(
        lambda x, _: -rate * x, x0, np.array([0.0, 0.6]), step=0.01, method=method, noise=noise,
        generator=torch.Generator().manual_seed(0),
    )[-1]  # fmt: skip
    variance = noise**2 * (1 - np.exp(-2 * rate * 0.6)) / (2 * rate)
    bias = 0.02 if method == "euler" else 1e-3  # of a step of 0.01 times the rate
    np.testing.assert_allclose(found.mean().item(), np.exp(-1.2), atol=4 * np.sqrt(variance / n) + bias)
    np.testing.assert_allclose(found.var().item() / variance, 1, atol=4 * np.sqrt(2 / n) + bias)


def test_the_cost_does_not_depend_on_the_number_of_times() -> None:
    calls = []

    def drift(x: torch.Tensor, t: float) -> torch.Tensor:
        calls.append(t)
        return spiral(x, t)

    for times in (np.array([0.0, 1.0]), np.linspace(0, 1, 101)):
        integrate(drift, torch.ones(1, 2), times, step=0.1)
    assert len(calls) == 2 * (2 * 10 + 1)


def test_periodic_dimensions_are_wrapped_and_the_first_frame_is_the_start() -> None:
    x0 = torch.tensor([[0.6, 0.5]])
    found = integrate(
        lambda x, _: torch.full_like(x, -1.0), x0, np.array([0.0, 1.0, 2.5]), step=0.1, method="euler",
        period=torch.tensor([1.0, float("inf")]),
    )  # fmt: skip
    torch.testing.assert_close(found[0], x0, rtol=0, atol=0)
    torch.testing.assert_close(found[1:, 0], torch.tensor([[0.6, -0.5], [0.1, -2.0]]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"method": "midpoint"}, "method: expected one of euler, heun, found midpoint"),
        ({"times": np.array([1.0, 0.0])}, "each later than the one before"),
    ],
)
def test_invalid_solver_options_are_refused(options, told) -> None:
    options = {"times": np.array([0.0, 1.0]), "step": 0.1, **options}
    times = options.pop("times")
    with pytest.raises(InputError, match=told):
        integrate(spiral, torch.zeros(1, 2), times, **options)
