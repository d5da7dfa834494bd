import h5py
import numpy as np
import pytest

from ndt.errors import InputError
from ndt.metrics import co_bps
from ndt.nlb import co_bps_per_unit, fp_bps, psth_r2, tp_corr, vel_r2
from ndt.nlb_file import (
    read_submission,
    read_targets,
    score_submission,
    write_submission,
    write_targets,
)
from ndt.nlb_tasks import TASKS, find_task, group_name


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


def test_a_submission_is_read_back_in_single_precision_and_by_anyone(tmp_path):
    arrays = submission()
    path = write_submission(tmp_path / "new" / "s.h5", {"mc_maze_20": arrays, "mc_rtt": arrays})
    found = read_submission(path)
    assert list(found) == ["mc_maze_20", "mc_rtt"]
    assert found["mc_maze_20"].keys() == arrays.keys()
    for key, array in found["mc_rtt"].items():
        np.testing.assert_array_equal(array, arrays[key].astype(np.float32))
    with h5py.File(path) as file:  # as the benchmark's scorer reads it
        np.testing.assert_array_equal(
            file["mc_maze_20"]["eval_rates_heldout"][()].astype("float"), found["mc_maze_20"]["eval_rates_heldout"]
        )
    assert [p.name for p in path.parent.iterdir()] == ["s.h5"]


def test_targets_keep_conditions_of_different_numbers_of_trials(tmp_path):
    arrays = targets(submission()) | {"train_decode_mask": np.eye(2, dtype=bool)}
    found = read_targets(write_targets(tmp_path / "t.h5", {"mc_maze": arrays}))["mc_maze"]
    assert found.keys() == arrays.keys()
    for a, b in zip(found["eval_cond_idx"], arrays["eval_cond_idx"], strict=True):
        np.testing.assert_array_equal(a, b)
    for key in arrays.keys() - {"eval_cond_idx"}:
        np.testing.assert_array_equal(found[key], arrays[key])


WITHOUT = dict.fromkeys(("train_rates_heldin", "train_rates_heldout"))
WRONG = {
    "no data set": ("mc_mase", {}, r"mc_mase: expected one of mc_maze, mc_maze_20, .*, found an unknown data set"),
    "missing": ("mc_maze", {"eval_rates_heldout": None}, r"mc_maze/eval_rates_heldout: expected .*, found none"),
    "no training": ("mc_maze", WITHOUT, r"mc_maze/train_rates_heldin: expected an array of rates, found none"),
    "unknown": ("mc_maze", {"eval_rates": np.ones((6, 5, 4))}, r"mc_maze/eval_rates: .*, found an unknown array"),
    "NaN": ("mc_rtt", {"eval_rates_heldin": np.full((6, 5, 4), np.nan)}, r".*: expected finite rates, found 120 .*"),
    "infinite": ("mc_rtt", {"eval_rates_heldin": np.full((6, 5, 4), np.inf)}, r".*: expected finite rates, .*"),
    "negative": ("mc_rtt", {"train_rates_heldin": -np.ones((12, 5, 4))}, r".*: expected rates of at least 0 .* -1"),
    "flat": ("mc_rtt", {"eval_rates_heldin": np.ones((30, 4))}, r".*trials by bins by units, found float64 \(30, 4\)"),
    "words": ("mc_rtt", {"eval_rates_heldin": np.full((6, 5, 4), "x")}, r".*: expected numbers, .*"),
    "empty": ("mc_rtt", {"eval_rates_heldin": np.ones((0, 5, 4))}, r".*: expected numbers, .*"),
    "bins": ("mc_rtt", {"eval_rates_heldout": np.ones((6, 4, 3))}, r".*expected \(6, 5\) trials and bins, .* \(6, 4\)"),
    "units": (
        "mc_rtt",
        {"train_rates_heldin": np.ones((12, 5, 3))},
        r".*expected 4 units, as in eval_rates_heldin, .*",
    ),
    "one forward": ("mc_rtt", {"eval_rates_heldin_forward": None}, r".*heldin_forward: expected an array beside .*"),
    "forward units": (
        "mc_rtt",
        {"eval_rates_heldout_forward": np.ones((6, 2, 9))},
        r".*heldout_forward: expected 3 units, .*, found 9",
    ),
    "forward trials": (
        "mc_rtt",
        {f"eval_rates_{k}_forward": np.ones((5, 2, n)) for k, n in (("heldin", 4), ("heldout", 3))},
        r".*heldin_forward: expected 6 trials, .*, found 5",
    ),
}


