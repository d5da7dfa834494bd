"""Masked pretraining: it finds the latents, survives a kill to the bit, and sees no block that it must not."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from problems import recording, specification, training_data
from realdata import real_file
from safetensors.torch import load_file
from stores import stored

from ndt.api import embed
from ndt.cli import main
from ndt.config import IngestConfig, MaskConfig, ModelConfig, PretrainConfig, SimulateConfig, TrainConfig, load_config
from ndt.data.activity import unit_activity
from ndt.data.covariates import resample
from ndt.data.ingest import ingest
from ndt.data.objective import MaskedModelling
from ndt.data.simulate.recordings import Simulated, simulate
from ndt.data.splits import assign_splits
from ndt.data.store import Store
from ndt.data.stored_masks import VALID_MASKS, valid_windows
from ndt.data.windows import TEST, TRAIN, VALID, BinnedSession
from ndt.errors import InputError
from ndt.evaluation.metrics import r2
from ndt.model.tokens import Batch
from ndt.model.transformer import NDT, RESIDUALS, TABLES, Prediction
from ndt.parsing import read_json
from ndt.pretrain.train import pretrain
from ndt.segments import Scaler
from ndt.session import Spikes

MODEL = ModelConfig(
    width=16, num_layers=1, num_heads=2, units_per_patch=16, unit_width=8, num_stem_layers=2,
    dropout=0.1, drop_path=0.1, count_dropout=0.1,
)  # fmt: skip
CONFIG = PretrainConfig(
    model=MODEL,
    train=TrainConfig(steps=40, batch_size=4, valid_every=4, warmup_steps=5, learning_rate=3e-3, ema=0.9),
    mask=MaskConfig(ratio=0.5, kinds=("random",), random_only_steps=0, share=1.0),
    masked_weight=0.5,
    unit_dropout=0.0,
    residual_dropout=0.1,
    embedding_lr_scale=5.0,
    window=1.0,
)
SHORT = replace(CONFIG, train=replace(CONFIG.train, steps=6, valid_every=3))


def recovered(model: NDT, truth: Simulated, store: Store) -> float:
    """R² of the true latents, linear in the embeddings: fitted on the training split, scored on the test split."""
    found = embed(model, truth.session_id, store=store)
    binned = BinnedSession(store.session(truth.session_id), truth.bin_size, model.spec.window_bins * truth.bin_size)
    np.testing.assert_allclose(found.time, truth.time + truth.bin_size / 2)
    train, test = binned.split == TRAIN, binned.split == TEST
    x = np.concatenate([Scaler.fit([found.latents], [train]).apply(found.latents), np.ones((len(binned), 1))], 1)
    gram = x[train].T @ x[train] + 10 * np.eye(x.shape[1])  # embeddings are collinear: a little ridge
    weights = np.linalg.solve(gram, x[train].T @ truth.latents[train])
    return r2(truth.latents[test], x[test] @ weights)


def untrained(model: NDT, seed: int) -> NDT:
    """The same architecture and activity of units, with weights as they are before the first step."""
    torch.manual_seed(seed)
    fresh = NDT(model.spec)
    activity = {n: b for n, b in model.identity.named_buffers() if n.startswith("activity")}
    fresh.identity.load_state_dict(activity, strict=False)

    return fresh.eval()


def test_latents_are_better_than_those_of_random_weights(sim_base, sim_store, sim_truth) -> None:
    model = NDT.from_pretrained(sim_base)
    random = max(recovered(untrained(model, seed), sim_truth[0], sim_store) for seed in range(3))
    assert recovered(model, sim_truth[0], sim_store) > random + 0.05


@pytest.mark.slow
def test_the_true_latents_are_recovered(tmp_path) -> None:
    config = SimulateConfig(
        num_subjects=1, num_sessions=1, num_units=48, num_electrodes=50, seconds=240.0, mean_rate_hz=15.0
    )
    (truth,) = simulate(tmp_path / "recordings", config)
    store = ingest([truth.path], tmp_path / "store", progress=False)
    model = replace(MODEL, width=32, num_layers=2, units_per_patch=48, unit_width=16, dropout=0.0, drop_path=0.0)
    train = TrainConfig(steps=800, batch_size=16, valid_every=200, learning_rate=4e-3, warmup_steps=20, ema=0.98)
    found = pretrain(store, tmp_path / "run", replace(CONFIG, model=model, train=train), progress=False)
    assert recovered(found, truth, store) > 0.56  # ridge on eight lags, which sees labels and all counts, reaches 0.62
    assert max(recovered(untrained(found, seed), truth, store) for seed in range(3)) < 0.5


def test_each_unit_has_the_mean_count_of_its_training_split(sim_base, sim_store, sim_truth) -> None:
    """Units are listed in another order than that of their identities; file and truth tell which is which."""
    model, session, truth = NDT.from_pretrained(sim_base), sim_store.session(sim_truth[0].session_id), sim_truth[0]
    names = [str(u) for u in session.units.id]
    assert names != sorted(names)
    binned = BinnedSession(session, truth.bin_size, model.spec.window_bins * truth.bin_size)
    means = dict(zip(names, truth.counts[binned.split == TRAIN].mean(0), strict=True))
    found = model.identity.activity[:, 0].numpy()
    np.testing.assert_allclose(found, [means[u] for u in model.vocabulary.units], rtol=1e-5)


def test_run_directory_has_its_files(sim_base, sim_store) -> None:
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
    references = {"bits_per_spike_smoother", "bits_per_spike_mean_response"}
    assert {"nll", "bits_per_spike", "null_nll", "masks"} | references == found["valid"].keys()
    assert found["valid"]["masks"].keys() == VALID_MASKS.keys()
    assert all(references < of.keys() for of in found["valid"]["masks"].values())
    assert found["valid"]["bits_per_spike"] > 0.05
    assert found["valid"]["nll"] < found["valid"]["null_nll"]
    model = NDT.from_pretrained(sim_base)
    assert found["num_parameters"] == sum(p.numel() for p in model.parameters())
    lines = [json.loads(line) for line in (sim_base / "log.jsonl").read_text().splitlines()]
    assert {50, 100, 150, 200} <= {line["step"] for line in lines if line["split"] == "valid"}
    assert all(
        {"nll", "lr", "tokens_per_second", "seconds"} <= line.keys() for line in lines if line["split"] == "train"
    )
    config = load_config(PretrainConfig, sim_base / "config.yaml")
    assert config.bin_size == 0.05  # as it was resolved
    assert model.spec.config == config.model
    session = sim_store.session(sim_store.session_ids[0])
    assert model.spec.data == {session.session_id: session.source["sha256"]}


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(sim_store, tmp_path) -> None:
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[3]);"
        "from ndt.pretrain.train import pretrain;"
        "from ndt.config import PretrainConfig, load_config;"
        "pretrain(Path(sys.argv[1]), Path(sys.argv[2]), load_config(PretrainConfig, sys.argv[4]), progress=False)"
    )
    whole = pretrain(sim_store, tmp_path / "whole", CONFIG, progress=False)
    root, settings = str(Path(__file__).parents[2]), str(tmp_path / "whole" / "config.yaml")
    argv = [sys.executable, "-c", script, str(sim_store.root), str(tmp_path / "killed"), root, settings]
    run = subprocess.Popen(
        argv, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    least, end = random.randrange(1, 25), time.monotonic() + 60
    written = lambda: [int(p.name[5:]) for p in (tmp_path / "killed" / "checkpoints").glob("step_*")]
    while max(written(), default=0) < least and run.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    run.send_signal(signal.SIGKILL)
    told = run.communicate()[1].decode()
    assert run.returncode == -signal.SIGKILL, told
    assert least <= max(written()) < 40
    assert not (tmp_path / "killed" / "metrics.json").exists()
    resumed = pretrain(sim_store, tmp_path / "killed", CONFIG, resume=True, progress=False)
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
    stated = [read_json(tmp_path / name / "metrics.json") for name in ("whole", "killed")]
    assert stated[0]["valid"] == stated[1]["valid"]
    assert stated[0]["tokens_seen"] == stated[1]["tokens_seen"]


def test_without_validation_splits_all_time_is_trained_on_and_the_last_weights_are_kept(tmp_path, capsys) -> None:
    session = assign_splits(recording(num_units=5), "all")
    store = stored([session], tmp_path / "store")
    config = replace(SHORT, train=replace(SHORT.train, ema=0.0), bin_size=0.05)
    model = pretrain(store, tmp_path / "run", config, progress=False)
    metrics = read_json(tmp_path / "run" / "metrics.json")
    assert (metrics["valid"], metrics["steps"]) == ({}, 6)
    state = load_file(tmp_path / "run" / "checkpoints" / "step_00000006" / "state.safetensors")
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, state[f"model/{name}"])
    arguments = ["finetune", str(tmp_path / "run"), "--session", session.session_id, "--out", str(tmp_path / "tuned")]
    assert main([*arguments, "--target", "vel"]) == 2
    assert "validation split" in capsys.readouterr().err


def test_training_ignores_the_test_split(sim_store, tmp_path, monkeypatch) -> None:
    """Other spikes there leave every weight, every mean rate and every measure as it was."""
    name, models = sim_store.session_ids[0], []
    session = sim_store.session(name)
    late = session.spikes.timestamps >= BinnedSession(session, 0.05, 1.0).splits.test.start[0]
    units = np.where(late, np.random.default_rng(0).integers(32, size=len(late)), session.spikes.unit_index)
    other = replace(session, spikes=Spikes(timestamps=np.array(session.spikes.timestamps), unit_index=units))
    for folder, found in (("a", session), ("b", other)):
        monkeypatch.setattr(type(sim_store), "session", lambda self, _, found=found: found)
        models.append(pretrain(sim_store, tmp_path / folder, replace(SHORT, sessions=(name,)), progress=False))
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=0, atol=0)
    valid = [read_json(tmp_path / folder / "metrics.json")["valid"] for folder in "ab"]
    assert valid[0] == valid[1]


def masked(
    seed: int = 3,
    patch: int = 3,
    sessions: tuple[int, ...] = (4, 7),
    own: bool = False,
    **options: object,
) -> tuple[NDT, MaskedModelling, list[BinnedSession]]:
    """A new model of sessions with these numbers of units, and its objective; units may occur in one session only."""
    found = [recording(num_units=n, name=f"sub-a_ses-{n}", seed=n) for n in sessions]
    if own:
        found = [
            replace(s, units=replace(s.units, id=np.array([f"{s.session_id}/{u}" for u in s.units.id]))) for s in found
        ]
    config = replace(CONFIG, model=replace(MODEL, units_per_patch=patch), seed=seed, **options)
    model = NDT(specification(found, dims=0, config=config.model))
    binned_sessions = [BinnedSession(s, 0.05, 1.0) for s in found]

    return (
        model,
        MaskedModelling([training_data(b, model.spec) for b in binned_sessions], model, config),
        binned_sessions,
    )


def test_a_new_model_is_as_good_as_constant_rates() -> None:
    """Zero bits per spike, by definition: sessions share units, and each session's own mean rates go with it.

    A new model also reads a little of each unit's recent counts, of which whole hidden units have none.
    """
    model, objective, _ = masked()
    np.testing.assert_allclose(objective.validate(model)["unit/bits_per_spike"], 0.0, atol=1e-5)
    with torch.no_grad():
        model.rates.own[1:] = -torch.inf
    found = objective.validate(model)
    for at in ("", *(f"{kind}/" for kind in VALID_MASKS)):
        np.testing.assert_allclose(found[f"{at}bits_per_spike"], 0.0, atol=1e-5)
        np.testing.assert_allclose(found[f"{at}nll"], found[f"{at}null_nll"], atol=1e-6)
    np.testing.assert_allclose(found["score"], 0.0, atol=1e-5)


def test_null_likelihood_is_that_of_each_sessions_own_mean_rates() -> None:
    model, objective, binned_sessions = masked()
    sums = {kind: np.zeros(2) for kind in VALID_MASKS}
    for asked in objective.valid:
        window = asked.window
        binned = next(g for g in binned_sessions if g.session.num_units == len(window.unit))
        rows = model.vocabulary.rows(binned.session)
        rates = np.maximum(unit_activity(binned, binned.split == TRAIN)[rows.order, 0], 1e-4)
        wanted = window.hidden & window.valid
        sums[asked.kind] += ((rates - window.counts * np.log(rates)) * wanted).sum(), wanted.sum()
    found = objective.validate(model)
    for kind, (total, entries) in sums.items():
        np.testing.assert_allclose(found[f"{kind}/null_nll"], total / entries, rtol=1e-5)
    total, entries = np.sum(list(sums.values()), 0)
    np.testing.assert_allclose(found["null_nll"], total / entries, rtol=1e-5)


def test_the_score_is_the_mean_of_the_kinds_bits_per_spike() -> None:
    model, objective, _ = masked()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    found = objective.validate(model)
    bits = [found[f"{kind}/bits_per_spike"] for kind in VALID_MASKS]
    np.testing.assert_allclose(found["score"], np.mean(bits))
    assert len(set(bits)) == len(bits)
    assert min(map(abs, bits)) > 1e-3


def test_validation_uses_the_same_masks_for_every_model() -> None:
    """The same whatever the seed, the patches, and which other sessions there are."""
    (_, one, binned_sessions), (_, other, _) = masked(seed=3), masked(seed=4, patch=2)
    key = lambda asked: (asked.kind, len(asked.window.unit), asked.window.index)
    stored = {key(v): v.window.hidden for v in one.valid}
    assert len(stored) == len(one.valid)
    for asked in other.valid:
        np.testing.assert_array_equal(asked.window.hidden, stored[key(asked)])
        binned = next(g for g in binned_sessions if g.session.num_units == len(asked.window.unit))
        first, last = asked.window.index
        assert (binned.split[first:last] == VALID).all()
    assert {v.kind for v in one.valid} == VALID_MASKS.keys()
    for binned in binned_sessions:
        alone = specification([binned.session], dims=0, config=MODEL)
        for asked in valid_windows([training_data(binned, alone)], 20):
            np.testing.assert_array_equal(asked.window.hidden, stored[key(asked)])


def test_training_windows_are_a_function_of_seed_step_and_sample() -> None:
    key = lambda batch: batch.counts.numpy().tobytes() + batch.hidden.numpy().tobytes()
    one, other = masked(seed=3)[1], masked(seed=4)[1]
    assert key(one.batch(0, range(4))) != key(other.batch(0, range(4)))
    assert key(one.batch(0, range(4))) != key(one.batch(1, range(4)))
    assert key(one.batch(0, range(4))) == key(masked(seed=3)[1].batch(0, range(4)))


def test_only_hidden_entries_are_in_the_loss() -> None:
    _, objective, _ = masked()
    batch = objective.batch(0, range(4))
    log_rates = torch.full((int(batch.predicted.sum()), 3), -1.0, requires_grad=True)
    value, weight = objective.losses(lambda batch, rates: Prediction(log_rates, None), batch, 0)["nll"]
    value.backward()
    torch.testing.assert_close(log_rates.grad != 0, batch.hidden[batch.predicted])
    assert objective.targets(batch, 0)["nll"] == batch.counts[batch.hidden].sum()  # per spike
    assert weight == CONFIG.masked_weight
    assert 0.45 < float(batch.hidden.sum() / batch.valid.sum()) < 0.55


def test_units_that_repeat_each_others_spikes_are_hidden_together() -> None:
    """In training, with units shuffled, and in validation; with no groups, windows are what they were."""
    session = recording(num_units=8)
    names = np.array([f"{session.session_id}/{u}" for u in session.units.id])
    group = np.array([-1, 0, 1, -1, 0, 1, 0, -1])
    of_row = dict(zip(np.argsort(np.argsort(names)).tolist(), group.tolist(), strict=True))

    def objective(columns: dict[str, np.ndarray]) -> MaskedModelling:
        own = replace(session, units=replace(session.units, id=names, columns=columns))
        config = replace(CONFIG, model=replace(MODEL, units_per_patch=3), mask=replace(CONFIG.mask, kinds=("unit",)))
        model = NDT(specification([own], dims=0, config=config.model))
        return MaskedModelling([training_data(BinnedSession(own, 0.05, 1.0), model.spec)], model, config)

    objectives = [objective({}), objective({"duplicate_group": group})]
    assert [o.shuffled for o in objectives] == [[True], [True]]
    betrayed = []
    for each in objectives:
        windows = [each._window(step, place) for step in range(20) for place in range(4)]
        windows += [v.window for v in each.valid if v.kind == "unit"]
        betrayed.append(0)
        for window in windows:
            groups = np.array([of_row[u] for u in window.unit.tolist()])
            for g in (0, 1):
                betrayed[-1] += len(set(window.hidden[0, groups == g].tolist())) == 2
    assert betrayed[0] > 10
    assert betrayed[1] == 0
    alone = objective({"duplicate_group": np.full(8, -1)})
    for step in range(10):
        a, b = (o.batch(step, range(4)) for o in (objectives[0], alone))
        torch.testing.assert_close(a.hidden, b.hidden)
        torch.testing.assert_close(a.counts, b.counts)


@pytest.mark.parametrize(("kinds", "begins"), [(("random", "unit"), 3), (("unit",), 0)])
def test_harder_masks_join_tokens_at_random_after_the_first_steps(kinds, begins) -> None:
    """Windows that hide whole units and nothing else of them, by step; without random masks, from the first."""
    mask = replace(CONFIG.mask, random_only_steps=3, kinds=kinds)
    whole = []
    for batch in batches(12, sessions=(7,), mask=mask):
        hides = [[batch.hidden[(batch.window == b) & (batch.patch == p)] for p in range(2)] for b in range(8)]
        whole.append(sum(all(bool((h == h[0]).all()) for h in each) for each in hides))
    assert whole[:begins] == [0] * begins
    assert 0 < sum(whole[3:]) <= 72
    assert (sum(whole) == 96) == ("random" not in kinds)


def batches(steps: int, **options: object) -> list[Batch]:
    objective = masked(**options)[1]
    return [objective.batch(step, range(8)) for step in range(steps)]


def units_of(batch: Batch) -> list[list[int]]:
    """Vocabulary rows of the units of each window, as they lie in its patches."""
    found = []
    for b in range(batch.num_windows):
        here = (batch.window == b) & (batch.time == batch.time[batch.window == b].min())
        members, valid = batch.members[batch.patch[here]], batch.valid[here]
        found.append(batch.unit[members[valid]].tolist())
    return found


def test_units_of_one_session_change_patches_and_keep_counts_and_activity() -> None:
    """Not those that another session can share, whose patch is learned, nor those of a single patch."""
    lie = lambda b: units_of(b)[0]
    for names, patch, moved in (("electrode", 3, False), ("session", 3, True), ("session", 7, False)):
        some = batches(12, sessions=(7,), own=names == "session", patch=patch)
        orders = {tuple(lie(b)) for b in some}
        assert (len(orders) > 1) == moved
        assert {tuple(sorted(o)) for o in orders} == {tuple(range(7))}
    plain, shuffled = (batches(1, sessions=(7,), own=True, patch=patch)[0] for patch in (7, 3))
    assert lie(plain) != lie(shuffled)
    torch.testing.assert_close(plain.activity, shuffled.activity)  # in the order of the vocabulary
    for b in range(8):  # the same windows, whose counts moved with their units
        total = [
            torch.zeros(7).index_add(
                0,
                x.unit[x.members[x.patch]][x.valid & (x.window == b)[:, None]],
                x.counts[x.valid & (x.window == b)[:, None]].float(),
            )
            for x in (plain, shuffled)
        ]
        torch.testing.assert_close(total[0], total[1])


def test_a_share_of_windows_has_hidden_entries() -> None:
    found = [
        b.hidden[b.window == w].any() for b in batches(40, mask=replace(CONFIG.mask, share=0.25)) for w in range(8)
    ]
    assert abs(np.mean(found) - 0.25) < 0.08  # 320 windows, standard error 0.024
    assert not any(b.hidden.any() for b in batches(5, mask=replace(CONFIG.mask, share=0.0)))


def test_unit_dropout_leaves_whole_units_out_of_a_window() -> None:
    """A unit is there through the whole window or not at all; those left out are neither read nor predicted."""
    shares = []
    for batch in batches(30, sessions=(7,), unit_dropout=0.8):
        for w in range(8):
            here = batch.window == w
            there = batch.valid[here]
            bins = torch.zeros(7).index_add(0, batch.members[batch.patch[here]][there], torch.ones(int(there.sum())))
            assert set(bins.tolist()) <= {0.0, 20.0}
            shares.append(float((bins > 0).float().mean()))
        assert not (batch.hidden & ~batch.valid).any()
    assert min(shares) < 0.4
    assert max(shares) == 1.0
    assert abs(np.mean(shares) - 0.6) < 0.05  # the fraction left out is uniform from 0 to 0.8


def test_without_a_weight_the_masked_loss_is_not_computed() -> None:
    model, objective, _ = masked(masked_weight=0.0)
    batch = objective.batch(0, range(2))
    assert objective.targets(batch, 0) == {}
    assert objective.losses(model, batch, 0) == {}


def test_residuals_of_units_and_contexts_have_their_own_learning_rate() -> None:
    model, objective, _ = masked(embedding_lr_scale=7.0)
    for name, _ in model.named_parameters():
        if name in RESIDUALS or name not in TABLES:
            assert objective.rate(name, 0) == (7.0 if name in RESIDUALS else 1.0)


def test_residuals_are_dropped_in_pretraining_alone(sim_store, tmp_path, monkeypatch) -> None:
    """The model that pretraining returns keeps them, for fine-tuning."""
    during, inner = [], MaskedModelling.losses

    def spy(self, model, batch, step):
        during.append((model.residual_dropout, model.identity.residual_dropout))
        return inner(self, model, batch, step)

    monkeypatch.setattr(MaskedModelling, "losses", spy)
    config = replace(CONFIG, train=replace(CONFIG.train, steps=2, valid_every=2), residual_dropout=0.3)
    model = pretrain(sim_store, tmp_path / "run", config, progress=False)
    assert set(during) == {(0.3, 0.3)}
    assert (model.residual_dropout, model.identity.residual_dropout) == (0.0, 0.0)


def test_sessions_kept_for_evaluation_are_left_out_unless_they_are_named(sim_truth, tmp_path) -> None:
    first, second = (truth.session_id for truth in sim_truth)
    kept = IngestConfig(workers=1, evaluate=(second,))
    store = ingest([truth.path for truth in sim_truth], tmp_path / "store", kept, progress=False)
    model = pretrain(store, tmp_path / "run", SHORT, progress=False)
    assert list(model.spec.data) == [first]
    model = pretrain(store, tmp_path / "both", replace(SHORT, sessions=(first, second)), progress=False)
    assert list(model.spec.data) == [first, second]

    every = IngestConfig(workers=1, evaluate=("*",))
    store = ingest([truth.path for truth in sim_truth], tmp_path / "store", every, progress=False)
    with pytest.raises(InputError, match="sessions: expected at least one that is not kept for evaluation, found none"):
        pretrain(store, tmp_path / "none", SHORT, progress=False)


def test_bad_settings_and_bad_stores_are_refused(sim_store, tmp_path) -> None:
    with pytest.raises(InputError, match=sim_store.session_ids[0]):  # lists what there is
        pretrain(sim_store, tmp_path, replace(SHORT, sessions=("sub-z_ses-9",)), progress=False)
    with pytest.raises(InputError, match=r"window: expected 3 to .* bins of 50 ms, found 2 bins"):
        pretrain(sim_store, tmp_path / "run", replace(SHORT, window=0.1), progress=False)
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
    small = MODEL
    config = replace(CONFIG, train=TrainConfig(steps=2, batch_size=2, valid_every=2), window=0.5)
    pretrain(sim_store, tmp_path, config, progress=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    other = replace(config, model=replace(small, num_heads=1))  # the same shapes, another architecture
    with pytest.raises(InputError, match=r"architecture, data and seed: expected the checkpoint's own"):
        pretrain(sim_store, tmp_path, other, resume=True, progress=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_sessions_with_a_target_have_a_decoding_loss(tmp_path) -> None:
    sessions = [recording(name="sub-a_ses-1"), recording(name="sub-a_ses-2", labels=(0.0, 0.0), seed=1)]
    config = replace(SHORT, target="vel")
    model = pretrain(stored(sessions, tmp_path), tmp_path / "run", config, progress=False)
    binned = BinnedSession(sessions[0], 0.05, 1.0)
    values = resample(sessions[0].covariates["vel"], binned.start, 0.05)[binned.split == TRAIN]
    assert model.spec.target.name == "vel"
    np.testing.assert_allclose(model.spec.target.mean, values.mean(0), atol=1e-6)
    np.testing.assert_allclose(model.spec.target.std, values.std(0), atol=1e-6)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(("target" in x) == (x["split"] == "train") and ("r2" in x) == (x["split"] == "valid") for x in lines)
    assert "r2" in read_json(tmp_path / "run" / "metrics.json")["valid"]


@pytest.mark.slow
def test_pretraining_with_a_target_learns_to_decode(sim_store, tmp_path) -> None:
    train = TrainConfig(steps=120, batch_size=16, valid_every=60, warmup_steps=20)
    config = PretrainConfig(
        model=ModelConfig(width=32, num_layers=1, num_heads=2, units_per_patch=16, unit_width=16),
        train=train,
        window=1.0,
        target="cursor_vel",
    )
    pretrain(sim_store, tmp_path / "run", config, progress=False)
    assert read_json(tmp_path / "run" / "metrics.json")["valid"]["r2"] > 0.2  # half of each bin is hidden


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"target": "force"}, "force in one of the sessions, found none has it"),
        (
            {"target": "vel"},
            "sub-a_ses-2: target vel: expected x, y in m/s, as in other sessions, found x, y in mm/s",
        ),
    ],
)
def test_missing_and_ambiguous_targets_are_refused(changes, told, tmp_path) -> None:
    first, second = recording(name="sub-a_ses-1"), recording(name="sub-a_ses-2", seed=1)
    second = replace(second, covariates={"vel": replace(second.covariates["vel"], unit="mm/s")})
    with pytest.raises(InputError, match=re.escape(told)):
        pretrain(stored([first, second], tmp_path), tmp_path / "run", replace(SHORT, **changes), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_name_that_fits_two_covariates_of_a_session_is_refused(tmp_path) -> None:
    first, second = recording(name="sub-a_ses-1"), recording(name="sub-a_ses-2", seed=1)
    vel = second.covariates["vel"]
    twice = {n: replace(vel, name=n, path=f"processing/{n}") for n in ("left/vel", "right/vel")}
    store = stored([first, replace(second, covariates=twice)], tmp_path)
    with pytest.raises(InputError, match="sub-a_ses-2: target: expected one of: left/vel, right/vel, found 'vel'"):
        pretrain(store, tmp_path / "run", replace(SHORT, target="vel"), progress=False)
    assert not (tmp_path / "run").exists()
