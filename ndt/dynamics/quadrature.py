r"""Rules that integrate over an interval, by nodes and weights: fixed ones, and ones that are drawn anew each time.

A rule returns nodes and weights for

.. math:: \int_a^b q(t)\,dt \approx \sum_i w_i\,q(t_i).

Fixed rules are exact for polynomials up to a degree. Drawn ones are unbiased for every integrable function, but for
`random_panels`, whose bias is as small as the error of Gauss's rule: a model that is trained on them cannot hide
between their nodes, which it does between fixed ones (`ndt.dynamics.hoam`).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ndt.errors import InputError

__all__ = [
    "DRAWN",
    "FIXED",
    "Rule",
    "antithetic",
    "clenshaw_curtis",
    "draw",
    "gauss_legendre",
    "monte_carlo",
    "random_panels",
    "simpson",
    "simpson_on",
    "stratified",
    "trapezoid",
    "trapezoid_on",
]

# Q = nodes


class Rule(NamedTuple):
    """Nodes, shape (Q,), ascending, and their weights, shape (Q,); weights sum to the interval's length."""

    nodes: NDArray[np.float64]
    weights: NDArray[np.float64]

    def onto(self, start: float, end: float) -> "Rule":
        """Returns the rule of [0, 1] on another interval."""
        return Rule(start + (end - start) * self.nodes, (end - start) * self.weights)


def _at_least(num_nodes: int, least: int, rule: str) -> None:
    if num_nodes < least:
        raise InputError("quadrature", f"nodes of {rule}", f"at least {least}", num_nodes)


def trapezoid(num_nodes: int) -> Rule:
    """The trapezoidal rule on [0, 1], ends included; exact for degree 1."""
    _at_least(num_nodes, 2, "trapezoid")
    return trapezoid_on(np.linspace(0.0, 1.0, num_nodes))


def trapezoid_on(nodes: NDArray[np.float64]) -> Rule:
    """The trapezoidal rule on given nodes, ascending, however far apart."""
    steps = np.diff(_ascending(nodes))
    weights = np.zeros(len(nodes))
    weights[:-1] += steps / 2
    weights[1:] += steps / 2

    return Rule(np.asarray(nodes, np.float64), weights)


def simpson(num_nodes: int) -> Rule:
    """Simpson's composite rule on [0, 1], ends included; exact for degree 3 with an odd number of nodes, else 2."""
    _at_least(num_nodes, 3, "simpson")
    return simpson_on(np.linspace(0.0, 1.0, num_nodes))


def simpson_on(nodes: NDArray[np.float64]) -> Rule:
    """Integrates the parabolas through three neighbouring nodes each; the last interval too, where one is left over.

    Two intervals share a parabola. Of an odd number of intervals, the last is integrated under the parabola through the
    last three nodes. Exact for degree 2 on any nodes, and for degree 3 where the two intervals of each pair are equal.
    """
    t = _ascending(nodes)
    if len(t) == 2:
        return trapezoid_on(t)
    weights = np.zeros(len(t))
    for i in range(0, len(t) - 2, 2):
        weights[i : i + 3] += _parabola(t[i : i + 3], t[i], t[i + 2])
    if len(t) % 2 == 0:
        weights[-3:] += _parabola(t[-3:], t[-2], t[-1])

    return Rule(t, weights)


def _parabola(t: NDArray[np.float64], a: float, b: float) -> NDArray[np.float64]:
    """Weights of three nodes that integrate any parabola from a to b."""
    middle = (a + b) / 2  # moments about it keep the system well conditioned far from 0
    half = (b - a) / 2
    moments = np.array([2 * half, 0.0, 2 * half**3 / 3])

    return np.asarray(np.linalg.solve(np.vander(t - middle, increasing=True).T, moments), np.float64)


def gauss_legendre(num_nodes: int) -> Rule:
    """Gauss and Legendre's rule on [0, 1], without its ends; exact for degree 2 Q - 1."""
    _at_least(num_nodes, 1, "gauss_legendre")
    nodes, weights = np.polynomial.legendre.leggauss(num_nodes)

    return Rule((nodes + 1) / 2, weights / 2)


