"""Auxiliary targets: chosen by name or all, standardised on training bins alone, absent from predictions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import TINY, grid_of, recording, specification, training_data
from torch.nn.functional import mse_loss

from ndt.config import FinetuneConfig, MaskConfig, TrainConfig
from ndt.data.objective import AUXILIARY_WEIGHT
from ndt.data.targets import build_targets
from ndt.data.windows import TEST, TRAIN, BinnedSession
from ndt.errors import InputError
from ndt.finetune.decoding import Decoding
from ndt.finetune.session_labels import auxiliary_parts, auxiliary_values
from ndt.finetune.strategies import Stage
from ndt.model.checkpoint import TargetSpec
from ndt.model.transformer import NDT
from ndt.session import Covariate, Session
from ndt.target import Part, Target
from ndt.train.loop import Trainer

POSITION = Part(name="pos", kind="continuous", dims=("x", "y", "z"), unit="m")
HEAD = Part(name="head", kind="angle", dims=("yaw",))
ALL = (Stage(1, ("embeddings", "heads", "backbone")),)
CONFIG = FinetuneConfig(
    mask=MaskConfig(ratio=0.25, kinds=("random",), random_only_steps=0, share=0.25),
    masked_weight=0.2,
    embedding_lr_scale=10.0,
    backbone_lr_scale=1.0,
    unit_dropout=0.0,
)


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
    model = NDT(replace(specification([binned.session]), target=spec_of_target))
    values = auxiliary_values(binned, spec_of_target.auxiliary, target, train).values
    data = training_data(binned, model.spec, np.concatenate([spec_of_target.standardise(target.values), values], 1))

    return model, Decoding(data, target, model, replace(CONFIG, **options), ALL, False)


def test_the_auxiliary_loss_is_added_with_its_weight(binned, target) -> None:
    model, decoding = objective(binned, target, masked_weight=0.0)
    model, batch = model.eval(), decoding.batch(0, range(4))
    assert batch.target.shape[1] == 2 + 3 + 2
    losses, numbers = decoding.losses(model, batch, 99), decoding.targets(batch, 99)
    decoded = model(batch, rates=False).decoded
    assert decoded.shape == (len(batch.bin_time), 7)
    assert (losses["target"][1], losses["auxiliary"][1]) == (1.0, AUXILIARY_WEIGHT)
    for name, columns in (("target", [slice(0, 2)]), ("auxiliary", [slice(2, 5), slice(5, 7)])):
        expected = sum(mse_loss(decoded[:, c], batch.target[:, c]) * len(decoded) for c in columns)
        torch.testing.assert_close(losses[name][0], expected)
        assert int(numbers[name]) == len(columns) * len(decoded)


def test_predictions_exclude_auxiliary_targets_which_model_json_names(binned, target, tmp_path) -> None:
    model, decoding = objective(binned, target)
    batch = decoding.batch(0, range(2))
    with torch.no_grad():
        assert model.eval().decode(batch).shape == (len(batch.bin_time), 2)
        torch.testing.assert_close(model.decode(batch), model(batch).decoded[:, :2], rtol=0, atol=0)
        model.save_pretrained(tmp_path)
        again = NDT.from_pretrained(tmp_path)
        assert again.spec.target == model.spec.target
        assert again.spec.target.auxiliary == (POSITION, HEAD)
        torch.testing.assert_close(again(batch).decoded, model(batch).decoded, rtol=0, atol=0)
    kept = model.extended(replace(model.spec, vocabulary=model.vocabulary))
    torch.testing.assert_close(kept.state_dict(), model.state_dict(), rtol=0, atol=0)
    anew = model.extended(replace(model.spec, target=replace(model.spec.target, auxiliary=())))
    assert len(anew.heads) == 1
    torch.testing.assert_close(anew.heads[0].state_dict(), model.heads[0].state_dict(), rtol=0, atol=0)


def test_validation_scores_the_target_alone(binned, target) -> None:
    model, decoding = objective(binned, target)
    assert decoding.validate(model.eval()).keys() == {"score", "r2"}


@pytest.mark.slow
def test_an_auxiliary_target_improves_a_decoder_with_few_labels(tmp_path, monkeypatch) -> None:
    """Counts depend on one latent; the target has few labels of it, the auxiliary target many."""
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
    monkeypatch.setattr("ndt.data.objective.AUXILIARY_WEIGHT", 1.0)
    for names in ("", "pos"):
        spec = specification([binned.session], config=replace(TINY, units_per_patch=40))
        fitted = TargetSpec.fitted(target, train, "here")
        fitted = replace(fitted, auxiliary=auxiliary_parts(binned, names, target, train))
        values = auxiliary_values(binned, fitted.auxiliary, target, train).values
        for seed in range(2):  # one start differs from another by as much as the help
            torch.manual_seed(seed)
            model = NDT(replace(spec, target=fitted))
            labels = np.concatenate([fitted.standardise(target.values), values], 1)
            data = training_data(binned, model.spec, labels)
            model.observe(binned.session, data.activity)
            model.standardise([data.activity])
            decoding = Decoding(data, target, model, replace(CONFIG, masked_weight=0.0), ALL, False)
            loop = TrainConfig(
                steps=120, batch_size=8, valid_every=120, warmup_steps=5, learning_rate=3e-3, ema=0.0, weight_decay=0.0
            )
            where = {"out": tmp_path / f"run{names}{seed}", "seed": seed, "resume": False, "progress": False}
            Trainer(model, decoding, loop, **where).run()
            found.setdefault(names, []).append(decoding.validate(model)["r2"])
    assert (binned.split == TEST).any()
    assert np.mean(found["pos"]) > np.mean(found[""]) + 0.005, found
