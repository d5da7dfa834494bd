"""Fine-tuning towards targets of every kind: what it counts, how it is judged, and that it learns them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import TINY, busy_model, recording, specification, training_data
from stores import tuned_recording

from ndt.config import FinetuneConfig, MaskConfig, TrainConfig
from ndt.data.targets import build_targets
from ndt.data.windows import TEST, TRAIN, VALID, BinnedSession
from ndt.errors import InputError
from ndt.evaluation.metrics import r2
from ndt.finetune.decoding import Decoding, decode
from ndt.finetune.strategies import Stage
from ndt.model.checkpoint import ModelSpec, TargetSpec
from ndt.model.transformer import NDT
from ndt.session import Session
from ndt.target import Target, scored_bins
from ndt.train.loop import Trainer

CONFIG = FinetuneConfig(
    freeze_steps=0,
    mask=MaskConfig(ratio=0.25, kinds=("random",), random_only_steps=0, share=0.0),
    masked_weight=0.0,
    embedding_lr_scale=10.0,
    backbone_lr_scale=1.0,
    unit_dropout=0.0,
)


def set_up(session: Session, names: str, **options) -> tuple[ModelSpec, BinnedSession, Target]:
    """A specification that decodes these, the session's bins, and the targets."""
    binned = BinnedSession(session, 0.05, 1.0)
    target = build_targets(session, names, binned.start, 0.05, split=binned.split)
    spec = TargetSpec.fitted(target, binned.split == TRAIN, "here")
    config = replace(TINY, units_per_patch=24, **options)

    return replace(specification([session], config=config), target=spec), binned, target


def decoding_of(model: NDT, binned: BinnedSession, target: Target, config: FinetuneConfig = CONFIG) -> Decoding:
    """The objective of a model from scratch, whose labels are all of the training split."""
    assert model.spec.target is not None
    data = training_data(binned, model.spec, model.spec.target.standardise(target.values))
    model.observe(binned.session, data.activity)

    return Decoding(data, target, model, config, (Stage(1, ("embeddings", "heads", "backbone")),), False)


def trained(session: Session, names: str, out, steps: int) -> tuple[NDT, BinnedSession, Target]:
    """A decoder trained from scratch."""
    spec, binned, target = set_up(session, names, width=32)
    torch.manual_seed(0)
    model = NDT(spec)
    decoding = decoding_of(model, binned, target)
    model.standardise([decoding.data.activity])
    train = TrainConfig(
        steps=steps, batch_size=16, valid_every=steps // 2, warmup_steps=10, learning_rate=5e-3, ema=0.9
    )
    Trainer(model, decoding, train, out=out, seed=0, resume=False, progress=False).run()

    return model, binned, target


def test_loss_and_count_are_sums_whatever_the_batch_is_cut_into() -> None:
    """Then any number of processes and micro-batches takes the same step."""
    session = tuned_recording(30.0)
    spec, binned, target = set_up(session, "class:stage,cue,head,speed")
    target.values[::3, target.columns(3)] = np.nan
    model = busy_model(spec)
    decoding, found = decoding_of(model, binned, target), []
    for parts in ([range(6)], [range(1), range(1, 3), range(3, 6)]):
        batches = [decoding.batch(0, rows) for rows in parts]
        number = sum(int(decoding.targets(b, 0)["target"]) for b in batches)
        loss = sum(float(decoding.losses(model, b, 0)["target"][0].detach()) for b in batches)
        found.append((number, loss))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    batch = decoding.batch(0, range(6))
    known = ~batch.target.isnan()
    each = [int(known[:, target.columns(i)].all(1).sum()) for i in range(4)]
    assert found[0][0] == sum(each)
    assert each[0] == len(batch.target)
    assert 0 < each[1] <= 2 * 6 * 3  # the last bin and another of each trial; a window of 1 s has up to two
    assert 0.5 < each[3] / each[0] < 0.8


def test_validation_is_the_mean_of_the_parts_that_can_be_scored() -> None:
    session = tuned_recording(40.0)
    spec, binned, target = set_up(session, "speed,class:stage,head")
    model, rows, values = busy_model(spec), binned.split == VALID, target.values
    decoding = decoding_of(model, binned, target)
    values[np.flatnonzero(rows)[10:], target.columns(1)] = np.nan
    values[rows, target.columns(2)] = np.nan
    found = decoding.validate(model)
    decoded = decode(model, binned, rows)[rows]
    speed, stage = (r2(values[rows, c], decoded[:, c]) for c in (target.columns(0), target.columns(1)))
    assert found.keys() == {"score", "r2", "r2/speed", "r2/stage"}
    np.testing.assert_allclose(
        [found["score"], found["r2"], found["r2/speed"], found["r2/stage"]],
        [(speed + stage) / 2, (speed + stage) / 2, speed, stage],
        rtol=1e-6,
    )
    np.testing.assert_allclose(decoded[:, target.columns(1)].sum(1), 1.0, rtol=1e-5)
    values[rows] = np.nan
    with pytest.raises(InputError, match="sub-a_ses-1: validation split: expected labels that vary, found none"):
        decoding.validate(model)


def test_a_label_per_trial_is_scored_once_where_all_of_the_trial_is_known() -> None:
    session = tuned_recording(40.0)
    spec, binned, target = set_up(session, "cue")
    model, rows = busy_model(spec), binned.split == VALID
    found = decoding_of(model, binned, target).validate(model)
    decoded, trial = decode(model, binned, rows), target.trial[0]
    last = [np.flatnonzero(rows & (trial == t))[-1] for t in np.unique(trial[rows & (trial >= 0)])]
    assert len(last) >= 3
    np.testing.assert_allclose(found["r2"], r2(target.values[last], decoded[last]), rtol=1e-6)


def test_a_single_part_has_no_scores_by_part() -> None:
    session = recording(num_units=8)
    spec, binned = specification([session]), BinnedSession(session, 0.05, 1.0)
    model, target = busy_model(spec), build_targets(session, "vel", binned.start, 0.05)
    rows = binned.split == VALID
    found = decoding_of(model, binned, target).validate(model)
    assert found == dict.fromkeys(("score", "r2"), r2(target.values[rows], decode(model, binned, rows)[rows]))


@pytest.mark.slow
def test_a_class_per_bin_and_a_class_per_trial_are_learned(tmp_path) -> None:
    model, binned, target = trained(tuned_recording(), "class:stage,trials/cue", tmp_path, steps=60)
    rows = binned.split == TEST
    decoded, true = decode(model, binned, rows), target.values
    for i, least in ((0, 0.85), (1, 0.75)):
        chosen = scored_bins(target, i, rows)
        y, x = true[chosen, target.columns(i)], decoded[chosen, target.columns(i)]
        assert np.mean(y.argmax(1) == x.argmax(1)) > least
        assert r2(y, x) > least - 0.25


@pytest.mark.slow
def test_an_angle_and_a_speed_are_learned_by_one_decoder(tmp_path) -> None:
    model, binned, target = trained(tuned_recording(), "head,speed", tmp_path, steps=120)
    rows = binned.split == TEST
    decoded, true = decode(model, binned, rows)[rows], target.values[rows]
    assert r2(true[:, 2:], decoded[:, 2:]) > 0.6
    error = np.angle(np.exp(1j * (np.arctan2(*decoded[:, 1::-1].T) - np.arctan2(*true[:, 1::-1].T))))
    assert np.median(np.abs(error)) < np.radians(25)
