"""All baselines of one part side by side: the same as by themselves, causal, and open about what is left out."""

import json
from dataclasses import replace

import numpy as np
import pytest
from problems import busy_model, recording, specification

from ndt.config import BASELINES, FinetuneConfig
from ndt.data.targets import build_targets
from ndt.data.windows import TRAIN, BinnedSession
from ndt.decoders import gru, tcn
from ndt.decoders.controls import block_permuted_targets, circularly_shifted_targets, fit_time_gain, fit_time_only
from ndt.decoders.gru import fit_gru
from ndt.decoders.kalman import fit_kalman
from ndt.decoders.naive_bayes import fit_naive_bayes
from ndt.decoders.ridge import Lagged, fit_ridge
from ndt.decoders.tcn import fit_tcn
from ndt.errors import InputError
from ndt.evaluation.metrics import r2
from ndt.finetune.baselines import Baselines
from ndt.finetune.scoring import score_session
from ndt.segments import labelled
from ndt.target import Target

PER_BIN = [name for name in BASELINES if name != "logistic"]
CONFIG = FinetuneConfig(max_lag=0.2, seed=3)
FEW = {"window_bins": 24, "warm_bins": 6, "batch_size": 8, "steps": 30, "valid_every": 10}


@pytest.fixture(autouse=True, scope="module")
def _few_steps():
    with pytest.MonkeyPatch.context() as patch:
        for module in (gru, tcn):
            patch.setattr(module, "WIDTH", 12)
            patch.setattr(module, "LEARNING_RATE", 2e-2)
            patch.setattr(module, "TRAINING", replace(module.TRAINING, **FEW))
        yield


@pytest.fixture(scope="module")
def binned() -> BinnedSession:
    """Bins of a recording in three segments."""
    return BinnedSession(recording(((0.0, 25.0), (26.0, 27.0), (28.0, 60.0))), 0.05, 1.0)


@pytest.fixture(scope="module")
def data(binned: BinnedSession) -> dict[str, np.ndarray]:
    """Counts of ten units tuned to a velocity that goes round, and rows to fit, to choose and to test on."""
    rng, R = np.random.default_rng(0), len(binned)
    y = np.stack([np.sin(0.15 * np.arange(R)), np.cos(0.15 * np.arange(R))], 1)
    counts = rng.poisson(np.exp(0.8 * y @ rng.standard_normal((2, 10)))).astype(np.float32)
    counts[100:140, 2] = np.nan
    y[:20] = np.nan
    row = np.arange(R)
    return {"counts": counts, "y": y, "train": row < 700, "valid": (row >= 700) & (row < 900), "test": row >= 920}


def fitted(binned: BinnedSession, data: dict, kind: str, y: np.ndarray, **settings: object) -> Baselines:
    config = replace(CONFIG, **settings)
    return Baselines.fit(binned, kind, y, data["train"], data["valid"], config, counts=data["counts"])


@pytest.fixture(scope="module")
def velocity(binned, data) -> Baselines:
    """All of them, of a velocity."""
    masks = (data["train"], data["valid"], CONFIG)
    auxiliary = data["y"][:, :1] ** 2
    return Baselines.fit(binned, "continuous", data["y"], *masks, counts=data["counts"], auxiliary=auxiliary)


