from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy.signal import convolve
from scipy.signal.windows import gaussian

from ndt.data.nlb_targets import as_population, nlb_targets, select_trials, unit_groups
from ndt.errors import InputError
from ndt.evaluation.nlb import TASKS, NlbTask
from ndt.evaluation.trial_rates import trial_rates
from ndt.intervals import Intervals
from ndt.session import Covariate, Session, Spikes, Units
from tests.problems import busy_model, specification

LENGTH = 2.0  # of a trial in seconds
SPLIT = ("train", "train", "none", "val", "train", "val", "val", "train")
ONSET = np.array([0.5, 0.507, 0.51, 0.513, np.nan, 0.52, 0.3, 0.533])  # the 7th: its PSTH reaches over the pause
MAZE = TASKS["mc_maze"]


def session(rate_hz=40.0, seed=0, **columns):
    """Eight trials of 2 s, each with a pause of 0.1 s after it; five units, two held out; a straight velocity."""
    rng = np.random.default_rng(seed)
    start = np.arange(len(SPLIT)) * (LENGTH + 0.1)
    observed, end = Intervals(start, start + LENGTH), len(SPLIT) * (LENGTH + 0.1)
    times = np.sort(rng.uniform(0, end, rng.poisson(5 * rate_hz * end)))
    times = times[observed.contains(times)]
    stamps = np.arange(round(end * 1000)) / 1000
    velocity = Covariate(
        name="hand_vel",
        path="processing/behavior/hand_vel",
        timestamps=stamps,
        values=np.stack([stamps, 3.0 - 2.0 * stamps], 1),
        dims=("x", "y"),
        unit="mm/s",
    )
    columns = {
        "split": np.array(SPLIT),
        "move_onset_time": start + ONSET,
        "trial_type": np.array([3, 3, 3, 3, 3, 3, 7, 7]),
        "trial_version": np.array(["a", "b", "a", "a", "a", "b", "a", "b"]),
        **columns,
    }

    return Session(
        session_id="sub-n_ses-1",
        subject="n",
        spikes=Spikes(timestamps=times, unit_index=rng.integers(5, size=len(times)).astype(np.int32)),
        units=Units(
            id=np.array([f"n/{n}" for n in range(5)]),
            columns={"heldout": np.array([False, True, False, True, False]), "nwb_id": np.array([9, 8, 7, 2, 4])},
        ),
        observed=observed,
        covariates={"hand_vel": velocity},
        intervals={"trials": Intervals(start, start + LENGTH, columns)},
    )


def both(recording, task=MAZE, bin_size=0.02):
    return [select_trials(recording, task, (part,), bin_size) for part in ("train", "val")]


# Trials


def test_a_trial_begins_with_the_first_bin_of_the_clocks_grid_in_its_window():
    trials = select_trials(session(), MAZE, ("train", "val"), 0.02)
    # onset - 0.25 s: 0.25, 2.357, 6.563, (no onset), 10.77, 12.65, 14.983; up to the next 20 ms
    np.testing.assert_allclose(trials.start, [0.26, 2.36, 6.58, 10.78, 12.66, 15.0], rtol=0, atol=1e-9)
    assert (trials.num_bins, trials.forward, len(trials)) == (35, 10, 6)
    fine = select_trials(session(), MAZE, ("val",), 0.005)
    np.testing.assert_allclose(fine.start, [6.565, 10.77, 12.65], rtol=0, atol=1e-9)
    assert (fine.num_bins, fine.forward) == (140, 40)


def test_trials_stay_in_the_order_of_the_table():
    recording = session()
    table = recording.intervals["trials"].select(np.arange(8)[::-1])
    back = select_trials(replace(recording, intervals={"trials": table}), MAZE, ("val",), 0.02)
    forth = select_trials(recording, MAZE, ("val",), 0.02)
    np.testing.assert_array_equal(back.start, forth.start[::-1])


def test_counts_by_hand():
    recording = session()
    trials = select_trials(recording, MAZE, ("val",), 0.02)
    counts = trials.counts(recording)
    for m, n in product(range(3), range(5)):
        times = recording.spikes.timestamps[recording.spikes.unit_index == n]
        edges = trials.start[m] + 0.02 * np.arange(46)
        np.testing.assert_array_equal(counts[m, :, n], np.histogram(times, edges)[0])


