r"""Quadrature rules: fixed nodes, and nodes that are drawn anew each time.

A rule returns nodes and weights for

.. math:: \int_a^b q(t)\,dt \approx \sum_i w_i\,q(t_i).

Fixed rules are exact for polynomials up to a degree. Drawn rules are unbiased for every integrable function, so that a
model trained on them cannot exploit the error between nodes, as it can with fixed nodes (`ndt.dynamics.hoam`).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ndt.errors import InputError

__all__ = ["DRAWN", "FIXED", "Rule", "draw", "gauss_legendre", "monte_carlo", "simpson", "simpson_on", "stratified"]

Array = NDArray[np.float64]

# Q = nodes


class Rule(NamedTuple):
    """Nodes, shape (Q,), ascending, and their weights, shape (Q,); weights sum to the interval's length."""

    nodes: Array
    weights: Array

    def onto(self, start: float, end: float) -> "Rule":
        """Returns the rule of [0, 1] on another interval."""
        return Rule(start + (end - start) * self.nodes, (end - start) * self.weights)


def simpson(num_nodes: int) -> Rule:
    """Simpson's composite rule on [0, 1], ends included; exact for degree 3 with an odd number of nodes, else 2."""
    if num_nodes < 3:
        raise InputError("quadrature", "nodes of simpson", "at least 3", num_nodes)

    return simpson_on(np.linspace(0.0, 1.0, num_nodes))


def simpson_on(nodes: Array) -> Rule:
    """Simpson's rule on given nodes, ascending, with any spacing; the trapezoidal rule on two nodes.

    Each pair of intervals has one parabola; an odd last interval is integrated under the parabola through the last
    three nodes. Exact for degree 2 on any nodes, and for degree 3 where the two intervals of each pair are equal.
    """
    t = np.asarray(nodes, np.float64)
    if t.ndim != 1 or len(t) < 2 or not np.all(np.diff(t) > 0):
        raise InputError("quadrature", "nodes", "two or more times, each later than the one before", t.tolist())
    if len(t) == 2:
        return Rule(t, np.full(2, (t[1] - t[0]) / 2))
    weights = np.zeros(len(t))
    for i in range(0, len(t) - 2, 2):
        weights[i : i + 3] += _parabola(t[i : i + 3], t[i], t[i + 2])
    if len(t) % 2 == 0:
        weights[-3:] += _parabola(t[-3:], t[-2], t[-1])

    return Rule(t, weights)


def _parabola(t: Array, a: float, b: float) -> Array:
    """Weights of three nodes that integrate any parabola from a to b."""
    middle = (a + b) / 2  # moments about it keep the system well conditioned far from 0
    half = (b - a) / 2
    moments = np.array([2 * half, 0.0, 2 * half**3 / 3])

    return np.asarray(np.linalg.solve(np.vander(t - middle, increasing=True).T, moments), np.float64)


def gauss_legendre(num_nodes: int) -> Rule:
    """Gauss and Legendre's rule on [0, 1], without its ends; exact for degree 2 Q - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(num_nodes)

    return Rule((nodes + 1) / 2, weights / 2)


def monte_carlo(num_nodes: int, generator: np.random.Generator) -> Rule:
    """Independent uniform nodes on [0, 1]; variance falls as 1 / Q."""
    return Rule(np.sort(generator.random(num_nodes)), np.full(num_nodes, 1 / num_nodes))


def stratified(num_nodes: int, generator: np.random.Generator) -> Rule:
    """One uniform node in each of Q equal parts of [0, 1]; variance falls as 1 / Q³ for smooth functions."""
    return Rule((np.arange(num_nodes) + generator.random(num_nodes)) / num_nodes, np.full(num_nodes, 1 / num_nodes))


FIXED: dict[str, Callable[[int], Rule]] = {"simpson": simpson, "gauss_legendre": gauss_legendre}
DRAWN: dict[str, Callable[[int, np.random.Generator], Rule]] = {"monte_carlo": monte_carlo, "stratified": stratified}


def draw(rule: str, num_nodes: int, generator: np.random.Generator) -> Rule:
    """Returns a rule of `FIXED` or `DRAWN` on [0, 1], with Q nodes; the generator draws the nodes of the latter."""
    if rule in FIXED:
        return FIXED[rule](num_nodes)
    if rule in DRAWN:
        return DRAWN[rule](num_nodes, generator)
    raise InputError("quadrature", "rule", f"one of {', '.join((*FIXED, *DRAWN))}", rule)
