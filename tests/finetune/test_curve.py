"""R² against seconds of calibration data: which runs are made, once, and what of them comes together."""

import json
from dataclasses import replace

import numpy as np
import pytest
from fake_finetune import HAS, FakeFinetune, small_store
from joblib import parallel_config
from problems import busy_model, specification

from ndt.config import FinetuneConfig, ModelConfig, TrainConfig
from ndt.config.reader import load_config
from ndt.errors import InputError
from ndt.finetune.curve import label_curve
from ndt.model.transformer import NDT
from ndt.reports.label_curve import read_curve
from ndt.reports.run import write_report

CONFIG = FinetuneConfig(train=TrainConfig(steps=7), seed=4)


def score(scratch: bool, config: FinetuneConfig) -> float:
    """0.01 a second, 0.2 more if pretrained, 0.001 a seed."""
    return 0.01 * (config.label_seconds or HAS) + 0.2 * (not scratch) + 0.001 * config.seed


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return small_store(tmp_path_factory.mktemp("small") / "store")


@pytest.fixture(scope="module")
def base(store):
    """A model of the session's units with windows of a second."""
    (name,) = store.session_ids
    model = busy_model(specification([store.session(name)], dims=0))
    model.store = store.root

    return model


def made(base, store, out, **options):
    """The curve of 5 and 10 seconds and of all, over two seeds."""
    (name,) = store.session_ids
    options = {"config": CONFIG, "seconds": (10.0, 5.0), "seeds": 2} | options

    return label_curve(base, name, "vel", out=out, store=store, progress=False, **options)


def test_each_amount_has_each_seed_pretrained_and_from_scratch(base, store, tmp_path, monkeypatch) -> None:
    fake = FakeFinetune(score).use(monkeypatch)
    curve = made(base, store, tmp_path)
    assert curve.seconds == [5.0, 10.0, HAS]
    assert (curve.whole, curve.left_out, curve.target) == (True, [], "vel")
    for name, above in (("network", 0.15), ("scratch", -0.05)):  # on test 0.05 less than on validation
        expected = [[0.01 * t + above + 0.001 * seed for seed in (4, 5)] for t in (5, 10, HAS)]
        np.testing.assert_allclose(curve.lines[name], expected, rtol=1e-12)
    np.testing.assert_allclose(curve.lines["ridge"], [[0.05] * 2, [0.1] * 2, [0.41] * 2])
    np.testing.assert_allclose(curve.lines["ensemble"], curve.lines["network"])  # always above ridge here
    assert set(curve.lines) == {"ensemble", "network", "scratch", "ridge", "block_permuted"}

    folders = {str(call.folder.relative_to(tmp_path)) for call in fake.calls}
    assert folders == {
        f"curve/{t}/{kind}/seed{seed}"
        for t in ("5s", "10s", "all")
        for kind in ("network", "scratch")
        for seed in (4, 5)
    }
    assert read_curve(tmp_path) == curve
    assert load_config(FinetuneConfig, tmp_path / "config.yaml") == CONFIG


def test_the_control_is_the_same_network_with_new_weights(base, store, tmp_path, monkeypatch) -> None:
    fake = FakeFinetune(score).use(monkeypatch)
    made(base, store, tmp_path, config=replace(CONFIG, model=ModelConfig(width=320), window=9.0))
    for call in fake.calls:
        scratch = "scratch" in call.folder.parts
        assert (call.base is None) == scratch
        assert call.base is (None if scratch else base)
        assert call.config.train == CONFIG.train
        if scratch:
            spec = base.spec
            assert (call.config.model, call.config.bin_size, call.config.window) == (spec.config, 0.05, 1.0)


def test_without_a_base_there_is_no_control(store, tmp_path, monkeypatch) -> None:
    fake = FakeFinetune(score).use(monkeypatch)
    curve = made(None, store, tmp_path)
    assert "scratch" not in curve.lines
    assert curve.pretrained_on == ""
    assert len(fake.calls) == 6
    assert {call.config.model for call in fake.calls} == {CONFIG.model}


def test_complete_runs_are_not_repeated(base, store, tmp_path, monkeypatch) -> None:
    """Stopped in its sixth run, then again in the eighth: each run that ended is done once, and the curve is whole."""
    whole = FakeFinetune(score).use(monkeypatch)
    expected = made(base, store, tmp_path / "whole")
    done, resumed = [], []
    for stop_at in (6, 3, 0):
        fake = FakeFinetune(score, stop_at=stop_at).use(monkeypatch)
        if stop_at:
            with pytest.raises(KeyboardInterrupt):
                made(base, store, tmp_path / "cut")
        else:
            assert made(base, store, tmp_path / "cut") == expected
        done += [call.folder for call in (fake.calls[:-1] if stop_at else fake.calls)]
        resumed += [call.resume for call in fake.calls]
    assert len(set(done)) == len(done) == len(whole.calls) == 12
    assert resumed == [False] * 6 + [True, False, False, True] + [False] * 4
    fake = FakeFinetune(score).use(monkeypatch)
    assert made(base, store, tmp_path / "cut") == expected
    assert fake.calls == []


