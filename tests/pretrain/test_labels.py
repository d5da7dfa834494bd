"""What is decoded while pretraining: several things, of sessions that do not all have them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import TINY, busy_model, recording, specification, training_data
from stores import stored, tuned_recording

from ndt.config import MaskConfig, PretrainConfig, TrainConfig
from ndt.data.objective import MaskedModelling
from ndt.data.stored_masks import VALID_MASKS
from ndt.data.targets import build_targets
from ndt.data.windows import TEST, TRAIN, BinnedSession
from ndt.errors import InputError
from ndt.evaluation.metrics import r2
from ndt.finetune.decoding import decode
from ndt.intervals import Intervals
from ndt.model.heads import BinHead, TrialHead
from ndt.model.tokens import pack
from ndt.model.transformer import NDT
from ndt.pretrain.train import pretrain, shared_labels
from ndt.target import scored_bins


def with_cues(session, cues):
    """A recording with a trial a second."""
    start = np.arange(30.0)

    return replace(session, intervals={"trials": Intervals(start, start + 0.5, {"cue": np.resize(cues, 30)})})


def three_sessions():
    """One with everything, one without trials, one without labels of movement and with another cue."""
    first = with_cues(recording(name="sub-a_ses-1"), np.array(["left", "right"]))
    last = with_cues(recording(name="sub-a_ses-3", labels=(0.0, 0.0), seed=2), np.array(["up", "left"]))

    return [first, recording(name="sub-a_ses-2", seed=1), last]


def test_classes_are_those_of_any_session_and_what_a_session_lacks_is_missing() -> None:
    sessions = three_sessions()
    binned_sessions = [BinnedSession(s, 0.05, 1.0) for s in sessions]
    spec, labels = shared_labels(binned_sessions, "vel, trials/cue")
    assert spec.dims == ("x", "y", "left", "right", "up")
    assert [p.name for p in spec.parts] == ["vel", "trials/cue"]
    own = [
        build_targets(s, "vel", g.start, 0.05).values for s, g in zip(sessions[:2], binned_sessions[:2], strict=True)
    ]
    train = np.concatenate([v[g.split == TRAIN] for v, g in zip(own, binned_sessions[:2], strict=True)])
    np.testing.assert_allclose(spec.mean, [*train.mean(0), 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(spec.std, [*train.std(0), 1, 1, 1], atol=1e-6)
    for values, move in zip(labels[:2], own, strict=True):
        np.testing.assert_allclose(values[:, :2], (move - train.mean(0)) / train.std(0), atol=1e-5)
    assert np.isnan(labels[1][:, 2:]).all()
    assert np.isnan(labels[2][:, :2]).all()
    inside = (binned_sessions[0].start + 0.025) % 1.0 < 0.5
    second = binned_sessions[0].start.astype(int)
    for values, odd in ((labels[0], [0, 1, 0]), (labels[2], [1, 0, 0])):
        even = {(0, 1, 0): [1, 0, 0], (1, 0, 0): [0, 0, 1]}[tuple(odd)]
        expected = np.where((second % 2 == 0)[:, None], even, odd).astype(float)
        expected[~inside] = np.nan
        np.testing.assert_array_equal(values[:, 2:], expected)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("vel,force", "pretrain: target: expected force in one of the sessions, found none has it"),
        ("vel,processing/behavior/vel", "pretrain: target: expected each once, found vel twice"),
    ],
)
def test_unknown_and_repeated_names_are_refused(names, told) -> None:
    with pytest.raises(InputError, match=told):
        shared_labels([BinnedSession(s, 0.05, 1.0) for s in three_sessions()], names)


def test_a_class_that_occurs_only_outside_the_training_split_is_refused() -> None:
    cues = np.array(["left", "right"] * 14 + ["up", "up"])
    binned = BinnedSession(with_cues(recording(), cues), 0.05, 1.0)
    with pytest.raises(InputError, match=r"trials/cue: expected each of 3 classes on the training split .* none of up"):
        shared_labels([binned], "cue")


CONFIG = PretrainConfig(
    model=TINY,
    train=TrainConfig(steps=4, batch_size=6, valid_every=2, warmup_steps=1, learning_rate=3e-3, ema=0.0),
    mask=MaskConfig(ratio=0.5, kinds=("random",), random_only_steps=0, share=0.5),
    masked_weight=0.5,
    unit_dropout=0.0,
    residual_dropout=0.0,
    window=1.0,
    target="vel,trials/cue",
)


def objective(names="vel,trials/cue", window_bins=20, **options) -> MaskedModelling:
    """Pretraining on three sessions, with a model that knows them."""
    binned_sessions = [BinnedSession(s, 0.05, 1.0) for s in three_sessions()]
    target, labels = shared_labels(binned_sessions, names)
    spec = specification([b.session for b in binned_sessions], window_bins=window_bins)
    model = NDT(replace(spec, target=target))
    data = [training_data(b, model.spec, own) for b, own in zip(binned_sessions, labels, strict=True)]

    return MaskedModelling(data, model, replace(CONFIG, **options))


def test_labels_per_trial_count_at_the_last_bin_and_at_a_random_one() -> None:
    """Of each trial of a window; other labels stay as they are."""
    decoding, places = objective(), set()
    for step in range(150):
        window = decoding._window(step, 0)
        index = slice(*window.index)
        data = next(d for d in decoding.sessions if d.binned.session.session_id == window.session)
        np.testing.assert_array_equal(window.target[:, :2], data.labels[index, :2])
        cue, kept = data.labels[index, 2:], ~np.isnan(window.target[:, 2:]).any(1)
        np.testing.assert_array_equal(window.target[kept, 2:], cue[kept])
        trial = window.trial[:, 1]
        for row in np.unique(trial[trial >= 0]):
            bins = np.flatnonzero((trial == row) & ~np.isnan(cue).any(1))
            chosen = np.flatnonzero(kept & (trial == row))
            if not len(bins):
                assert not len(chosen)
                continue
            assert chosen[-1] == bins[-1]
            assert len(chosen) in (1, 2)  # 1 if the random bin is the last
            if len(bins) == 10:  # a whole trial, of 0.5 s
                places.add(int(chosen[0] - bins[0]))
        assert not kept[trial < 0].any()
    assert places == set(range(10))  # the random bin may be any


def test_the_decoding_loss_counts_labels_per_bin_and_per_trial_together() -> None:
    decoding = objective()
    batch = decoding.batch(0, range(8))
    known = ~batch.target.isnan()
    number = int(known[:, :2].all(1).sum() + known[:, 2:].all(1).sum())
    assert int(decoding.targets(batch, 0)["target"]) == number
    trials = sum(len({int(t) for t in batch.trial[batch.bin_window == w, 1]} - {-1}) for w in range(8))
    assert 0 < int(known[:, 2:].all(1).sum()) <= 2 * trials
    model = NDT(decoding.spec).eval()
    value, weight = decoding.losses(model, batch, 0)["target"]
    torch.manual_seed(0)
    decoded = model(batch).decoded
    rows, cue = known[:, :2].all(1), known[:, 2:].all(1)
    squares = (decoded - batch.target)[rows, :2].square().sum() / 2
    entropy = -(batch.target[cue, 2:] * decoded[cue, 2:].log_softmax(1)).sum() / np.log(3)
    torch.testing.assert_close(value, squares + entropy)
    assert weight == 1.0


def test_a_session_without_any_label_adds_none_to_the_decoding_loss() -> None:
    binned = BinnedSession(recording(name="sub-a_ses-4", labels=(0.0, 0.0), seed=4), 0.05, 1.0)
    decoding = objective()
    nothing = np.full((len(binned), 5), np.nan, np.float32)
    spec = replace(decoding.spec, vocabulary=decoding.spec.vocabulary.extend([binned.session]))
    alone = MaskedModelling([training_data(binned, spec, nothing)], NDT(spec), CONFIG)
    batch = alone.batch(0, range(4))
    assert int(alone.targets(batch, 0)["target"]) == 0
    value, _ = alone.losses(NDT(spec), batch, 0)["target"]
    assert float(value.detach()) == 0.0
    assert "r2" not in alone.validate(NDT(spec))


def test_a_base_decodes_several_targets_of_sessions_that_lack_some(tmp_path) -> None:
    store = stored(three_sessions(), tmp_path / "store")
    model = pretrain(store, tmp_path / "run", CONFIG, progress=False)
    assert NDT.from_pretrained(tmp_path / "run").spec == model.spec
    assert model.spec.target.dims == ("x", "y", "left", "right", "up")
    assert [type(head) for head in model.heads] == [BinHead, TrialHead]
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    valid = {line["step"]: line for line in lines if line["split"] == "valid"}
    assert valid.keys() >= {2, 4}
    assert np.isfinite([line["r2"] for line in valid.values()]).all()


def test_validation_scores_each_bin_of_a_series_and_the_last_bin_of_each_trial() -> None:
    """With nothing hidden; the score is the mean of bits per spike, plus the mean over parts of R²."""
    decoding = objective()
    model = busy_model(decoding.spec)
    found, true, decoded = decoding.validate(model), {0: [], 1: []}, {0: [], 1: []}
    for window in (v.window for v in decoding.valid if v.kind == "random"):
        with torch.no_grad():
            said = model.decode(pack([replace(window, hidden=None)], TINY.units_per_patch)).numpy()
        for i, columns in enumerate((slice(0, 2), slice(2, 5))):
            trial = window.trial[:, 1]
            rows = np.arange(len(said)) if i == 0 else np.flatnonzero(np.r_[trial[1:] != trial[:-1], True])
            x = np.exp(said[rows, columns]) / np.exp(said[rows, columns]).sum(1, keepdims=True)
            true[i].append(window.target[rows, columns])
            decoded[i].append(said[rows, columns] if i == 0 else x)
    each = [r2(np.concatenate(true[i]), np.concatenate(decoded[i])) for i in (0, 1)]
    np.testing.assert_allclose(found["r2"], np.mean(each), rtol=1e-4)
    bits = np.mean([found[f"{kind}/bits_per_spike"] for kind in VALID_MASKS])
    np.testing.assert_allclose(found["score"], bits + found["r2"], rtol=1e-6)


@pytest.mark.slow
def test_labels_per_bin_and_per_trial_are_learned_together(tmp_path) -> None:
    """Validation R² of each alone is far above chance; a wrong cue, or a shift of a bin, would leave one at 0."""
    store = stored([tuned_recording()], tmp_path / "store")
    train = TrainConfig(steps=150, batch_size=16, valid_every=50, warmup_steps=10, learning_rate=5e-3, ema=0.9)
    config = replace(CONFIG, model=replace(TINY, width=32, units_per_patch=24), train=train, target="speed,trials/cue")
    model = pretrain(store, tmp_path / "run", config, progress=False)
    binned = BinnedSession(tuned_recording(), model.spec.bin_size, 1.0)
    target = build_targets(binned.session, "speed,trials/cue", binned.start, binned.bin_size, split=binned.split)
    rows = binned.split == TEST
    decoded = decode(model, binned, rows)
    assert r2(target.values[rows, :1], decoded[rows, :1]) > 0.4
    last = scored_bins(target, 1, rows)
    assert np.mean(target.values[last, 1:].argmax(1) == decoded[last, 1:].argmax(1)) > 0.7
