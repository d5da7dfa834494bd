"""Blends: the best convex combination of validation rows, and never worse there than any member."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from ndt.decoders.blend import combined, ensemble_weights
from ndt.evaluation.metrics import r2


@given(seed=st.integers(0, 10**6), num_members=st.integers(1, 4))
def test_no_member_decodes_these_rows_better_and_weights_are_shares(seed, num_members) -> None:
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(50, 2))
    members = {f"m{i}": rng.uniform(0, 2) * y + rng.normal(size=y.shape) for i in range(num_members)}
    weights = ensemble_weights(y, members)
    assert min(weights.values()) >= 0
    np.testing.assert_allclose(sum(weights.values()), 1.0, atol=1e-5)
    assert r2(y, combined(members, weights)) >= max(r2(y, m) for m in members.values()) - 1e-4


def test_it_is_the_minimum_that_a_general_solver_finds() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=(200, 2))
    noise = rng.normal(size=(3, 200, 2))
    members = {"a": y + noise[0], "b": 0.8 * y + 0.5 * noise[1], "c": y + 0.7 * noise[0] + noise[2]}
    stacked = np.stack(list(members.values()))
    found = minimize(
        lambda w: np.sum((y - np.tensordot(w, stacked, 1)) ** 2),
        np.full(3, 1 / 3),
        bounds=[(0, 1)] * 3,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
    )
    np.testing.assert_allclose(list(ensemble_weights(y, members).values()), found.x, atol=2e-3)


def test_weights_follow_inverse_variances_of_independent_errors() -> None:
    rng = np.random.default_rng(1)
    y, spread = rng.normal(size=(40_000, 1)), np.array([1.0, 2.0, 0.5])
    members = {str(s): y + s * rng.normal(size=y.shape) for s in spread}
    expected = spread**-2.0 / np.sum(spread**-2.0)
    np.testing.assert_allclose(list(ensemble_weights(y, members).values()), expected, atol=0.02)


def test_unlabelled_rows_do_not_count_and_a_member_that_is_right_has_all_the_weight() -> None:
    y = np.array([[0.0], [1.0], [3.0], [np.nan]])
    assert ensemble_weights(y, {"right": np.nan_to_num(y), "wrong": -np.nan_to_num(y)}) == {"right": 1.0, "wrong": 0.0}


def test_members_without_weight_need_not_be_there() -> None:
    np.testing.assert_allclose(combined({"a": np.ones((2, 1))}, {"a": 1.0, "b": 0.0}), np.ones((2, 1)))
    with pytest.raises(KeyError):
        combined({"a": np.ones((2, 1))}, {"a": 0.5, "b": 0.5})
