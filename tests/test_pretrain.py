"""Masked pretraining: it finds the latents, survives a kill to the bit, and sees no block that it must not."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from problems import recording, specification
from realdata import real_file

from ndt.api import embed
from ndt.checkpoint import read_json
from ndt.config import ModelConfig, PretrainConfig, SimulateConfig, TrainConfig, load_config
from ndt.data.ingest import ingest
from ndt.data.store import Store
from ndt.data.synthetic import Simulated, simulate
from ndt.data.windows import TEST, TRAIN, VALID, Grid
from ndt.errors import InputError
from ndt.metrics import r2
from ndt.model import NDT
from ndt.pieces import Scaler
from ndt.pretrain.objective import MaskedModelling
from ndt.pretrain.train import pretrain
from ndt.session import Spikes
from ndt.tokens import Batch

MODEL = ModelConfig(width=16, num_layers=1, num_heads=2, units_per_patch=16, unit_width=8)
CONFIG = PretrainConfig(
    model=MODEL, train=TrainConfig(steps=40, batch_size=4, valid_every=4, warmup_steps=5), window=1.0
)
SHORT = replace(CONFIG, train=replace(CONFIG.train, steps=6, valid_every=3))


def recovered(model: NDT, truth: Simulated, store: Store) -> float:
    """R² of the true latents, linear in the embeddings: fitted on the training block, scored on the test block."""
    found = embed(model, truth.session_id, store=store)
    grid = Grid(store.session(truth.session_id), truth.bin_size, model.spec.window_bins * truth.bin_size)
    np.testing.assert_allclose(found.time, truth.time + truth.bin_size / 2)
    train, test = grid.block == TRAIN, grid.block == TEST
    x = np.concatenate([Scaler.fit([found.latents], [train]).apply(found.latents), np.ones((len(grid), 1))], 1)
    gram = x[train].T @ x[train] + 10 * np.eye(x.shape[1])  # embeddings are collinear: a little ridge
    weights = np.linalg.solve(gram, x[train].T @ truth.latents[train])
    return r2(truth.latents[test], x[test] @ weights)


def untrained(model: NDT, seed: int) -> NDT:
    """The same architecture and mean rates, with weights as they are before the first step."""
    torch.manual_seed(seed)
    return NDT(model.spec).observe(np.arange(len(model.unit)), model.mean_counts.double().numpy()).eval()


def test_latents_are_better_than_those_of_random_weights(sim_base, sim_store, sim_truth) -> None:
    model = NDT.from_pretrained(sim_base)
    random = max(recovered(untrained(model, seed), sim_truth[0], sim_store) for seed in range(3))
    assert recovered(model, sim_truth[0], sim_store) > random + 0.03


@pytest.mark.slow
def test_the_true_latents_are_recovered(tmp_path) -> None:
    config = SimulateConfig(
        num_subjects=1, num_sessions=1, num_units=48, num_electrodes=50, seconds=240.0, mean_rate_hz=15.0
    )
    (truth,) = simulate(tmp_path / "recordings", config)
    store = ingest([truth.path], tmp_path / "store", progress=False)
    model = ModelConfig(width=32, num_layers=2, num_heads=2, units_per_patch=16, unit_width=16)
    train = TrainConfig(steps=800, batch_size=16, learning_rate=4e-3, warmup_steps=20)
    found = pretrain(store, tmp_path / "run", PretrainConfig(model=model, train=train, window=1.0), progress=False)
    assert recovered(found, truth, store) > 0.46  # ridge on eight lags, which sees labels and all counts, reaches 0.62
    assert max(recovered(untrained(found, seed), truth, store) for seed in range(3)) < 0.44


def test_run_directory_is_as_designed(sim_base, sim_store) -> None:
    names = {
        "config.yaml",
        "model.safetensors",
        "model.json",
        "metrics.json",
        "log.jsonl",
        "checkpoints",
        "tensorboard",
    }
    assert names <= {p.name for p in sim_base.iterdir()}
    found = read_json(sim_base / "metrics.json")
    assert {"valid", "tokens_seen", "tokens_per_second", "num_parameters", "train_seconds"} <= found.keys()
    assert {"nll", "bits_per_spike", "null_nll"} == found["valid"].keys()
    assert found["valid"]["bits_per_spike"] > 0.05
    assert found["valid"]["nll"] < found["valid"]["null_nll"]
    model = NDT.from_pretrained(sim_base)
    assert found["num_parameters"] == sum(p.numel() for p in model.parameters())
    lines = [json.loads(line) for line in (sim_base / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "valid"] == [50, 100, 150, 200]
    assert all(
        {"nll", "lr", "tokens_per_second", "seconds"} <= line.keys() for line in lines if line["split"] == "train"
    )
    config = load_config(PretrainConfig, sim_base / "config.yaml")
    assert config.bin_size == 0.05  # as it was resolved
    assert model.spec.config == config.model
    session = sim_store.session(sim_store.session_ids[0])
    assert model.spec.data == {session.session_id: session.source["sha256"]}


def test_a_killed_run_that_is_resumed_is_the_unbroken_one(sim_store, tmp_path) -> None:
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[3]);"
        "from ndt.pretrain.train import pretrain;"
        "from ndt.config import PretrainConfig, load_config;"
        "pretrain(Path(sys.argv[1]), Path(sys.argv[2]), load_config(PretrainConfig, sys.argv[4]), progress=False)"
    )
    whole = pretrain(sim_store, tmp_path / "whole", CONFIG, progress=False)
    root, settings = str(Path(__file__).parents[1]), str(tmp_path / "whole" / "config.yaml")
    argv = [sys.executable, "-c", script, str(sim_store.root), str(tmp_path / "killed"), root, settings]
    run = subprocess.Popen(
        argv, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    end = time.monotonic() + 60
    while (
        not list((tmp_path / "killed" / "checkpoints").glob("step_*")) and run.poll() is None and time.monotonic() < end
    ):
        time.sleep(0.002)
    run.send_signal(signal.SIGKILL)
    told = run.communicate()[1].decode()
    assert run.returncode == -signal.SIGKILL, told
    last = max(int(p.name.removeprefix("step_")) for p in (tmp_path / "killed" / "checkpoints").glob("step_*"))
    assert 0 < last < 40
    assert not (tmp_path / "killed" / "metrics.json").exists()
    resumed = pretrain(sim_store, tmp_path / "killed", CONFIG, resume=True, progress=False)
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
    stated = [read_json(tmp_path / name / "metrics.json") for name in ("whole", "killed")]
    assert stated[0]["valid"] == stated[1]["valid"]
    assert stated[0]["tokens_seen"] == stated[1]["tokens_seen"]


def test_the_test_block_is_never_learned_from(sim_store, tmp_path, monkeypatch) -> None:
    """Other spikes there leave every weight, every mean rate and every measure as it was."""
    name, models = sim_store.session_ids[0], []
    session = sim_store.session(name)
    late = session.spikes.timestamps >= Grid(session, 0.05, 1.0).split.test.start[0]
    units = np.where(late, np.random.default_rng(0).integers(32, size=len(late)), session.spikes.unit_index)
    other = replace(session, spikes=Spikes(timestamps=np.array(session.spikes.timestamps), unit_index=units))
    for folder, found in (("a", session), ("b", other)):
        monkeypatch.setattr(type(sim_store), "session", lambda self, _, found=found: found)
        models.append(pretrain(sim_store, tmp_path / folder, replace(SHORT, sessions=(name,)), progress=False))
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=0, atol=0)
    valid = [read_json(tmp_path / folder / "metrics.json")["valid"] for folder in "ab"]
    assert valid[0] == valid[1]


def masked(seed: int = 3) -> tuple[NDT, MaskedModelling, list[Grid]]:
    sessions = [recording(num_units=n, name=f"sub-a_ses-{n}", seed=n) for n in (4, 7)]
    config = replace(CONFIG, model=replace(MODEL, units_per_patch=3), seed=seed)
    spec = specification(sessions, dims=0, config=config.model)
    grids = [Grid(s, 0.05, 1.0) for s in sessions]
    return NDT(spec), MaskedModelling(grids, spec.vocabulary, config, 20), grids


def test_a_new_model_is_as_good_as_constant_rates() -> None:
    """Zero bits per spike, by definition, where the mean rates are those of the training block of each session."""
    model, objective, grids = masked()
    for grid in grids:
        rows = model.vocabulary.rows(grid.session)
        model.observe(rows.unit, grid.mean_counts(grid.block == TRAIN)[rows.order])
    objective.valid = [
        (w, r) for w, r in objective.valid if len(w.unit) == 7
    ]  # units are shared: the last set their rates
    found = objective.validate(model)
    np.testing.assert_allclose(found["bits_per_spike"], 0.0, atol=1e-5)
    np.testing.assert_allclose(found["nll"], found["null_nll"], atol=1e-6)


def test_null_likelihood_is_that_of_each_sessions_own_mean_rates() -> None:
    model, objective, grids = masked()
    total = entries = 0.0
    for window, _ in objective.valid:
        grid = next(g for g in grids if g.session.num_units == len(window.unit))
        rows = model.vocabulary.rows(grid.session)
        rates = np.maximum(grid.mean_counts(grid.block == TRAIN)[rows.order], 1e-4)
        wanted = np.repeat(window.hidden, 3, axis=1)[:, : len(rates)] & window.valid
        total += ((rates - window.counts * np.log(rates)) * wanted).sum()
        entries += wanted.sum()
    np.testing.assert_allclose(objective.validate(model)["null_nll"], total / entries, rtol=1e-5)


def test_validation_is_on_the_validation_block_with_the_same_masks_for_every_seed() -> None:
    (_, one, grids), (_, other, _) = masked(seed=3), masked(seed=4)
    for (a, _), (b, _) in zip(one.valid, other.valid, strict=True):
        np.testing.assert_array_equal(a.hidden, b.hidden)
        grid = next(g for g in grids if g.session.num_units == len(a.unit))
        assert (grid.block[a.index[0] : a.index[1]] == VALID).all()
    key = lambda batch: batch.counts.numpy().tobytes()
    assert key(one.batch(0, range(4))) != key(other.batch(0, range(4)))
    assert key(one.batch(0, range(4))) == key(masked(seed=3)[1].batch(0, range(4)))


def test_only_hidden_and_valid_entries_are_in_the_loss() -> None:
    model, objective, _ = masked()
    model.observe(np.arange(7), np.full(7, 0.37))  # where rate and count are equal there is no gradient
    batch = objective.batch(0, range(4))
    log_rates, _ = model(batch)
    log_rates.retain_grad()

    class Fixed(torch.nn.Module):
        def forward(self, batch: Batch):
            return log_rates, None

    value, weight = objective.losses(Fixed(), batch, 0)["nll"]
    value.backward()
    wanted = batch.hidden[:, None] & batch.valid
    torch.testing.assert_close(log_rates.grad != 0, wanted)
    assert objective.targets(batch, 0)["nll"] == wanted.sum()
    assert weight == 1.0
    share = batch.hidden.float().mean()
    assert 0.45 < share < 0.55


def test_bad_settings_and_bad_stores_are_said(sim_store, tmp_path) -> None:
    with pytest.raises(InputError, match=sim_store.session_ids[0]):  # lists what there is
        pretrain(sim_store, tmp_path, replace(SHORT, sessions=("sub-z_ses-9",)), progress=False)
    with pytest.raises(InputError, match="window: expected 3 to 200 bins of 50 ms, found 220 bins"):
        pretrain(sim_store, tmp_path, replace(SHORT, window=11.0), progress=False)
    with pytest.raises(InputError):
        pretrain(tmp_path / "no store", tmp_path, SHORT, progress=False)
    with pytest.raises(InputError, match="a checkpoint to resume from"):
        pretrain(sim_store, tmp_path / "new", SHORT, resume=True, progress=False)


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("pattern", ["sub-m1/*.nwb", "sub-chewie/*20131003*.nwb"])
def test_real_recordings_have_structure_to_predict(pattern, tmp_path) -> None:
    store = ingest([real_file(pattern)], tmp_path / "store", progress=False)
    config = PretrainConfig(train=TrainConfig(steps=300, batch_size=16), window=1.0)
    pretrain(store, tmp_path / "run", config, progress=False)
    assert read_json(tmp_path / "run" / "metrics.json")["valid"]["bits_per_spike"] > 0.01


def test_a_refused_resume_changes_no_file(sim_store, tmp_path) -> None:
    small = ModelConfig(width=16, num_layers=1, num_heads=2, unit_width=8)
    config = PretrainConfig(model=small, train=TrainConfig(steps=2, batch_size=2, valid_every=2), window=0.5)
    pretrain(sim_store, tmp_path, config, progress=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    other = replace(config, model=replace(small, num_heads=1))  # the same shapes, another architecture
    with pytest.raises(InputError, match=r"architecture, data and seed: expected the checkpoint's own"):
        pretrain(sim_store, tmp_path, other, resume=True, progress=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
