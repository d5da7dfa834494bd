"""The Neural Latents Benchmark on a small recording, from the store to the scores."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

from ndt.config import IngestConfig, ModelConfig, PretrainConfig, TrainConfig
from ndt.data.ingest import ingest
from ndt.data.nlb_targets import as_population, nlb_targets, select_trials
from ndt.errors import InputError
from ndt.evaluation.nlb import TASKS, NlbTask, score_submission
from ndt.finetune.nlb_evaluation import evaluate_nlb, nlb_submission
from ndt.intervals import Intervals
from ndt.model.transformer import NDT
from ndt.pretrain.train import pretrain
from ndt.session import Covariate, Session, Spikes, Units
from tests.problems import TINY, busy_model, specification

MAZE = TASKS["mc_maze"]
SIZE = ModelConfig(
    width=16, num_layers=1, num_heads=1, units_per_patch=12, unit_width=8, num_stem_layers=1, locality_bias=0.0,
    dropout=0.0, drop_path=0.0, count_dropout=0.0,
)  # fmt: skip


def session(num_trials=60, num_units=12, seed=0):
    """Trials of 1 s; all units follow one sine of 1.3 s, half of them against it, and so does velocity, 0.1 s later."""
    rng, dt = np.random.default_rng(seed), 0.005
    time = (np.arange(round(num_trials / dt)) + 0.5) * dt
    wave = np.sin(2 * np.pi * time / 1.3)
    rates = 12.0 * np.exp(1.2 * wave[:, None] * np.where(np.arange(num_units) % 2, 1.0, -1.0))
    t, n = np.nonzero(rng.random(rates.shape) < rates * dt)
    velocity = np.sin(2 * np.pi * (time - 0.1) / 1.3)
    start = np.arange(float(num_trials))
    columns = {
        "split": np.where(np.arange(num_trials) % 4 == 3, "val", "train"),
        "move_onset_time": start + 0.26,
        "trial_type": np.arange(num_trials) % 3,
        "trial_version": np.zeros(num_trials, int),
    }

    return Session(
        session_id="sub-n_ses-1",
        subject="n",
        spikes=Spikes(timestamps=time[t], unit_index=n.astype(np.int32)),
        units=Units(
            id=np.array([f"n/{k:02d}" for k in range(num_units)]),
            columns={"heldout": np.arange(num_units) % 4 >= 2, "nwb_id": np.arange(num_units)[::-1].copy()},
        ),
        observed=Intervals([0.0], [float(num_trials)]),
        covariates={
            "hand_vel": Covariate(
                name="hand_vel",
                path="processing/behavior/hand_vel",
                timestamps=time,
                values=np.stack([velocity, -velocity], 1),
                dims=("x", "y"),
                unit="mm/s",
            )
        },
        intervals={"trials": Intervals(start, start + 1.0, columns)},
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ingest(
        session(),
        tmp_path_factory.mktemp("nlb") / "store",
        IngestConfig(workers=1, split="trials/split"),
        progress=False,
    )


@pytest.fixture(scope="module")
def untrained(store):
    recording = store.session("sub-n_ses-1")
    model = busy_model(specification([recording], config=replace(TINY, causal=False), bin_size=0.02, window_bins=50))
    model.store = store.root
    return model


def test_scores_are_those_of_the_rates_and_the_targets(untrained, store, tmp_path):
    found = evaluate_nlb(untrained, "sub-n_ses-1", dataset="mc_maze", out=tmp_path / "s.h5")
    recording = store.session("sub-n_ses-1")
    train, evaluated = (select_trials(recording, MAZE, (part,), 0.02) for part in ("train", "val"))
    arrays = nlb_submission(untrained, recording, train, evaluated)
    expected = score_submission(arrays, nlb_targets(recording, MAZE, train, evaluated)[0])
    assert found["scores"] == expected
    assert expected["nlb"].keys() == {"co-bps", "vel R2", "psth R2", "fp-bps"}
    assert found["left_out"] == ()
    assert (found["session"], found["dataset"], found["evaluated"]) == ("sub-n_ses-1", "mc_maze", "val")
    assert (found["trials"], found["units"]) == ({"train": 45, "eval": 15}, {"heldin": 6, "heldout": 6})
    with h5py.File(found["path"]) as file:
        assert list(file) == ["mc_maze_20"]
        assert file["mc_maze_20"].keys() == arrays.keys()
        for key, array in file["mc_maze_20"].items():
            np.testing.assert_array_equal(array[()], arrays[key])
        assert file["mc_maze_20"]["eval_rates_heldin_forward"].shape == (15, 10, 6)


def test_units_lie_in_the_order_of_their_ids_in_the_file(untrained, store):
    """A new model predicts each unit's mean count in the training split, if it is not to use recent counts."""
    recording = store.session("sub-n_ses-1")
    train, evaluated = (select_trials(recording, MAZE, (part,), 0.02) for part in ("train", "val"))
    model = NDT(untrained.spec).eval()
    with torch.no_grad():
        model.rates.own[1:] = -torch.inf
    arrays = nlb_submission(model, recording, train, evaluated)
    block = recording.intervals["split"]
    block = block.select(block.columns["block"] == "train")
    inside = block.contains(recording.spikes.timestamps)
    means = np.bincount(recording.spikes.unit_index[inside], minlength=12) / (block.duration / 0.02)
    for name, rows in (("heldin", [9, 8, 5, 4, 1, 0]), ("heldout", [11, 10, 7, 6, 3, 2])):  # their ids ascend
        for part in (f"train_rates_{name}", f"eval_rates_{name}", f"eval_rates_{name}_forward"):
            expected = np.broadcast_to(means[rows], arrays[part].shape)
            np.testing.assert_allclose(arrays[part], expected, rtol=1e-4)


