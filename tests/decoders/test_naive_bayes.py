"""Naive Bayes against posteriors by slow loops, and against the optimal decoder of known populations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm

from ndt.decoders.ensemble import flatten, unflatten
from ndt.decoders.naive_bayes import LOST, CellBayes, NaiveBayes, fit_naive_bayes
from ndt.decoders.target_cells import circle, classes, grid, spread
from ndt.errors import InputError
from ndt.evaluation.metrics import r2

BIN = 0.05
EDGES = (np.linspace(-1.0, 1.0, 5), np.linspace(0.0, 3.0, 4))


def join(arrays, masks):
    return np.concatenate([x[m] for x, m in zip(arrays, masks, strict=True)])


def test_cells_by_hand() -> None:
    ring = circle(4)
    np.testing.assert_allclose(ring.values, [[1, 0], [0, 1], [-1, 0], [0, -1]], atol=1e-15)
    degrees = np.deg2rad([0, 44, 46, 134, 180, -46])
    np.testing.assert_array_equal(ring.of(0.1 * np.stack([np.cos(degrees), np.sin(degrees)], 1)), [0, 0, 1, 1, 2, 3])

    plane = grid(EDGES)
    np.testing.assert_allclose(plane.values[[0, 1, 3, 11]], [[-0.75, 0.5], [-0.75, 1.5], [-0.25, 0.5], [0.75, 2.5]])
    found = plane.of(np.array([[-1.0, 0.0], [-0.5, 0.99], [-0.51, 1.0], [9.0, 9.0], [-9.0, 1.5]]))
    np.testing.assert_array_equal(found, [0, 3, 1, 11, 1])  # an edge belongs to the cell above, and what is beyond to
    np.testing.assert_array_equal(plane.of(plane.values), np.arange(12))  # the cell at the border
    np.testing.assert_array_equal(classes(3).of(np.eye(3)[[2, 0, 1]]), [2, 0, 1])


@pytest.mark.parametrize("cells", [circle(7), grid(EDGES[:1]), grid(EDGES), classes(5)])
@given(a=st.floats(0.01, 3), b=st.floats(0.01, 3))
def test_heat_neither_appears_nor_goes_and_spreads_by_the_root_of_squares(cells, a: float, b: float) -> None:
    x = np.random.default_rng(0).random((2, len(cells.values)))
    once = spread(spread(x, cells.kernel(a)), cells.kernel(b))
    np.testing.assert_allclose(once, spread(x, cells.kernel(np.hypot(a, b))), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(once.sum(1), x.sum(1))
    flat = np.ones((1, len(cells.values)))
    np.testing.assert_allclose(spread(flat, cells.kernel(a)), flat)
    assert min(k.min() for k in cells.kernel(a)) >= 0


@pytest.mark.parametrize("width", [0.1, 0.7, 2.0])
def test_the_width_of_a_spread_is_its_standard_deviation_in_cells(width: float) -> None:
    """Far from any border, however small it is beside a cell."""
    from_middle = spread(np.eye(61)[30:31], grid([np.arange(62.0)]).kernel(width))[0]
    np.testing.assert_allclose(from_middle @ (np.arange(61) - 30) ** 2, width**2, rtol=1e-9)
    np.testing.assert_allclose(from_middle, from_middle[::-1], atol=1e-12)


def test_two_axes_spread_as_one_graph_does() -> None:
    """The graph of a plane is the product of its axes' graphs: compared with the exponential of the whole Laplacian."""
    plane = grid(EDGES)
    near = np.abs(plane.values[:, None] - plane.values[None]) / [0.5, 1.0]
    whole = (np.abs(near.sum(2) - 1) < 1e-9).astype(float)
    x = np.random.default_rng(0).random((3, 12))
    slow = x @ expm(-(0.8**2) / 2 * (np.diag(whole.sum(1)) - whole))
    np.testing.assert_allclose(spread(x, plane.kernel(0.8)), slow, rtol=1e-10)


def model(cells, N: int = 4, **options: object) -> CellBayes:
    """Random tuning curves and prior."""
    rng, M = np.random.default_rng(5), len(cells.values)
    prior = rng.random(M) + 0.1
    return CellBayes(cells, rng.gamma(1.0, 0.5, (M, N)) + 0.02, prior / prior.sum(), smoothing=1.0, **options)


def observed_counts(T: int, N: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random((T, N)) < 0.2, np.nan, rng.poisson(0.6, (T, N)))


