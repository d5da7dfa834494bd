"""Ensembles: weights that minimise squared error, the weighted mean, matching of units, and files."""

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from scipy.optimize import minimize

from ndt.decoders import gru, tcn
from ndt.decoders.drift import InputDrift
from ndt.decoders.ensemble import Ensemble, PartEnsemble, ensemble_weights, flatten, unflatten, weighted_mean
from ndt.decoders.gru import fit_gru
from ndt.decoders.naive_bayes import fit_naive_bayes
from ndt.decoders.ridge import fit_ridge
from ndt.decoders.tcn import fit_tcn
from ndt.errors import InputError
from ndt.evaluation.conformal import Conformal
from ndt.evaluation.metrics import r2
from ndt.target import Part

LENGTHS, N = (300, 200), 6


@pytest.fixture(scope="module")
def problem():
    """Counts that follow a direction, the direction, and the predictions of a network."""
    rng = np.random.default_rng(0)
    angle = np.cumsum(rng.normal(0, 0.15, sum(LENGTHS)))
    y = np.stack([np.cos(angle), np.sin(angle)], 1)
    preferred = np.linspace(0, 2 * np.pi, N, endpoint=False)
    counts = rng.poisson(np.exp(0.5 + 1.2 * np.cos(angle[:, None] - preferred))).astype(np.float32)
    cuts = np.cumsum(LENGTHS)[:-1]
    return np.split(counts, cuts), np.split(y, cuts), y + rng.normal(0, 0.3, y.shape)


@pytest.fixture(scope="module")
def ensemble(problem) -> Iterator[Ensemble]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (gru, tcn):
            patch.setattr(module, "WIDTH", 8)
            patch.setattr(module, "TRAINING", replace(module.TRAINING, steps=4, valid_every=2, batch_size=4))
        yield fitted_ensemble(*problem)


def fitted_ensemble(x, y, network) -> Ensemble:
    early = np.arange(sum(LENGTHS)) < 350
    train, valid = (np.split(rows, np.cumsum(LENGTHS)[:-1]) for rows in (early, ~early))
    rows = {"bin_size": 0.05}
    members = {
        "ridge": fit_ridge(x, y, train, valid, **rows, max_lag_s=0.2),
        "tcn": fit_tcn(x, y, train, valid, **rows, kind="angle"),
        "gru": fit_gru(x, y, train, valid, **rows, kind="angle"),
        "naive_bayes": fit_naive_bayes(x, y, train, valid, **rows, kind="angle", max_window_s=0.2),
    }
    part_ensemble = PartEnsemble(
        part=Part(name="heading", kind="angle", dims=("yaw",)),
        weights={"network": 0.4, "tcn": 0.1, "ridge": 0.2, "gru": 0.1, "naive_bayes": 0.2},
        members=members,
        conformal=Conformal.fit(np.concatenate(y)[:200], network[:200], "angle"),
    )
    return Ensemble(
        parts=(part_ensemble,), unit_ids=tuple(f"u{n}" for n in range(N)), input_drift=InputDrift.fit(x, train, 0.05)
    )


def test_prediction_is_the_weighted_mean_of_members(ensemble, problem) -> None:
    x, _, network = problem
    part_ensemble = ensemble.parts[0]
    expected = 0.4 * network + sum(
        part_ensemble.weights[n] * np.concatenate(m.predict(x)) for n, m in part_ensemble.members.items()
    )
    np.testing.assert_allclose(ensemble.predict(network, x), expected)


def test_a_saved_ensemble_predicts_the_same_to_the_last_bit(ensemble, problem, tmp_path) -> None:
    x, _, network = problem
    ensemble.save(tmp_path)
    found = Ensemble.load(tmp_path)
    np.testing.assert_array_equal(found.predict(network, x), ensemble.predict(network, x))
    own, other = (d.parts[0].conformal.half_width(network) for d in (found, ensemble))
    np.testing.assert_array_equal(own, other)
    np.testing.assert_array_equal(found.input_drift.check(x).shift, ensemble.input_drift.check(x).shift)
    assert (found.unit_ids, found.parts[0].part) == (ensemble.unit_ids, ensemble.parts[0].part)