@pytest.mark.parametrize(("name", "change", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_and_nothing_is_written(name, change, message, tmp_path):
    arrays = {key: value for key, value in (submission() | change).items() if value is not None}
    path = write_submission(tmp_path / "s.h5", {"mc_maze": submission()})
    before = path.read_bytes()
    with pytest.raises(InputError, match=f"^{path}: {message}$"):
        write_submission(path, {name: arrays})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["s.h5"]
    with h5py.File(tmp_path / "wrong.h5", "w") as file:  # what others wrote is held to the same
        for key, value in arrays.items():
            file[f"{name}/{key}"] = value.astype("S1") if value.dtype.kind == "U" else value
    with pytest.raises(InputError, match=rf"^{tmp_path / 'wrong.h5'}: "):
        read_submission(tmp_path / "wrong.h5")


def test_only_dmfc_rsg_needs_no_rates_of_training_trials(tmp_path):
    arrays = {key: value for key, value in submission().items() if key not in WITHOUT}
    assert read_submission(write_submission(tmp_path / "s.h5", {"dmfc_rsg": arrays})).keys() == {"dmfc_rsg"}


def test_the_numbers_of_units_of_the_published_files_are_held_to_on_demand(tmp_path):
    with pytest.raises(InputError, match="mc_rtt: expected 98 held-in and 32 held-out units, found 4 held-in and 3 "):
        write_submission(tmp_path / "s.h5", {"mc_rtt": submission()}, sizes=True)
    write_submission(tmp_path / "s.h5", {"mc_rtt": submission(kept=98, held=32)}, sizes=True)


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_submission(tmp_path / "s.h5", {"mc_rtt": submission()})
    before = path.read_bytes()

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ndt.nlb_file._put", crash)
    with pytest.raises(KeyboardInterrupt):
        write_submission(path, {"mc_maze": submission()})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["s.h5"]


def test_files_that_are_no_submissions(tmp_path):
    with pytest.raises(InputError, match=r"none\.h5: content: expected an HDF5 file"):
        read_submission(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("no")
    with pytest.raises(InputError, match=r"text\.h5: content: expected an HDF5 file"):
        read_targets(tmp_path / "text.h5")
    with h5py.File(tmp_path / "flat.h5", "w") as file:
        file["mc_maze"] = np.zeros(3)
    with pytest.raises(InputError, match="mc_maze: expected a group of arrays, found an array"):
        read_submission(tmp_path / "flat.h5")
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with pytest.raises(InputError, match=r"groups: expected at least one of mc_maze, .*, found none"):
        read_submission(tmp_path / "empty.h5")
    write_targets(tmp_path / "t.h5", {"mc_maze": {"psth": np.zeros((1, 2, 3))}})
    with pytest.raises(InputError, match="mc_maze/eval_spikes_heldout: expected spikes of held-out units, found none"):
        read_targets(tmp_path / "t.h5")


# Scores


def test_scores_are_those_of_the_definitions_under_the_benchmarks_names():
    rates = submission()
    true = targets(rates) | {"eval_jitter": np.zeros(6, int)}
    found = score_submission({"mc_maze_20": rates}, {"mc_maze_20": true, "mc_rtt": {}})["mc_maze_20"]
    train, both = (
        np.concatenate([rates[f"{p}_rates_heldin"], rates[f"{p}_rates_heldout"]], -1) for p in ("train", "eval")
    )
    forward = [rates["eval_rates_heldin_forward"], rates["eval_rates_heldout_forward"]]
    expected = {
        "co-bps": co_bps(rates["eval_rates_heldout"], true["eval_spikes_heldout"]),
        "vel R2": vel_r2(train, true["train_behavior"], both, true["eval_behavior"]),
        "psth R2": psth_r2(true["psth"], both, true["eval_cond_idx"]),
        "fp-bps": fp_bps(*forward, true["eval_spikes_heldin_forward"], true["eval_spikes_heldout_forward"]),
    }
    assert found["nlb"] == expected
    ours = ("co_bps_nlb", "vel_r2_uniform", "psth_r2_uniform", "fp_bps_nlb")
    assert [found[key] for key in ours] == list(expected.values())
    assert found["co_bps_per_unit"] == co_bps_per_unit(rates["eval_rates_heldout"], true["eval_spikes_heldout"])


def test_trials_that_were_cut_late_are_moved_before_they_are_averaged():
    rates, late = submission(), np.array([1, 0, 0, 0, 1, 0])
    true = targets(rates)
    psth = true["psth"].copy()
    psth[0, 0] = np.nan  # which the trials of the first condition, 0 and 4, do not reach
    true |= {"psth": psth, "eval_jitter": late}
    both = np.concatenate([rates["eval_rates_heldin"], rates["eval_rates_heldout"]], -1)
    found = score_submission({"mc_maze": rates}, {"mc_maze": true})["mc_maze"]
    assert found["psth_r2_uniform"] == psth_r2(psth, both, true["eval_cond_idx"], late)
    assert found["psth_r2_uniform"] != psth_r2(psth, both, true["eval_cond_idx"])


def test_decoders_of_parts_of_the_trials_are_averaged():
    rates = submission(M=12)
    true = targets(rates) | {
        "train_decode_mask": np.arange(24)[:, None] % 2 == [0, 1],
        "eval_decode_mask": np.arange(12)[:, None] % 2 == [0, 1],
    }
    halves = []
    for k in range(2):
        part = {key: v[k::2] for key, v in rates.items()}
        own = {key: true[key][k::2] for key in ("eval_spikes_heldout", "train_behavior", "eval_behavior")}
        halves.append(score_submission({"mc_maze": part}, {"mc_maze": own})["mc_maze"]["nlb"]["vel R2"])
    found = score_submission({"mc_maze": rates}, {"mc_maze": true})["mc_maze"]["nlb"]["vel R2"]
    assert found == pytest.approx(np.mean(halves), rel=1e-12)


def test_one_row_of_behaviour_a_trial_is_correlated_with_speed():
    rates = {key: v for key, v in submission().items() if key in ("eval_rates_heldin", "eval_rates_heldout")}
    true = {"eval_spikes_heldout": np.ones((6, 5, 3)), "eval_behavior": np.c_[np.zeros((6, 4)), np.arange(6.0)]}
    both = np.concatenate(list(rates.values()), -1)
    found = score_submission({"dmfc_rsg": rates}, {"dmfc_rsg": true})["dmfc_rsg"]
    assert found["nlb"].keys() == {"co-bps", "tp corr"}
    assert found["tp_corr"] == tp_corr(both, true["eval_spikes_heldout"], true["eval_behavior"])


def test_targets_of_other_data_or_shapes_are_refused():
    rates = submission()
    with pytest.raises(InputError, match="groups: expected one of mc_maze, found mc_rtt"):
        score_submission({"mc_maze": rates}, {"mc_rtt": targets(rates)})
    fewer = {key: v[:4] if isinstance(v, np.ndarray) else v for key, v in targets(rates).items()}
    with pytest.raises(InputError, match=r"mc_maze/eval_rates_heldout: expected \(4, 5, 3\), as targets have"):
        score_submission({"mc_maze": rates}, {"mc_maze": fewer})
    shorter = targets(rates) | {"train_behavior": np.zeros((12, 4, 2))}
    with pytest.raises(InputError, match=r"mc_maze/train_rates_heldin: expected \(12, 4\) .*, found \(12, 5\)"):
        score_submission({"mc_maze": rates}, {"mc_maze": shorter})


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
    with pytest.raises(InputError, match=r"dataset: expected one of mc_maze, mc_rtt, .*, found 'maze'"):
        find_task("maze")
