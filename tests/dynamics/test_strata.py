"""Even draws from a population: each sample as often as it weighs, and less variance than independent draws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndt.dynamics.interpolants import Strata


@given(st.integers(1, 300), st.integers(1, 4), st.integers(0, 2**31))
def test_as_many_draws_as_samples_draw_each_once(num, dims, seed) -> None:
    rng = np.random.default_rng(seed)
    rows = Strata(rng.normal(size=(num, dims)), np.full(num, 1 / num)).draw(num, rng)
    assert sorted(rows) == list(range(num))


@given(st.integers(0, 2**31))
def test_stratified_draws_are_in_proportion_to_weights(seed) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.random(7) * (rng.random(7) < 0.7)
    weight = (weight + (weight.sum() == 0)) / (weight + (weight.sum() == 0)).sum()
    strata = Strata(rng.normal(size=(7, 2)), weight)
    often = np.bincount(np.concatenate([strata.draw(50, rng) for _ in range(200)]), minlength=7) / 10_000
    np.testing.assert_allclose(often, weight, atol=0.01)  # a part's draws differ by at most one: 4e-3 is three sigma
    assert not often[weight == 0].any()


@pytest.mark.parametrize(("dims", "ratio"), [(1, 0.15), (2, 0.4)])
def test_smooth_functions_have_less_variance_and_the_same_mean(dims, ratio) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5000, dims))
    strata, f = Strata(x, np.full(len(x), 1 / len(x))), np.sin(2 * x[:, 0]) * np.cos(x[:, -1])
    even = np.array([f[strata.draw(64, rng)].mean() for _ in range(1000)])
    apart = np.array([f[rng.integers(0, len(x), 64)].mean() for _ in range(1000)])
    assert even.std() < ratio * apart.std()
    np.testing.assert_allclose(even.mean(), f.mean(), atol=4 * even.std() / np.sqrt(1000))


def test_no_draws_are_possible() -> None:
    assert len(Strata(np.zeros((4, 1)), np.full(4, 0.25)).draw(0, np.random.default_rng(0))) == 0
