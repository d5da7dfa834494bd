"""The demo, with less of everything: it ends with scores beside their baselines, and a page."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from realdata import real_file

import ndt.data.simulate.recordings
import ndt.demo
import ndt.demo_rotation
from ndt.config import FinetuneConfig, ModelConfig, PretrainConfig, SimulateConfig, TrainConfig
from ndt.data.simulate.population import ROTATION_HZ
from ndt.errors import InputError
from ndt.model.checkpoint import write_json

MODEL = ModelConfig(width=16, num_layers=1, num_heads=2, units_per_patch=16, unit_width=8, num_stem_layers=2)
TRAIN = TrainConfig(steps=6, batch_size=4, valid_every=3, warmup_steps=2)
LESS = (
    PretrainConfig(model=MODEL, train=TRAIN, window=1.0),
    FinetuneConfig(
        train=TRAIN,
        freeze_steps=2,
        max_lag=0.2,
        label_seconds=15.0,
        baselines=("ridge", "block_permuted", "time_only"),
        ensemble=("network", "ridge"),
    ),
)
SESSION = {"session", "target", "seed", "test", "network", "weights", "baselines", "train_seconds"}


@pytest.fixture
def less(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models, few steps, and four short recordings instead of eight."""
    inner = ndt.data.simulate.recordings.simulate
    few = SimulateConfig(num_subjects=1, num_sessions=4, num_units=12, num_electrodes=16, seconds=50.0, workers=1)
    monkeypatch.setattr(
        ndt.data.simulate.recordings,
        "simulate",
        lambda out, config: inner(out, replace(few, seed=config.seed, dynamics=config.dynamics)),
    )
    monkeypatch.setattr(ndt.demo, "SIMULATED", LESS)
    monkeypatch.setattr(ndt.demo_rotation, "PRETRAIN", LESS[0])
    monkeypatch.setattr(ndt.demo_rotation, "FIRST", replace(ndt.demo_rotation.FIRST, steps=3))
    monkeypatch.setattr(ndt.demo, "RECORDED", (LESS[0], replace(LESS[1], label_seconds=0.0)))


def complete(found: dict, out: Path) -> None:
    """The result is what metrics.json says, and what a session left behind is where it should be."""
    stated = json.loads((out / "metrics.json").read_text())
    write_json(out / "returned.json", {name: part for name, part in found.items() if name != "report"})  # NaN is null
    assert stated == json.loads((out / "returned.json").read_text())
    assert {"simulate", "ingest", "pretrain", "finetune", "report"} - found["seconds"].keys() <= {"simulate"}
    optional = {"bits_per_spike_mean_response"}  # of recordings with trials
    expected = {"nll", "bits_per_spike", "bits_per_spike_smoother", "null_nll", "masks"}
    assert found["pretrain"]["valid"].keys() - optional == expected
    for name, session in found["sessions"].items():
        assert SESSION <= session.keys()
        assert session["session"] == name
        assert {"ridge", "block_permuted", "time_only", "scratch"} <= session["baselines"].keys()
        assert all(np.isfinite(part["r2"]) for part in session["baselines"].values() if "left_out" not in part)
        assert (out / "finetune" / name / "predictions.npz").exists()
        assert (out / "scratch" / name / "metrics.json").exists()
        with np.load(out / "embed" / f"{name}.npz") as file:
            assert len(file["time"]) == len(file["latents"]) == len(file["segment"])
    page = Path(found["report"])
    assert page == out / "report.html"
    assert all(name in page.read_text() for name in found["sessions"])