@pytest.mark.slow
def test_each_baseline_equals_its_separate_fit(binned, data, velocity) -> None:
    found = velocity
    assert set(found.decoded) == set(found.fitted) == set(found.facts) == set(PER_BIN)

    cut = lambda a: np.split(a, np.flatnonzero(np.diff(binned.segment)) + 1)
    x, y, train, valid, place = map(cut, (data["counts"], data["y"], data["train"], data["valid"], binned.place))
    size, other = {"bin_size": 0.05}, cut(data["y"][:, :1] ** 2)
    ridge, rows = fit_ridge(x, y, train, valid, **size, max_lag_s=0.2), [labelled(y, m, "") for m in (train, valid)]
    mixed = {
        "block_permuted": block_permuted_targets(y, train, valid, 3),
        "circularly_shifted": circularly_shifted_targets(y, train, valid),
    }
    alone = {
        "ridge": ridge.predict(x),
        "wiener": Lagged(x, *rows, **size, max_lag_s=0.2).wiener(y).predict(x),
        "kalman": fit_kalman(x, y, train, valid, **size).predict(x),
        "naive_bayes": fit_naive_bayes(x, y, train, valid, **size, kind="continuous").predict(x),
        "tcn": fit_tcn(x, y, train, valid, **size, kind="continuous", seed=3, auxiliary=other).predict(x),
        "gru": fit_gru(x, y, train, valid, **size, kind="continuous", seed=3).predict(x),
        "ridge_time_gain": fit_time_gain(ridge, x, y, valid, place).predict(x, place),
        "time_only": fit_time_only(y, train, valid, place).predict(place),
        **{k: fit_ridge(x, v, train, valid, **size, max_lag_s=0.2).predict(x) for k, v in mixed.items()},
    }
    for name, decoded in alone.items():
        np.testing.assert_allclose(found.decoded[name], np.concatenate(decoded), rtol=1e-9, atol=1e-9, err_msg=name)

    score = {name: r2(data["y"][data["test"]], decoded[data["test"]]) for name, decoded in found.decoded.items()}
    assert min(score[name] for name in ("ridge", "wiener", "kalman", "naive_bayes", "ridge_time_gain")) > 0.6
    assert max(score[name] for name in ("time_only", "block_permuted")) < 0.2


def test_later_spikes_leave_earlier_predictions_bit_equal(binned, data, velocity) -> None:
    changed = data["counts"].copy()
    changed[600:] += 3
    cut = lambda a: np.split(a, np.flatnonzero(np.diff(binned.segment)) + 1)
    for name, model in velocity.fitted.items():
        if name != "time_only":
            gate = (cut(binned.place),) if name == "ridge_time_gain" else ()
            after = np.concatenate(model.predict(cut(changed), *gate))
            np.testing.assert_array_equal(after[:600], velocity.decoded[name][:600], err_msg=name)
            assert np.abs(after[600:] - velocity.decoded[name][600:]).max() > 0


def test_labels_beyond_label_seconds_change_no_baseline(binned) -> None:
    """Of a session of which the last seconds of labels may be used, no baseline reads the others."""
    target = build_targets(binned.session, "vel", binned.start, binned.bin_size, split=binned.split)
    train = binned.split == TRAIN
    limited = train & (np.cumsum(train) > train.sum() - 300)
    noise = np.random.default_rng(0).standard_normal(target.values.shape)
    other = replace(target, values=np.where((train & ~limited)[:, None], noise, target.values).astype(np.float32))
    model, config = busy_model(specification([binned.session])), replace(CONFIG, ensemble=("network", "ridge"))

    def scores(labels: Target, chosen: np.ndarray) -> dict[str, float]:
        found = score_session(model, binned, labels, chosen, config).metrics["baselines"]
        return {name: found[name]["r2"] for name in PER_BIN}

    assert scores(other, limited) == (expected := scores(target, limited))
    whole = scores(other, train)
    assert all(whole[name] != expected[name] for name in PER_BIN)


def test_facts_are_json_and_contain_the_selected_settings(binned, data) -> None:
    named = ("kalman", "naive_bayes", "ridge_time_gain", "circularly_shifted")
    facts = fitted(binned, data, "angle", data["y"], baselines=named).facts
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["ridge"].keys() == {"alpha", "num_lags", "valid_r2", "seconds"}
    assert facts["naive_bayes"].keys() == {"window", "smoothing", "power", "step", "valid_r2", "seconds"}
    assert facts["ridge_time_gain"]["shrinkage"] is None  # no gain: infinite
    assert facts["kalman"]["order"] in (1, 2)