def slow_posteriors(m: CellBayes, x: np.ndarray) -> np.ndarray:
    """Bin by bin, cell by cell, unit by unit; probabilities as they are, not their logarithms."""
    M, chain = len(m.prior), None
    if np.isfinite(m.step):
        axes = m.cells.kernel(m.step)
        K = np.kron(*axes) if len(axes) > 1 else axes[0]
        chain = K * m.prior / (K * m.prior).sum(1, keepdims=True)
    out, before = np.empty((len(x), M)), None
    for t in range(len(x)):
        for c in range(M):
            likelihood = 1.0
            for s in range(max(t - m.window_bins + 1, 0), t + 1):
                for n in range(x.shape[1]):
                    if not np.isnan(x[s, n]):
                        likelihood *= (m.rates[c, n] ** x[s, n] * np.exp(-m.rates[c, n])) ** m.power
            expected = m.prior[c]
            if chain is not None and before is not None:
                expected = sum(before[d] * chain[d, c] for d in range(M)) + LOST * m.prior[c]
            out[t, c] = expected * likelihood
        out[t] /= out[t].sum()
        before = out[t]
    return out


@pytest.mark.parametrize("cells", [circle(6), grid(EDGES[1:]), grid(EDGES), classes(3)])
@pytest.mark.parametrize("options", [{}, {"step": 0.3}, {"step": 2.0, "power": 0.4}])
@pytest.mark.parametrize("window_bins", [1, 4])
def test_estimates_are_means_of_the_posterior(cells, options: dict, window_bins: int) -> None:
    m = model(cells, window_bins=window_bins, **options)
    x = observed_counts(12, 4)
    np.testing.assert_allclose(m.predict([x])[0], slow_posteriors(m, x) @ cells.values, rtol=1e-9, atol=1e-12)


def test_one_spike_of_one_unit_by_hand() -> None:
    """Rates 1 and 3 and an even prior: a spike makes it 1 e^-1 to 3 e^-3, and silence e^-1 to e^-3."""
    m = CellBayes(classes(2), np.array([[1.0], [3.0]]), np.array([0.5, 0.5]), window_bins=1, smoothing=0.0)
    found = m.predict([np.array([[1.0], [0.0], [np.nan]])])[0]
    e = np.exp(2.0)
    np.testing.assert_allclose(found, [[e / (e + 3), 3 / (e + 3)], [e / (e + 1), 1 / (e + 1)], [0.5, 0.5]])


def test_a_unit_that_is_not_observed_says_nothing() -> None:
    m = model(circle(6), window_bins=3, step=0.5)
    x = observed_counts(20, 4)
    x[:, 2] = np.nan
    without = CellBayes(m.cells, m.rates[:, [0, 1, 3]], m.prior, window_bins=3, smoothing=1.0, step=0.5)
    np.testing.assert_allclose(m.predict([x])[0], without.predict([x[:, [0, 1, 3]]])[0], rtol=1e-12)


def test_a_filter_that_was_sure_of_the_wrong_cell_comes_back() -> None:
    rates = np.array([[50.0, 0.01], [0.01, 50.0]])
    m = CellBayes(classes(2), rates, np.array([0.5, 0.5]), window_bins=1, smoothing=0.0, step=1e-9)
    found = m.predict([np.array([[50.0, 0.0]] * 20 + [[0.0, 50.0]] * 2)])[0]
    np.testing.assert_allclose(found[[19, 21]], np.eye(2), atol=1e-9)


def heading(T: int = 6000, N: int = 20, seed: int = 0):
    """A heading that wanders, the tuning of units to it, and their counts."""
    rng = np.random.default_rng(seed)
    angle = np.cumsum(0.12 * rng.standard_normal(T))
    preferred = 2 * np.pi * np.arange(N) / N
    tuning = lambda a: 0.02 + 0.6 * np.exp(2.0 * (np.cos(a[:, None] - preferred) - 1))
    return np.stack([np.cos(angle), np.sin(angle)], 1), tuning, rng.poisson(tuning(angle)).astype(float)


def split(T: int):
    rows = np.arange(T)
    return [rows < 0.7 * T], [(rows >= 0.7 * T) & (rows < 0.8 * T)], rows >= 0.8 * T


