"""Decoders of labels per trial: exact features, scikit-learn itself as reference, causal, and from few trials."""

import numpy as np
import pytest
from realdata import DATA
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, Ridge

from ndt.config import IngestConfig
from ndt.data.ingest import ingest
from ndt.data.windows import BinnedSession
from ndt.decoders.logistic import ALPHA, _edges, _folds, _root_counts, fit_trial_decoder

BIN = 0.02
MEASURED = {  # balanced accuracy of the shared reference, PROVENANCE.md of the recordings
    "Cori_ses-20161214": 0.763, "Cori_ses-20161217": 0.784, "Cori_ses-20161218": 0.854, "Forssmann_ses-20171101": 0.664,
    "Forssmann_ses-20171102": 0.750, "Forssmann_ses-20171104": 0.724, "Hench_ses-20170615": 0.807,
    "Hench_ses-20170616": 0.843, "Hench_ses-20170617": 0.863, "Lederberg_ses-20171205": 0.902,
    "Lederberg_ses-20171206": 0.899, "Lederberg_ses-20171207": 0.780, "Lederberg_ses-20171208": 0.865,
    "Lederberg_ses-20171209": 0.827,
}  # fmt: skip


def trials(num_trials: int, seed: int = 0, T: int = 20, N: int = 30, K: int = 2) -> tuple[list, list, np.ndarray]:
    """Counts of trials that are segments of T bins, bins since their start, and their classes."""
    rng, units = np.random.default_rng(seed), np.random.default_rng(100)
    label = rng.permutation(np.arange(num_trials) % K)
    rate = 0.3 * np.exp(0.5 * units.standard_normal((K, N)))
    counts = [rng.poisson(np.broadcast_to(rate[k], (T, N))).astype(float) for k in label]

    return counts, [np.arange(T)] * num_trials, label


def at_end(counts: list, chosen: np.ndarray) -> list:
    """Masks of the last bin of chosen trials."""
    return [(np.arange(len(x)) == len(x) - 1) & bool(c) for x, c in zip(counts, chosen, strict=True)]


def one_hot(label: np.ndarray, counts: list, K: int = 2) -> list:
    return [np.tile(np.eye(K)[k], (len(x), 1)) for k, x in zip(label, counts, strict=True)]


def fitted(num_trials: int = 80, num_valid: int = 0, K: int = 2, **options: object) -> tuple:
    """A decoder, and counts, clock and classes of all trials; the last ones are validation."""
    counts, since, label = trials(num_trials, K=K)
    valid = np.arange(num_trials) >= num_trials - num_valid
    masks = at_end(counts, ~valid), at_end(counts, valid)
    options = {"bin_size": BIN, "kind": "class"} | options
    found = fit_trial_decoder(counts, one_hot(label, counts, K), *masks, since, **options)

    return found, counts, since, label


def test_parts_divide_the_median_trial() -> None:
    assert _edges(np.array([20, 20, 5]), 0.02) == (0, 5, 10, 15, 20)
    assert _edges(np.array([13.0]), 0.03) == (0, 3, 6, 10, 13)
    assert _edges(np.array([1, 1]), 0.02) == (0, 1)
    assert len(_edges(np.array([500]), 0.02)) == 11  # of a second each


def test_root_counts_by_hand() -> None:
    # a trial of 5 bins, two bins outside, a trial cut off after 3 bins, and one whose first 2 bins are missing
    since = np.array([0, 1, 2, 3, 4, -1, -1, 0, 1, 2, 2, 3])
    counts = np.arange(12.0)[:, None] ** 2
    counts[8] = np.nan
    trial, passed, root = _root_counts(counts, since, (0, 2, 4))
    np.testing.assert_array_equal(trial, [0] * 5 + [-1] * 2 + [1] * 3 + [2] * 2)
    np.testing.assert_array_equal(passed, [0, 1, 1, 2, 2, 0, 0, 0, 1, 1, 1, 2])
    np.testing.assert_allclose(root, [[1.0, np.sqrt(13)], [np.nan, np.nan], [np.nan, np.sqrt(221)]])


