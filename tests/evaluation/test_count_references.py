"""References of spike counts: their definitions in slow loops, what they may not read, and what they reach."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import poisson

from ndt.evaluation.count_references import TRIAL_WEIGHTS, Counts, MeanResponse, Smoother, reference_nll
from ndt.evaluation.metrics import bits_per_spike


def slow_smoother(counts: np.ndarray, visible: np.ndarray, mean: np.ndarray, a: float, tau: float) -> np.ndarray:
    """By the definition, one entry after another."""
    T, N = counts.shape
    out = np.zeros((T, N))
    for t in range(T):
        for n in range(N):
            weights = [np.exp(-(t - s) / tau) for s in range(t) if visible[s, n]]
            spikes = [counts[s, n] for s in range(t) if visible[s, n]]
            out[t, n] = (a * mean[n] + np.dot(weights, spikes)) / (a + sum(weights))
    return out


def slow_response(trials: np.ndarray, valid: np.ndarray, mean: np.ndarray, a: float) -> np.ndarray:
    """Mean counts of trials, (M, K, N), shrunk."""
    return ((trials * valid).sum(0) + a * mean) / (valid.sum(0) + a)


@settings(max_examples=30)
@given(seed=st.integers(0, 999), a=st.floats(0.1, 20), tau=st.floats(0.3, 30))
def test_smoother_is_its_definition(seed: int, a: float, tau: float) -> None:
    rng = np.random.default_rng(seed)
    counts, visible, mean = rng.poisson(2.0, (7, 3)), rng.random((7, 3)) < 0.6, rng.random(3) + 0.1
    found = Smoother(a, tau).rates(counts, visible, mean)
    np.testing.assert_allclose(found, slow_smoother(counts, visible, mean, a, tau), rtol=1e-12)


def test_smoother_by_hand() -> None:
    # one bin halves a weight: 3 spikes one bin ago and a hidden bin between; the mean weighs as much as two bins
    counts, visible = np.array([[3], [9], [0]]), np.array([[True], [False], [True]])
    found = Smoother(2.0, 1 / np.log(2)).rates(counts, visible, np.array([0.5]))
    np.testing.assert_allclose(found[:, 0], [0.5, (1 + 1.5) / 2.5, (1 + 0.75) / 2.25], rtol=1e-14)


@settings(max_examples=20)
@given(seed=st.integers(0, 999))
def test_smoother_reads_neither_hidden_nor_later_counts_nor_other_units(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts, visible, mean = rng.poisson(2.0, (9, 4)), rng.random((9, 4)) < 0.5, rng.random(4) + 0.1
    visible[:, 0] = False
    smoother, t = Smoother(1.5, 4.0), int(rng.integers(9))
    found = smoother.rates(counts, visible, mean)
    np.testing.assert_allclose(found[:, 0], mean[0], rtol=1e-15)  # a hidden unit
    changed = np.where(visible, counts, rng.poisson(50.0, (9, 4)))
    np.testing.assert_array_equal(smoother.rates(changed, visible, mean), found)
    changed = np.where(np.arange(9)[:, None] < t, counts, 77)
    np.testing.assert_array_equal(smoother.rates(changed, visible, mean)[: t + 1], found[: t + 1])
    changed = counts + np.array([0, 0, 0, 5])
    np.testing.assert_array_equal(smoother.rates(changed, visible, mean)[:, :3], found[:, :3])


def test_smoother_finds_the_time_constant_of_its_own_process() -> None:
    # gamma rates that follow past counts through the smoother itself: its parameters have the largest likelihood
    rng, true, mean, T, N = np.random.default_rng(0), Smoother(8.0, 4.0), np.full(200, 1.0), 40, 200
    counts, seen = np.zeros((T, N), np.int64), np.ones((T, N), bool)
    for t in range(T):
        counts[t] = rng.poisson(true.rates(counts[: t + 1], seen[: t + 1], mean)[t])
    found = Smoother.fit([Counts(counts[:20], seen[:20], seen[:20]), Counts(counts[20:], seen[20:], ~seen[20:])], mean)
    assert abs(np.log2(found.weight / true.weight)) <= 1
    assert abs(np.log2(found.time_constant / true.time_constant)) <= 1


def test_smoother_fit_is_the_best_of_its_grid() -> None:
    rng = np.random.default_rng(1)
    rate = np.repeat(rng.gamma(1.0, 1.0, (4, 6)), 5, 0)
    counts, visible = rng.poisson(rate), rng.random(rate.shape) < 0.5
    found = Smoother.fit([Counts(counts, visible, ~visible)], counts.mean(0))

    def nll(smoother: Smoother) -> float:
        rates = smoother.rates(counts, visible, counts.mean(0))
        return -poisson.logpmf(counts, rates)[~visible].sum()

    for step in (np.sqrt(0.5), np.sqrt(2)):
        assert nll(found) <= nll(Smoother(found.weight * step, found.time_constant)) + 1e-9
        assert nll(found) <= nll(Smoother(found.weight, found.time_constant * step)) + 1e-9


def test_without_history_the_smoother_is_the_mean() -> None:
    counts, hidden = np.ones((5, 2), np.int64), np.ones((5, 2), bool)
    for windows in ([], [Counts(counts, ~hidden, hidden)]):
        found = Smoother.fit(windows, np.ones(2))
        np.testing.assert_array_equal(found.rates(counts, ~hidden, np.array([0.5, 2.0])), np.tile([0.5, 2.0], (5, 1)))


def test_mean_response_by_the_definition() -> None:
    rng, M, K, N = np.random.default_rng(2), 6, 4, 3
    trials, valid = rng.poisson(rng.gamma(1.0, 1.5, (K, N)), (M, K, N)), rng.random((M, K, N)) < 0.8
    mean = (trials * valid).sum((0, 1)) / valid.sum((0, 1))
    runs = [(trials[m], valid[m], np.arange(K)) for m in range(M)]
    outside = (np.full((3, N), 9), np.ones((3, N), bool), np.array([-1, K, K + 7]))
    found = MeanResponse.fit([*runs, outside], K, mean)

    def left_out(a: float) -> float:
        total = 0.0
        for m in range(M):
            rates = slow_response(np.delete(trials, m, 0), np.delete(valid, m, 0), mean, a)
            total += reference_nll(rates[valid[m]], trials[m][valid[m]])
        return total

    assert found.weight == min(TRIAL_WEIGHTS, key=left_out)
    expected = np.vstack([slow_response(trials, valid, mean, found.weight), mean])
    np.testing.assert_allclose(found.by_lag, expected, rtol=1e-13)
    lag = np.array([2, -1, 0, K, 99])
    np.testing.assert_array_equal(found.rates(lag), found.by_lag[[2, K, 0, K, K]])


@pytest.mark.parametrize("modulated", [True, False])
def test_mean_response_reaches_the_true_rates_bits(modulated: bool) -> None:
    rng, M, K, N = np.random.default_rng(3), 200, 12, 30
    true = rng.gamma(2.0, 0.15, N) * np.exp(1.0 * np.sin(np.arange(K)[:, None] / 2 + rng.random(N) * 6) * modulated)
    trials = rng.poisson(true, (2 * M, K, N))
    mean = trials[:M].mean((0, 1))
    found = MeanResponse.fit([(k, np.ones((K, N), bool), np.arange(K)) for k in trials[:M]], K, mean)
    later = trials[M:]
    null, own, best = (
        reference_nll(np.broadcast_to(rates, later.shape), later)
        for rates in (mean, found.rates(np.arange(K)), np.maximum(true, 1e-9))
    )
    bits, reachable = (bits_per_spike(nll, null, later.sum()) for nll in (own, best))
    if modulated:
        assert reachable > 0.2
        assert 0.95 * reachable < bits < reachable
    else:  # the response is flat: shrinkage leaves the mean
        assert found.weight > 10 * M
        assert abs(bits) < 1e-3


def test_units_without_a_spike_cost_a_finite_amount() -> None:
    runs = [(np.zeros((3, 1), np.int64), np.ones((3, 1), bool), np.arange(3))] * 2
    rates = MeanResponse.fit(runs, 3, np.full(1, 1e-4)).rates(np.arange(3))
    assert (rates > 0).all()
    assert np.isfinite(reference_nll(rates, np.ones((3, 1), np.int64)))