def test_units_are_found_by_identity_and_missing_ones_are_not_observed(ensemble, problem) -> None:
    x, _, network = problem
    order = np.array([3, 0, 5, 1, 4])  # unit 2 is gone, another is new
    others = [np.hstack([k[:, order], np.full((len(k), 1), 7.0, np.float32)]) for k in x]
    arranged = ensemble.arranged(others, [f"u{n}" for n in order] + ["stranger"])
    lost = [np.where(np.arange(N) == 2, np.nan, k) for k in x]
    np.testing.assert_array_equal(np.concatenate(arranged), np.concatenate(lost).astype(np.float32))
    np.testing.assert_array_equal(ensemble.predict(network, arranged), ensemble.predict(network, lost))


def test_a_member_of_weight_zero_does_not_predict(ensemble, problem) -> None:
    x, _, network = problem
    part_ensemble = ensemble.parts[0]
    alone = PartEnsemble(
        **{**vars(part_ensemble), "weights": {"network": 1.0, "ridge": 0.0}, "members": {"ridge": None}}
    )
    only = Ensemble(parts=(alone,), unit_ids=ensemble.unit_ids, input_drift=ensemble.input_drift)
    np.testing.assert_allclose(only.predict(network, x), network)


def test_errors_name_files_that_are_missing_or_of_another_format(ensemble, tmp_path) -> None:
    with pytest.raises(InputError, match=r"ensemble\.json: content: expected a JSON file"):
        Ensemble.load(tmp_path)
    ensemble.save(tmp_path)
    (tmp_path / "ensemble.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match=r"ensemble\.safetensors: content: expected a safetensors file"):
        Ensemble.load(tmp_path)
    ensemble.save(tmp_path)
    found = json.loads((tmp_path / "ensemble.json").read_text())
    (tmp_path / "ensemble.json").write_text(json.dumps(found | {"format": 99}))
    with pytest.raises(InputError, match="format: expected 3, found 99"):
        Ensemble.load(tmp_path)
    del found["ensemble"]["parts"]
    (tmp_path / "ensemble.json").write_text(json.dumps(found))
    with pytest.raises(InputError, match="content: expected what `ndt finetune` writes"):
        Ensemble.load(tmp_path)


def _set(path: str, value: object):
    """Sets a value of the JSON, or all of an array."""

    def change(found: dict, arrays: dict) -> None:
        if path in arrays:
            arrays[path] = np.full_like(arrays[path], value)
            return
        *parents, last = path.split("/")
        for key in parents:
            found = found[int(key)] if isinstance(found, list) else found[key]
        found[last] = value

    return change


NAN = {"class": "float", "value": "nan"}


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("parts/0/weights/network", NAN, "weights: at least 0, of sum 1"),
        ("parts/0/weights/network", 0.9, "weights: at least 0, of sum 1"),
        ("parts/0/weights/network", -0.4, "weights: at least 0, of sum 1"),
        ("parts/0/weights/network", "0.4", "float, got '0.4'"),
        ("parts/0/weights/stranger", 0.0, "weights: of members"),
        ("parts/0/conformal/level", 1.0, "level must be between 0 and 1"),
        ("parts/0/conformal/quantile", [NAN], "quantile must be at least 0"),
        ("parts/0/conformal/kind", "class", "conformal: of kind angle"),
        ("parts/0/members/ridge/counts/std", 0.0, "std must have the shape of mean, and be above 0"),
        ("parts/0/members/gru/targets/std", np.nan, "above 0"),
        ("parts/0/members/ridge/weights", np.nan, "finite numbers"),
        ("parts/0/members/ridge/intercept", np.inf, "ridge: finite predictions"),
        ("parts/0/members/gru/network/readout.bias", np.nan, "finite numbers|gru: finite predictions"),
        ("parts/0/members/tcn/network/members.0.readin", np.inf, "tcn: finite predictions"),
        ("parts/0/members/naive_bayes/parts/0/rates", 0.0, "rates and prior must be above 0"),
        ("parts/0/members/naive_bayes/parts/0/window_bins", 10**12, "window_bins: 0 to 100000"),
        ("parts/0/members/naive_bayes/parts/0/power", 0.0, "above 0"),
        ("parts/0/members/ridge", 7, "members/ridge: one of TCN, Ridge"),
        ("input_drift/spread", 0.0, "window and standard deviations must be above 0"),
        ("input_drift/window", 0, "window and standard deviations must be above 0"),
        ("input_drift/limit_shift", NAN, "limits must be at least 0"),
        ("unit_ids", ["u0"] * 6, "each unit once"),
        ("unit_ids", ["u0"], "expected what"),
    ],
)
def test_values_that_would_decode_wrongly_are_refused(ensemble, tmp_path, path, value, told) -> None:
    ensemble.save(tmp_path)
    found, arrays = json.loads((tmp_path / "ensemble.json").read_text()), load_file(tmp_path / "ensemble.safetensors")
    _set(path, value)(found["ensemble"], arrays)
    (tmp_path / "ensemble.json").write_text(json.dumps(found))
    save_file(arrays, tmp_path / "ensemble.safetensors")
    with pytest.raises(InputError, match=told):
        Ensemble.load(tmp_path)


