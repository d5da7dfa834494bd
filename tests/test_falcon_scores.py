from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynwb import TimeSeries
from sklearn.metrics import r2_score

from ndt.config import IngestConfig
from ndt.data.read import read
from ndt.data.recipes import load_recipe
from ndt.errors import InputError
from ndt.falcon_scores import (
    edit_distance,
    falcon_error_rates,
    falcon_mask,
    falcon_r2,
    falcon_session,
    falcon_spectrogram_mse,
    split_scores,
)
from ndt.intervals import Intervals
from tests import stand_ins
from tests.problems import recording
from tests.recordings import write_nwb

# Which bins are scored

SAMPLES = 0.02 * np.arange(1000)  # starts of bins


def masked(task, tmp_path):
    settings = replace(load_recipe(f"falcon_{task}").ingest, probe_seconds=0.0)
    path = getattr(stand_ins, f"write_falcon_{task}")(tmp_path / f"sub-X-held-in-calib_ses-{task}.nwb")

    return read(path, settings)


@pytest.mark.parametrize(
    ("task", "at", "expected"),
    [
        ("h1", "end", np.arange(1000) % 200 < 150),  # sample k stands at the end of bin k
        ("m1", "end", 0.02 * np.arange(1, 1000) % 2 < 1.5),
        ("m2", "start", SAMPLES % 2 < 1.5),
    ],
)
def test_the_mask_of_a_file_is_that_of_its_bins(task, at, expected, tmp_path):
    found = falcon_mask(masked(task, tmp_path), SAMPLES[: len(expected)], 0.02, at=at)
    np.testing.assert_array_equal(found, expected)


def test_a_blacklist_is_the_opposite(tmp_path):
    times = 0.02 * np.arange(1, 301)
    black = (times > 2) & (times < 4)
    path = write_nwb(
        tmp_path / "sub-a.nwb",
        lambda nwb: nwb.add_unit(spike_times=[0.1, 5.9]),
        lambda nwb: nwb.add_acquisition(TimeSeries(name="Blacklist", data=black, unit="bool", timestamps=times)),
    )
    session = read(path, IngestConfig(probe_seconds=0.0))
    np.testing.assert_array_equal(falcon_mask(session, times - 0.02, 0.02), ~black)


def test_the_mask_by_hand():
    session = replace(recording(), intervals={"eval_mask": Intervals([1.0, 2.0], [1.1, 2.5])})
    start = np.array([0.98, 1.0, 1.06, 1.08, 1.1])
    np.testing.assert_array_equal(falcon_mask(session, start, 0.02, at="centre"), [False, True, True, True, False])
    np.testing.assert_array_equal(falcon_mask(session, start + 0.001, 0.02), [True, True, True, False, False])
    with pytest.raises(InputError, match="at: expected start or centre or end, found 'middle'"):
        falcon_mask(session, start, 0.02, at="middle")
    with pytest.raises(InputError, match=r"sub-a_ses-1: eval_mask: expected a table of .*, found no table"):
        falcon_mask(recording(), start, 0.02)


# R²


def test_files_of_a_day_are_one_session():
    names = ("S10_set_2", "Run2_20201124", "L_20121004", "20120924", "sub-MonkeyL-held-in-calib_ses-1", "S")
    expected = ("S10", "20201124", "L_20121004", "20120924", "sub-MonkeyL-held-in-calib_ses-1", "S")
    assert tuple(map(falcon_session, names)) == expected


def test_r2_by_hand():
    """Day S0, two sets: true 0 2 and 4 (6 unscored), predicted 0 2 and 2: 1 - 4/8. Day S1: exact but for a constant."""
    true = {"S0_set_1": [[0.0], [2.0]], "S0_set_2": [[4.0], [6.0]], "S1_set_1": [[0.0], [1.0]]}
    predicted = {"S0_set_1": [[0.0], [2.0]], "S0_set_2": [[2.0], [np.nan]], "S1_set_1": [[0.0], [1.0], [9.0]]}
    masks = {"S0_set_1": [True, True], "S0_set_2": [True, False], "S1_set_1": [True, True]}
    found = falcon_r2(true, predicted, {k: np.array(v) for k, v in masks.items()})
    assert found == {"R2 Mean": 0.75, "R2 Std.": 0.25, "S0 R2": 0.5, "S1 R2": 1.0}


@given(seed=st.integers(0, 2**32 - 1))
def test_r2_is_sklearns_variance_weighted_of_the_scored_bins_of_each_session(seed):
    rng = np.random.default_rng(seed)
    files = ["S0_set_1", "S0_set_2", "S1_set_1", "S10_set_1"]
    true = {name: rng.standard_normal((int(rng.integers(6, 20)), 3)) * [1, 5, 0.1] for name in files}
    for values in true.values():
        values[:, 2] = 0.5  # a degree of freedom that does not move
    predicted = {name: values + rng.standard_normal(values.shape) for name, values in true.items()}
    masks = {name: np.arange(len(values)) % 3 > 0 for name, values in true.items()}
    expected = {}
    for day in ("S0", "S1", "S10"):
        some = [name for name in files if falcon_session(name) == day]
        y, x = (np.concatenate([part[name][masks[name]] for name in some]) for part in (true, predicted))
        expected[f"{day} R2"] = r2_score(y, x, multioutput="variance_weighted")
    found = falcon_r2(true, predicted, masks)
    values = list(expected.values())
    expected |= {"R2 Mean": np.mean(values), "R2 Std.": np.std(values)}
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[key] for key in expected], list(expected.values()), rtol=1e-9)