def clenshaw_curtis(num_nodes: int) -> Rule:
    """Clenshaw and Curtis's rule on [0, 1], ends included; exact for degree Q - 1.

    Reference: Waldvogel (2006), Fast construction of the Fejér and Clenshaw–Curtis quadrature rules,
    https://doi.org/10.1007/s10543-006-0045-4
    """
    _at_least(num_nodes, 2, "clenshaw_curtis")
    n = num_nodes - 1
    angles = np.pi * np.arange(num_nodes) / n
    orders = np.arange(1, n // 2 + 1)
    shares = np.where(2 * orders == n, 1.0, 2.0) / (4 * orders**2 - 1)  # the highest even order counts once
    weights = (1 - np.cos(2 * np.outer(angles, orders)) @ shares) * 2 / n
    weights[[0, -1]] /= 2

    return Rule((1 - np.cos(angles)) / 2, weights / 2)


def monte_carlo(num_nodes: int, generator: np.random.Generator) -> Rule:
    """Independent uniform nodes on [0, 1]; variance falls as 1 / Q."""
    _at_least(num_nodes, 1, "monte_carlo")
    return Rule(np.sort(generator.random(num_nodes)), np.full(num_nodes, 1 / num_nodes))


def stratified(num_nodes: int, generator: np.random.Generator) -> Rule:
    """One uniform node in each of Q equal parts of [0, 1]; variance falls as 1 / Q³ for smooth functions."""
    _at_least(num_nodes, 1, "stratified")
    return Rule((np.arange(num_nodes) + generator.random(num_nodes)) / num_nodes, np.full(num_nodes, 1 / num_nodes))


def antithetic(num_nodes: int, generator: np.random.Generator) -> Rule:
    """Two nodes that mirror each other in each of Q / 2 equal parts of [0, 1]; exact for degree 1, variance 1 / Q⁵."""
    if num_nodes < 2 or num_nodes % 2:
        raise InputError("quadrature", "nodes of antithetic", "an even number of at least 2", num_nodes)
    parts = num_nodes // 2
    at = generator.random(parts) / 2  # the lower of both
    nodes = (np.arange(parts)[:, None] + np.stack([at, 1 - at], 1)) / parts

    return Rule(nodes.ravel(), np.full(num_nodes, 1 / num_nodes))


def random_panels(num_nodes: int, generator: np.random.Generator, order: int = 3) -> Rule:
    r"""Gauss and Legendre's rule in each of Q / `order` panels of [0, 1] whose common grid is shifted at random.

    All panels but those at the ends are as wide as each other; the ends' are what the shift leaves. Exact for degree
    2 `order` - 1 whatever the shift; for other functions it turns the error of fixed nodes into one that changes from
    draw to draw, and all but cancels in the mean.
    """
    if num_nodes < order or num_nodes % order:
        raise InputError("quadrature", "nodes of random_panels", f"a multiple of {order}", num_nodes)
    panels = num_nodes // order
    edges = np.linspace(0.0, 1.0, panels + 1)
    if panels > 1:
        shift = (generator.random() - 0.5) / panels
        edges[1:-1] += shift
    inner = gauss_legendre(order)
    width = np.diff(edges)
    nodes = edges[:-1, None] + width[:, None] * inner.nodes
    weights = width[:, None] * inner.weights

    return Rule(nodes.ravel(), weights.ravel())


FIXED: dict[str, Callable[[int], Rule]] = {
    "trapezoid": trapezoid,
    "simpson": simpson,
    "gauss_legendre": gauss_legendre,
    "clenshaw_curtis": clenshaw_curtis,
}
DRAWN: dict[str, Callable[[int, np.random.Generator], Rule]] = {
    "monte_carlo": monte_carlo,
    "stratified": stratified,
    "antithetic": antithetic,
    "random_panels": random_panels,
}


def draw(rule: str, num_nodes: int, generator: np.random.Generator) -> Rule:
    """Returns a rule on [0, 1] by its name: a fixed one as it is, another drawn.

    Arguments:
        rule: Key of `FIXED` or `DRAWN`.
        num_nodes: Number of nodes Q.
        generator: Source of what is drawn.
    """
    if rule in FIXED:
        return FIXED[rule](num_nodes)
    if rule in DRAWN:
        return DRAWN[rule](num_nodes, generator)
    raise InputError("quadrature", "rule", f"one of {', '.join((*FIXED, *DRAWN))}", rule)


def _ascending(nodes: NDArray[np.float64]) -> NDArray[np.float64]:
    t = np.asarray(nodes, np.float64)
    if t.ndim != 1 or len(t) < 2 or not np.all(np.diff(t) > 0):
        raise InputError("quadrature", "nodes", "two or more times, each later than the one before", t.tolist())

    return t