def test_classes_have_probabilities_and_no_kalman_filter(binned, data) -> None:
    y = np.where(np.isnan(data["y"][:, :1]), np.nan, np.stack([data["y"][:, 0] > 0, data["y"][:, 0] <= 0], 1))
    found = fitted(binned, data, "class", y, baselines=("kalman", "naive_bayes", "tcn", "gru", "ridge_time_gain"))
    assert set(found.decoded) == {"ridge", "naive_bayes", "tcn", "gru", "ridge_time_gain"}
    assert "classes" in found.facts["kalman"]["left_out"]
    for name in ("naive_bayes", "tcn", "gru"):
        np.testing.assert_allclose(found.decoded[name].sum(1), 1.0, atol=1e-9)
        assert np.mean(found.decoded[name].argmax(1)[data["test"]] == y.argmax(1)[data["test"]]) > 0.8


def test_a_baseline_that_cannot_be_fitted_states_the_reason(binned, data) -> None:
    every_other = data["train"] & (np.arange(len(binned)) % 2 == 0)  # no two bins in a row to learn a movement from
    found = Baselines.fit(
        binned,
        "continuous",
        data["y"],
        every_other,
        data["valid"],
        replace(CONFIG, baselines=("kalman", "circularly_shifted")),
        counts=data["counts"],
    )
    assert set(found.decoded) == {"ridge", "circularly_shifted"}
    assert "runs of at least 3 labelled bins" in found.facts["kalman"]["left_out"]
    assert set(fitted(binned, data, "continuous", data["y"], baselines=()).decoded) == {"ridge"}
    with pytest.raises(InputError, match="valid: expected at least 2 labelled bins, found 0"):
        Baselines.fit(binned, "continuous", data["y"], data["train"], np.zeros(len(binned), bool), CONFIG)


def test_counts_default_to_those_of_the_session(binned, data) -> None:
    masks = (data["train"], data["valid"])
    config = replace(CONFIG, baselines=())
    own = Baselines.fit(binned, "continuous", data["y"], *masks, config)
    given = Baselines.fit(binned, "continuous", data["y"], *masks, config, counts=binned.all_counts())
    np.testing.assert_array_equal(own.decoded["ridge"], given.decoded["ridge"])
    assert len(own.fitted["ridge"].counts.mean) == binned.session.num_units


def test_labels_per_trial_have_logistic_regression_its_controls_and_networks(binned) -> None:
    """Trials of half a second; a control's labels do not go with the counts."""
    rng = np.random.default_rng(1)
    trial = np.cumsum(binned.place % 10 == 0) - 1
    since, label = binned.place % 10, rng.integers(2, size=trial[-1] + 1)
    y = np.eye(2)[label][trial]
    counts = rng.poisson(np.exp(np.where(y[:, :1] > 0, 0.5, -0.5) * rng.standard_normal(12))).astype(np.float32)
    last = np.r_[trial[1:] != trial[:-1], True]
    y[~last] = np.nan
    train, valid, test = (last & (trial >= a) & (trial < b) for a, b in ((0, 60), (60, 85), (85, 199)))
    found = Baselines.fit(binned, "class", y, train, valid, CONFIG, counts=counts, since=since)
    others = {"tcn", "gru", "block_permuted", "circularly_shifted"}
    assert set(found.decoded) == {"logistic"} | others
    assert found.facts["logistic"].keys() == {"alpha", "valid_r2", "seconds"}
    assert r2(y[test], found.decoded["logistic"][test]) > 0.5
    assert max(r2(y[test], found.decoded[name][test]) for name in ("block_permuted", "circularly_shifted")) < 0.2
    number = Baselines.fit(binned, "continuous", y[:, :1], train, valid, CONFIG, counts=counts, since=since)
    assert set(number.decoded) == {"ridge"} | others
    assert r2(y[test, :1], number.decoded["ridge"][test]) > 0.5
