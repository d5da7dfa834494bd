"""Fine-tuning on simulated recordings: scored as DESIGN.md says, causal, resumable, and clear about what it lacks."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import busy_model, permuted, recording, specification, training_data
from stores import last_weights

from ndt.config import FinetuneConfig, MaskConfig, ModelConfig, TrainConfig
from ndt.data.activity import unit_activity
from ndt.data.covariates import resample
from ndt.data.targets import build_targets
from ndt.data.windows import TEST, TRAIN, VALID, BinnedSession
from ndt.errors import InputError
from ndt.evaluation.metrics import r2
from ndt.finetune.adapt import finetune
from ndt.finetune.decoding import Decoding, decode
from ndt.finetune.strategies import Stage, part_of, stages
from ndt.model.transformer import NDT, RESIDUALS, TABLES
from ndt.session import Spikes

CONFIG = FinetuneConfig(
    strategy="full",
    train=TrainConfig(steps=80, batch_size=16, valid_every=20, warmup_steps=10, learning_rate=3e-3, ema=0.9),
    mask=MaskConfig(ratio=0.25, kinds=("random",), random_only_steps=0, share=0.25),
    masked_weight=0.2,
    freeze_steps=20,
    backbone_lr_scale=0.5,
    embedding_lr_scale=10.0,
    unit_dropout=0.0,
    max_lag=0.5,
    auxiliary="auto",
    baselines=("ridge", "block_permuted", "time_only"),
    ensemble=("network", "ridge"),
)
SHORT = replace(
    CONFIG,
    train=TrainConfig(steps=4, batch_size=4, valid_every=2, warmup_steps=1, learning_rate=3e-3, ema=0.0),
    freeze_steps=3,
)
PARTS = ("embeddings", "heads", "backbone")
SMALL = ModelConfig(
    width=16, num_layers=1, num_heads=2, units_per_patch=16, unit_width=8, num_stem_layers=2,
    dropout=0.1, drop_path=0.1, count_dropout=0.1,
)  # fmt: skip


@pytest.fixture(scope="module")
def decoder(sim_base, sim_truth, tmp_path_factory):
    """A decoder of the second day, which pretraining never saw."""
    out = tmp_path_factory.mktemp("finetune") / "run"
    return finetune(sim_base, sim_truth[1].session_id, "cursor_vel", out=out, config=CONFIG, progress=False)


@pytest.fixture(scope="module")
def binned(decoder, sim_store, sim_truth) -> BinnedSession:
    """Its bins."""
    spec = decoder.model.spec
    return BinnedSession(sim_store.session(sim_truth[1].session_id), spec.bin_size, spec.bin_size * spec.window_bins)


def test_metrics_json_has_every_key_and_equals_the_returned_metrics(decoder, sim_truth) -> None:
    found = json.loads((decoder.run / "metrics.json").read_text())
    assert found == decoder.metrics
    assert {"session", "target", "seed", "test", "network", "weights", "baselines"} <= found.keys()
    assert {"train_seconds", "label_seconds"} <= found.keys()
    assert {"r2", "r2_uniform", "r2_per_dim", "num_bins", "interval_coverage_90"} <= found["test"].keys()
    assert {"ridge", "block_permuted", "time_only"} <= found["baselines"].keys()
    assert (found["session"], found["target"], found["seed"]) == (sim_truth[1].session_id, "cursor_vel", 0)
    assert len(found["test"]["r2_per_dim"]) == 2
    np.testing.assert_allclose(found["test"]["r2_uniform"], np.mean(found["test"]["r2_per_dim"]))


def test_scores_equal_those_of_the_saved_predictions_on_the_test_split(decoder, binned) -> None:
    with np.load(decoder.run / "predictions.npz") as file:
        saved = dict(file)
    for name, score in (("network", decoder.metrics["network"]), ("ensemble", decoder.metrics["test"])):
        np.testing.assert_allclose(r2(saved["true"], saved[name]), score["r2"], atol=1e-6)
    np.testing.assert_allclose(
        r2(saved["true"], saved["ridge"]), decoder.metrics["baselines"]["ridge"]["r2"], atol=1e-6
    )
    rows = binned.split == TEST
    np.testing.assert_allclose(saved["time"], binned.start[rows] + binned.bin_size / 2)
    assert decoder.metrics["test"]["num_bins"] == rows.sum()  # every bin of the simulation has a label
    weights = decoder.metrics["weights"]
    np.testing.assert_allclose(saved["ensemble"], sum(w * saved[name] for name, w in weights.items()), atol=1e-4)
    np.testing.assert_allclose(saved["network"], decode(decoder.model, binned, rows)[rows], atol=1e-4)


def test_each_unit_has_the_activity_of_its_training_split(decoder, binned, sim_truth) -> None:
    """Its mean count is that of the simulation, whatever the order of units in the file."""
    names, known = [str(u) for u in binned.session.units.id], decoder.model.vocabulary.units
    assert names != sorted(names)
    found = decoder.model.identity.activity.numpy()[[known.index(u) for u in names]]
    np.testing.assert_allclose(found[:, 0], sim_truth[1].counts[binned.split == TRAIN].mean(0), rtol=1e-5)
    np.testing.assert_allclose(found, unit_activity(binned, binned.split == TRAIN), rtol=1e-5)


def test_the_decoder_beats_its_block_permuted_control(decoder) -> None:
    assert decoder.metrics["network"]["r2"] > 0.4
    assert decoder.metrics["baselines"]["ridge"]["r2"] > 0.4
    assert abs(decoder.metrics["baselines"]["block_permuted"]["r2"]) < 0.1
    assert decoder.metrics["baselines"]["time_only"]["r2"] < 0.1
    assert 0.75 < decoder.metrics["test"]["interval_coverage_90"] <= 1.0
    assert decoder.metrics["test"]["r2"] >= decoder.metrics["network"]["r2"] - 0.02


def test_the_saved_decoder_is_the_one_that_was_returned(decoder, binned) -> None:
    other = NDT.from_pretrained(decoder.run)
    torch.testing.assert_close(other.state_dict(), decoder.model.state_dict(), rtol=0, atol=0)
    rows = binned.split == TEST
    np.testing.assert_array_equal(decode(other, binned, rows), decode(decoder.model, binned, rows))


def test_later_spikes_leave_earlier_predictions_bit_equal(decoder, binned) -> None:
    spikes, at = binned.session.spikes, 1750
    rng, late = np.random.default_rng(0), spikes.timestamps >= binned.start[at]
    times = np.concatenate([spikes.timestamps[~late], np.sort(rng.uniform(binned.start[at], 100.0, 9000))])
    units = np.concatenate([spikes.unit_index[~late], rng.integers(32, size=9000)])
    other = replace(binned.session, spikes=Spikes(timestamps=times, unit_index=units))
    changed = BinnedSession(other, binned.bin_size, 1.0)
    rows = np.arange(len(binned)) >= 1600
    before, after = decode(decoder.model, binned, rows), decode(decoder.model, changed, rows)
    assert np.isfinite(before[1600:]).all()
    np.testing.assert_array_equal(before[:at], after[:at])
    assert (before[at] != after[at]).all()


def test_unit_order_in_the_file_leaves_predictions_bit_equal(decoder, binned) -> None:
    other = BinnedSession(permuted(binned.session, np.random.default_rng(0).permutation(32)), binned.bin_size, 1.0)
    rows = binned.split == TEST
    np.testing.assert_array_equal(decode(decoder.model, other, rows), decode(decoder.model, binned, rows))


def test_training_ignores_the_test_split(sim_base, sim_store, sim_truth, tmp_path) -> None:
    """Other spikes and other labels there leave every weight and every choice as it was."""
    name, models, rng = sim_truth[1].session_id, [], np.random.default_rng(0)
    session = sim_store.session(name)
    start = BinnedSession(session, 0.05, 1.0).splits.test.start[0]
    spikes, covariates = session.spikes, {}
    for key, series in session.covariates.items():  # auxiliary targets, too
        late = series.timestamps[:, None] >= start
        values = np.where(late, rng.standard_normal(series.values.shape), series.values)
        covariates[key] = replace(series, values=values)
    units = np.where(spikes.timestamps >= start, rng.integers(32, size=len(spikes.timestamps)), spikes.unit_index)
    other = replace(
        session,
        spikes=Spikes(timestamps=np.array(spikes.timestamps), unit_index=units),
        covariates=covariates,
    )
    for folder, spiked in (("a", session), ("b", other)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(sim_store), "session", lambda self, _, found=spiked: found)
            models.append(
                finetune(
                    sim_base, name, "cursor_vel", out=tmp_path / folder, config=SHORT, store=sim_store, progress=False
                )
            )
    torch.testing.assert_close(models[0].model.state_dict(), models[1].model.state_dict(), rtol=0, atol=0)
    assert models[0].metrics["weights"] == models[1].metrics["weights"]
    assert models[0].metrics["network"]["r2"] != models[1].metrics["network"]["r2"]


def test_a_resumed_run_equals_an_uninterrupted_one(sim_base, sim_truth, tmp_path, monkeypatch) -> None:
    name = sim_truth[1].session_id
    whole = finetune(sim_base, name, out=tmp_path / "whole", config=SHORT, progress=False)
    inner = Decoding.batch

    def broken(self, step, rows):
        if step == 3:
            raise KeyboardInterrupt
        return inner(self, step, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Decoding, "batch", broken)
        with pytest.raises(KeyboardInterrupt):
            finetune(sim_base, name, out=tmp_path / "broken", config=SHORT, progress=False)
    resumed = finetune(sim_base, name, out=tmp_path / "broken", config=SHORT, resume=True, progress=False)
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)
    found, expected = (json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("broken", "whole"))
    assert found["test"] == expected["test"]


def test_label_seconds_limits_labels_to_the_last_before_validation(sim_base, sim_truth, tmp_path, monkeypatch) -> None:
    seen, inner = [], Decoding.__init__

    def spy(self, data, *rest) -> None:
        seen.append(data)
        inner(self, data, *rest)

    monkeypatch.setattr(Decoding, "__init__", spy)
    config = replace(SHORT, label_seconds=10.0)
    found = finetune(sim_base, sim_truth[1].session_id, out=tmp_path, config=config, progress=False)
    np.testing.assert_allclose(found.metrics["label_seconds"], 10.0)
    (data,) = seen
    binned, rows = data.binned, np.flatnonzero(data.chosen)
    np.testing.assert_array_equal(rows, np.flatnonzero(binned.split == TRAIN)[-200:])
    np.testing.assert_allclose(data.activity, unit_activity(binned, binned.split == TRAIN))  # needs no labels
    assert rows[-1] < np.flatnonzero(binned.split == VALID)[0]


def test_the_target_is_standardised_on_the_training_labels(decoder, binned) -> None:
    spec = decoder.model.spec.target
    targets = resample(binned.session.covariates["cursor_vel"], binned.start, binned.bin_size)[binned.split == TRAIN]
    np.testing.assert_allclose(spec.mean, targets.mean(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(spec.std, targets.std(0), rtol=1e-4)


def test_pretrained_weights_are_not_changed_in_place(sim_base, sim_truth, tmp_path) -> None:
    base = NDT.from_pretrained(sim_base)
    before = {k: v.clone() for k, v in base.state_dict().items()}
    finetune(base, sim_truth[0].session_id, out=tmp_path, config=SHORT, progress=False)
    torch.testing.assert_close(base.state_dict(), before, rtol=0, atol=0)


def test_scratch_needs_no_base_but_a_store(sim_store, sim_truth, tmp_path) -> None:
    config = replace(SHORT, model=SMALL, window=1.0)
    name = sim_truth[1].session_id
    found = finetune(None, name, out=tmp_path / "run", config=config, store=sim_store, progress=False)
    assert found.metrics["architecture"]["width"] == 16
    assert found.model.spec.window_bins == 20
    assert set(found.model.vocabulary.units) == set(sim_store.session(name).units.id)
    assert found.metrics["target"] == "cursor_vel"  # a velocity before a position
    with pytest.raises(InputError, match="store"):
        finetune(None, name, out=tmp_path / "other", config=config, progress=False)


def test_a_model_from_scratch_trains_all_its_parts_and_resumes(sim_store, sim_truth, tmp_path) -> None:
    """The encoder, too: it is what decodes."""
    name = sim_truth[1].session_id
    options = {"config": replace(SHORT, model=SMALL, window=1.0), "store": sim_store, "progress": False}
    batch = Decoding.batch
    with last_weights():
        whole = finetune(None, name, out=tmp_path / "whole", **options)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Decoding, "batch", lambda self, step, rows: batch(self, step, rows) if step < 3 else 1 / 0)
            with pytest.raises(ZeroDivisionError):
                finetune(None, name, out=tmp_path / "cut", **options)
        again = finetune(None, name, out=tmp_path / "cut", resume=True, **options)
    torch.testing.assert_close(again.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)
    assert whole.metrics["steps"] == 4
    torch.manual_seed(0)
    began = NDT(whole.model.spec)
    moved = {n for n, p in whole.model.named_parameters() if not torch.equal(p, began.get_parameter(n))}
    assert {n.split(".")[0] for n in moved} >= {"identity", "stem", "encoder", "heads", "rates", "context"}


def test_the_ensemble_is_compared_to_every_baseline(decoder, binned) -> None:
    """In pairs: the difference of the two R², with its error."""
    metrics = decoder.metrics
    for name, found in metrics["baselines"].items():
        if "r2" in found:
            np.testing.assert_allclose(found["ensemble_over"], metrics["test"]["r2"] - found["r2"], atol=1e-6)
            assert found["ensemble_over_error"] > 0, name
    assert metrics["baselines"]["ridge"]["ensemble_over"] == metrics["test"]["over_reference"]


def test_unknown_sessions_and_targets_list_the_known_ones(sim_base, sim_truth, tmp_path) -> None:
    with pytest.raises(InputError, match=f"{sim_truth[0].session_id}.*{sim_truth[1].session_id}"):
        finetune(sim_base, "sub-z_ses-9", out=tmp_path, config=SHORT, progress=False)
    with pytest.raises(InputError, match=r"expected one of: cursor_pos, cursor_vel, trials/target, found 'speed'"):
        finetune(sim_base, sim_truth[1].session_id, "speed", out=tmp_path, config=SHORT, progress=False)


def test_a_target_that_never_varies_cannot_be_decoded(sim_store, sim_truth, tmp_path, monkeypatch) -> None:
    session = sim_store.session(sim_truth[1].session_id)
    series = session.covariates["cursor_vel"]
    flat = replace(session, covariates={"cursor_vel": replace(series, values=np.ones_like(series.values))})
    monkeypatch.setattr(type(sim_store), "session", lambda self, _: flat)
    config = replace(SHORT, model=SMALL, window=1.0)
    with pytest.raises(InputError, match="varies on the training split"):
        finetune(None, session.session_id, out=tmp_path, config=config, store=sim_store, progress=False)


def test_too_few_labels_are_refused(sim_store, sim_truth, tmp_path, monkeypatch) -> None:
    session = sim_store.session(sim_truth[1].session_id)
    series = session.covariates["cursor_vel"]
    values = np.where((series.timestamps > 60)[:, None], np.nan, series.values)
    some = replace(session, covariates={"cursor_vel": replace(series, values=values)})
    monkeypatch.setattr(type(sim_store), "session", lambda self, _: some)
    config = replace(SHORT, model=SMALL, window=1.0)
    with pytest.raises(
        InputError, match="validation split: expected at least 10 bins with a label of cursor_vel, found 0"
    ):
        finetune(None, session.session_id, out=tmp_path, config=config, store=sim_store, progress=False)


def objective(plan: tuple[Stage, ...], pretrained: bool = True, **options: object) -> tuple[NDT, Decoding]:
    """Decoding of a recording made in memory, by a small model."""
    session = recording(num_units=8)
    spec, binned = specification([session]), BinnedSession(session, 0.05, 1.0)
    model, target = busy_model(spec), build_targets(session, "vel", binned.start, 0.05, split=binned.split)
    data = training_data(binned, spec, spec.target.standardise(target.values))

    return model, Decoding(data, target, model, replace(CONFIG, **options), plan, pretrained)


def test_parts_have_their_own_learning_rates_in_each_stage() -> None:
    """Embeddings, heads, and the rest of a pretrained model; a new model's rest is not slowed down."""
    plan = (Stage(3, ("embeddings",)), Stage(2, ("embeddings", "heads")), Stage(5, ("embeddings", "heads", "backbone")))
    scales = {"embedding_lr_scale": 7.0, "backbone_lr_scale": 0.25}
    model, decoding = objective(plan, **scales)
    names = [name for name, _ in model.named_parameters()]
    steps = (0, 2, 3, 4, 5, 9, 10)  # the loop asks for the step after the last
    expected = {
        "embeddings": (7.0,) * 7, "heads": (0, 0, 1, 1, 1, 1, 1), "backbone": (0, 0, 0, 0, 0.25, 0.25, 0.25),
    }  # fmt: skip
    for name in names:
        found = tuple(decoding.rate(name, step) for step in steps)
        if name in RESIDUALS or name not in TABLES:
            assert found == expected[part_of(name)], name
        assert [rate > 0 for rate in found] == [rate > 0 for rate in expected[part_of(name)]], name
    _, scratch = objective((Stage(10, ("embeddings", "heads", "backbone")),), pretrained=False, **scales)
    for name in names:
        assert scratch.rate(name, 0) == (7.0 if name in RESIDUALS else 1.0), name  # one session has few sites