@pytest.mark.slow
@pytest.mark.usefixtures("less")
def test_simulated_recordings_end_in_a_decoder_of_a_day_that_pretraining_never_saw(tmp_path) -> None:
    found = ndt.demo.demo(out=tmp_path / "demo", seed=1, progress=False)
    complete(found, tmp_path / "demo")
    ((name, session),) = found["sessions"].items()
    spec = json.loads((tmp_path / "demo" / "pretrain" / "model.json").read_text())
    assert name == "sub-simA_ses-04"
    assert name not in spec["data"]
    assert len(spec["data"]) == 3
    np.testing.assert_allclose(session["label_seconds"], 15.0)
    assert session["seed"] == 1
    assert session["baselines"]["oracle"]["r2"] > session["baselines"]["ridge"]["r2"]
    scratch = json.loads((tmp_path / "demo" / "scratch" / name / "model.json").read_text())
    assert scratch["bin_size"] == spec["bin_size"]  # scored on the same bins
    assert list(scratch["data"]) == [name]  # of this day alone
    assert found["rotation"]["true_hz"] == ROTATION_HZ
    assert found["rotation"]["found"].keys() == {"latents", "hoam", "wlm"}
    assert 'id="rotation"' in Path(found["report"]).read_text()
    (tmp_path / "demo" / "finetune" / "sub-old_ses-1").mkdir()
    again = ndt.demo.demo(out=tmp_path / "demo", seed=1, progress=False, scratch=False, rotation=False)
    np.testing.assert_equal(again["sessions"][name]["test"], session["test"])  # the same seed, the same numbers
    assert not (tmp_path / "demo" / "finetune" / "sub-old_ses-1").exists()
    assert "scratch" not in again["sessions"][name]["baselines"]
    assert not (tmp_path / "demo" / "rotation").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("less")
def test_given_files_are_each_decoded_from_their_training_split(sim_truth, tmp_path) -> None:
    found = ndt.demo.demo([str(s.path) for s in sim_truth], tmp_path / "demo", progress=False)
    complete(found, tmp_path / "demo")
    assert list(found["sessions"]) == [s.session_id for s in sim_truth]
    for session in found["sessions"].values():
        assert session["target"] == "cursor_vel"
        np.testing.assert_allclose(session["label_seconds"], 69.0, atol=0.1)  # 70 of 100 s, less a guard of 1 s


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.usefixtures("less")
@pytest.mark.parametrize(
    ("pattern", "target", "dims"),
    [
        ("sub-m1/*.nwb", "hand_vel", 2),
        ("sub-chewie/*20131003*.nwb", "hand_vel", 2),
        ("sub-A2929/*.nwb", "CompassDirection/ry", 2),  # cosine and sine
    ],
)
def test_real_recordings_are_decoded(pattern, target, dims, tmp_path) -> None:
    found = ndt.demo.demo([str(real_file(pattern))], tmp_path / "demo", progress=False)
    complete(found, tmp_path / "demo")
    ((_, session),) = found["sessions"].items()
    assert session["target"] == target
    assert len(session["test"]["r2_per_dim"]) == dims
    assert session["baselines"]["block_permuted"]["r2"] < 0.15  # below 0 where the test split has another mean (A2929)
    assert session["baselines"]["ridge"]["r2"] > 0.2


def test_a_folder_that_is_not_a_demos_is_left_alone(tmp_path):
    (tmp_path / "finetune").mkdir()
    (tmp_path / "finetune" / "mine.py").write_text("kept")

    with pytest.raises(InputError, match=r"--out: expected a new folder, or that of an earlier demo"):
        ndt.demo.demo(out=tmp_path, progress=False)
    assert (tmp_path / "finetune" / "mine.py").read_text() == "kept"


@pytest.mark.slow
def test_both_heads_find_the_frequency_of_a_population_that_rotates(tmp_path) -> None:
    """From spikes to frequency as the demo does it, within a twentieth."""
    found = ndt.demo_rotation.rotations(tmp_path / "rotation", seed=2, progress=False)
    for name, told in found["found"].items():
        np.testing.assert_allclose(told["frequency"], ROTATION_HZ, rtol=0.05, err_msg=name)
    with np.load(tmp_path / "rotation" / "paths.npz") as file:
        assert file["wlm"].shape == file["latents"].shape == (26, found["num_trials"], 3)
