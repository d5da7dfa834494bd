"""Pretraining continues from a model on more sessions: what is kept, what is added, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import TINY, recording
from stores import last_weights, stored

from ndt.cli import main
from ndt.config import MaskConfig, PretrainConfig, TrainConfig
from ndt.data.activity import unit_activity
from ndt.data.objective import MaskedModelling
from ndt.data.store import Store
from ndt.data.windows import TRAIN, BinnedSession
from ndt.errors import InputError
from ndt.intervals import Intervals
from ndt.model.transformer import NDT, TABLES
from ndt.parsing import read_json
from ndt.pretrain.train import pretrain
from ndt.session import Session
from ndt.train.loop import Trainer

CONFIG = PretrainConfig(
    model=TINY,
    train=TrainConfig(steps=4, batch_size=4, valid_every=2, warmup_steps=1, learning_rate=3e-3, ema=0.0),
    mask=MaskConfig(ratio=0.5, kinds=("random",), random_only_steps=0, share=0.5),
    masked_weight=0.5,
    unit_dropout=0.0,
    residual_dropout=0.0,
    bin_size=0.05,
    window=1.0,
    target="vel,trials/cue",
)
FIRST, LATER = "sub-a_ses-1", ("sub-a_ses-2", "sub-b_ses-1")


def with_cues(session: Session) -> Session:
    """A recording with a trial a second, to the left and to the right."""
    start, cues = np.arange(30.0), np.resize(["left", "right"], 30)

    return replace(session, intervals={"trials": Intervals(start, start + 0.5, {"cue": cues})})


def sessions() -> list[Session]:
    """A first day; a second with two more units and another spread of velocity; another subject without cues."""
    first, second = (with_cues(recording(num_units=n, name=f"sub-a_ses-{d}", seed=d)) for d, n in ((1, 5), (2, 7)))
    vel = second.covariates["vel"]
    second = replace(second, covariates={"vel": replace(vel, values=3 * vel.values + 1)})
    other = recording(num_units=4, name="sub-b_ses-1", seed=3)
    names = np.array([f"b/{n}" for n in range(4)])

    return [first, second, replace(other, subject="b", units=replace(other.units, id=names))]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return stored(sessions(), tmp_path_factory.mktemp("init") / "store")


@pytest.fixture(scope="module")
def base(store, tmp_path_factory) -> NDT:
    """A model of the first session; its run lies in the folder ``base`` beside the store."""
    return pretrain(store, store.root.parent / "base", replace(CONFIG, sessions=(FIRST,)), progress=False)


def continued(store: Store, base: object, out, **options: object) -> NDT:
    config = replace(CONFIG, sessions=LATER, **options)

    return pretrain(store, out, config, init=base, progress=False)


def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training takes no step."""
    monkeypatch.setattr(Trainer, "run", lambda self: {"steps": 0})


def test_weights_start_equal_and_new_rows_at_zero(store, base, tmp_path, monkeypatch) -> None:
    """Whatever the seed and the architecture of the settings: also heads, and the statistics of activity."""
    untrained(monkeypatch)
    config = {"seed": 9, "model": replace(TINY, width=24), "window": 2.0, "bin_size": 0.1}
    found = continued(store, base, tmp_path / "run", **config)
    old, new = base.state_dict(), found.state_dict()
    assert old.keys() == new.keys()
    assert any(name.startswith("heads.1.") for name in old)
    for name, value in old.items():
        if name == "identity.activity":
            continue
        torch.testing.assert_close(new[name][: len(value)] if name in TABLES else new[name], value, rtol=0, atol=0)
        if name in TABLES:
            assert (new[name][len(value) :] == 0).all()
    assert len(new["identity.residual"]) == len(old["identity.residual"]) + 2 + 4
    assert len(new["context"]) == len(old["context"]) + 3  # two sessions, a subject
    spec = found.spec
    assert (spec.config, spec.bin_size, spec.window_bins) == (TINY, base.spec.bin_size, base.spec.window_bins)


def test_the_vocabulary_grows_and_data_and_scale_of_the_target_are_kept(store, base, tmp_path, monkeypatch) -> None:
    untrained(monkeypatch)
    spec, known = continued(store, base, tmp_path / "run").spec, base.spec
    for name in ("units", "contexts", "sites"):
        own = getattr(known.vocabulary, name)
        assert getattr(spec.vocabulary, name)[: len(own)] == own
    assert set(spec.vocabulary.units) == {f"a/{n}" for n in range(7)} | {f"b/{n}" for n in range(4)}
    assert spec.data.keys() == {FIRST, *LATER}
    assert spec.target == known.target  # of which the heads are those of the base