def test_without_the_masked_loss_only_rates_are_idle() -> None:
    model, decoding = objective((Stage(1, ("embeddings", "heads", "backbone")),), masked_weight=0.0)
    batch = decoding.batch(3, range(2))
    loss = decoding.losses(model, batch, 3)
    assert loss.keys() == decoding.targets(batch, 3).keys() == {"target"}
    loss["target"][0].backward()
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.grad is None} == {"rates"}


def test_a_frozen_backbone_stays_bit_equal_while_embeddings_and_heads_learn(sim_base, sim_truth, tmp_path) -> None:
    """With a learning rate of zero, and in the first stage: `SHORT` has three steps of it, and one more."""
    base, name = NDT.from_pretrained(sim_base), sim_truth[1].session_id
    for folder, changes, frozen in (
        ("rate", {"backbone_lr_scale": 0.0}, {"backbone"}),
        ("stage", {"train": replace(SHORT.train, steps=3)}, {"backbone"}),
        ("all", {}, set()),
    ):
        config = replace(SHORT, **changes)
        with last_weights():
            model = finetune(base, name, "cursor_vel", out=tmp_path / folder, config=config, progress=False).model
        torch.manual_seed(config.seed)
        start = base.extended(model.spec)
        still = {n for n, p in model.named_parameters() if torch.equal(p, start.get_parameter(n))}
        found = {part: [n in still for n, _ in model.named_parameters() if part_of(n) == part] for part in PARTS}
        for part, each in found.items():
            assert all(each) if part in frozen else not all(each), (folder, part)
        assert "identity.residual" not in still
        assert not any(n.startswith("heads.") and n.endswith("linear.weight") for n in still)