def test_classes_are_those_of_scikit_learn_on_root_counts() -> None:
    """More features than trials: the solution in the span of the trials is that in all features."""
    for K in (2, 3):
        found, counts, since, label = fitted(60, K=K, alphas=(50.0,))
        x = np.stack([np.sqrt(c.reshape(4, 5, -1).sum(1)).ravel() for c in counts])
        assert x.shape[1] > len(x)
        z = (x - x.mean(0)) / x.std(0)
        model = LogisticRegression(C=1 / 50, class_weight="balanced", max_iter=5000, tol=1e-8).fit(z, label)
        got = np.stack([p[-1] for p in found.predict(counts, since)])
        np.testing.assert_allclose(got, model.predict_proba(z), atol=2e-3)
        assert found.alpha == 50.0


def test_quantities_are_those_of_ridge_regression() -> None:
    counts, since, label = trials(40)
    y = [np.full((20, 1), 3.0 * k + 0.1 * i) for i, k in enumerate(label)]
    everyone = np.ones(40, bool)
    masks = at_end(counts, everyone), at_end(counts, ~everyone)
    found = fit_trial_decoder(counts, y, *masks, since, bin_size=BIN, kind="continuous", alphas=(20.0,))
    x = np.stack([np.sqrt(c.reshape(4, 5, -1).sum(1)).ravel() for c in counts])
    z, true = (x - x.mean(0)) / x.std(0), np.array([v[0] for v in y])
    expected = Ridge(alpha=20.0).fit(z, true).predict(z)
    np.testing.assert_allclose([p[-1] for p in found.predict(counts, since)], np.reshape(expected, (-1, 1)), rtol=1e-9)


def test_a_part_enters_when_it_has_passed_and_no_later_spike_does() -> None:
    found, counts, since, _ = fitted()
    (first,) = found.predict(counts[:1], since[:1])
    np.testing.assert_allclose(first[:4], np.tile(softmax(found.intercept), (4, 1)), rtol=1e-12)
    assert [np.ptp(first[a:b], 0).max() for a, b in ((0, 4), (4, 9), (9, 14), (14, 19))] == [0] * 4
    assert np.abs(np.diff(first[[3, 4, 9, 14, 19]], axis=0)).min() > 0
    changed = counts[0].copy()
    changed[12:] += 5
    (second,) = found.predict([changed], since[:1])
    np.testing.assert_array_equal(second[:14], first[:14])
    assert np.abs(second[14:] - first[14:]).max() > 0


def test_trials_in_one_segment_are_those_in_segments_of_their_own() -> None:
    found, counts, since, _ = fitted()
    outside = np.zeros((3, 30))
    together = np.concatenate([v for x in counts[:5] for v in (x, outside)])
    clock = np.concatenate([v for s in since[:5] for v in (s, np.full(3, -1))])
    (got,) = found.predict([together], [clock])
    expected = np.stack(found.predict(counts[:5], since[:5]))
    np.testing.assert_allclose(got.reshape(5, 23, 2)[:, :20], expected, rtol=1e-12)
    np.testing.assert_allclose(got.reshape(5, 23, 2)[:, 20:], np.tile(softmax(found.intercept), (5, 3, 1)), rtol=1e-12)


def test_what_was_not_observed_counts_as_the_mean() -> None:
    found, counts, since, _ = fitted()
    mean = found.features.mean.reshape(4, 30)
    missing, filled = counts[0].copy(), counts[0].copy()
    missing[7, 3] = np.nan
    (got,) = found.predict([missing], since[:1])
    filled[5:10, 3] = np.r_[mean[1, 3] ** 2, np.zeros(4)]
    (expected,) = found.predict([filled], since[:1])
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_the_penalty_is_chosen_on_validation_within_training_or_not_at_all() -> None:
    counts, _, _ = trials(10)
    assert fitted(8)[0].alpha == ALPHA  # four trials of each class
    assert fitted(60)[0].alpha != ALPHA  # cross-validated
    valid, counts, since, label = fitted(100, num_valid=40)
    losses = []
    for alpha in (10.0, valid.alpha, 1e5):
        one = fitted(100, num_valid=40, alphas=(alpha,))[0]
        p = np.stack([v[-1] for v in one.predict(counts, since)])[60:]
        hit = np.log(p[np.arange(40), label[60:]])
        losses.append(-np.mean([hit[label[60:] == k].mean() for k in range(2)]))
    assert losses[1] == min(losses)
    new_counts, new_since, new = trials(200, seed=9)
    guess = np.stack([p[-1] for p in valid.predict(new_counts, new_since)]).argmax(1)
    assert np.mean(guess == new) > 0.85


