import h5py
import numpy as np
import pytest

from ndt.errors import InputError
from ndt.evaluation.metrics import co_bps
from ndt.evaluation.nlb import (
    TASKS,
    co_bps_per_unit,
    group_name,
    psth_r2,
    score_submission,
    tp_corr,
    vel_r2,
    write_submission,
)


def submission(M=6, T=5, F=2, kept=4, held=3, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"eval": (M, T), "train": (2 * M, T)}
    out = {
        f"{part}_rates_{name}": rng.uniform(0.1, 1.0, (*shape, N))
        for part, shape in shapes.items()
        for name, N in (("heldin", kept), ("heldout", held))
    }
    for name, N in (("heldin", kept), ("heldout", held)):
        out[f"eval_rates_{name}_forward"] = rng.uniform(0.1, 1.0, (M, F, N))

    return out


def targets(rates, seed=1):
    rng = np.random.default_rng(seed)
    T = rates["eval_rates_heldin"].shape[1]
    N = sum(rates[f"eval_rates_{name}"].shape[2] for name in ("heldin", "heldout"))
    out = {f"eval_spikes_{k}": rng.poisson(rates[f"eval_rates_{k}"]) for k in ("heldout", "heldin_forward")}
    out["eval_spikes_heldout_forward"] = rng.poisson(rates["eval_rates_heldout_forward"])
    out |= {f"{p}_behavior": rng.standard_normal((*rates[f"{p}_rates_heldin"].shape[:2], 2)) for p in ("train", "eval")}

    return out | {
        "psth": rng.uniform(size=(3, T, N)),
        "eval_cond_idx": [np.array([0, 4]), np.array([], int), [1, 2, 3]],
    }


# The file


def test_a_submission_is_read_by_anyone_in_single_precision(tmp_path):
    arrays = submission()
    path = write_submission(tmp_path / "new" / "s.h5", "mc_maze_20", arrays)
    with h5py.File(path) as file:  # as the benchmark's scorer reads it
        assert list(file) == ["mc_maze_20"]
        assert file["mc_maze_20"].keys() == arrays.keys()
        for key, array in arrays.items():
            np.testing.assert_array_equal(file["mc_maze_20"][key][()].astype("float"), array.astype(np.float32))
    assert [p.name for p in path.parent.iterdir()] == ["s.h5"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_rates_that_the_benchmark_could_not_score_leave_the_old_file(value, tmp_path):
    path = write_submission(tmp_path / "s.h5", "mc_maze", submission())
    before = path.read_bytes()
    wrong = submission() | {"train_rates_heldin": np.full((12, 5, 4), value)}
    with pytest.raises(InputError, match="mc_maze/train_rates_heldin: expected finite rates of at least 0"):
        write_submission(path, "mc_maze", wrong)
    assert path.read_bytes() == before


def test_the_numbers_of_units_of_the_published_files_are_held_to_on_demand(tmp_path):
    with pytest.raises(InputError, match="mc_rtt: expected 98 held-in and 32 held-out units, found 4 held-in and 3 "):
        write_submission(tmp_path / "s.h5", "mc_rtt", submission(), (98, 32))
    write_submission(tmp_path / "s.h5", "mc_rtt", submission(), (4, 3))


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_submission(tmp_path / "s.h5", "mc_rtt", submission())
    before = path.read_bytes()

    def crash(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(h5py.File, "create_dataset", crash)
    with pytest.raises(KeyboardInterrupt):
        write_submission(path, "mc_maze", submission())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["s.h5"]


# Scores


def test_scores_are_those_of_the_definitions_under_the_benchmarks_names():
    rates = submission()
    true = targets(rates)
    found = score_submission(rates, true)
    train, both = (
        np.concatenate([rates[f"{p}_rates_heldin"], rates[f"{p}_rates_heldout"]], -1) for p in ("train", "eval")
    )
    forward, spikes = (
        np.concatenate([arrays[f"eval_{what}_{units}_forward"] for units in ("heldin", "heldout")], -1)
        for what, arrays in (("rates", rates), ("spikes", true))
    )
    expected = {
        "co-bps": co_bps(rates["eval_rates_heldout"], true["eval_spikes_heldout"]),
        "vel R2": vel_r2(train, true["train_behavior"], both, true["eval_behavior"]),
        "psth R2": psth_r2(true["psth"], both, true["eval_cond_idx"]),
        "fp-bps": co_bps(forward, spikes),
    }
    assert found["nlb"] == expected
    assert found["co_bps_per_unit"] == co_bps_per_unit(rates["eval_rates_heldout"], true["eval_spikes_heldout"])


def test_decoders_of_parts_of_the_trials_are_averaged():
    rates = submission(M=12)
    true = targets(rates) | {
        "train_decode_mask": np.arange(24)[:, None] % 2 == [0, 1],
        "eval_decode_mask": np.arange(12)[:, None] % 2 == [0, 1],
    }
    halves = []
    for k in range(2):
        part = {key: v[k::2] for key, v in rates.items()}
        own = {key: true[key][k::2] for key in ("train_behavior", "eval_behavior")}
        own |= {key: v[k::2] for key, v in true.items() if key.startswith("eval_spikes")}
        halves.append(score_submission(part, own)["nlb"]["vel R2"])
    found = score_submission(rates, true)["nlb"]["vel R2"]
    assert found == pytest.approx(np.mean(halves), rel=1e-12)


def test_one_row_of_behaviour_a_trial_is_correlated_with_speed():
    rates = {key: v for key, v in submission().items() if not key.endswith("forward")}
    true = {"eval_spikes_heldout": np.ones((6, 5, 3)), "eval_behavior": np.c_[np.zeros((6, 4)), np.arange(6.0)]}
    both = np.concatenate([rates["eval_rates_heldin"], rates["eval_rates_heldout"]], -1)
    found = score_submission(rates, true)["nlb"]
    assert found.keys() == {"co-bps", "tp corr"}
    assert found["tp corr"] == tp_corr(both, true["eval_spikes_heldout"], true["eval_behavior"])


# What is asked


def test_a_groups_name_says_the_width_of_bins():
    assert group_name("mc_maze", 0.005) == "mc_maze"
    assert group_name("mc_maze_large", 0.02) == "mc_maze_large_20"
    with pytest.raises(InputError, match="bin_size: expected 5 or 20 ms, which the benchmark scores, found 50 ms"):
        group_name("mc_maze", 0.05)


def test_the_seven_data_sets():
    assert list(TASKS) == "mc_maze mc_rtt area2_bump dmfc_rsg mc_maze_large mc_maze_medium mc_maze_small".split()
    totals = {name: sum(task.num_units) for name, task in TASKS.items()}
    assert list(totals.values()) == [182, 130, 65, 54, 162, 152, 142]
    bins = {name: (task.window[1] - task.window[0]) / 0.005 for name, task in TASKS.items()}
    np.testing.assert_allclose(list(bins.values()), [140, 120, 120, 300, 140, 140, 140], rtol=1e-12)
    assert {task.forward / 0.005 for task in TASKS.values()} == {40.0}
    for width in (0.005, 0.02):  # lags are whole bins of both widths
        lags = [task.lag / width for task in TASKS.values()]
        np.testing.assert_allclose(lags, np.round(lags), rtol=0, atol=1e-9)