def test_bins_that_were_not_observed_are_missing_and_not_silent():
    task = NlbTask(name="whole", window=(1.9, 2.0), forward=0.2)
    recording = session()
    trials = select_trials(recording, task, ("val",), 0.02)
    expected = np.r_[np.zeros(5), np.ones(5), np.zeros(5)] == 1  # to the trial's end, in the pause, in the next trial
    np.testing.assert_array_equal(np.isnan(trials.counts(recording)), np.tile(expected[None, :, None], (3, 1, 5)))


def test_whole_trials_must_be_of_one_length():
    task = NlbTask(name="whole")
    assert select_trials(session(), task, ("val",), 0.02).num_bins == 100
    recording = session()
    table = recording.intervals["trials"]
    ends = table.end - np.where(np.arange(8) == 5, 0.5, 0.0)
    uneven = replace(recording, intervals={"trials": Intervals(table.start, ends, table.columns)})
    with pytest.raises(InputError, match=r"trials: expected trials of one length, .*, found 1\.5 to 2 s"):
        select_trials(uneven, task, ("val",), 0.02)
    assert select_trials(uneven, task, ("train",), 0.02).num_bins == 100


def test_without_the_benchmarks_split_the_sessions_blocks_say_which_trials_are_evaluated():
    recording = session()
    table = recording.intervals["trials"]
    columns = {name: values for name, values in table.columns.items() if name != "split"}
    blind = replace(recording, intervals={"trials": Intervals(table.start, table.end, columns)})
    task = NlbTask(name="any", window=(0.0, 1.0))
    train, evaluated = (select_trials(blind, task, (part,), 0.02) for part in ("train", "val"))
    # 16 s: training ends at 11.2 s of observed time, the test split begins at 14.4
    np.testing.assert_allclose(train.event, 2.1 * np.arange(5), rtol=0, atol=1e-9)
    np.testing.assert_allclose(evaluated.event, [14.7], rtol=0, atol=1e-9)


def test_errors_name_missing_trials_and_columns():
    recording = session()
    with pytest.raises(InputError, match="trials: expected a table of trials, found no table"):
        select_trials(replace(recording, intervals={}), MAZE, ("val",), 0.02)
    with pytest.raises(
        InputError, match=r"trials/go_time: expected a column of times in seconds, or one of start, mov"
    ):
        select_trials(recording, TASKS["dmfc_rsg"], ("val",), 0.02)
    with pytest.raises(InputError, match="trials: expected trials of test that have move_onset_time, found none"):
        select_trials(recording, MAZE, ("test",), 0.02)
    with pytest.raises(InputError, match="bin_size: expected a multiple of 15 ms, in which spikes were counted"):
        select_trials(replace(recording, count_bin=0.015), MAZE, ("val",), 0.02)
    assert len(select_trials(replace(recording, count_bin=0.01), MAZE, ("val",), 0.02)) == 3


# Units


def test_units_are_in_the_order_of_their_ids_in_the_file():
    recording = session()
    groups = unit_groups(recording)
    np.testing.assert_array_equal(groups["heldin"], [4, 2, 0])
    np.testing.assert_array_equal(groups["heldout"], [3, 1])
    units = replace(recording.units, columns={"heldout": recording.units.columns["heldout"]})
    groups = unit_groups(replace(recording, units=units))
    np.testing.assert_array_equal(np.r_[groups["heldin"], groups["heldout"]], [0, 2, 4, 1, 3])


@pytest.mark.parametrize("columns", [{}, {"heldout": np.ones(5, bool)}, {"heldout": np.zeros(5, bool)}])
def test_some_units_must_be_held_out(columns):
    recording = session()
    with pytest.raises(InputError, match="units/heldout: expected "):
        unit_groups(replace(recording, units=replace(recording.units, columns=columns)))


@pytest.mark.parametrize("by", ["nwb_id", "identity"])
def test_the_test_file_is_read_as_the_training_files_population(by):
    """Its units lack the held-out ones and are listed otherwise; rates are those of the whole file."""
    whole = session()
    order = np.array([4, 0, 2])  # the held-in units
    place = np.full(5, -1)
    place[order] = np.arange(3)
    unit = place[whole.spikes.unit_index]
    columns = {"nwb_id": whole.units.columns["nwb_id"][order]} if by == "nwb_id" else {}
    names = np.array(["m/1", "m/2", "m/3"]) if by == "nwb_id" else whole.units.id[order]
    test = replace(
        whole,
        session_id="sub-n_ses-test",
        spikes=Spikes(timestamps=whole.spikes.timestamps[unit >= 0], unit_index=unit[unit >= 0]),
        units=Units(id=names, columns=columns),
    )
    other = as_population(test, whole)
    assert other.session_id == whole.session_id
    np.testing.assert_array_equal(other.units.id, whole.units.id)
    counts = select_trials(whole, MAZE, ("val",), 0.02).counts(other)
    truth = select_trials(whole, MAZE, ("val",), 0.02).counts(whole)
    np.testing.assert_array_equal(counts[..., [0, 2, 4]], truth[..., [0, 2, 4]])
    assert np.isnan(counts[..., [1, 3]]).all()
    model = busy_model(specification([whole], bin_size=0.02, window_bins=45))
    trials = select_trials(whole, MAZE, ("val",), 0.02)
    expected = trial_rates(model, whole, trials.start, 35, forward=10, heldout=whole.units.columns["heldout"])
    np.testing.assert_array_equal(trial_rates(model, other, trials.start, 35, forward=10), expected)