def test_tuning_is_recovered_and_decodes_as_well_as_that_which_is_true() -> None:
    y, tuning, counts = heading(12000)
    train, valid, test = split(len(y))
    found = fit_naive_bayes([counts], [y], train, valid, bin_size=BIN, kind="angle")
    part = found.parts[0]
    assert np.isfinite(part.step)  # where it was says where it is
    cells, degrees = part.cells, 2 * np.pi * np.arange(len(part.prior)) / len(part.prior)
    assert part.window_bins == 1  # each count once, or the filter would hear it again and again
    error = np.sqrt(np.mean((part.rates - tuning(degrees)) ** 2))
    assert error < 0.2 * tuning(degrees).std()  # some 140 bins a cell leave 0.04 of 0.2 without smoothing

    true = CellBayes(cells, tuning(degrees), np.full(60, 1 / 60), 1, 0.0, 1.0, 0.12 / (2 * np.pi / 60))
    best, score = r2(y[test], true.predict([counts])[0][test]), r2(y[test], found.predict([counts])[0][test])
    assert best > 0.8
    np.testing.assert_allclose(score, best, atol=0.02)
    alone = CellBayes(cells, tuning(degrees), np.full(60, 1 / 60), 1, 0.0)  # knows all but that headings go on
    assert score > r2(y[test], alone.predict([counts])[0][test]) + 0.1


def test_counts_over_observed_bins_are_the_tuning_curve() -> None:
    """With two classes, no smoothing to speak of, and a unit that was observed in every second bin only."""
    rng, T = np.random.default_rng(0), 4000
    label = rng.integers(2, size=T)
    counts = rng.poisson(np.array([[0.5, 2.0], [1.5, 0.3]])[label]).astype(float)
    counts[::2, 1] = np.nan
    train, valid, _ = split(T)
    part = fit_naive_bayes(
        [counts], [np.eye(2)[label]], train, valid, bin_size=1.0, kind="class", max_window_s=0.5
    ).parts[0]
    assert part.window_bins == 1
    n, m = counts[train[0]], label[train[0]]
    mean = (np.nansum(n, 0) + 0.5) / ((~np.isnan(n)).sum(0) + 1)
    spikes, bins = (np.stack([x[m == c].sum(0) for c in range(2)]) for x in (np.nan_to_num(n), ~np.isnan(n)))
    kernel = part.cells.kernel(part.smoothing)[0]
    np.testing.assert_allclose(part.rates, (kernel @ spikes + mean) / (kernel @ bins + 1))
    time = kernel @ np.bincount(m) + 0.5
    np.testing.assert_allclose(part.prior, time / time.sum())


def test_place_on_a_track_and_on_a_plane() -> None:
    rng, T = np.random.default_rng(0), 2500
    walk = np.cumsum(rng.standard_normal((T, 2)) * 0.05, 0)
    place = np.abs((walk + 1) % 2 - 1)  # to and fro between walls at 0 and 1
    fields = rng.random((30, 2))
    for dims in (1, 2):
        y = place[:, :dims]
        distance = ((y[:, None] - fields[:, :dims]) ** 2).sum(2)
        counts = rng.poisson(0.05 + 2 * np.exp(-distance / (2 * 0.15**2))).astype(float)
        train, valid, test = split(T)
        found = fit_naive_bayes([counts], [y], train, valid, bin_size=BIN, kind="continuous")
        assert len(found.parts) == 1
        assert r2(y[test], found.predict([counts])[0][test]) > 0.85


def test_three_dimensions_and_two_angles_are_decoded_one_by_one() -> None:
    y, _, counts = heading(600)
    train, valid, _ = split(len(y))
    both = fit_naive_bayes([counts], [np.c_[y, -y]], train, valid, bin_size=BIN, kind="angle")
    one = fit_naive_bayes([counts], [y], train, valid, bin_size=BIN, kind="angle")
    assert len(both.parts) == 2
    np.testing.assert_allclose(both.predict([counts])[0][:, :2], one.predict([counts])[0], rtol=1e-12)
    np.testing.assert_allclose(both.predict([counts])[0][:, 2:], -one.predict([counts])[0], atol=1e-9)

    three = fit_naive_bayes([counts], [np.c_[y, y[:, :1]]], train, valid, bin_size=BIN, kind="continuous")
    column = fit_naive_bayes([counts], [y[:, :1]], train, valid, bin_size=BIN, kind="continuous")
    assert len(three.parts) == 3
    for c in (0, 2):
        np.testing.assert_allclose(three.predict([counts])[0][:, c], column.predict([counts])[0][:, 0], rtol=1e-12)