def test_a_decoder_of_the_same_target_keeps_heads_and_scale(decoder, sim_truth, tmp_path) -> None:
    """On the other session, whose velocities have another spread, before any step of its heads."""
    base, session = decoder.model, sim_truth[0].session_id
    config = replace(SHORT, strategy="none")
    found = finetune(base, session, "cursor_vel", out=tmp_path, config=config, store=base.store, progress=False).model
    assert replace(found.spec.target, auxiliary=()) == replace(base.spec.target, auxiliary=())
    kept = base.heads[0].state_dict()
    torch.testing.assert_close(found.heads[0].state_dict(), kept, rtol=0, atol=0)


def test_a_target_with_one_known_part_keeps_that_parts_head_and_scale(decoder, sim_truth, tmp_path) -> None:
    """Beside a new part, in another place, and against labels of which the new session has other moments."""
    base, session = decoder.model, sim_truth[0].session_id
    plan = replace(SHORT, train=replace(SHORT.train, steps=2, learning_rate=1e-12), auxiliary="")
    options = {"config": plan, "store": base.store, "progress": False}
    found = finetune(base, session, "cursor_pos,cursor_vel", out=tmp_path, **options).model
    known, target = base.spec.target, found.spec.target
    assert [part.name for part in target.parts] == ["cursor_pos", "cursor_vel"]
    assert (target.mean[2:], target.std[2:]) == (known.mean, known.std)
    assert target.std[:2] != known.std
    kept = base.heads[0].state_dict()
    torch.testing.assert_close(found.heads[1].state_dict(), kept, rtol=0, atol=1e-9)


def test_a_share_of_windows_hides_whole_patches_at_the_mask_ratio() -> None:
    mask = MaskConfig(ratio=0.25, kinds=("random",), random_only_steps=0, share=1.0)
    plan = stages(CONFIG, pretrained=True)
    batch = objective(plan, mask=mask)[1].batch(0, range(8))
    whole = batch.hidden.any(1)
    torch.testing.assert_close(batch.hidden, batch.valid & whole[:, None])
    assert whole.sum() == 8 * round(0.25 * 20 * 3)
    assert not objective(plan, mask=replace(mask, share=0.0))[1].batch(0, range(8)).hidden.any()
