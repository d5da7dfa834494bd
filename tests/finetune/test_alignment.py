"""Matching units of two days: evidence by the definition, the best assignment of all, and known permutations."""

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from ndt.finetune.alignment import COLUMN_STABILITY, STABILITY, SameUnit, _assign, _column_evidence, match_units

N = 20


def day(loadings: np.ndarray, seed: int, T: int = 6000, rate: float = 0.4) -> np.ndarray:
    """Counts of units that follow a few smooth latents, (T, N); each day's latents are its own."""
    rng, kernel = np.random.default_rng(seed), np.hanning(15)
    noise = rng.standard_normal((loadings.shape[1], T + 14))
    latents = np.stack([np.convolve(x, kernel / np.linalg.norm(kernel), "valid") for x in noise], 1)
    base = np.log(rate) + np.linspace(-0.5, 0.5, len(loadings))
    return rng.poisson(np.exp(np.clip(latents @ loadings.T + base, -6, 2))).astype(float)


@pytest.fixture(scope="module")
def loadings() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2 * N, 4)) * 0.6


def mean_and_spread(counts: np.ndarray) -> np.ndarray:
    """Two measures of each unit."""
    return np.stack([counts.mean(0), np.log(counts.var(0))], 1)


def test_evidence_for_units_is_the_ratio_of_gaussian_densities(loadings) -> None:
    """Of one day and the same day, whose noise is the same, so that one turn of the axes makes all independent."""
    counts = day(loadings[:N], 1, 3000)
    ratio = SameUnit.fit(mean_and_spread, counts, counts)
    x = mean_and_spread(counts)
    halves = mean_and_spread(counts[:1500]) - mean_and_spread(counts[1500:])
    noise = halves.T @ halves / N / 4
    total = np.cov(x.T, bias=True)
    between, zero = total - noise, np.zeros((2, 2))
    assert np.linalg.eigvals(np.linalg.solve(noise, between)).min() > 0.5  # no direction is left out
    same = multivariate_normal(cov=np.block([[total, STABILITY * between], [STABILITY * between, total]]))
    apart = multivariate_normal(cov=np.block([[total, zero], [zero, total]]))
    x = x - x.mean(0)
    expected = [[same.logpdf(np.r_[a, b]) - apart.logpdf(np.r_[a, b]) for b in x] for a in x]
    np.testing.assert_allclose(ratio.units(), expected, rtol=1e-4, atol=1e-4)


def pairs_by_hand(ratio: SameUnit, assigned: np.ndarray) -> np.ndarray:
    """The evidence of each old unit and new unit, from all other pairs one by one."""
    found = np.zeros(assigned.shape)
    for i, a in np.ndindex(assigned.shape):
        for j, b in np.ndindex(assigned.shape):
            if i != j and a != b:
                x, y = ratio.old[i, j], ratio.new[a, b]
                terms = ratio.of_old * x**2 + ratio.of_new * y**2 + ratio.of_both * x * y
                found[i, a] += assigned[j, b] * (terms.sum() + ratio.constant)
    return found


def random_pairs(n: int, m: int, seed: int = 0) -> SameUnit:
    rng = np.random.default_rng(seed)
    old, new = rng.standard_normal((n, n, 2)), rng.standard_normal((m, m, 2))
    for x in (old, new):
        x += x.transpose(1, 0, 2)  # of one and the other, and of the other and the one
        x[np.arange(len(x)), np.arange(len(x))] = 0
    return SameUnit(
        old=old,
        new=new,
        of_old=np.array([-0.2, -0.3]),
        of_new=np.array([-0.1, -0.2]),
        of_both=np.array([0.7, 0.4]),
        constant=0.1,
    )


