"""Baselines against slow references: causal, within segments, selected on validation rows only."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge as SlowRidge

from ndt.decoders.ensemble import flatten, unflatten
from ndt.decoders.kalman import fit_kalman
from ndt.decoders.ridge import SOLVABLE, Lagged, fit_ridge, lagged
from ndt.errors import InputError
from ndt.evaluation.metrics import r2
from ndt.segments import with_history

BIN = 0.05


def segments(seed: int = 0, lengths: tuple[int, ...] = (300, 5, 120, 64), N: int = 7, C: int = 2):
    """Counts, targets that depend on four lags, and masks scattered over rows and segments."""
    rng = np.random.default_rng(seed)
    counts = [rng.poisson(2.0, (T, N)).astype(float) for T in lengths]
    weights = rng.standard_normal((4 * N, C)) * [1.0, 5.0]
    targets = [lagged(k - 2, 4) @ weights + rng.standard_normal((len(k), C)) * 3 + [4.0, -7.0] for k in counts]
    targets[0][20:30, 1] = np.nan
    train = [rng.random(T) < 0.7 for T in lengths]
    return counts, targets, train, [~m for m in train]


def join(arrays, masks):
    return np.concatenate([x[m] for x, m in zip(arrays, masks, strict=True)])


def test_lagged_by_hand() -> None:
    x = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    expected = [[1, 10, 0, 0, 0, 0], [2, 20, 1, 10, 0, 0], [3, 30, 2, 20, 1, 10]]
    np.testing.assert_array_equal(lagged(x, 3), expected)
    np.testing.assert_array_equal(lagged(x[:1], 3), [[1, 10, 0, 0, 0, 0]])  # a segment shorter than its history


def test_stretches_by_hand() -> None:
    x = [np.arange(6), np.arange(6, 9), np.arange(9, 15)]
    rows = [np.isin(x[0], [3, 4]), np.zeros(3, bool), np.isin(x[2], [9, 12])]
    segments, masks = with_history(x, rows, bin_size=10.0)  # two bins
    for found, wanted in zip(segments, ([1, 2, 3, 4], [9, 10, 11, 12]), strict=True):
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(join(segments, masks), [3, 4, 9, 12])


@pytest.mark.parametrize("seed", range(3))
def test_ridge_is_sklearns_on_the_same_design(seed: int) -> None:
    counts, targets, train, valid = segments(seed)
    model = fit_ridge(counts, targets, train, valid, bin_size=BIN, max_lag_s=0.4, alphas=(3.0, 30.0))
    design = [lagged(model.counts.apply(k), model.num_lags) for k in counts]
    train = [m & ~np.isnan(v).any(1) for m, v in zip(train, targets, strict=True)]
    y = model.targets.apply(join(targets, train))
    slow = SlowRidge(alpha=model.alpha).fit(join(design, train), y)
    expected = [model.targets.invert(slow.predict(x)) for x in design]
    for found, wanted in zip(model.predict(counts), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)
    assert model.num_lags == 4  # as many as the targets depend on
    np.testing.assert_allclose(model.valid_r2, r2(join(targets, valid), join(expected, valid)), atol=1e-5)  # float32


def test_ridge_scores_choices_in_the_targets_units() -> None:
    counts, targets, train, valid = segments()
    model = fit_ridge(counts, targets, train, valid, bin_size=BIN, alphas=(10.0,), max_lag_s=BIN)
    assert model.num_lags == 1
    np.testing.assert_allclose(model.valid_r2, r2(join(targets, valid), join(model.predict(counts), valid)), atol=1e-5)


@pytest.mark.parametrize("fit", [fit_ridge, fit_kalman])
def test_pieces_do_not_mix_and_the_future_does_not_leak(fit) -> None:
    counts, targets, train, valid = segments()
    model = fit(counts, targets, train, valid, bin_size=BIN)
    before = model.predict(counts)
    changed = [k.copy() for k in counts]
    changed[0][150:] += 5
    after = model.predict(changed)
    np.testing.assert_array_equal(after[0][:150], before[0][:150])
    lag_bins = getattr(model, "lag_bins", 0)
    assert np.abs(after[0][150 + lag_bins] - before[0][150 + lag_bins]).max() > 0
    for i in range(1, 4):
        np.testing.assert_array_equal(after[i], before[i])
    np.testing.assert_array_equal(model.predict(counts[2:3])[0], before[2])  # nothing comes from the segment before it


def test_ridge_sees_nothing_outside_its_masks() -> None:
    counts, targets, train, valid = segments()
    valid = [m & (np.arange(len(m)) % 2 == 0) for m in valid]
    one = fit_ridge(counts, targets, train, valid, bin_size=BIN)
    spoilt = [np.where((t | v)[:, None], y, 1e6) for y, t, v in zip(targets, train, valid, strict=True)]
    two = fit_ridge(counts, spoilt, train, valid, bin_size=BIN)
    np.testing.assert_array_equal(one.weights, two.weights)


def test_unobserved_counts_stand_for_the_training_mean() -> None:
    counts, targets, train, valid = segments()
    model = fit_ridge(counts, targets, train, valid, bin_size=BIN)
    missing, mean = counts[2].copy(), counts[2].copy()
    missing[40:60, 3], mean[40:60, 3] = np.nan, model.counts.mean[3]
    np.testing.assert_allclose(model.predict([missing])[0], model.predict([mean])[0], rtol=1e-12)


def fit_wiener(counts, targets, train, valid, **settings):
    rows = [[m & ~np.isnan(v).any(1) for m, v in zip(masks, targets, strict=True)] for masks in (train, valid)]
    return Lagged(counts, *rows, **settings).wiener(targets)


def linear_system(T: int = 4000, N: int = 12, noise: float = 1.5, seed: int = 0):
    rng = np.random.default_rng(seed)
    A = 0.95 * np.array([[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]])
    H = rng.standard_normal((N, 2))
    x = np.zeros((T, 2))
    for t in range(1, T):
        x[t] = A @ x[t - 1] + 0.3 * rng.standard_normal(2)
    return A, H, x, x @ H.T + noise * rng.standard_normal((T, N)) + 5.0


def test_kalman_recovers_a_linear_gaussian_system() -> None:
    A, H, x, y = linear_system()
    train = np.arange(len(x)) < 2800
    valid = ~train & (np.arange(len(x)) < 3200)
    test = ~train & ~valid
    model = fit_kalman([y], [x], [train], [valid], bin_size=BIN)
    ridge = fit_ridge([y], [x], [train], [valid], bin_size=BIN)
    assert model.lag_bins == 0
    if model.order == 1:
        scale = model.targets.std
        np.testing.assert_allclose(model.transition * scale[:, None] / scale, A, atol=0.03)

    W, R = 0.09 * np.eye(2), 1.5**2 * np.eye(len(H))  # the filter that knows the system
    best, state, P = np.zeros_like(x), np.zeros(2), np.eye(2)
    for t in range(len(x)):
        state, P = A @ state, A @ P @ A.T + W
        gain = P @ H.T @ np.linalg.inv(H @ P @ H.T + R)
        state, P = state + gain @ (y[t] - 5.0 - H @ state), P - gain @ H @ P
        best[t] = state
    scores = [r2(x[test], p[test]) for p in (best, model.predict([y])[0], ridge.predict([y])[0])]
    np.testing.assert_allclose(scores[1], scores[0], atol=0.005)
    assert scores[1] > scores[2]


def test_kalman_prior_stands_until_the_first_counts() -> None:
    _, _, x, y = linear_system(600)
    train = np.arange(600) < 400
    model = fit_kalman([y[2:]], [x[:-2]], [train[2:]], [~train[2:]], bin_size=BIN)  # counts lead by two bins
    assert model.lag_bins in (1, 2)
    first = model.predict([y])[0][: model.lag_bins]
    np.testing.assert_allclose(first, np.tile(model.targets.mean, (model.lag_bins, 1)))


def test_the_wiener_filter_is_least_squares_with_the_lags_that_validation_likes() -> None:
    counts, targets, train, valid = segments()
    model = fit_wiener(counts, targets, train, valid, bin_size=BIN, max_lag_s=0.4)
    rows = [m & ~np.isnan(v).any(1) for m, v in zip(train, targets, strict=True)]
    design = [np.c_[lagged(model.counts.apply(k), model.num_lags), np.ones(len(k))] for k in counts]
    slow, *_ = np.linalg.lstsq(join(design, rows), join(targets, rows))
    assert model.num_lags == 4  # as many as the targets depend on
    assert model.alpha == SOLVABLE * sum(m.sum() for m in rows)
    for found, x in zip(model.predict(counts), design, strict=True):
        np.testing.assert_allclose(found, x @ slow, rtol=1e-4, atol=1e-4)  # of a penalty of a millionth


def test_the_wiener_filter_can_be_solved_where_units_repeat_or_outnumber_rows() -> None:
    counts, targets, train, valid = segments(lengths=(40,), N=60)
    counts = [np.c_[k, k[:, :1], 0 * k[:, :1]] for k in counts]  # a copy, and a silent unit
    model = fit_wiener(counts, targets, train, valid, bin_size=BIN)
    assert np.isfinite(model.predict(counts)[0]).all()
    np.testing.assert_allclose(model.weights[0], model.weights[60], atol=1e-6)  # copies share their weight


def test_targets_fitted_together_are_as_fitted_alone() -> None:
    counts, targets, train, valid = segments()
    other = [v[:, ::-1] ** 2 for v in targets]
    rows = [[m & ~np.isnan(v).any(1) for m, v in zip(masks, targets, strict=True)] for masks in (train, valid)]
    together = Lagged(counts, *rows, bin_size=BIN).ridge([targets, other])
    for model, y in zip(together, (targets, other), strict=True):
        alone = fit_ridge(counts, y, train, valid, bin_size=BIN)
        assert (model.num_lags, model.alpha) == (alone.num_lags, alone.alpha)
        np.testing.assert_allclose(model.weights, alone.weights, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(model.intercept, alone.intercept, rtol=1e-9, atol=1e-12)


def test_a_stored_ridge_regression_predicts_the_same() -> None:
    counts, targets, train, valid = segments()
    model = fit_ridge(counts, targets, train, valid, bin_size=BIN)
    arrays: dict = {}
    again = unflatten(flatten(model, arrays), arrays)
    assert (again.num_lags, again.alpha, again.valid_r2) == (model.num_lags, model.alpha, model.valid_r2)
    for found, wanted in zip(again.predict(counts), model.predict(counts), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_no_labels_raise_an_input_error() -> None:
    counts, targets, train, _ = segments()
    nothing = [np.zeros_like(m) for m in train]
    for fit in (fit_ridge, fit_kalman):
        with pytest.raises(InputError, match="valid: expected at least 2 labelled bins, found 0"):
            fit(counts, targets, train, nothing, bin_size=BIN)