def test_the_truth_of_what_is_scored_does_not_reach_the_rates(untrained, store, tmp_path):
    """Held-out spikes of evaluated trials, and all spikes of the bins after them, may be anything."""
    recording = store.session("sub-n_ses-1")
    trials = select_trials(recording, MAZE, ("val",), 0.02)
    after = Intervals(trials.start + 0.7, trials.start + 0.9)
    times, unit = recording.spikes.timestamps, recording.spikes.unit_index
    held = recording.units.columns["heldout"][unit]
    drop = after.contains(times) | (held & Intervals(trials.start, trials.start + 0.9).contains(times))
    other = replace(recording, spikes=Spikes(timestamps=times[~drop], unit_index=unit[~drop]))
    train = select_trials(recording, MAZE, ("train",), 0.02)
    first, second = (nlb_submission(untrained, s, train, trials) for s in (recording, other))
    for key in first:
        np.testing.assert_array_equal(first[key], second[key])


def test_the_test_file_is_predicted_and_not_scored(untrained, tmp_path):
    """The benchmark's second file: held-in units alone, trials of the part `test`; no truth, so no scores."""
    whole = session()
    rows = np.flatnonzero(~whole.units.columns["heldout"])
    place = np.full(12, -1)
    place[rows] = np.arange(6)
    unit = place[whole.spikes.unit_index]
    table = whole.intervals["trials"].select(np.arange(4, 14))
    columns = {"split": np.full(10, "test"), "move_onset_time": table.columns["move_onset_time"]}
    test = replace(
        whole,
        session_id="sub-n_ses-2",
        spikes=Spikes(timestamps=whole.spikes.timestamps[unit >= 0], unit_index=unit[unit >= 0].astype(np.int32)),
        units=Units(id=whole.units.id[rows], columns={"nwb_id": whole.units.columns["nwb_id"][rows]}),
        intervals={"trials": Intervals(table.start, table.end, columns)},
        covariates={},
    )
    config = IngestConfig(workers=1)
    both = ingest([whole, test], tmp_path / "store", config, progress=False)
    options = {"dataset": replace(MAZE, num_units=(6, 6)), "store": both, "test_session": "sub-n_ses-2"}
    found = evaluate_nlb(untrained, "sub-n_ses-1", **options)
    assert (found["evaluated"], found["scores"], found["path"]) == ("test", {}, "")
    assert found["trials"] == {"train": 60, "eval": 10}  # velocity is decoded from training and validation trials
    with pytest.raises(InputError, match="expected 137 held-in and 45 held-out units, found 6 held-in and 6 held-out"):
        evaluate_nlb(untrained, "sub-n_ses-1", out=tmp_path / "s.h5", **options)
    trials = select_trials(whole, MAZE, ("train", "val"), 0.02)
    of_whole = nlb_submission(untrained, whole, trials, trials)["eval_rates_heldout"][4:14]
    of_file = nlb_submission(
        untrained, whole, trials, select_trials(test, MAZE, ("test",), 0.02), as_population(test, whole)
    )
    np.testing.assert_allclose(of_file["eval_rates_heldout"], of_whole, rtol=1e-4)