def test_another_population_is_refused():
    whole = session()
    other = replace(whole, units=Units(id=np.array([f"x/{n}" for n in range(5)])))
    with pytest.raises(InputError, match="units: expected some of the units of sub-n_ses-1, found none of them"):
        as_population(other, whole)


# Targets


def test_spikes_are_those_of_the_units_in_the_benchmarks_order():
    recording = session()
    train, evaluated = both(recording)
    found, _ = nlb_targets(recording, MAZE, train, evaluated)
    counts = evaluated.counts(recording)
    np.testing.assert_array_equal(found["eval_spikes_heldout"], counts[:, :35][:, :, [3, 1]])
    np.testing.assert_array_equal(found["eval_spikes_heldout_forward"], counts[:, 35:][:, :, [3, 1]])
    np.testing.assert_array_equal(found["eval_spikes_heldin_forward"], counts[:, 35:][:, :, [4, 2, 0]])


@pytest.mark.parametrize(("name", "lag"), [("mc_maze", 0.1), ("mc_maze_small", 0.12)])
@pytest.mark.parametrize("bin_size", [0.005, 0.02])
def test_velocity_is_read_at_the_start_of_the_bin_and_a_lag_later(name, lag, bin_size):
    recording, task = session(), TASKS[name]
    train, evaluated = both(recording, task, bin_size)
    found, _ = nlb_targets(recording, task, train, evaluated)
    for part, trials in (("train", train), ("eval", evaluated)):
        time = trials.start[:, None] + np.arange(trials.num_bins) * bin_size + lag
        expected = np.stack([time, 3.0 - 2.0 * time], -1)  # a straight line passes any filter
        np.testing.assert_allclose(found[f"{part}_behavior"], expected, rtol=0, atol=1e-5)


def test_velocity_is_missing_where_it_was_not_measured():
    recording = session()
    series = recording.covariates["hand_vel"]
    late = replace(series, timestamps=series.timestamps[500:], values=series.values[500:])
    recording = replace(recording, covariates={"hand_vel": late})
    train, evaluated = both(recording)
    found = nlb_targets(recording, MAZE, train, evaluated)[0]["train_behavior"]
    # the first trial's bins begin at 0.26 s, their velocity 0.1 s later: 0.36 … 0.48 come before 0.5
    np.testing.assert_array_equal(np.isnan(found[0]).all(1), np.arange(35) < 7)


def test_two_decoders():
    task = TASKS["area2_bump"]
    recording = session(ctr_hold_bump=np.array([0, 1, 1, 0, 0, 1, 1, 1]), cond_dir=np.zeros(8))
    train, evaluated = both(recording, task)
    found, _ = nlb_targets(recording, task, train, evaluated)
    np.testing.assert_array_equal(found["train_decode_mask"], [[True, False], [False, True], [False, True]])
    np.testing.assert_array_equal(found["eval_decode_mask"], [[True, False], [False, True], [False, True]])
    time = evaluated.start[:, None] + np.arange(30) * 0.02 - 0.02
    np.testing.assert_allclose(found["eval_behavior"][..., 0], time, rtol=0, atol=1e-5)


def test_scores_without_targets_are_listed():
    recording = replace(session(), covariates={})
    table = recording.intervals["trials"]
    columns = {name: table.columns[name] for name in ("split", "move_onset_time")}
    bare = replace(recording, intervals={"trials": Intervals(table.start, table.end, columns)})
    found, left_out = nlb_targets(bare, MAZE, *both(bare))
    assert left_out == (
        "vel R2: the session has no covariate hand_vel",
        "psth R2: trials have no column trial_type",
    )
    assert found.keys() == {*("eval_spikes_heldout", "eval_spikes_heldin_forward", "eval_spikes_heldout_forward")}


# PSTHs


