import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV

from ndt.evaluation.metrics import co_bps
from ndt.evaluation.nlb import co_bps_per_unit, psth_r2, tp_corr, vel_r2

ALPHAS = np.logspace(-4, 0, 9)

# Bits per spike


def test_bits_per_spike_of_units_are_averaged_only_under_their_own_name():
    # Unit 0: 2 0 2 0, rates 2, 1/2: (4 - (5 - 4 ln 2)) / 4 ln 2 bits. Unit 1: 1 spike, its null rate: 0. Unit 2 silent.
    counts = np.array([[2, 0, 0], [0, 1, 0], [2, 0, 0], [0, 0, 0]])[None]
    rates = np.array([[2, 0.25, 1], [0.5, 0.25, 1], [2, 0.25, 1], [0.5, 0.25, 1]])[None]
    first = (4 - (5 - 4 * np.log(2))) / (4 * np.log(2))
    assert co_bps_per_unit(rates, counts) == pytest.approx(first / 2, rel=1e-12)
    silent = 4.0  # nats lost on it: its null rate is zero
    assert co_bps(rates, counts) == pytest.approx((first * 4 * np.log(2) - silent) / (5 * np.log(2)), rel=1e-7)
    assert np.isnan(co_bps_per_unit(rates, np.zeros((1, 4, 3))))


# PSTHs


def test_psth_r2_by_hand():
    # Two conditions of one unit, two bins. True averages 0 2 and 1 1; predicted 1 2 (of 0 2 and 2 2) and 1 1.
    psth = [[[0.0], [2.0]], [[1.0], [1.0]]]
    rates = [[[0.0], [2.0]], [[1.0], [1.0]], [[2.0], [2.0]]]
    assert psth_r2(psth, rates, [[0, 2], [1]]) == 0.5  # squared error 1, variation 2 about the mean 1


def test_psth_r2_averages_units_and_not_their_variation():
    psth = np.array([[[0.0, 0.0], [2.0, 20.0]]])
    rates = np.array([[[0.0, 10.0], [2.0, 20.0]]])  # R² 1, and 1 - 100 / 200
    assert psth_r2(psth, rates, [[0]]) == 0.75


def test_psth_r2_leaves_out_conditions_without_a_trial_and_bins_without_a_psth():
    psth = [[[np.nan], [0.0], [2.0]], [[9.0], [9.0], [9.0]]]
    assert psth_r2(psth, [[[7.0], [0.0], [1.0]]], [[0], []]) == 0.5
    with pytest.raises(ValueError, match="a condition with a trial"):
        psth_r2(psth, [[[7.0], [0.0], [1.0]]], [[], []])


def test_psth_r2_is_the_loop_over_conditions_and_trials():
    rng = np.random.default_rng(0)
    psth, rates = rng.uniform(size=(3, 6, 4)), rng.uniform(size=(8, 6, 4))
    trials = [[0, 3], [1, 2, 5, 7], [4]]
    mean = np.concatenate([np.mean([rates[m] for m in rows], 0) for rows in trials])
    expected = r2_score(psth.reshape(-1, 4), mean)
    assert psth_r2(psth, rates, trials) == pytest.approx(expected, rel=1e-9)


# Velocity


def test_vel_r2_reads_rows_with_velocity_and_averages_decoders():
    rng = np.random.default_rng(0)
    train_x, x = rng.standard_normal((20, 6, 4)), rng.standard_normal((8, 6, 4))
    train_y, y = (part[..., :2] @ np.array([[1.0, 2.0], [0.5, -1.0]]) for part in (train_x, x))
    train_y, y = train_y + rng.standard_normal(train_y.shape), y + rng.standard_normal(y.shape)
    train_y[3], y[0, 2:] = np.nan, np.nan
    train_masks = np.stack([np.arange(20) % 2 == 0, np.arange(20) % 2 == 1], 1)
    masks = np.stack([np.arange(8) < 5, np.arange(8) >= 5], 1)

    def reference(fitted, scored):
        rows = [(train_x[fitted].reshape(-1, 4), train_y[fitted].reshape(-1, 2))]
        rows.append((x[scored].reshape(-1, 4), y[scored].reshape(-1, 2)))
        (a, b), (c, d) = (tuple(part[~np.isnan(v[:, 0])] for part in (u, v)) for u, v in rows)
        return GridSearchCV(Ridge(), {"alpha": ALPHAS}).fit(a, b).score(c, d)

    expected = np.mean([reference(train_masks[:, k], masks[:, k]) for k in range(2)])
    assert vel_r2(train_x, train_y, x, y, train_masks, masks) == pytest.approx(expected, rel=1e-9)
    every = reference(np.ones(20, bool), np.ones(8, bool))
    assert vel_r2(train_x, train_y, x, y) == pytest.approx(every, rel=1e-9)


def test_vel_r2_refuses_rates_it_cannot_use():
    x, y = np.ones((4, 5, 2)), np.ones((4, 5, 1))
    with pytest.raises(ValueError, match="contains NaN"):
        vel_r2(np.where(np.arange(2) == 1, np.nan, x), y, x, y)
    with pytest.raises(ValueError, match="at least 10 to fit on"):
        vel_r2(x[:1], y[:1], x, y)
    with pytest.raises(ValueError, match="both be given"):
        vel_r2(x, y, x, y, np.ones((4, 1), bool))


# Produced intervals


def speeds(each, T=4):
    """Rates of two units that move so far from bin to bin, along a diagonal."""
    step = np.arange(T)[None, :, None] * np.array(each)[:, None, None]

    return step * np.array([3 / 5, 4 / 5])


def behavior(conditions, interval):
    return np.c_[np.array(conditions, float).repeat(3).reshape(-1, 3), np.full(len(interval), 800.0), interval]


def test_tp_corr_by_hand():
    rates, counts = speeds([1, 2, 3, 1, 2, 3]), np.zeros((6, 4, 2))
    falls = behavior([0, 0, 0, 1, 1, 1], [700.0, 600.0, 500.0, 900.0, 850.0, 800.0])
    assert tp_corr(rates, counts, falls) == pytest.approx(-1.0, rel=1e-12)
    mixed = behavior([0, 0, 0, 1, 1, 1], [700.0, 600.0, 500.0, 800.0, 850.0, 900.0])
    assert tp_corr(rates, counts, mixed) == pytest.approx(0.0, abs=1e-12)  # -1 and 1: the mean over conditions


def test_tp_corr_moves_only_from_set_to_go():
    rates, counts = speeds([1.0, 2.0, 3.0]), np.zeros((3, 4, 1))
    rates[0, 0] = 1e6  # before Set
    counts[0, 0] = np.nan
    found = tp_corr(rates, counts, behavior([0, 0, 0], [700.0, 600.0, 500.0]))
    assert found == pytest.approx(-1.0, rel=1e-12)


def test_tp_corr_leaves_out_outliers_and_conditions_of_one_trial():
    each, interval = [1.0, 2.0, 3.0, 9.0, 5.0], np.array([700.0, 650.0, 500.0, np.nan, 400.0])
    b = behavior([0, 0, 0, 0, 1], interval)
    b[3] = np.nan  # an outlier has no behaviour at all
    expected = pearsonr(each[:3], interval[:3])[0]
    assert tp_corr(speeds(each), np.zeros((5, 4, 1)), b) == pytest.approx(expected, rel=1e-12)
    assert np.isnan(tp_corr(speeds(each[-1:]), np.zeros((1, 4, 1)), b[-1:]))