def test_a_model_trained_on_the_evaluated_trials_is_refused(untrained, tmp_path):
    plain = ingest(session(), tmp_path / "store", IngestConfig(workers=1), progress=False)  # blocks by time
    model = NDT(replace(untrained.spec, data={"sub-n_ses-1": ""})).eval()
    with pytest.raises(InputError, match=r"trials: expected evaluated trials outside the training .*, found 10 of 15 "):
        evaluate_nlb(model, "sub-n_ses-1", dataset="mc_maze", store=plain)
    assert evaluate_nlb(NDT(untrained.spec), "sub-n_ses-1", dataset="mc_maze", store=plain)["scores"]


def test_a_model_that_does_not_know_the_units_says_so(store):
    other = replace(session(), units=replace(session().units, id=np.array([f"m/{k:02d}" for k in range(12)])))
    model = busy_model(specification([other], bin_size=0.02, window_bins=50))
    found = evaluate_nlb(model, "sub-n_ses-1", dataset="mc_maze", store=store)
    assert found["unknown_units"] == 12
    assert np.isfinite(found["scores"]["nlb"]["co-bps"])


def test_any_recordings_trials_are_scored_and_only_the_benchmarks_written(untrained, store, tmp_path):
    task = NlbTask(name="mine", window=(0.0, 0.5), forward=0.1, covariate="hand_vel")
    found = evaluate_nlb(untrained, "sub-n_ses-1", dataset=task)
    assert found["scores"]["nlb"].keys() == {"co-bps", "vel R2", "fp-bps"}
    assert found["left_out"] == ("psth R2: the task names no condition columns",)
    with pytest.raises(
        InputError, match=r"s\.h5: dataset: expected one of mc_maze, .* where a file is written, found mine"
    ):
        evaluate_nlb(untrained, "sub-n_ses-1", dataset=task, out=tmp_path / "s.h5")
    coarse = busy_model(specification([store.session("sub-n_ses-1")], bin_size=0.05, window_bins=20))
    assert evaluate_nlb(coarse, "sub-n_ses-1", dataset="mc_maze", store=store)["scores"]
    with pytest.raises(InputError, match="bin_size: expected 5 or 20 ms, which the benchmark scores, found 50 ms"):
        evaluate_nlb(coarse, "sub-n_ses-1", dataset="mc_maze", store=store, out=tmp_path / "s.h5")


def test_a_model_without_a_store_needs_one(untrained):
    with pytest.raises(InputError, match="store: expected a store, since the model does not know its own, found none"):
        evaluate_nlb(NDT(untrained.spec), "sub-n_ses-1", dataset="mc_maze")
    with pytest.raises(InputError, match=r"nlb: dataset: expected one of mc_maze, .*, found 'maze'"):
        evaluate_nlb(untrained, "sub-n_ses-1", dataset="maze")


@pytest.mark.slow
def test_a_trained_model_foretells_held_out_units_better_than_an_untrained_one(store, tmp_path):
    config = PretrainConfig(
        model=SIZE,
        train=TrainConfig(steps=150, batch_size=8, valid_every=150, warmup_steps=10, learning_rate=1e-2, ema=0.0),
        bin_size=0.02,
        window=0.9,
    )
    config = replace(config, mask=replace(config.mask, kinds=("random", "unit", "forward"), random_only_steps=0))
    model = pretrain(store, tmp_path / "run", config, progress=False)
    found = evaluate_nlb(tmp_path / "run", "sub-n_ses-1", dataset="mc_maze")
    fresh = NDT(model.spec)
    fresh.store = store.root
    before = evaluate_nlb(fresh, "sub-n_ses-1", dataset="mc_maze")
    assert before["scores"]["nlb"]["co-bps"] < 0.02  # constant rates
    assert found["scores"]["nlb"]["co-bps"] > before["scores"]["nlb"]["co-bps"] + 0.1
    assert found["scores"]["nlb"]["fp-bps"] > before["scores"]["nlb"]["fp-bps"]
    assert found["scores"]["nlb"]["vel R2"] > 0.5
