"""Rules of quadrature: exact for polynomials up to their degree, unbiased where they are drawn, of their order."""

import numpy as np
import pytest

from ndt.dynamics.quadrature import DRAWN, FIXED, draw, gauss_legendre, monte_carlo, simpson, simpson_on, stratified
from ndt.errors import InputError


def integral(rule, function) -> float:
    return float(rule.weights @ function(rule.nodes))


def of_degree(rule, degree: int) -> None:
    for k in range(degree + 1):
        np.testing.assert_allclose(integral(rule, lambda t, k=k: t**k), 1 / (k + 1), rtol=0, atol=2e-14)


@pytest.mark.parametrize("n", [2, 3, 4, 8, 33])
def test_fixed_rules_are_exact_to_their_degree_and_not_beyond(n) -> None:
    of_degree(gauss_legendre(n), 2 * n - 1 if n < 9 else 17)
    if n > 2:
        of_degree(simpson(n), 3 if n % 2 else 2)
    beyond = integral(gauss_legendre(2), lambda t: t**4)
    assert abs(beyond - 0.2) > 1e-3
    assert abs(integral(simpson(5), lambda t: t**4) - 0.2) > 1e-4


def test_simpson_has_the_weights_of_the_textbook() -> None:
    np.testing.assert_allclose(simpson(5).weights, np.array([1, 4, 2, 4, 1]) / 12, rtol=1e-13)


@pytest.mark.parametrize("n", [3, 4, 9, 10])
def test_any_times_are_exact_for_parabolas(n) -> None:
    rng = np.random.default_rng(n)
    nodes = 1e4 + np.cumsum(rng.uniform(0.05, 1.0, n))  # times far from 0, as those of a recording are
    a, b = nodes[0], nodes[-1]
    for k in range(3):
        exact = (b - a) ** (k + 1) / (k + 1)
        np.testing.assert_allclose(integral(simpson_on(nodes), lambda t, k=k: (t - a) ** k), exact, rtol=1e-9)
    two = integral(simpson_on(nodes[:2]), lambda t: 3 * t + 1)  # the trapezoidal rule
    np.testing.assert_allclose(two, 1.5 * (nodes[1] ** 2 - a**2) + nodes[1] - a, rtol=1e-11)


def test_errors_of_simpson_fall_at_the_fourth_order() -> None:
    sizes = np.array([17, 33, 65])
    errors = [abs(integral(simpson(n), lambda t: np.exp(2 * t)) - (np.exp(2) - 1) / 2) for n in sizes]
    slope = np.polyfit(np.log(1 / (sizes - 1)), np.log(errors), 1)[0]
    np.testing.assert_allclose(slope, 4, atol=0.05)


@pytest.mark.parametrize("rule", DRAWN)
def test_drawn_rules_are_unbiased(rule) -> None:
    """A kinked function, so that no smoothness helps."""
    rng = np.random.default_rng(0)
    exact = (0.3**2 + 0.7**2) / 2
    found = np.array([integral(draw(rule, 6, rng), lambda t: np.abs(t - 0.3)) for _ in range(4000)])
    error = found.std() / np.sqrt(len(found))
    assert abs(found.mean() - exact) < 4 * error + 1e-7  # 6e-5 of a chance to fail, were the seed another


@pytest.mark.parametrize(("rule", "power"), [(monte_carlo, 1), (stratified, 3)])
def test_variance_falls_at_the_documented_order(rule, power) -> None:
    rng = np.random.default_rng(1)
    sizes = np.array([8, 16, 32])
    spread = [np.var([integral(rule(n, rng), np.exp) for _ in range(3000)]) for n in sizes]
    np.testing.assert_allclose(np.polyfit(np.log(1 / sizes), np.log(spread), 1)[0], power, atol=0.2)


@pytest.mark.parametrize("rule", [*FIXED, *DRAWN])
def test_nodes_ascend_and_weights_sum_to_the_interval(rule) -> None:
    found = draw(rule, 12, np.random.default_rng(2)).onto(-1.0, 4.0)
    assert np.all(np.diff(found.nodes) > 0)
    assert -1.0 <= found.nodes[0] < found.nodes[-1] <= 4.0
    np.testing.assert_allclose(found.weights.sum(), 5.0, rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: simpson(2), "nodes of simpson: expected at least 3, found 2"),
        (lambda: draw("romberg", 4, np.random.default_rng(0)), "rule: expected one of simpson, .*found romberg"),
        (lambda: simpson_on(np.array([0.0, 1.0, 1.0])), "each later than the one before"),
    ],
)
def test_invalid_rules_are_refused(call, told) -> None:
    with pytest.raises(InputError, match=told):
        call()