def test_activity_is_that_of_the_last_session_of_a_unit(store, base, tmp_path, monkeypatch) -> None:
    """Its standardisation stays that of the base."""
    untrained(monkeypatch)
    found = continued(store, base, tmp_path / "run")
    for name in LATER:
        binned = BinnedSession(store.session(name), 0.05, 1.0)
        rows = [found.vocabulary.units.index(str(u)) for u in binned.session.units.id]
        activity = unit_activity(binned, binned.split == TRAIN)
        np.testing.assert_allclose(found.identity.activity[rows].numpy(), activity, rtol=1e-5, atol=1e-6)
    for name in ("activity_mean", "activity_std"):
        torch.testing.assert_close(getattr(found.identity, name), getattr(base.identity, name), rtol=0, atol=0)


def test_a_part_that_the_base_lacks_has_a_new_head_and_its_own_scale(store, tmp_path, monkeypatch) -> None:
    """Beside it, the head that the base has keeps its weights, at another place."""
    base = pretrain(store, tmp_path / "base", replace(CONFIG, sessions=(FIRST,), target="trials/cue"), progress=False)
    untrained(monkeypatch)
    found = continued(store, base, tmp_path / "run")
    assert [part.name for part in found.spec.parts] == ["vel", "trials/cue"]
    torch.testing.assert_close(found.heads[1].state_dict(), base.heads[0].state_dict(), rtol=0, atol=0)
    assert found.spec.target.std[0] > 1.0  # of sessions whose velocity is three times that of the first
    np.testing.assert_allclose(found.spec.target.std[2:], 1.0)


def test_training_continues_and_leaves_the_base_as_it_was(store, base, tmp_path) -> None:
    """From its folder as from the object; the run says where its data come from."""
    before = {k: v.clone() for k, v in base.state_dict().items()}
    with last_weights():
        found = continued(store, base, tmp_path / "object")
    torch.testing.assert_close(base.state_dict(), before, rtol=0, atol=0)
    with last_weights():
        again = continued(store, store.root.parent / "base", tmp_path / "folder")
    torch.testing.assert_close(again.state_dict(), found.state_dict(), rtol=0, atol=0)
    same = [n for n, p in base.named_parameters() if n not in TABLES and torch.equal(p, found.get_parameter(n))]
    assert set(same) <= {"heads.1.score.bias", "identity.depth"}  # a softmax cancels the one; all depths are unknown
    assert np.isfinite(read_json(tmp_path / "folder" / "metrics.json")["valid"]["bits_per_spike"])
    assert NDT.from_pretrained(tmp_path / "folder").spec == found.spec


def test_a_resumed_run_equals_an_uninterrupted_one(store, base, tmp_path, monkeypatch) -> None:
    whole, inner = continued(store, base, tmp_path / "whole"), MaskedModelling.batch

    def broken(self, step, rows):
        if step == 3:
            raise KeyboardInterrupt
        return inner(self, step, rows)

    with monkeypatch.context() as patch:
        patch.setattr(MaskedModelling, "batch", broken)
        with pytest.raises(KeyboardInterrupt):
            continued(store, base, tmp_path / "cut")
    config = replace(CONFIG, sessions=LATER)
    resumed = pretrain(store, tmp_path / "cut", config, init=base, resume=True, progress=False)
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_the_folder_of_the_base_is_refused_and_not_changed(store, base) -> None:
    folder = store.root.parent / "base"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for init in (folder, str(folder), folder.parent / "store" / ".." / "base"):
        with pytest.raises(InputError, match="out: expected another folder than the initial model's, found the same"):
            continued(store, init, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_the_command_continues_and_refuses_in_one_line(store, base, tmp_path, capsys) -> None:
    folder = str(store.root.parent / "base")
    argv = ["pretrain", str(store.root), "--init", folder, "--sessions", f"[{LATER[0]}]", "--target", "vel"]
    argv += ["--train.steps", "2", "--train.batch_size", "2", "--train.valid_every", "2", "--quiet"]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    found = NDT.from_pretrained(tmp_path / "run")
    assert found.spec.data.keys() == {FIRST, LATER[0]}
    assert found.config == TINY
    for init, out, told in (
        (folder, folder, "another folder than the initial model's"),
        (
            str(tmp_path / "none"),
            str(tmp_path / "new"),
            "a run directory, or hf:ORG/NAME for a model on the Hugging Face Hub, found no such folder",
        ),
    ):
        argv[3] = init
        assert main([*argv, "--out", out]) == 2
        err = capsys.readouterr().err
        assert told in err
        assert err.count("\n") == 1
    assert not (tmp_path / "new").exists()
