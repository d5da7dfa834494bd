"""Scores against hand-computed values and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import r2_score

from ndt.evaluation.metrics import bits_per_spike, co_bps, poisson_nll, r2, r2_per_dim, r2_uniform


@given(seed=st.integers(0, 2**32 - 1), T=st.integers(3, 40), C=st.integers(1, 4))
def test_r2_is_sklearns(seed: int, T: int, C: int) -> None:
    rng = np.random.default_rng(seed)
    y, x = rng.standard_normal((2, T, C)) * rng.uniform(0.1, 10, C)
    np.testing.assert_allclose(r2(y, x), r2_score(y, x, multioutput="variance_weighted"), rtol=1e-9)
    np.testing.assert_allclose(r2_uniform(y, x), r2_score(y, x), rtol=1e-9)
    np.testing.assert_allclose(r2_per_dim(y, x), r2_score(y, x, multioutput="raw_values"), rtol=1e-9)


def test_r2_by_hand() -> None:
    true = [[0.0, 0.0], [2.0, 10.0]]  # squares about the mean: 2 and 50
    predicted = [[1.0, 0.0], [2.0, 5.0]]  # squared errors: 1 and 25
    assert r2(true, predicted) == 0.5
    np.testing.assert_array_equal(r2_per_dim(true, predicted), [0.5, 0.5])
    assert r2(true, [[1.0, 5.0], [1.0, 5.0]]) == 0.0  # the mean


def test_unlabelled_rows_are_left_out() -> None:
    rng = np.random.default_rng(0)
    y, x = rng.standard_normal((2, 20, 2))
    whole = r2(y[5:], x[5:])
    y[:5, 1] = np.nan  # one missing dimension makes a row unlabelled
    assert r2(y, x) == whole


def test_r2_is_undefined_where_nothing_varies() -> None:
    assert np.isnan(r2([[1.0], [1.0]], [[1.0], [1.0]]))
    assert np.isnan(r2(np.full((3, 1), np.nan), np.zeros((3, 1))))


def test_r2_names_the_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(3, 1\) and \(3, 2\)"):
        r2(np.zeros((3, 1)), np.zeros((3, 2)))


def test_poisson_nll_by_hand() -> None:
    # rate 2, count 3: 2 - 3 ln 2 + ln 6; rate 1, count 0: 1
    np.testing.assert_allclose(poisson_nll([[2.0, 1.0]], [[3, 0]]), 2 - 3 * np.log(2) + np.log(6) + 1, rtol=1e-12)
    np.testing.assert_allclose(poisson_nll([[0.0]], [[1]]), 1e-9 - np.log(1e-9), rtol=1e-12)  # NLB's floor
    assert poisson_nll([[np.nan, 1.0]], [[np.nan, 0.0]]) == 1.0


def test_poisson_nll_refuses_rates_it_cannot_score() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        poisson_nll([[-1.0]], [[0]])
    with pytest.raises(ValueError, match="not NaN"):
        poisson_nll([[np.nan]], [[0]])


def test_bits_per_spike_by_hand() -> None:
    assert bits_per_spike(nll_model=0.0, nll_null=4 * np.log(2), num_spikes=2) == 2.0
    assert np.isnan(bits_per_spike(0.0, 1.0, 0))


def test_co_bps_by_hand() -> None:
    # Two units. Null rates are means over the evaluation data: 1 and 0.5..
    counts = np.array([[2, 0], [0, 1], [2, 0], [0, 1]])
    rates = np.array([[2, 0.5], [0.5, 0.5], [2, 0.5], [0.5, 0.5]])
    # Terms in ln k! cancel. Unit 0, null: 4 - 4 ln 1; model: 5 - 4 ln 2. Unit 1: the same as null.
    np.testing.assert_allclose(co_bps(rates, counts), (4 - (5 - 4 * np.log(2))) / (6 * np.log(2)), rtol=1e-12)


def test_co_bps_is_pooled_over_trials_and_skips_missing() -> None:
    rng = np.random.default_rng(0)
    rates = rng.uniform(0.1, 2.0, (5, 7, 3))
    counts = rng.poisson(rates).astype(float)
    flat = co_bps(rates.reshape(-1, 3), counts.reshape(-1, 3))
    np.testing.assert_allclose(co_bps(rates, counts), flat, rtol=1e-12)
    counts[2:] = np.nan
    np.testing.assert_allclose(co_bps(rates, counts), co_bps(rates[:2], counts[:2]), rtol=1e-12)


def test_null_rates_score_zero_bits() -> None:
    counts = np.random.default_rng(0).poisson(1.5, (30, 4))
    np.testing.assert_allclose(co_bps(np.tile(counts.mean(0), (30, 1)), counts), 0.0, atol=1e-12)