def test_probabilities_of_classes_are_calibrated() -> None:
    """Of bins given a class with probability about p, about the share p is of it."""
    rng, T = np.random.default_rng(1), 6000
    label = rng.integers(3, size=T)
    counts = rng.poisson(np.array([[1.0, 0.4, 0.7], [0.4, 1.0, 0.7], [0.7, 0.4, 1.0]])[label]).astype(float)
    y, (train, valid, test) = np.eye(3)[label], split(T)
    found = fit_naive_bayes([counts], [y], train, valid, bin_size=1.0, kind="class")
    p = found.predict([counts])[0]
    np.testing.assert_allclose(p.sum(1), 1.0)
    for low in (0.1, 0.3, 0.5):
        rows = test[:, None] & (p >= low) & (p < low + 0.2)
        np.testing.assert_allclose(y[rows].mean(), p[rows].mean(), atol=4 * 0.5 / np.sqrt(rows.sum()))


@pytest.fixture(scope="module")
def cut():
    """A fitted decoder of short segments, some rows of them unlabelled."""
    y, _, counts = heading(1800)
    counts[500:600, 3] = np.nan
    y[40:60] = np.nan
    edges = [300, 305, 900, 1500]
    rng = np.random.default_rng(0)
    x, v = np.split(counts, edges), np.split(y, edges)
    train = [rng.random(len(k)) < 0.7 for k in x]
    return x, v, train, [~m for m in train]


@pytest.mark.parametrize("options", [{}, {"step": 0.5}])
def test_pieces_do_not_mix_and_the_future_does_not_leak(cut, options: dict) -> None:
    x = cut[0]
    m = NaiveBayes((model(circle(6), N=20, window_bins=5, **options),), "angle", BIN, 0.0)
    before = m.predict(x)
    changed = [k.copy() for k in x]
    changed[0][150:] += 2
    after = m.predict(changed)
    np.testing.assert_array_equal(after[0][:150], before[0][:150])
    assert np.abs(after[0][150] - before[0][150]).max() > 0
    for i in range(1, 5):
        np.testing.assert_array_equal(after[i], before[i])
    np.testing.assert_array_equal(m.predict(x[2:3])[0], before[2])


def test_it_reads_only_its_masks_and_scores_its_predictions(cut) -> None:
    x, y, train, valid = cut
    valid = [m & (np.arange(len(m)) % 2 == 0) for m in valid]
    one = fit_naive_bayes(x, y, train, valid, bin_size=BIN, kind="angle")
    rows = [m & ~np.isnan(v).any(1) for m, v in zip(valid, y, strict=True)]
    np.testing.assert_allclose(one.valid_r2, r2(join(y, rows), join(one.predict(x), rows)), atol=1e-9)
    spoilt = [np.where((t | v)[:, None], k, 7.0) for k, t, v in zip(y, train, valid, strict=True)]
    two = fit_naive_bayes(x, spoilt, train, valid, bin_size=BIN, kind="angle")
    np.testing.assert_array_equal(one.parts[0].rates, two.parts[0].rates)


@pytest.mark.parametrize(
    ("kind", "cells"), [("angle", [circle(6), circle(6)]), ("class", [classes(3)]), ("continuous", [grid(EDGES)])]
)
def test_a_stored_naive_bayes_predicts_the_same(kind: str, cells) -> None:
    parts = [model(c, window_bins=3, step=0.5, power=0.4, valid_r2=0.7) for c in cells]
    whole = NaiveBayes((*parts, model(cells[0], window_bins=2)), kind, BIN, 0.75)  # the last without continuity
    arrays: dict = {}
    again = unflatten(flatten(whole, arrays), arrays)
    assert again.chosen == whole.chosen
    assert whole.chosen["step"][-2:] == [0.5, None]
    assert (again.kind, again.bin_size, again.valid_r2, again.parts[0].valid_r2) == (kind, BIN, 0.75, 0.7)
    x = [observed_counts(30, 4)]
    np.testing.assert_array_equal(again.predict(x)[0], whole.predict(x)[0])


def test_no_labels_raise_an_input_error(cut) -> None:
    x, y, train, _ = cut
    with pytest.raises(InputError, match="valid: expected at least 2 labelled bins, found 0"):
        fit_naive_bayes(x, y, train, [np.zeros_like(m) for m in train], bin_size=BIN, kind="angle")
