"""Fine-tuning on simulated recordings: scored as DESIGN.md says, causal, resumable, and clear about what it lacks."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import busy_model, permuted, recording, specification

from ndt.api import embed
from ndt.config import FinetuneConfig, ModelConfig, TrainConfig
from ndt.data.covariates import resample
from ndt.data.windows import TEST, TRAIN, VALID, BinnedSession
from ndt.errors import InputError
from ndt.evaluation.metrics import r2
from ndt.finetune.adapt import finetune
from ndt.finetune.decoder_stage import DecoderStage
from ndt.finetune.decoding import Decoding, decode
from ndt.model.transformer import NDT, TABLES
from ndt.session import Spikes

CONFIG = FinetuneConfig(
    strategy="full",
    train=TrainConfig(steps=80, batch_size=16, valid_every=20, warmup_steps=10),
    embedding_warmup_steps=10,
    decoder_steps=40,
    max_lag=0.5,
    unit_dropout=0.0,
    baselines=("ridge", "block_permuted", "time_only"),
)
SHORT = replace(
    CONFIG,
    train=TrainConfig(steps=4, batch_size=4, valid_every=2),
    embedding_warmup_steps=1,
    freeze_steps=3,
    decoder_steps=2,
)
SMALL = ModelConfig(width=16, num_layers=1, num_heads=2, units_per_patch=16, unit_width=8)


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


def test_each_unit_has_the_mean_count_of_its_training_split(decoder, binned, sim_truth) -> None:
    names, known = [str(u) for u in binned.session.units.id], decoder.model.vocabulary.units
    assert names != sorted(names)
    means = sim_truth[1].counts[binned.split == TRAIN].mean(0)
    found = decoder.model.mean_counts.numpy()[[known.index(u) for u in names]]
    np.testing.assert_allclose(found, means, rtol=1e-5)


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

    def spy(self, binned, chosen, *rest) -> None:
        seen.append((binned, chosen))
        inner(self, binned, chosen, *rest)

    monkeypatch.setattr(Decoding, "__init__", spy)
    config = replace(SHORT, label_seconds=10.0)
    found = finetune(sim_base, sim_truth[1].session_id, out=tmp_path, config=config, progress=False)
    np.testing.assert_allclose(found.metrics["label_seconds"], 10.0)
    (binned, chosen), *others = seen  # the decoder alone learns from the same
    np.testing.assert_array_equal([rows for _, rows in others], [chosen] * len(others))
    rows = np.flatnonzero(chosen)
    np.testing.assert_array_equal(rows, np.flatnonzero(binned.split == TRAIN)[-200:])
    assert rows[-1] < np.flatnonzero(binned.split == VALID)[0]


def test_the_target_is_standardised_on_the_training_labels(decoder, binned) -> None:
    spec = decoder.model.spec.target
    targets = resample(binned.session.covariates["cursor_vel"], binned.start, binned.bin_size)[binned.split == TRAIN]
    np.testing.assert_allclose(spec.mean, targets.mean(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(spec.std, targets.std(0), rtol=1e-4)


def test_the_warm_up_changes_only_embeddings(sim_base, sim_truth, tmp_path) -> None:
    config = replace(CONFIG, train=TrainConfig(steps=3, batch_size=4, valid_every=3, ema=0.0), embedding_warmup_steps=3)
    base = NDT.from_pretrained(sim_base)
    found = finetune(base, sim_truth[1].session_id, out=tmp_path, config=config, progress=False).model
    own, moved = dict(base.named_parameters()), set()
    for name, parameter in found.named_parameters():
        if name in own and parameter.shape == own[name].shape and not torch.equal(parameter, own[name]):
            moved.add(name)
    assert moved <= set(TABLES)
    new = [i for i, u in enumerate(found.vocabulary.units) if u not in base.vocabulary.units]
    assert new
    assert (found.unit[new] - base.unit.mean(0)).abs().amax(1).min() > 0


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


def test_a_tcn_decoder_from_scratch_trains_only_decoder_and_readin(sim_store, sim_truth, tmp_path) -> None:
    name = sim_truth[1].session_id
    model = replace(SMALL, decoder="tcn", tcn_width=16, num_members=2)
    config = replace(SHORT, model=model, window=1.0, decoder_steps=20)
    options = {"config": config, "store": sim_store, "progress": False}
    whole = finetune(None, name, out=tmp_path / "whole", **options)
    assert (whole.metrics["steps"], whole.metrics["decoder_steps"]) == (0, 20)
    torch.manual_seed(config.seed)
    began = NDT(whole.model.spec).state_dict()
    moved = {k for k, v in whole.model.state_dict().items() if not torch.equal(v, began[k])}
    assert {k.split(".")[0] for k in moved} == {"decoder", "readin", "mean_counts"}
    batch = DecoderStage.batch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DecoderStage, "batch", lambda self, step, rows: batch(self, step, rows) if step < 14 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            finetune(None, name, out=tmp_path / "cut", **options)
    again = finetune(None, name, out=tmp_path / "cut", resume=True, **options)
    torch.testing.assert_close(again.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)
    with pytest.raises(
        InputError, match=r"embed: model: expected a pretrained model.*counts, with an untrained encoder"
    ):
        embed(tmp_path / "whole", name)
    with pytest.raises(InputError, match="decoder_steps: expected at least 1 for a decoder of counts, found 0"):
        finetune(None, name, out=tmp_path / "none", **options | {"config": replace(config, decoder_steps=0)})
    assert not (tmp_path / "none").exists()


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


def test_unit_dropout_leaves_whole_units_out(sim_base, decoder, binned) -> None:
    targets = resample(binned.session.covariates["cursor_vel"], binned.start, binned.bin_size)
    config, shares = replace(CONFIG, unit_dropout=0.8), []
    objective = Decoding(binned, binned.split == TRAIN, targets, decoder.model, config)
    for step in range(30):
        batch = objective.batch(step, range(1))
        there = torch.zeros(32, dtype=torch.bool)
        member = batch.members[batch.patch]
        there[member[batch.valid]] = True
        bins = torch.zeros(32).index_add(0, member[batch.valid], torch.ones(int(batch.valid.sum())))
        assert set(bins[there].tolist()) <= {20.0}  # there through the whole window, or not at all
        shares.append(float(there.float().mean()))
    assert min(shares) < 0.5 < max(shares)


def objective(**options: object) -> tuple[NDT, Decoding]:
    """Decoding of a recording made in memory, by a small model."""
    session = recording(num_units=8)
    spec, binned = specification([session]), BinnedSession(session, 0.05, 1.0)
    model, targets = busy_model(spec), resample(session.covariates["vel"], binned.start, 0.05)
    return model, Decoding(binned, binned.split == TRAIN, targets, model, replace(CONFIG, **options))


def test_embeddings_new_and_pretrained_parameters_have_their_own_learning_rates() -> None:
    model, decoding = objective(
        embedding_warmup_steps=3, freeze_steps=5, embedding_lr_scale=7.0, backbone_lr_scale=0.25
    )
    named = [name for name, _ in model.named_parameters()]
    for new, decoder, trunk in (
        ((), (0, 0, 0.25), (0, 0, 0.25)),
        (("decoder.",), (0, 1, 1), (0, 0, 0.25)),
        (("",), (0, 1, 1), (0, 1, 1)),
    ):
        decoding.new = new
        rates = {name: tuple(decoding.rate(name, step) for step in (2, 3, 5)) for name in named}
        assert rates["context"] == rates["unit"] == (7.0, 7.0, 7.0)
        assert rates["decoder.readout.weight"] == decoder
        assert rates["encoder.0.attention.out.weight"] == trunk
    unmasked = objective(embedding_warmup_steps=3, freeze_steps=0, backbone_lr_scale=0.25, masked_weight=0.0)[1]
    idle = {name for name in rates if not unmasked.rate(name, 3) and name.partition(".")[0] != "decoder"}
    loss = unmasked.losses(model, unmasked.batch(3, range(2)), 3)["mse"][0]
    loss.backward()
    assert idle == {name for name, p in model.named_parameters() if p.grad is None}


def test_a_frozen_backbone_stays_bit_equal_while_embeddings_and_decoder_learn(sim_base, sim_truth, tmp_path) -> None:
    config = replace(SHORT, backbone_lr_scale=0.0, embedding_warmup_steps=0)
    found = finetune(sim_base, sim_truth[1].session_id, "cursor_vel", out=tmp_path, config=config, progress=False)
    old, new = NDT.from_pretrained(sim_base), found.model
    spec = new.spec
    torch.manual_seed(config.seed)
    start = old.extended(spec)
    for name, parameter in new.named_parameters():
        same = torch.equal(parameter, start.get_parameter(name))
        assert same != (name in TABLES or name.startswith("decoder.")), name


def test_pretrained_parameters_learn_after_freeze_steps(sim_base, sim_truth, tmp_path) -> None:
    """`SHORT` has one step to warm up, two to keep still, and one more: each moves what it may, and no more."""
    moved, base = [], NDT.from_pretrained(sim_base)
    for steps in (1, 3, 4):
        train = replace(SHORT.train, steps=steps, valid_every=steps, ema=0.0)
        config = replace(SHORT, train=train, decoder_steps=0)
        out = tmp_path / str(steps)
        model = finetune(sim_base, sim_truth[1].session_id, "cursor_vel", out=out, config=config, progress=False).model
        torch.manual_seed(config.seed)
        start = base.extended(model.spec)
        names = {n for n, p in model.named_parameters() if not torch.equal(p, start.get_parameter(n))}
        moved.append(
            {"embeddings" if n in TABLES else "decoder" if n.startswith("decoder.") else "backbone" for n in names}
        )
    assert moved == [{"embeddings"}, {"embeddings", "decoder"}, {"embeddings", "decoder", "backbone"}]


def test_a_decoder_of_the_same_target_keeps_its_scale(decoder, sim_truth, tmp_path) -> None:
    base, session = decoder.model, sim_truth[0].session_id
    config = replace(SHORT, backbone_lr_scale=0.0)
    found = finetune(base, session, "cursor_vel", out=tmp_path, config=config, store=base.store, progress=False).model
    assert found.spec.target == base.spec.target
    kept = {name: value for name, value in base.decoder.state_dict().items()}
    torch.testing.assert_close(found.decoder.state_dict(), kept, rtol=0, atol=0)


def test_hidden_entries_are_whole_patches_at_the_mask_ratio() -> None:
    batch = objective(mask_ratio=0.25, unit_dropout=0.0)[1].batch(0, range(8))
    whole = batch.hidden.any(1)
    torch.testing.assert_close(batch.hidden, batch.valid & whole[:, None])
    assert whole.sum() == 8 * round(0.25 * 20 * 3)