def test_folds_are_runs_of_time_within_each_class() -> None:
    label = np.array([0, 1, 0, 0, 1, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(_folds(label), [0, 0, 1, 2, 1, 3, 4, 2, 3, 4])


def test_fitting_reads_no_count_after_the_bin_of_a_trials_label() -> None:
    """Some trials are labelled in their middle, where a split ends: what follows belongs to another split."""
    counts, since, label = trials(40)
    rows = [np.arange(20) == (9 if i % 4 == 0 else 19) for i in range(40)]
    masks = rows, [np.zeros(20, bool)] * 40
    found = []
    for later in (0.0, 50.0):
        other = [np.where((np.arange(20) > 9)[:, None], later, x) if i % 4 == 0 else x for i, x in enumerate(counts)]
        found.append(fit_trial_decoder(other, one_hot(label, counts), *masks, since, bin_size=BIN, kind="class"))
    one, two = found
    np.testing.assert_array_equal(one.weights, two.weights)
    np.testing.assert_array_equal(one.features.mean, two.features.mean)


def test_a_class_without_training_trials_has_no_probability() -> None:
    counts, since, label = trials(40)
    everyone = np.ones(40, bool)
    masks = at_end(counts, everyone), at_end(counts, ~everyone)
    three = [np.insert(y, 1, 0.0, axis=1) for y in one_hot(label, counts)]
    p = fit_trial_decoder(counts, three, *masks, since, bin_size=BIN, kind="class").predict(counts, since)[0]
    np.testing.assert_array_equal(p[:, 1], 0)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-12)
    first = [np.insert(y, 1, 0.0, axis=1)[:, :2] for y in one_hot(0 * label, counts)]
    alone = fit_trial_decoder(counts, first, *masks, since, bin_size=BIN, kind="class")
    np.testing.assert_array_equal(alone.predict(counts, since)[0], np.tile([1.0, 0.0], (len(counts[0]), 1)))


@pytest.mark.slow
def test_the_side_of_a_stimulus_is_decoded_as_well_as_measured_before(tmp_path) -> None:
    """Fourteen recordings, five contiguous folds of labelled trials, all other labelled trials, C = 1e-3."""
    if not (files := sorted(DATA.glob("mouse/*/*.nwb"))):
        pytest.skip("no recordings of mice (set NDT_DATA)")
    store = ingest(files, tmp_path / "store", IngestConfig(workers=1, unit_identity="session"), progress=False)
    found = {}
    for name in store.session_ids:
        session = store.session(name)
        binned = BinnedSession(session, BIN, 3.0)
        edges = np.flatnonzero(np.diff(binned.segment)) + 1
        counts, since = np.split(binned.all_counts(), edges), np.split(binned.place, edges)
        table = session.intervals["trials"].columns
        side = np.sign(table["contrast_left"] - table["contrast_right"])
        known, label = np.flatnonzero(side), (side > 0).astype(int)
        guess = np.full(len(side), -1)
        for test in np.array_split(known, 5):
            train = np.isin(np.arange(len(side)), np.setdiff1d(known, test))
            masks, options = (at_end(counts, train), at_end(counts, 0 * side)), {"bin_size": BIN, "kind": "class"}
            model = fit_trial_decoder(counts, one_hot(label, counts), *masks, since, **options, alphas=(1e3,))
            guess[test] = [model.predict([counts[i]], [since[i]])[0][-1].argmax() for i in test]
        found[name] = np.mean([np.mean(guess[known][label[known] == k] == k) for k in range(2)])
    expected = [MEASURED[name.removeprefix("sub-")] for name in found]
    np.testing.assert_allclose(list(found.values()), expected, atol=0.015)
    np.testing.assert_allclose(np.mean(list(found.values())), 0.809, atol=0.002)
