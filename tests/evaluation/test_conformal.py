"""Predictive intervals: exact quantiles, coverage against closed forms, and the guarantee of adaptive intervals."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from ndt.evaluation.conformal import Conformal, _scale, adaptive, conformal_quantile, misfit

NORMAL = norm.ppf(0.95)  # half width that holds 0.9 of a standard normal


def one_hot(label, num_classes: int) -> np.ndarray:
    return np.eye(num_classes)[np.asarray(label)]


def directions(degrees: np.ndarray, length=1.0) -> np.ndarray:
    a = np.radians(degrees)
    return np.stack([np.cos(a), np.sin(a)], 1) * np.reshape(length, (-1, 1))


def noisy(R: int, rng: np.random.Generator, scale=1.0, C: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Truth around predictions of 0."""
    return scale * rng.standard_normal((R, C)), np.zeros((R, C))


def inside(found: Conformal, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Whether intervals as set on validation hold the truth."""
    return found.covered(true, predicted, found.half_width(predicted))


def test_quantiles_by_hand() -> None:
    s = np.arange(1.0, 20.0)[:, None]  # 19 scores: 0.9 of 20 is the 18th
    np.testing.assert_array_equal(conformal_quantile(s[::-1], 0.9), [18.0])
    np.testing.assert_array_equal(conformal_quantile(s[:9], 0.9), [9.0])  # 0.9 of 10: the largest of 9
    np.testing.assert_array_equal(conformal_quantile(s[:8], 0.9), [np.inf])  # 8 cannot say
    np.testing.assert_array_equal(conformal_quantile(np.zeros((0, 2)), 0.9), [np.inf, np.inf])
    np.testing.assert_array_equal(conformal_quantile(np.c_[s, -s], 0.5), [10.0, -10.0])  # columns by themselves
    np.testing.assert_array_equal(conformal_quantile(np.arange(1.0, 100.0)[:, None], 0.55), [55.0])  # 55.00000000000001


@pytest.mark.parametrize("n", [9, 19, 24, 50])
def test_exchangeable_rows_are_covered_as_often_as_the_theorem_says(n: int) -> None:
    # a new score is as likely to have any of n + 1 ranks, so coverage is exactly rank / (n + 1), whatever the scores
    trials, level = 20000, 0.9
    scores = np.random.default_rng(n).exponential(size=(n + 1, trials)) ** 3
    found = np.mean(scores[n] <= conformal_quantile(scores[:n], level))
    expected = np.ceil(round((n + 1) * level, 9)) / (n + 1)
    assert level <= expected < level + 1 / (n + 1)
    np.testing.assert_allclose(found, expected, atol=4 * np.sqrt(0.09 / trials))


def test_misfits_by_hand() -> None:
    np.testing.assert_array_equal(
        misfit([[1.0, 2.0], [np.nan, 0.0]], [[0.0, 5.0], [1.0, 1.0]], "continuous"), [[1.0, 3.0], [np.nan, np.nan]]
    )
    true, predicted = directions(np.array([179.0, 0.0])), directions(np.array([-179.0, 45.0]), [5.0, 0.1])
    np.testing.assert_allclose(misfit(true, predicted, "angle"), [[2.0], [45.0]], rtol=1e-9)
    np.testing.assert_allclose(misfit(one_hot([1, 0], 2), [[0.3, 0.7], [0.1, 0.9]], "class"), [[0.3], [0.9]])
    np.testing.assert_array_equal(misfit(one_hot([1], 2), [[-0.2, 1.2]], "class"), [[0.0]])  # ridge, surer than sure
    with pytest.raises(ValueError, match="got 'heading'"):
        misfit(np.zeros((2, 2)), np.zeros((2, 2)), "heading")
    with pytest.raises(ValueError, match=r"\(2, 2\) and \(2, 1\)"):
        misfit(np.zeros((2, 2)), np.zeros((2, 1)), "class")


def test_an_honest_an_overconfident_and_a_timid_predictor_differ() -> None:
    rng = np.random.default_rng(0)
    found = Conformal.fit(*noisy(2000, rng), "continuous")
    np.testing.assert_allclose(found.quantile, NORMAL, rtol=0.08)  # scores: 0 hardly varies, so there is no scale
    for scale, low, high in ((1.0, 0.88, 0.92), (1.5, 0.70, 0.76), (0.67, 0.975, 0.995)):  # 2 Φ(1.645 / scale) - 1
        assert low < inside(found, *noisy(4000, rng, scale)).mean() < high


def test_error_of_coverage_is_how_much_it_varies_between_validation_blocks() -> None:
    rng, n = np.random.default_rng(1), 400
    fitted = [Conformal.fit(*noisy(n, rng, C=1), "continuous") for _ in range(60)]
    true = [2 * norm.cdf(f.quantile[0]) - 1 for f in fitted]
    np.testing.assert_allclose(np.mean(true), 0.9, atol=0.006)
    np.testing.assert_allclose(np.mean([f.error for f in fitted]), np.std(true), rtol=0.25)  # 0.09 is how well 60 tell


def test_width_follows_how_hard_a_row_is() -> None:
    # noise grows with the distance from the mean; with one width for all, easy rows are always covered, hard ones not
    rng = np.random.default_rng(2)
    x, x_new = rng.uniform(-3, 3, (2, 4000, 1))
    y, y_new = (x + (0.2 + np.abs(x)) * rng.standard_normal(x.shape) for x in (x, x_new))
    found = Conformal.fit(y, x, "continuous")
    hard = np.abs(x_new[:, 0]) > 2
    easy = np.abs(x_new[:, 0]) < 1
    held = inside(found, y_new, x_new)[:, 0]
    np.testing.assert_allclose([held.mean(), held[hard].mean(), held[easy].mean()], 0.9, atol=0.03)
    flat = np.abs(y_new - x_new)[:, 0] <= conformal_quantile(np.abs(y - x), 0.9)
    assert flat[easy].mean() > 0.98
    assert flat[hard].mean() < 0.8
    half = found.half_width(np.linspace(0, 3, 50)[:, None])[:, 0]
    assert np.diff(half).min() >= 0  # the scale never falls
    np.testing.assert_allclose(half[-9] / half[8], (0.2 + 2.51) / (0.2 + 0.49), rtol=0.25)


def test_the_scale_never_falls_by_hand() -> None:
    # three times a hundred rows, in order of how hard they look; the last two are pooled
    knots, scales = _scale(np.arange(300.0), np.repeat([1.0, 3.0, 2.0], 100))
    np.testing.assert_allclose(knots, [49.5, 149.5, 249.5], rtol=1e-12)
    np.testing.assert_allclose(scales, [1.0, 2.5, 2.5], rtol=1e-12)
    np.testing.assert_allclose(_scale(np.arange(300.0), np.repeat([9.0, 1.0, 2.0], 100))[1], 4.0, rtol=1e-12)
    np.testing.assert_allclose(
        _scale(np.arange(200.0), np.repeat([0.0, 1.0], 100))[1], [0.05, 1.0], rtol=1e-12
    )  # floor
    assert _scale(np.zeros(300), np.arange(300.0)) == _scale(np.arange(199.0), np.arange(199.0)) == ((0.0,), (1.0,))


def test_a_short_vector_is_an_uncertain_angle() -> None:
    rng = np.random.default_rng(3)

    def draw() -> tuple[np.ndarray, np.ndarray]:
        heading, length = rng.uniform(-180, 180, 3000), rng.uniform(0.2, 1, 3000)
        return directions(heading + 20 / length * rng.standard_normal(3000)), directions(heading, length)

    found, (y, x) = Conformal.fit(*draw(), "angle"), draw()
    half, held, length = found.half_width(x)[:, 0], inside(found, y, x)[:, 0], np.hypot(*x.T)
    for rows in (length < 0.4, length > 0.8):
        np.testing.assert_allclose(held[rows].mean(), 0.9, atol=0.04)
        expected = NORMAL * 20 / length[rows].mean()
        np.testing.assert_allclose(half[rows].mean(), expected, rtol=0.2)
    assert half.max() <= 180


def test_few_rows_have_one_width() -> None:
    y, x = np.random.default_rng(4).standard_normal((2, 199, 2))
    found = Conformal.fit(y, x, "continuous")
    half = found.half_width(x)
    np.testing.assert_array_equal(half, np.broadcast_to(found.quantile, half.shape))
    np.testing.assert_array_equal(found.quantile, conformal_quantile(np.abs(y - x), 0.9))


def test_sets_of_classes_hold_the_truth() -> None:
    rng = np.random.default_rng(5)

    def draw(R: int = 3000) -> tuple[np.ndarray, np.ndarray]:
        p = rng.dirichlet(np.full(4, 0.5), R)
        return one_hot((rng.random((R, 1)) > p.cumsum(1)).sum(1), 4), p

    found, (y, p) = Conformal.fit(*draw(), "class"), draw()
    sets, held = found.sets(p, found.half_width(p)), inside(found, y, p)[:, 0]
    np.testing.assert_array_equal(sets[y == 1], held == 1)  # the true class is in the set: that is coverage
    np.testing.assert_allclose(held.mean(), 0.9, atol=0.025)
    np.testing.assert_array_equal(sets, p >= 1 - found.quantile[0])
    measured = found.measure(y, p)
    np.testing.assert_allclose(measured["interval_set_size"], [sets.sum(1).mean()], rtol=1e-12)
    # the best that any sets can do: likely classes first, until 0.9 of all truth is covered
    pool = np.sort(p.ravel())[::-1]
    best = (np.searchsorted(np.cumsum(pool), 0.9 * len(p)) + 1) / len(p)
    np.testing.assert_allclose(measured["interval_set_size"], best, rtol=0.1)


def drifting(T: int = 4000, seed: int = 6) -> np.ndarray:
    """Errors that double halfway."""
    return np.abs(np.random.default_rng(seed).standard_normal((T, 2))) * np.where(np.arange(T) < T // 2, 1, 2)[:, None]


def test_under_drift_a_fixed_width_loses_coverage_and_an_adaptive_one_regains_it() -> None:
    scores, half = drifting(), np.full((4000, 2), NORMAL)
    late = np.arange(4000) >= 2200
    np.testing.assert_allclose(np.mean(scores[late] <= NORMAL), 2 * norm.cdf(NORMAL / 2) - 1, atol=0.02)  # 0.589
    wide = adaptive(scores, half, level=0.9, gamma=0.1)
    np.testing.assert_allclose(np.mean(scores[late] <= wide[late]), 0.9, atol=0.005)
    np.testing.assert_allclose(np.median(wide[late]), 2 * NORMAL, rtol=0.12)


@settings(max_examples=30)
@given(
    gamma=st.floats(0.01, 0.3),
    level=st.floats(0.5, 0.95),
    missing=st.floats(0, 0.5),
    seed=st.integers(0, 99),
)
def test_coverage_comes_to_the_level_whatever_happens(gamma: float, level: float, missing: float, seed: int) -> None:
    rng, T = np.random.default_rng(seed), 300
    scores = rng.exponential(size=(T, 2)) * np.exp(np.cumsum(0.2 * rng.standard_normal((T, 2)), 0))  # wild drift
    scores[rng.random(T) < missing] = np.nan
    half = adaptive(scores, np.ones((T, 2)), level=level, gamma=gamma)
    for k in range(2):
        s, h = scores[:-1, k], half[:-1, k]  # labels that have arrived when the last width is set
        known = ~np.isnan(s)
        excess = np.sum(s[known] > h[known]) - (1 - level) * known.sum()
        np.testing.assert_allclose(np.log(half[-1, k]), gamma * excess, atol=1e-9)  # exact, by telescoping
        # a width above the largest error grows only by what was missed before and is not yet known
        bound = max(np.log(np.nanmax(scores[:, k])), 0) + gamma * level
        assert excess <= bound / gamma + 1e-9


def test_adaptation_by_hand() -> None:
    # level 0.9, gamma 1: a miss adds 0.9 to the logarithm, a hit takes 0.1, a row without a label nothing
    scores = np.array([[2.0], [0.5], [np.nan], [9.0], [0.0]])
    found = np.log(adaptive(scores, np.ones((5, 1)), level=0.9, gamma=1.0))[:, 0]
    np.testing.assert_allclose(found, [0.0, 0.9, 0.8, 0.8, 1.7], atol=1e-12)


def test_adaptation_is_causal() -> None:
    scores, half = drifting(200), np.full((200, 2), NORMAL)
    scores[100] = 0.0
    changed = scores.copy()
    changed[100:] += 100
    one, two = (adaptive(s, half, level=0.9, gamma=0.1) for s in (scores, changed))
    np.testing.assert_array_equal(one[:101], two[:101])
    assert np.all(one[101] < two[101])


def test_widths_of_nothing_and_of_everything_stay() -> None:
    scores = np.array([[0.0], [1.0], [0.0], [1.0]])
    np.testing.assert_array_equal(adaptive(scores, np.zeros((4, 1)), level=0.9, gamma=0.1), np.zeros((4, 1)))
    np.testing.assert_array_equal(
        adaptive(scores, np.full((4, 1), np.inf), level=0.9, gamma=0.1), np.full((4, 1), np.inf)
    )


def test_the_unit_does_not_matter() -> None:
    rng = np.random.default_rng(7)
    y, x, y_new, x_new = rng.standard_normal((4, 500, 2))
    metres, millimetres = Conformal.fit(y, x, "continuous"), Conformal.fit(1e3 * y, 1e3 * x, "continuous")
    np.testing.assert_allclose(millimetres.half_width(1e3 * x_new), 1e3 * metres.half_width(x_new), rtol=1e-9)
    np.testing.assert_allclose(millimetres.adapt(1e3 * y_new, 1e3 * x_new), 1e3 * metres.adapt(y_new, x_new), rtol=1e-9)


def test_measured_by_hand() -> None:
    rng = np.random.default_rng(9)
    found = Conformal.fit(*noisy(500, rng), "continuous")
    (y, x), segment = noisy(400, rng, 2.0), np.repeat(np.arange(40), 10)
    y[30:50] = np.nan
    measured = found.measure(y, x, segment)
    inside = (np.abs(y) <= found.quantile)[~np.isnan(y).any(1)]
    np.testing.assert_allclose(measured["interval_coverage_90"], inside.mean(), rtol=1e-12)
    np.testing.assert_allclose(measured["interval_half_width"], found.quantile, rtol=1e-12)
    np.testing.assert_allclose(measured["interval_coverage_90_error"], np.std(inside.mean(1)) / np.sqrt(380), rtol=0.25)
    assert measured["interval_calibration_error"] == found.error
    assert measured["interval_coverage_90"] < 0.7
    np.testing.assert_allclose(measured["adaptive_coverage_90"], 0.9, atol=0.03)
    assert json.loads(json.dumps(measured)) == measured


@pytest.mark.parametrize("kind", ["continuous", "angle", "class"])
def test_too_few_validation_rows_give_the_largest_error_and_what_it_guarantees(kind: str) -> None:
    rng = np.random.default_rng(10)
    y, x = (one_hot(rng.integers(2, size=5), 2), rng.dirichlet([1, 1], 5)) if kind == "class" else rng.random((2, 5, 2))
    found = Conformal.fit(y, x, kind)
    np.testing.assert_array_equal(found.half_width(x), np.tile(misfit(y, x, kind).max(0), (5, 1)))
    assert found.attained == found.measure(y, x)["interval_attained"] == 5 / 6
    none = Conformal.fit(y[:0], x[:0], kind)
    half = none.half_width(x)
    np.testing.assert_array_equal(half, np.full_like(half, {"continuous": np.inf, "angle": 180.0, "class": 1.0}[kind]))
    assert none.attained == 0


@pytest.mark.parametrize("n", [3, 8, 10, 14, 40])
def test_few_validation_trials_cover_as_the_theorem_says_with_its_error(n: int) -> None:
    """Coverage given n exchangeable rows is Beta distributed: its mean and its spread over draws of them."""
    rng = np.random.default_rng(n)
    p = rng.dirichlet([1.0, 1.0], (3000, n))
    label = (rng.random((3000, n)) > p[..., 0]).astype(int)
    fits = [Conformal.fit(one_hot(k, 2), x, "class") for k, x in zip(label[:400], p[:400], strict=True)]
    scores = 1 - np.take_along_axis(p, label[..., None], 2).ravel()
    covered = np.array([np.mean(scores <= f.quantile[0]) for f in fits])
    rank = min(np.ceil((n + 1) * 0.9), n) / (n + 1)
    assert {f.attained for f in fits} == {min(0.9, n / (n + 1))}
    spread = np.sqrt(rank * (1 - rank) / (n + 2))
    np.testing.assert_allclose(covered.mean(), rank, atol=4 * spread / 20)
    np.testing.assert_allclose(covered.std(), spread, rtol=0.2)
    assert all(np.isfinite(f.error) and np.isfinite(f.quantile).all() for f in fits)
    if n < 9:  # all rows are inside, which tells nothing of the error
        np.testing.assert_allclose([f.error for f in fits], spread, rtol=1e-9)


def test_unlabelled_rows_do_not_enter_the_fit() -> None:
    rng = np.random.default_rng(11)
    y, x = rng.standard_normal((2, 300, 2))
    holes = np.where((np.arange(300) % 3 == 0)[:, None] & [True, False], np.nan, y)
    keep = np.arange(300) % 3 != 0
    assert Conformal.fit(holes, x, "continuous") == Conformal.fit(y[keep], x[keep], "continuous")


def test_a_class_that_was_always_certain_can_still_be_widened() -> None:
    # in float32 a softmax is often exactly 1: the quantile is 0, and 0 times anything stays 0
    y = one_hot(np.zeros(100, int), 2)
    found = Conformal.fit(y, y, "class")
    wrong = np.tile([0.0, 1.0], (500, 1))
    half = found.adapt(1 - wrong, wrong)
    assert half.max() == 1.0  # all classes, and no more
    np.testing.assert_allclose(found.covered(1 - wrong, wrong, half)[200:].mean(), 0.9, atol=0.02)