def reference_psths(recording, task, bin_size):
    """By the benchmark's steps: smooth each segment at 1 ms, sum in bins, average a condition by time from onset.

    Returns trials of both parts by condition, and its PSTH with units in the order of ids.
    """
    fine = 0.001
    length = round(recording.observed.end[-1] / fine)
    table, order = recording.intervals["trials"], [4, 2, 0, 3, 1]
    window = gaussian(int(6 * task.kernel / fine), task.kernel / fine, sym=True)
    window /= window.sum()
    smoothed = np.zeros((length, 5))
    for n in range(5):
        times = recording.spikes.timestamps[recording.spikes.unit_index == n]
        counts = np.histogram(times, np.arange(length + 1) * fine)[0].astype(float)
        for a, b in zip(recording.observed.start, recording.observed.end, strict=True):
            segment = slice(round(a / fine), round(b / fine))
            smoothed[segment, n] = convolve(counts[segment], window, "same", method="direct")
    step = round(bin_size / fine)
    binned = smoothed[: length // step * step].reshape(-1, step, 5).sum(1)
    chosen = [i for i in range(8) if SPLIT[i] in ("train", "val") and np.isfinite(ONSET[i])]
    label = {i: (table.columns["trial_type"][i], str(table.columns["trial_version"][i])) for i in chosen}
    out = {}
    for condition in sorted(set(label.values())):
        at: dict[int, list[np.ndarray]] = {}
        rows = [i for i in chosen if label[i] == condition]
        for i in rows:
            onset = round(table.columns["move_onset_time"][i] / fine)
            for b in range(-(-(onset - 250) // step), -(-(onset + 450) // step)):
                at.setdefault(b - -(-onset // step), []).append(binned[b])
        mean = np.stack([np.mean(at[key], 0) for key in sorted(at)])[: round(0.7 / bin_size)]
        out[condition] = rows, mean[:, order]

    return out


@pytest.mark.parametrize(("bin_size", "kernel"), [(0.02, 0.07), (0.005, 0.07), (0.005, 0.0405)])  # 420 and 243 steps
def test_psths_are_the_benchmarks(bin_size, kernel):
    """At 20 ms windows do not begin a whole number of bins from onset: trials of a condition differ by one."""
    recording, task = session(), replace(MAZE, kernel=kernel)
    train, evaluated = both(recording, task, bin_size)
    found, _ = nlb_targets(recording, task, train, evaluated)
    expected = reference_psths(recording, task, bin_size)
    np.testing.assert_allclose(found["psth"], [mean for _, mean in expected.values()], rtol=1e-9, atol=1e-12)
    rows = [3, 5, 6]  # of the table
    members = [[rows.index(i) for i in chosen if i in rows] for chosen, _ in expected.values()]
    assert [list(m) for m in found["eval_cond_idx"]] == members
    assert [list(m) for m in found["eval_cond_idx"]] == [[0], [1], [2], []]


def test_dmfc_is_scored_from_set_to_go():
    """Trials end at Go; PSTHs are as long as a condition's shortest trial, at the window's end."""
    start = np.arange(8) * 2.1
    produced = np.array([0.5, 0.62, 0.7, 0.6, 0.6, 0.64, 0.6, 0.1])
    go = start + 1.8
    columns = {
        "set_time": go - produced,
        "go_time": go,
        "tp": 1000 * produced,
        "ts": np.full(8, 600.0),
        "is_outlier": np.array([0, 0, 0, 0, 0, 0, 1, 0]),
        **{name: np.zeros(8, int) for name in ("is_eye", "theta", "is_short")},
    }
    recording, task = session(**columns), TASKS["dmfc_rsg"]
    train, evaluated = both(recording, task)
    assert (train.num_bins, evaluated.num_bins) == (75, 75)
    found, left_out = nlb_targets(recording, task, train, evaluated)
    assert left_out == ()
    seen = ~np.isnan(found["eval_spikes_heldout"][..., 0])
    np.testing.assert_array_equal(seen.sum(1), [30, 32, 30])
    assert seen[:, -30:].all()
    np.testing.assert_array_equal(found["eval_behavior"][:2], [[0, 0, 0, 600, 600], [0, 0, 0, 600, 640]])
    assert np.isnan(found["eval_behavior"][2]).all()
    # training: 0.5, 0.62, 0.6, 0.1 s; mean of the condition 0.49 s, of which 0.1 s is less than 80 %
    assert [list(m) for m in found["eval_cond_idx"]] == [[0, 1]]
    np.testing.assert_array_equal(np.isnan(found["psth"][0, :, 0]), np.arange(75) < 50)  # 0.5 s is the shortest