def test_what_cannot_be_compared_is_refused():
    y, mask = np.arange(4.0)[:, None], np.ones(4, bool)
    with pytest.raises(InputError, match="files: expected predictions and masks of a, b"):
        falcon_r2({"a": y, "b": y}, {"a": y}, {"a": mask})
    with pytest.raises(InputError, match=r"a: expected predictions \(4, 1\) and a mask, found \(3, 1\) and \(4,\)"):
        falcon_r2({"a": y}, {"a": y[:3]}, {"a": mask})
    with pytest.raises(InputError, match="a: expected numbers in all scored bins, found NaN"):
        falcon_r2({"a": y}, {"a": np.full((4, 1), np.nan)}, {"a": mask})
    with pytest.raises(InputError, match="a: expected at least 2 scored bins, found 1"):
        falcon_r2({"a": y}, {"a": y}, {"a": np.arange(4) == 2})


# Words and characters


def slow_distance(a, b):
    if not a or not b:
        return len(a) + len(b)
    same = slow_distance(a[1:], b[1:]) + (a[0] != b[0])
    return min(same, slow_distance(a[1:], b) + 1, slow_distance(a, b[1:]) + 1)


@given(a=st.text("ab", max_size=5), b=st.text("abc", max_size=5))
def test_edit_distance_is_the_least_number_of_edits(a, b):
    assert edit_distance(a, b) == slow_distance(a, b) == edit_distance(b, a)


def test_error_rates_by_hand():
    """Day 1: 1 of 4 words and 2 of 10 characters are wrong; day 2: all of 1 and of 2."""
    true = {"1": ["to>be", "or,no"], "2": ["ab"]}
    predicted = {"1": ["to bee", "or,no"], "2": [""]}
    # words of `or,no`: "or", ",no", since a mark has a space put before it. Characters: > for a space, and an e more.
    found = falcon_error_rates(true, predicted)
    expected = {"WER": (1 / 4 + 1) / 2, "CER": (2 / 10 + 1) / 2, "WER Std.": 3 / 8, "CER Std.": 4 / 10}
    assert found == pytest.approx(expected, rel=1e-12)


def test_errors_are_summed_before_they_are_divided():
    found = falcon_error_rates({"1": ["a", "bcd"]}, {"1": ["x", "bcd"]})
    assert found["CER"] == pytest.approx(1 / 4)  # not the mean of 1 and 0
    assert found["WER"] == pytest.approx(1 / 2)


def test_sentences_must_be_as_many():
    with pytest.raises(InputError, match="1: expected 2 sentences, found 1"):
        falcon_error_rates({"1": ["a", "b"]}, {"1": ["a"]})
    with pytest.raises(InputError, match="sessions: expected 1, found 2"):
        falcon_error_rates({"1": ["a"]}, {"2": ["a"]})


# Spectrograms


def test_spectrograms_are_compared_in_their_own_range():
    """Trial 1: 0 1 2 against 0 10 10, in their ranges 0 0.5 1 and 0 1 1: 1/12. Trial 2: the same but for scale."""
    true = np.array([[[0.0, 1.0, 2.0]], [[3.0, 5.0, 4.0]]])
    predicted = np.array([[[0.0, 10.0, 10.0]], [[-1.0, 1.0, 0.0]]])
    every = {"1": np.ones(true.shape), "2": np.ones(true.shape)}
    found = falcon_spectrogram_mse({"1": true, "2": true}, {"1": predicted, "2": 7 * true}, every)
    assert found == pytest.approx({"MSE Mean": (1 / 24 + 0) / 2, "MSE Std.": 1 / 48}, rel=1e-12)


def test_what_the_mask_leaves_out_is_zero_on_both_sides():
    true, predicted = np.array([[[2.0, 4.0, 9.0]]]), np.array([[[4.0, 2.0, -9.0]]])
    mask = np.array([[[True, True, False]]])
    # 2 4 0 and 4 2 0: in their ranges 0.5 1 0 and 1 0.5 0
    found = falcon_spectrogram_mse({"1": true}, {"1": predicted}, {"1": mask})
    assert found["MSE Mean"] == pytest.approx(0.5 / 3, rel=1e-12)
    silent = falcon_spectrogram_mse({"1": 0 * true}, {"1": predicted}, {"1": np.ones_like(mask)})
    assert silent["MSE Mean"] == pytest.approx(np.mean(np.square([1.0, 11 / 13, 0.0])), rel=1e-12)


def test_scores_have_the_leaderboards_names():
    found = split_scores({"R2 Mean": 0.5, "R2 Std.": 0.1}, {"R2 Mean": 0.25})
    assert found == {"Held In R2 Mean": 0.5, "Held In R2 Std.": 0.1, "Held Out R2 Mean": 0.25}
    assert split_scores(None, {"WER": 0.2}) == {"Held Out WER": 0.2}
