"""Auxiliary targets: chosen by name or all, standardised on training bins alone, absent from predictions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import TINY, grid_of, recording, specification
from torch.nn.functional import mse_loss

from ndt.config import FinetuneConfig, TrainConfig
from ndt.data.targets import build_targets
from ndt.data.windows import TEST, TRAIN, BinnedSession
from ndt.errors import InputError
from ndt.finetune.decoding import Decoding
from ndt.finetune.session_labels import auxiliary_parts, auxiliary_values
from ndt.model.checkpoint import ModelSpec, TargetSpec
from ndt.model.transformer import NDT
from ndt.session import Covariate, Session
from ndt.target import Part, Target

POSITION = Part(name="pos", kind="continuous", dims=("x", "y", "z"), unit="m")
HEAD = Part(name="head", kind="angle", dims=("yaw",))
MODEL = replace(TINY, decoder="tcn", tcn_width=6, num_tcn_layers=2, num_members=1)


def moving(**options) -> Session:
    """A recording with a velocity, a position, a heading, something that never changes, and something hardly known."""
    session, rng = recording(num_units=7, **options), np.random.default_rng(1)
    stamps = session.covariates["vel"].timestamps
    n, of = len(stamps), {"timestamps": stamps, "unit": "m"}
    path = rng.standard_normal((n, 3)).cumsum(0) + 5
    few = np.where(np.arange(n) < 9, rng.standard_normal(n), np.nan)[:, None]
    yaw = rng.uniform(-3, 3, (n, 1))
    more = [
        Covariate(name="pos", path="pos", values=path, dims=("x", "y", "z"), **of),
        Covariate(name="head", path="head", values=yaw, dims=("yaw",), angular=True, **of | {"unit": "rad"}),
        Covariate(name="still", path="still", values=np.ones((n, 1)), dims=("x",), **of),
        Covariate(name="few", path="few", values=few, dims=("x",), **of),
    ]

    return replace(session, covariates=session.covariates | {c.name: c for c in more})


@pytest.fixture(scope="module")
def binned() -> BinnedSession:
    return grid_of(moving())


@pytest.fixture(scope="module")
def target(binned) -> Target:
    return build_targets(binned.session, "vel", binned.start, binned.bin_size, split=binned.split)


def test_auto_takes_all_other_series_that_have_labels_and_vary(binned, target) -> None:
    train = binned.split == TRAIN
    assert auxiliary_parts(binned, "auto", target, train) == (POSITION, HEAD)
    assert auxiliary_parts(binned, "", target, train) == ()
    assert auxiliary_parts(binned, " head", target, train) == (HEAD,)
    other = build_targets(binned.session, "pos", binned.start, binned.bin_size)
    assert [p.name for p in auxiliary_parts(binned, "auto", other, train)] == ["vel", "head"]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("nothing", "target: expected one of: vel, pos, head, still, few, found 'nothing'"),
        ("pos,vel", "auxiliary: expected each once, and others than vel, found vel"),
        ("pos,head,pos", "auxiliary: expected each once, and others than vel, found pos"),
        ("still", "auxiliary: expected at least 10 training bins with a label of still, which vary, found 4"),
        ("few", "auxiliary: expected at least 10 training bins with a label of few, which vary, found 9"),
    ],
)
def test_an_auxiliary_target_without_varying_labels_is_refused(binned, target, names, told) -> None:
    with pytest.raises(InputError, match=f"sub-a_ses-1: {told}"):
        auxiliary_parts(binned, names, target, binned.split == TRAIN)


def test_auxiliary_values_are_standardised_on_training_bins_and_nan_elsewhere(binned, target) -> None:
    train = binned.split == TRAIN
    found = auxiliary_values(binned, (POSITION, HEAD), target, train)
    true = build_targets(binned.session, "pos,head", binned.start, binned.bin_size).values[train].astype(float)
    np.testing.assert_allclose(found.values[train], (true - true.mean(0)) / true.std(0), atol=1e-5)
    assert np.isnan(found.values[~train]).all()


def test_a_part_that_the_session_lacks_has_no_labels(binned, target) -> None:
    train = binned.split == TRAIN
    flat, strange = replace(POSITION, dims=("x", "y")), replace(HEAD, name="gone")
    found = auxiliary_values(binned, (flat, strange, HEAD), target, train)
    assert found.parts == (flat, strange, HEAD)
    assert np.isnan(found.values[:, :4]).all()
    assert np.isfinite(found.values[train, 4:]).all()
    assert auxiliary_values(binned, (), target, train).values.shape == (len(binned), 0)


def objective(binned: BinnedSession, target: Target, **options) -> tuple[NDT, Decoding]:
    train = binned.split == TRAIN
    spec_of_target = replace(TargetSpec.fitted(target, train, "here"), auxiliary=(POSITION, HEAD))
    torch.manual_seed(0)
    model = NDT(replace(specification([binned.session], config=MODEL), target=spec_of_target)).train()
    values = auxiliary_values(binned, spec_of_target.auxiliary, target, train)

    return model, Decoding(binned, train, target.values, model, FinetuneConfig(**options), (), values)


def test_the_auxiliary_loss_is_added_with_its_weight(binned, target) -> None:
    model, decoding = objective(binned, target, masked_weight=0.0)
    batch = decoding.batch(0, range(4))
    assert batch.target.shape[1] == 2 + 3 + 2
    losses, numbers = decoding.losses(model, batch, 99), decoding.targets(batch, 99)
    with torch.no_grad():
        decoded = model.decoder.train()(batch, None, model.population(batch))  # the same dropout is not drawn again
    assert decoded.shape == (len(batch.bin_time), 7)
    assert (losses["mse"][1], losses["auxiliary"][1]) == (1.0, 0.3)
    torch.manual_seed(1)
    losses = decoding.losses(model, batch, 99)
    torch.manual_seed(1)
    decoded = model(batch, rates=False).decoded
    for name, columns in (("mse", [slice(0, 2)]), ("auxiliary", [slice(2, 5), slice(5, 7)])):
        expected = sum(mse_loss(decoded[:, c], batch.target[:, c]) * len(decoded) for c in columns)
        torch.testing.assert_close(losses[name][0], expected)
        assert int(numbers[name]) == len(columns) * len(decoded)


def test_predictions_exclude_auxiliary_targets_which_model_json_names(binned, target, tmp_path) -> None:
    model, decoding = objective(binned, target)
    batch = decoding.batch(0, range(2))
    assert model.eval()(batch, rates=False).decoded.shape == (len(batch.bin_time), 2)
    model.save_pretrained(tmp_path)
    again = NDT.from_pretrained(tmp_path)
    assert again.spec.target == model.spec.target
    assert again.spec.target.auxiliary == (POSITION, HEAD)
    torch.testing.assert_close(again(batch, rates=False).decoded, model(batch, rates=False).decoded, rtol=0, atol=0)
    kept = model.extended(replace(model.spec, vocabulary=model.vocabulary))
    torch.testing.assert_close(kept.state_dict(), model.state_dict(), rtol=0, atol=0)
    anew = replace(model.spec, target=replace(model.spec.target, auxiliary=()))
    assert model.extended(anew).decoder.stacks[0].readout.weight.shape[0] == 2


@pytest.mark.slow
def test_an_auxiliary_target_improves_a_decoder_with_few_labels(tmp_path, monkeypatch) -> None:
    """Counts depend on one latent; the target has few labels of it, the auxiliary target many."""
    from ndt.finetune.decoder_stage import DecoderStage
    from ndt.train.loop import Trainer

    rng, found = np.random.default_rng(0), {}
    session = recording(((0.0, 60.0),), num_units=40, rate_hz=8.0)
    stamps = session.covariates["vel"].timestamps
    hidden = np.stack([np.sin(0.9 * stamps), np.cos(1.3 * stamps)], 1)
    rates = 1 + (hidden @ rng.standard_normal((2, 40))).clip(-0.9, 3)
    counts = rng.poisson(rates * 0.4)
    bins, units = np.nonzero(counts)
    times = np.repeat(stamps[bins], counts[bins, units])
    spikes = replace(session.spikes, timestamps=times, unit_index=np.repeat(units, counts[bins, units]))
    scarce = np.where((np.arange(len(stamps)) % 40 == 0)[:, None], hidden, np.nan)
    scarce[stamps > 40] = hidden[stamps > 40]  # to be scored
    of = {"timestamps": stamps, "unit": "m", "dims": ("x", "y")}
    series = {"vel": Covariate(name="vel", path="vel", values=scarce, **of)}
    series["pos"] = Covariate(name="pos", path="pos", values=hidden @ np.array([[1.0, 0.5], [-0.5, 1.0]]), **of)
    binned = BinnedSession(replace(session, spikes=spikes, covariates=series), 0.05, 1.0)
    target, train = build_targets(binned.session, "vel", binned.start, 0.05, split=binned.split), binned.split == TRAIN
    monkeypatch.setattr("ndt.finetune.decoding.AUXILIARY_WEIGHT", 1.0)
    monkeypatch.setattr("ndt.finetune.decoder_stage.READIN_LR_SCALE", 10.0)
    for names in ("", "pos"):
        spec: ModelSpec = specification([binned.session], config=replace(MODEL, tcn_width=16))
        spec_of_target = TargetSpec.fitted(target, train, "here")
        spec_of_target = replace(spec_of_target, auxiliary=auxiliary_parts(binned, names, target, train))
        torch.manual_seed(0)
        model = NDT(replace(spec, target=spec_of_target))
        model.observe(binned.session, binned.mean_counts(train))
        values = auxiliary_values(binned, spec_of_target.auxiliary, target, train)
        config = FinetuneConfig()
        for seed in range(3):  # one start differs from another by as much as the help
            torch.manual_seed(seed)
            model = NDT(replace(spec, target=spec_of_target))
            model.observe(binned.session, binned.mean_counts(train))
            stage = DecoderStage(binned, train, target.values, model, config, ("",), values)
            loop = TrainConfig(steps=240, batch_size=8, valid_every=240, warmup_steps=5, learning_rate=5e-3, ema=0.0)
            where = {"out": tmp_path / f"run{names}{seed}", "seed": 0, "resume": False, "progress": False}
            Trainer(model, stage, loop, **where).run()
            found.setdefault(names, []).append(stage.validate(model)["r2"])
    assert (binned.split == TEST).any()
    assert np.mean(found["pos"]) > np.mean(found[""]) + 0.005, found
