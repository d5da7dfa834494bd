"""What is decoded while pretraining: several things, of sessions that do not all have them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from problems import TINY, recording

from ndt.config import PretrainConfig, TrainConfig
from ndt.data.store import STORE_VERSION, write_manifest, write_session
from ndt.data.targets import build_targets
from ndt.data.windows import TRAIN, BinnedSession
from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.model.transformer import NDT
from ndt.pretrain.train import pretrain, shared_labels


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


def test_a_base_decodes_several_targets_of_sessions_that_lack_some(tmp_path) -> None:
    sessions = three_sessions()
    for session in sessions:
        write_session(session, tmp_path / f"{session.session_id}.h5")
    entries = {s.session_id: {"source": f"{s.session_id}.nwb", "sha256": ""} for s in sessions}
    write_manifest(tmp_path, {"version": STORE_VERSION, "sessions": entries})
    train = TrainConfig(steps=4, batch_size=6, valid_every=2, warmup_steps=1)
    config = PretrainConfig(model=TINY, train=train, window=1.0, target="vel,trials/cue")
    model = pretrain(tmp_path, tmp_path / "run", config, progress=False)
    assert NDT.from_pretrained(tmp_path / "run").spec == model.spec
    assert model.spec.target.dims == ("x", "y", "left", "right", "up")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    valid = [line["r2"] for line in lines if line["split"] == "valid"]
    assert len(valid) == 2
    assert np.isfinite(valid).all()