def test_weights_of_another_type_are_refused(ensemble, tmp_path) -> None:
    ensemble.save(tmp_path)
    path = tmp_path / "ensemble.safetensors"
    arrays = load_file(path)
    name = next(name for name in arrays if name.endswith("readout.bias"))
    save_file(arrays | {name: arrays[name].view(np.int32)}, path)
    with pytest.raises(InputError, match=r"readout\.bias must be float32, got int32"):
        Ensemble.load(tmp_path)


def test_a_part_with_a_label_per_trial_may_have_members_of_either_kind(ensemble, problem) -> None:
    """Only decoders of trials are told where a trial began."""
    x, _, network = problem
    own = replace(ensemble.parts[0], part=replace(ensemble.parts[0].part, per="trials"))
    trials = replace(ensemble, parts=(own,))
    since = [np.arange(len(k)) for k in x]
    np.testing.assert_array_equal(trials.predict(network, x, [since]), ensemble.predict(network, x))


def test_numbers_that_are_not_finite_go_through_json() -> None:
    conformal = Conformal.fit(np.zeros((0, 1)), np.zeros((0, 1)), "continuous")  # an infinite quantile, no known error
    found = unflatten(json.loads(json.dumps(flatten(conformal, {}), allow_nan=False)), {})
    assert found.quantile == conformal.quantile == (np.inf,)
    assert np.isnan([found.error, conformal.error]).all()


@given(seed=st.integers(0, 10**6), num_members=st.integers(1, 4))
def test_weights_are_convex_and_no_member_decodes_these_rows_better(seed, num_members) -> None:
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(50, 2))
    members = {f"m{i}": rng.uniform(0, 2) * y + rng.normal(size=y.shape) for i in range(num_members)}
    weights = ensemble_weights(y, members)
    assert min(weights.values()) >= 0
    np.testing.assert_allclose(sum(weights.values()), 1.0, atol=1e-5)
    assert r2(y, weighted_mean(members, weights)) >= max(r2(y, m) for m in members.values()) - 1e-4


def test_weights_are_the_minimum_that_a_general_solver_finds() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=(200, 2))
    noise = rng.normal(size=(3, 200, 2))
    members = {"a": y + noise[0], "b": 0.8 * y + 0.5 * noise[1], "c": y + 0.7 * noise[0] + noise[2]}
    stacked = np.stack(list(members.values()))
    found = minimize(
        lambda w: np.sum((y - np.tensordot(w, stacked, 1)) ** 2),
        np.full(3, 1 / 3),
        bounds=[(0, 1)] * 3,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
    )
    np.testing.assert_allclose(list(ensemble_weights(y, members).values()), found.x, atol=2e-3)


def test_weights_follow_inverse_variances_of_independent_errors() -> None:
    rng = np.random.default_rng(1)
    y, spread = rng.normal(size=(40_000, 1)), np.array([1.0, 2.0, 0.5])
    members = {str(s): y + s * rng.normal(size=y.shape) for s in spread}
    expected = spread**-2.0 / np.sum(spread**-2.0)
    np.testing.assert_allclose(list(ensemble_weights(y, members).values()), expected, atol=0.02)


def test_unlabelled_rows_do_not_count_and_a_member_that_is_right_has_all_the_weight() -> None:
    y = np.array([[0.0], [1.0], [3.0], [np.nan]])
    assert ensemble_weights(y, {"right": np.nan_to_num(y), "wrong": -np.nan_to_num(y)}) == {"right": 1.0, "wrong": 0.0}


def test_members_of_weight_zero_may_be_missing() -> None:
    np.testing.assert_allclose(weighted_mean({"a": np.ones((2, 1))}, {"a": 1.0, "b": 0.0}), np.ones((2, 1)))
    with pytest.raises(KeyError):
        weighted_mean({"a": np.ones((2, 1))}, {"a": 0.5, "b": 0.5})
