"""Block bootstrap: series whose errors are known, a slow reference for blocks, and undefined errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from ndt.evaluation.bootstrap import (
    Bootstrap,
    _block_sums,
    _length,
    _slowest,
    _spectrum,
    block_bootstrap_mean,
    block_bootstrap_r2,
)
from ndt.evaluation.metrics import r2


def block_length(x) -> int:
    return _length(len(x), *_slowest(np.asarray(x, float)))


def paired_r2_difference(y, x, reference, segment=None, **options) -> tuple[float, float]:
    found = block_bootstrap_r2(y, x, segment, reference=reference, **options)
    return found.value, found.error


def ar1(phi: float, R: int, rng: np.random.Generator) -> np.ndarray:
    """A stationary series of unit innovations: its long-run variance is 1 / (1 - phi)²."""
    return lfilter([1.0], [1.0, -phi], rng.standard_normal(R + 300))[300:]


def slow_block_sums(x: np.ndarray, segment: np.ndarray, block: int) -> np.ndarray:
    """The same by the definition, one block after another."""
    segments = [np.flatnonzero(segment == p) for p in dict.fromkeys(segment.tolist())]
    short = [rows for rows in segments if len(rows) < 2 * block]
    out = np.empty_like(x)
    for rows in segments:
        for i, row in enumerate(rows):
            if len(rows) >= 2 * block:
                members = np.roll(rows, -i)[:block]
            else:
                at = next(k for k, other in enumerate(short) if other[0] == rows[0])
                members = np.zeros(0, int)
                for other in [*short[at:], *short[:at]]:
                    if len(members) < block:
                        members = np.r_[members, other]
            out[row] = x[members].sum(0)
    return out


@settings(max_examples=50)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8), block=st.integers(1, 7), seed=st.integers(0, 99))
def test_blocks_are_those_of_the_definition(lengths: list[int], block: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(0, 1000, (sum(lengths), 2)).astype(float)
    segment = np.repeat(np.arange(len(lengths)) * 3 + 1, lengths)
    np.testing.assert_allclose(_block_sums(x, segment, block), slow_block_sums(x, segment, block), rtol=1e-12)


def test_blocks_by_hand() -> None:
    x, segment = np.array([[1.0], [2.0], [4.0], [8.0], [16.0], [32.0], [64.0]]), np.array([0, 0, 0, 0, 1, 2, 2])
    # of two rows: round the end of the segment of four; the segment of one takes the next, the last has enough
    np.testing.assert_array_equal(_block_sums(x, segment, 2)[:, 0], [3, 6, 12, 9, 112, 96, 96])


def test_structure_that_recurs_in_every_trial_adds_no_error() -> None:
    # a reach is fast in its middle, each time: the sum over whole reaches does not vary, that over cut ones does
    x, segment = np.tile([0.0, 1.0, 5.0, 5.0, 1.0, 0.0], 30)[:, None], np.repeat(np.arange(30), 6)
    np.testing.assert_allclose(_block_sums(x, segment, 4), 12.0, rtol=1e-12)
    assert np.ptp(_block_sums(x, np.zeros(180), 4)) > 4


def test_independent_rows_have_the_analytic_error() -> None:
    rng, R = np.random.default_rng(0), 900
    found = [block_bootstrap_mean(3 * rng.standard_normal(R) + 1, seed=s) for s in range(20)]
    np.testing.assert_allclose(np.mean([error for _, error in found]), 3 / np.sqrt(R), rtol=0.03)
    inside = rng.random((20, R)) < 0.9
    found = [block_bootstrap_mean(row, seed=s) for s, row in enumerate(inside)]
    np.testing.assert_allclose(np.mean([error for _, error in found]), np.sqrt(0.09 / R), rtol=0.04)
    np.testing.assert_allclose([mean for mean, _ in found], inside.mean(1), rtol=1e-12)


def test_few_independent_rows_have_the_unbiased_error() -> None:
    draws = (np.random.default_rng(s).standard_normal(10) for s in range(100))
    x = next(x for x in draws if block_length(x) == 1 and _spectrum(x)[0] <= 0)  # they even look independent
    _, error = block_bootstrap_mean(x, replicates=20000)
    np.testing.assert_allclose(error, x.std(ddof=1) / np.sqrt(10), rtol=0.02)  # the draws' own is 5 % less


@pytest.mark.parametrize(("phi", "R"), [(0.5, 500), (0.8, 1000), (0.9, 2000)])
def test_errors_of_dependent_rows_are_right_and_those_of_independence_are_not(phi: float, R: int) -> None:
    rng, trials = np.random.default_rng(1), 120
    true = 1 / (1 - phi) / np.sqrt(R)
    found = np.array([block_bootstrap_mean(ar1(phi, R, rng), seed=s, replicates=200) for s in range(trials)])
    np.testing.assert_allclose(found[:, 1].mean(), true, rtol=0.08)
    covered = np.mean(np.abs(found[:, 0]) < 1.96 * found[:, 1])
    assert 0.90 <= covered <= 0.98  # 0.95 with a standard error of 0.02, and somewhat less for a finite series
    naive = np.sqrt(1 / (1 - phi**2) / R)
    assert np.mean(np.abs(found[:, 0]) < 1.96 * naive) < 0.85


def test_blocks_of_fixed_length_understate_slow_errors() -> None:
    """Blocks of 20 rows (a second of 50 ms bins) miss most of the variance; the automatic length does not."""
    rng, phi, R, fixed = np.random.default_rng(9), 0.98, 6000, 20
    true = 1 / (1 - phi) / np.sqrt(R)
    rows = [ar1(phi, R, rng) for _ in range(40)]
    of_blocks = [_block_sums((x - x.mean())[:, None], np.zeros(R), fixed).std() / np.sqrt(R * fixed) for x in rows]
    assert np.mean(of_blocks) < 0.5 * true
    errors = [block_bootstrap_mean(x, seed=s, replicates=200)[1] for s, x in enumerate(rows)]
    np.testing.assert_allclose(np.mean(errors), true, rtol=0.1)


def test_slow_errors_under_fast_ones_are_seen() -> None:
    """No autocorrelation of the rows exceeds 0.06, and yet 86 % of the variance of the mean are slow."""
    rng, phi, R = np.random.default_rng(10), 0.98, 6000
    slow = 0.25 * np.sqrt(1 - phi**2)
    true = np.sqrt((1 + (slow / (1 - phi)) ** 2) / R)
    rows = [rng.standard_normal(R) + slow * ar1(phi, R, rng) for _ in range(40)]
    assert np.median([_length(R, *_spectrum(x)) for x in rows]) < 0.5 * np.median([block_length(x) for x in rows])
    errors = [block_bootstrap_mean(x, seed=s, replicates=200)[1] for s, x in enumerate(rows)]
    np.testing.assert_allclose(np.mean(errors), true, rtol=0.12)


def test_errors_of_trials_are_those_of_independent_trials() -> None:
    """Each trial has its own error beside those of its bins, and a course that recurs adds none."""
    rng, M, T = np.random.default_rng(11), 60, 9
    course, segment = 5 * np.sin(2 * np.pi * np.arange(T) / T), np.repeat(np.arange(M), T)
    true = np.sqrt((0.3**2 + 1 / T) / M)
    found = []
    for s in range(60):
        x = (rng.standard_normal((M, T)) + 0.3 * rng.standard_normal((M, 1)) + course).ravel()
        found.append(block_bootstrap_mean(x, segment, seed=s, replicates=200)[1])
    np.testing.assert_allclose(np.mean(found), true, rtol=0.08)
    y, x = rng.standard_normal((2, M * T, 1))  # bins look independent, and yet the blocks are whole trials
    assert block_bootstrap_r2(y, x, segment).block == 5
    assert block_bootstrap_r2(y, x).block < 5


def test_swings_make_the_error_smaller() -> None:
    rng = np.random.default_rng(2)
    found = [block_bootstrap_mean(ar1(-0.6, 1000, rng), seed=s, replicates=300)[1] for s in range(40)]
    true, naive = 1 / 1.6 / np.sqrt(1000), np.sqrt(1 / (1 - 0.36) / 1000)
    np.testing.assert_allclose(np.mean(found), true, rtol=0.1)
    assert max(found) < naive


def test_intervals_of_r2_hold_the_truth() -> None:
    rng, phi, R, hits, errors, values = np.random.default_rng(3), 0.8, 800, 0, [], []
    for s in range(150):
        y, noise = (np.stack([ar1(phi, R, rng), ar1(phi, R, rng)], 1) for _ in range(2))
        found = block_bootstrap_r2(y, y + 0.5 * noise, seed=s, replicates=300)
        low, high = found.interval(0.95)
        np.testing.assert_allclose(found.value, r2(y, y + 0.5 * noise), rtol=1e-12)
        hits += low < 0.75 < high
        errors.append(found.error)
        values.append(found.value)
    assert 0.89 <= hits / 150 <= 0.99
    np.testing.assert_allclose(np.mean(errors), np.std(values), rtol=0.15)


def test_a_pair_differs_by_less_than_its_members_vary() -> None:
    rng = np.random.default_rng(4)
    differences, errors = [], []
    for s in range(100):
        y, shared = ar1(0.8, 600, rng)[:, None], ar1(0.8, 600, rng)[:, None]
        a, b = (y + 0.6 * shared + 0.3 * rng.standard_normal((600, 1)) for _ in range(2))
        value, error = paired_r2_difference(y, a, b, seed=s, replicates=200)
        np.testing.assert_allclose(value, r2(y, a) - r2(y, b), atol=1e-12)
        differences.append(value)
        errors.append(error)
        if s == 0:
            assert error < 0.5 * block_bootstrap_r2(y, a).error
    np.testing.assert_allclose(np.mean(errors), np.std(differences), rtol=0.2)  # 0.07 is how well 100 tell the latter


def test_the_same_predictions_do_not_differ() -> None:
    y, x = np.random.default_rng(0).standard_normal((2, 300, 2))
    value, error = paired_r2_difference(y, x, x)
    assert value == 0
    assert np.isnan(error)


def test_block_length_is_the_best_ones() -> None:
    # of an AR(1) series G / level is 2 phi / (1 - phi²): the length is known
    rng, R = np.random.default_rng(5), 2000
    assert np.median([block_length(rng.standard_normal(R)) for _ in range(30)]) <= 3
    lengths = {}
    for phi in (0.5, 0.9):
        expected = (1.5 * (2 * phi / (1 - phi**2)) ** 2 * R) ** (1 / 3)
        lengths[phi] = np.median([block_length(ar1(phi, R, rng)) for _ in range(30)])
        np.testing.assert_allclose(lengths[phi], expected, rtol=0.2)
    assert block_length([]) == block_length([1.0]) == block_length(np.ones(50)) == 1


@settings(max_examples=25)
@given(scale=st.floats(1e-3, 1e3), offset=st.floats(-10, 10), seed=st.integers(0, 99))
def test_units_do_not_matter(scale: float, offset: float, seed: int) -> None:
    y = ar1(0.7, 200, np.random.default_rng(seed))
    mean, error = block_bootstrap_mean(y, replicates=100)
    found = block_bootstrap_mean(scale * (y + offset), replicates=100)
    np.testing.assert_allclose(found, [scale * (mean + offset), scale * error], rtol=1e-6, atol=1e-9 * scale)


def test_too_little_tells_no_error() -> None:
    assert np.isnan(block_bootstrap_mean([1.0, 2.0, 4.0])[1])
    assert np.isnan(block_bootstrap_mean(np.arange(200.0))[1])  # a trend: no two parts of it are alike
    assert np.isnan(block_bootstrap_mean(np.ones(500))[1])  # all covered: how often they are not, nobody saw
    assert np.isnan(block_bootstrap_mean([])).all()
    mean, error = block_bootstrap_mean(ar1(0.5, 100, np.random.default_rng(0)), np.repeat([0, 1, 2, 3], 25))
    assert np.isfinite([mean, error]).all()
    y = np.random.default_rng(0).standard_normal((60, 1))
    assert np.isnan(block_bootstrap_r2(np.ones((60, 1)), y).value)
    assert np.isnan(block_bootstrap_r2(y[:3], y[:3] + 1).interval()).all()


def test_unlabelled_rows_are_left_out() -> None:
    rng = np.random.default_rng(6)
    y, x, segment = rng.standard_normal((120, 2)), rng.standard_normal((120, 2)), np.repeat(np.arange(12), 10)
    keep = rng.random(120) < 0.8
    holes = np.where(keep[:, None] | [False, True], y, np.nan)  # one missing dimension makes a row unlabelled
    one, two = block_bootstrap_r2(holes, x, segment), block_bootstrap_r2(y[keep], x[keep], segment[keep])
    np.testing.assert_array_equal(one.draws, two.draws)
    assert one.value == two.value
    assert paired_r2_difference(holes, x, y, segment) == paired_r2_difference(y[keep], x[keep], y[keep], segment[keep])


def test_a_seed_gives_the_same_draws_and_another_gives_others() -> None:
    y, x = np.random.default_rng(7).standard_normal((2, 300, 2))
    one, two, three = (block_bootstrap_r2(y, x, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.draws, two.draws)
    assert np.abs(one.draws - three.draws).max() > 0
    np.testing.assert_allclose(one.error, three.error, rtol=0.15)


def test_long_series_are_drawn_in_fewer_blocks() -> None:
    rng = np.random.default_rng(8)
    found = block_bootstrap_r2(y := rng.standard_normal((20000, 1)), y + rng.standard_normal((20000, 1)))
    assert found.block >= 20
    assert found.num_blocks <= 1000


def test_interval_by_hand() -> None:
    draws = np.linspace(0, 1, 1001)
    many = Bootstrap(value=0.5, draws=draws, block=1, num_blocks=1e9)
    np.testing.assert_allclose(many.interval(0.9), [0.05, 0.95], atol=1e-6)
    few = Bootstrap(value=0.5, draws=draws, block=1, num_blocks=6)  # t of 5 degrees of freedom: 2.0150 for 1.6449
    np.testing.assert_allclose(few.interval(0.9), 0.5 + np.array([-0.45, 0.45]) * 2.01505 / 1.64485, rtol=1e-4)