def test_more_seeds_and_amounts_add_runs_and_other_settings_repeat_them(base, store, tmp_path, monkeypatch) -> None:
    FakeFinetune(score).use(monkeypatch)
    made(base, store, tmp_path)
    for options, number in (({"seeds": 3}, 6), ({"seconds": (5.0, 20.0)}, 4), ({"seeds": 1}, 0)):
        fake = FakeFinetune(score).use(monkeypatch)
        made(base, store, tmp_path, **options)
        assert len(fake.calls) == number
    fake = FakeFinetune(score).use(monkeypatch)
    made(base, store, tmp_path, config=replace(CONFIG, masked_weight=0.1))
    assert len(fake.calls) == 12
    fake = FakeFinetune(score).use(monkeypatch)  # other weights of the same shapes: the controls are as they were
    other = busy_model(base.spec, seed=1)
    made(other, store, tmp_path, config=replace(CONFIG, masked_weight=0.1))
    assert {call.base for call in fake.calls} == {other}
    assert len(fake.calls) == 6


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(workers, base, store, tmp_path, monkeypatch) -> None:
    FakeFinetune(score).use(monkeypatch)
    with parallel_config(backend="threading"):  # where the fake is known
        curve = made(base, store, tmp_path, workers=workers)
    np.testing.assert_allclose(curve.lines["scratch"][1], [0.054, 0.055])
    np.testing.assert_allclose(curve.lines["network"][2], [0.564, 0.565])


def test_amounts_beyond_the_training_split_are_left_out_with_a_note(store, tmp_path, monkeypatch) -> None:
    FakeFinetune(score).use(monkeypatch)
    curve = made(None, store, tmp_path / "a", seconds=(5.0, 40.9, 40.99, 300.0))
    assert curve.seconds == [5.0, 40.9, HAS]  # 40.99 s are as many bins as all
    assert curve.left_out == ["Left out: 40.99, 300 s of labels; the training split has 41 s, the last point."]
    assert made(None, store, tmp_path / "b", seconds=(300.0,)).seconds == [HAS]


def test_label_seconds_is_the_largest_amount(store, tmp_path, monkeypatch) -> None:
    fake = FakeFinetune(score).use(monkeypatch)
    curve = made(None, store, tmp_path, seconds=(5.0, 20.0, 30.0), config=replace(CONFIG, label_seconds=20.0))
    assert (curve.seconds, curve.whole) == ([5.0, 20.0], False)
    assert curve.left_out == ["Left out: 20, 30 s of labels; label_seconds allows 20 s, the last point."]
    assert {call.config.label_seconds for call in fake.calls} == {5.0, 20.0}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"seconds": (0.5, 10.0)}, r"curve seconds: expected at least the 1 s of the model's window, found 0\.5"),
        ({"seconds": (float("nan"),)}, "curve seconds: expected at least the 1 s"),
        ({"seeds": 0}, "seeds: expected at least 1, found 0"),
        ({"workers": 0}, "workers: expected at least 1, found 0"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_fitted(options, match, base, store, tmp_path, monkeypatch) -> None:
    fake = FakeFinetune(score).use(monkeypatch)
    with pytest.raises(InputError, match=match):
        made(base, store, tmp_path / "out", **options)
    assert fake.calls == []
    assert not (tmp_path / "out").exists()


def test_a_curve_never_overwrites_its_base(base, store, tmp_path) -> None:
    base.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="another folder than the base model's"):
        made(tmp_path, store, tmp_path)
    with pytest.raises(InputError, match="store: expected a store"):
        label_curve(None, "sub-a_ses-1", out=tmp_path / "x", progress=False)
    with pytest.raises(InputError, match="sub-z"):
        label_curve(base, "sub-z", out=tmp_path / "x", progress=False)


def test_report_of_the_run_shows_the_curve(base, store, tmp_path, monkeypatch) -> None:
    FakeFinetune(score).use(monkeypatch)
    made(base, store, tmp_path, seconds=(5.0, 300.0))
    text = write_report(tmp_path).read_text()
    assert "all, 41 s" in text
    assert "the training split has 41 s" in text
    assert "Pretrained on 0 sessions, without this one" in text


@pytest.mark.slow
def test_real_decoders_share_a_test_split_and_workers_change_nothing(sim_base, sim_store, sim_truth, tmp_path) -> None:
    config = FinetuneConfig(
        train=TrainConfig(steps=6, batch_size=4, valid_every=3),
        freeze_steps=3,
        max_lag=0.2,
        baselines=("ridge",),
        ensemble=("network", "ridge"),
    )
    name, curves = sim_truth[1].session_id, []
    for workers, base in ((1, sim_base), (2, NDT.from_pretrained(sim_base))):  # by its folder, and as an object
        out = tmp_path / str(workers)
        curves.append(
            label_curve(
                base, name, "cursor_vel", out=out, config=config, seconds=(20.0,), seeds=1, workers=workers,
                progress=False,
            )
        )  # fmt: skip
    assert curves[0] == curves[1]
    found = [json.loads(path.read_text()) for path in (tmp_path / "1" / "curve").rglob("metrics.json")]
    assert len(found) == 4
    assert len({m["test"]["num_bins"] for m in found}) == 1
    assert {round(m["label_seconds"], 6) for m in found} == {20.0, round(curves[0].seconds[-1], 6)}
    assert "Pretrained on 1 session, without this one" in write_report(tmp_path / "1").read_text()