def test_evidence_from_pairs_is_the_sum_over_all_other_assigned_pairs() -> None:
    """Of an assignment: a unit meets itself only where nothing else is assigned, and there its measures are zero."""
    ratio = random_pairs(4, 5)
    assigned = np.zeros((4, 5))
    assigned[[0, 1, 3], [2, 0, 4]] = 1
    expected = pairs_by_hand(ratio, assigned)
    on = assigned > 0
    np.testing.assert_allclose(ratio.pairs(assigned)[on], expected[on], rtol=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_the_assignment_is_near_the_best_and_locally_optimal(seed) -> None:
    """Against all 209 ways to assign some of four units to some of four; evidence is random: the worst case."""
    unit_evidence, pair_evidence = np.random.default_rng(seed).standard_normal((4, 4)) * 2, random_pairs(4, 4, seed)
    reward = unit_evidence - np.log(4)

    def evidence(assigned: np.ndarray) -> float:
        return float((assigned * (reward + pair_evidence.pairs(assigned) / 2)).sum())

    every = {}
    for order in permutations(range(4)):
        for subset in range(16):
            assigned = np.zeros((4, 4))
            for i in range(4):
                assigned[i, order[i]] = subset >> i & 1
            every[assigned.tobytes()] = assigned
    assert len(every) == 209
    found = _assign(unit_evidence, pair_evidence, 0)
    most = evidence(found)
    assert most >= 0.9 * max(map(evidence, every.values()))
    assert most >= max(evidence(other) for other in every.values() if np.abs(other - found).sum() <= 1) - 1e-9


def test_a_permutation_is_recovered_exactly_whatever_the_rates(loadings) -> None:
    """In two segments of the new day, of which one unit is not observed in the second, and one never fires."""
    order = np.random.default_rng(3).permutation(N)
    old, new = day(loadings[:N], 1), day(loadings[:N], 2, rate=0.3)[:, order]
    new[3500:, 4] = np.nan
    found = match_units([old], [new[:3000], new[3000:]], 0.05)
    np.testing.assert_array_equal(found, order)
    silent = np.concatenate([new, np.zeros((len(new), 1))], 1)
    np.testing.assert_array_equal(match_units([old], [silent], 0.05)[:N], order)


def test_matching_is_equivariant_to_unit_order(loadings) -> None:
    old, new = day(loadings[:N], 1), day(loadings[:N], 2)
    order = np.random.default_rng(5).permutation(N)
    np.testing.assert_array_equal(match_units([old], [new[:, order]], 0.05), match_units([old], [new], 0.05)[order])


def test_new_units_are_rarely_matched(loadings) -> None:
    """A quarter of the old day's units are gone, and as many new ones there."""
    stay = N * 3 // 4
    old, new = day(loadings[:N], 1), day(np.concatenate([loadings[:stay], loadings[N : 2 * N - stay]]), 2)
    found = match_units([old], [new], 0.05)
    np.testing.assert_array_equal(found[:stay], np.arange(stay))
    assert (found[stay:] >= 0).sum() <= 2
    assert not set(found[stay:]) & set(range(stay))


def test_known_pairs_are_always_kept(loadings) -> None:
    old, new = day(loadings[:N], 1), day(loadings[:N], 2)
    found = match_units([old], [new], 0.05, known=[(0, 1), (1, 0), (2, 2)])
    np.testing.assert_array_equal(found[:3], [1, 0, 2])
    others = np.arange(3, N)
    assert set(found[3:][found[3:] != others]) <= {-1}
    assert (found[3:] == others).sum() >= N - 5


def test_too_short_days_and_too_few_units_are_not_matched(loadings) -> None:
    old, new = day(loadings[:N], 1), day(loadings[:N], 2)
    found = match_units([old], [new[:80]], 0.05, known=[(3, 2)])
    np.testing.assert_array_equal(found, np.where(np.arange(N) == 2, 3, -1))
    np.testing.assert_array_equal(match_units([old], [new[:, :2]], 0.05), [-1, -1])


def test_recordings_of_short_segments_are_matched(loadings) -> None:
    """No product spans a gap: segments in another order say the same."""
    old, new = day(loadings[:N], 1), day(loadings[:N], 2)
    segments = np.split(new, range(20, len(new), 20))
    found = match_units([old], segments, 0.05)
    assert (found == np.arange(N)).sum() >= N - 2
    np.testing.assert_array_equal(match_units([old], [*segments[:150:-1], *segments[:151]], 0.05), found)


def test_evidence_of_columns_is_the_ratio_of_correlated_gaussian_densities() -> None:
    """Two columns without correlation, of variance 4 and 1; one that repeats the first and one that is not known."""
    old = np.array([[2.0, 1.0], [-2.0, 1.0], [2.0, -1.0], [-2.0, -1.0]])
    columns = np.concatenate([old, -3 * old[:, :1] + 5, np.full((4, 1), np.nan)], 1)
    x = np.sign(old)  # the repeated column and the one that it repeats are one direction
    pair = multivariate_normal(cov=[[1, COLUMN_STABILITY], [COLUMN_STABILITY, 1]])
    apart = multivariate_normal(cov=np.eye(2))
    expected = [
        [sum(pair.logpdf([u, v]) - apart.logpdf([u, v]) for u, v in zip(a, b, strict=True)) for b in x] for a in x
    ]
    np.testing.assert_allclose(_column_evidence(columns, columns), expected, rtol=1e-9)
    np.testing.assert_array_equal(_column_evidence(columns[:, 3:], columns[:2, 3:]), np.zeros((4, 2)))


def test_positions_distinguish_units_with_equal_spikes() -> None:
    rng = np.random.default_rng(0)
    old, new = (rng.poisson(0.5, (2000, 8)).astype(float) for _ in range(2))
    order, places = rng.permutation(8), np.stack(np.unravel_index(range(8), (2, 2, 2)), 1) * 100.0
    found = match_units([old], [new], 0.05, columns=(places, places[order]))
    np.testing.assert_array_equal(found[found >= 0], order[found >= 0])
    assert (found >= 0).sum() >= 5
    blind = match_units([old], [new], 0.05)
    assert (blind == order).sum() < 4
