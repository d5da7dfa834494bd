"""Controls: decoders without spikes or with wrong labels fail, and fitted gains equal the true ones."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ndt.decoders.controls import block_permuted_targets, circularly_shifted_targets, fit_time_gain, fit_time_only
from ndt.decoders.ridge import fit_ridge
from ndt.errors import InputError
from ndt.evaluation.metrics import r2

BIN = 0.05


def join(arrays, masks):
    return np.concatenate([x[m] for x, m in zip(arrays, masks, strict=True)])


def blocks(num_segments: int, length: int, *edges: int) -> list[list[np.ndarray]]:
    """Masks of whole segments, between successive edges."""
    return [[np.full(length, a <= i < b) for i in range(num_segments)] for a, b in pairwise(edges)]


def test_time_only_learns_a_profile_and_no_more() -> None:
    rng = np.random.default_rng(0)
    since = [np.arange(20) for _ in range(60)]
    profile = np.stack([np.sin(np.arange(20) / 3), np.arange(20) / 10], 1)
    targets = [profile + 0.1 * rng.standard_normal((20, 2)) for _ in since]
    train, valid, test = blocks(60, 20, 0, 40, 50, 60)
    model = fit_time_only(targets, train, valid, since)
    assert r2(join(targets, test), join(model.predict(since), test)) > 0.95
    np.testing.assert_allclose(model.predict([np.array([500])])[0][0], np.concatenate(targets[:40]).mean(0))

    noise = [rng.standard_normal((20, 2)) for _ in since]
    model = fit_time_only(noise, train, valid, since)
    assert abs(r2(join(noise, test), join(model.predict(since), test))) < 0.1


def reaches(noise: float, seed: int = 0):
    """Sixty segments of 8 bins, whose target is linear in counts, times a gain that each bin and dimension has."""
    rng = np.random.default_rng(seed)
    gains = np.stack([np.linspace(0.2, 2.0, 8), np.sin(np.arange(8)) + 1.5], 1)
    counts = [rng.poisson(3.0, (8, 6)).astype(float) for _ in range(60)]
    weights = rng.standard_normal((6, 2))
    linear = [(k - 3.0) @ weights for k in counts]
    return counts, linear, [v * gains + noise * rng.standard_normal((8, 2)) for v in linear], gains


def test_gains_are_recovered_exactly_where_nothing_else_varies() -> None:
    counts, linear, targets, gains = reaches(noise=0.0)
    train, valid, test = blocks(60, 8, 0, 30, 45, 60)
    ridge = fit_ridge(counts, linear, train, valid, bin_size=BIN, max_lag_s=BIN, alphas=(1e-6,))
    since = [np.arange(8) for _ in counts]
    targets[31][3] = np.nan  # an unlabelled row counts for nothing
    model = fit_time_gain(ridge, counts, targets, valid, since)
    assert model.shrinkage == 0.0
    np.testing.assert_allclose(model.gains, gains, rtol=1e-6)
    np.testing.assert_allclose(model.valid_r2, 1.0, atol=1e-10)
    np.testing.assert_allclose(join(model.predict(counts, since), test), join(targets, test), atol=1e-5)
    late = model.predict(counts[:1], [np.arange(100, 108)])[0]  # later than any bin that was seen: ridge itself
    np.testing.assert_array_equal(late, ridge.predict(counts[:1])[0])


def test_gains_and_their_score_by_a_slow_loop(monkeypatch) -> None:
    monkeypatch.setattr("ndt.decoders.controls.SHRINKAGES", (2.5,))
    counts, linear, targets, _ = reaches(noise=4.0)
    train, valid, _ = blocks(60, 8, 0, 30, 45, 60)
    ridge = fit_ridge(counts, linear, train, valid, bin_size=BIN, max_lag_s=BIN)
    since = [np.arange(8) for _ in counts]
    model = fit_time_gain(ridge, counts, targets, valid, since)
    assert model.shrinkage == 2.5

    y, p, b = join(targets, valid), join(ridge.predict(counts), valid), join(since, valid)
    gain = lambda rows, c: (
        ((y * p)[rows, c].sum() + 2.5 * (p[:, c] ** 2).mean()) / ((p**2)[rows, c].sum() + 2.5 * (p[:, c] ** 2).mean())
    )
    slow = [[gain(b == i, c) for c in range(2)] for i in range(8)]
    np.testing.assert_allclose(model.gains, slow)
    rows = np.arange(len(y))
    left_out = np.array([[gain((b == b[t]) & (rows != t), c) for c in range(2)] for t in rows])
    np.testing.assert_allclose(model.valid_r2, r2(y, left_out * p))


def test_no_gain_is_claimed_where_time_says_nothing() -> None:
    """One long segment has each number of bins once: leaving a row out leaves nothing to set its gain by."""
    rng = np.random.default_rng(0)
    counts = [rng.poisson(3.0, (400, 6)).astype(float)]
    targets = [(counts[0] - 3) @ rng.standard_normal((6, 2)) + rng.standard_normal((400, 2))]
    train, valid = [np.arange(400) < 300], [np.arange(400) >= 300]
    ridge = fit_ridge(counts, targets, train, valid, bin_size=BIN)
    model = fit_time_gain(ridge, counts, targets, valid, [np.arange(400)])
    assert model.shrinkage == np.inf
    np.testing.assert_array_equal(model.predict(counts, [np.arange(400)])[0], ridge.predict(counts)[0])
    np.testing.assert_allclose(model.valid_r2, r2(targets[0][300:], ridge.predict(counts)[0][300:]))


def test_shuffled_targets_keep_values_and_leave_no_block() -> None:
    targets = [np.arange(300.0)[:, None], np.arange(300.0, 500.0)[:, None]]
    row = [np.arange(300), np.arange(300, 500)]
    train, valid = [r < 330 for r in row], [(r >= 330) & (r < 410) for r in row]
    out = block_permuted_targets(targets, train, valid, seed=3)
    flat = np.concatenate(out)[:, 0]
    np.testing.assert_array_equal(flat[410:], np.arange(410, 500))  # neither mask: untouched
    np.testing.assert_array_equal(np.sort(flat[:320]), np.arange(320))  # eight whole blocks of 40
    np.testing.assert_array_equal(flat[320:330], np.arange(320, 330) - 165)  # ten rows left over: half the rows away
    np.testing.assert_array_equal(np.sort(flat[330:410]), np.arange(330, 410))  # four blocks of 20
    assert (np.abs(flat - np.arange(500))[:410] >= 20).all()
    np.testing.assert_array_equal(out[0], block_permuted_targets(targets, train, valid, seed=3)[0])
    assert (np.concatenate(block_permuted_targets(targets, train, valid, seed=4))[:, 0] != flat).any()


def test_shifted_targets_turn_labelled_rows_by_half() -> None:
    targets = [np.arange(6.0)[:, None], np.arange(6.0, 14.0)[:, None]]
    targets[0][2] = np.nan
    train, valid = [np.arange(6) < 9, np.arange(6, 14) < 9], [np.arange(6) > 9, np.arange(6, 14) > 9]
    out = circularly_shifted_targets(targets, train, valid)
    np.testing.assert_array_equal(out[0][:, 0], [5, 6, np.nan, 7, 8, 0])  # of 0 1 3 4 5 6 7 8, four late
    np.testing.assert_array_equal(out[1][:, 0], [1, 3, 4, 9, 12, 13, 10, 11])  # 9 is in neither mask


@given(st.integers(2, 400), st.integers(0, 5))
def test_no_row_of_either_control_keeps_its_label(num_rows: int, seed: int) -> None:
    row = np.arange(num_rows)
    targets, masks = [row[:, None].astype(float)], ([row % 3 > 0], [row % 3 == 0])
    fewest = min(int(m[0].sum()) for m in masks)
    assume(fewest >= 2)
    for out in (block_permuted_targets(targets, *masks, seed=seed), circularly_shifted_targets(targets, *masks)):
        if fewest >= 8:  # with fewer, one block is all there is
            assert (out[0][:, 0] != row).all()
        assert ((out[0][:, 0] % 3 == 0) == (row % 3 == 0)).all()  # labels stay on their side of the split


@pytest.mark.parametrize("control", ["block_permuted", "circularly_shifted"])
def test_a_decoder_of_the_wrong_labels_scores_about_zero(control: str) -> None:
    rng, T = np.random.default_rng(0), 6000
    x, turn = np.zeros((T, 2)), 0.95 * np.array([[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]])
    for t in range(1, T):
        x[t] = turn @ x[t - 1] + 0.3 * rng.standard_normal(2)
    y, rows = x @ rng.standard_normal((2, 12)) + 1.5 * rng.standard_normal((T, 12)), np.arange(T)
    train, valid, test = [rows < 4200], [(rows >= 4200) & (rows < 4800)], rows >= 4800
    move = {
        "block_permuted": lambda *a: block_permuted_targets(*a, seed=0),
        "circularly_shifted": circularly_shifted_targets,
    }[control]
    real = fit_ridge([y], [x], train, valid, bin_size=BIN)
    wrong = fit_ridge([y], move([x], train, valid), train, valid, bin_size=BIN)
    assert r2(x[test], real.predict([y])[0][test]) > 0.7
    assert abs(r2(x[test], wrong.predict([y])[0][test])) < 0.05


def test_no_labels_raise_an_input_error() -> None:
    counts, linear, targets, _ = reaches(noise=0.1)
    train, valid, nothing = blocks(60, 8, 0, 30, 60, 60)
    ridge = fit_ridge(counts, linear, train, valid, bin_size=BIN)
    since = [np.arange(8) for _ in counts]
    with pytest.raises(InputError, match="valid: expected at least 2 labelled bins, found 0"):
        fit_time_gain(ridge, counts, targets, nothing, since)
    with pytest.raises(InputError, match="valid: expected at least 2 labelled bins, found 0"):
        fit_time_only(targets, train, nothing, since)
