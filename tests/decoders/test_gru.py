"""The GRU: causal, within segments, reproducible from its seed, and better than ridge on nonlinear targets."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ndt.decoders import gru
from ndt.decoders.ensemble import flatten, unflatten
from ndt.decoders.gru import fit_gru
from ndt.decoders.ridge import fit_ridge
from ndt.errors import InputError
from ndt.evaluation.metrics import r2

BIN = 0.05
TRAINING = replace(gru.TRAINING, window_bins=24, warm_bins=6, batch_size=16, steps=60, ema=0.9)
SMALL = {"WIDTH": 24, "LEARNING_RATE": 1e-2, "TRAINING": TRAINING}


def join(arrays, masks):
    return np.concatenate([x[m] for x, m in zip(arrays, masks, strict=True)])


@pytest.fixture(autouse=True, scope="module")
def _small():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setattr(f"ndt.decoders.gru.{name}", value)
        yield


@pytest.fixture
def short(monkeypatch):
    """Networks of five steps."""
    monkeypatch.setattr("ndt.decoders.gru.WIDTH", 8)
    monkeypatch.setattr("ndt.decoders.gru.TRAINING", replace(TRAINING, steps=5))


def population(T: int, N: int = 16, seed: int = 0):
    """Counts of units tuned to where a state is on its circle, and a target that goes round twice as fast."""
    rng = np.random.default_rng(seed)
    angle = np.cumsum(0.05 + 0.05 * rng.standard_normal(T))
    z = np.stack([np.cos(angle), np.sin(angle)], 1)
    counts = rng.poisson(3 * np.exp(z @ rng.standard_normal((2, N)) * 0.4)).astype(float)
    return counts, np.stack([2 * z[:, 0] * z[:, 1], z[:, 0]], 1) * [3.0, 1.0] + [10.0, 0.0]


@pytest.fixture(scope="module")
def cut():
    """Segments of which one is shorter than a window, with masks scattered over them, and a network fitted to them."""
    counts, y = population(900)
    counts[:, 3] = np.where(np.arange(900) % 7 == 0, np.nan, counts[:, 3])
    y[40:60, 1] = np.nan
    edges, rng = [400, 410, 700], np.random.default_rng(1)
    x, v = np.split(counts, edges), np.split(y, edges)
    train = [rng.random(len(k)) < 0.7 for k in x]
    valid = [~m for m in train]
    return x, v, train, valid, fit_gru(x, v, train, valid, bin_size=BIN, kind="continuous")


def test_pieces_do_not_mix_and_the_future_does_not_leak(cut) -> None:
    x, _, _, _, model = cut
    before = model.predict(x)
    changed = [k.copy() for k in x]
    changed[0][150:] += 5
    after = model.predict(changed)
    np.testing.assert_array_equal(after[0][:150], before[0][:150])
    assert np.abs(after[0][150] - before[0][150]).max() > 0
    for i in range(1, 4):
        np.testing.assert_array_equal(after[i], before[i])
    np.testing.assert_array_equal(model.predict(x[2:3])[0], before[2])


def test_estimates_are_those_of_the_gated_unit_step_by_step(cut) -> None:
    """A slow loop in float64 over the equations; what is not observed is at its mean."""
    x, _, _, _, model = cut
    w = {name: v.double().numpy() for name, v in model.network.state_dict().items()}
    sigmoid = lambda a: 1 / (1 + np.exp(-a))
    h, out = np.zeros(SMALL["WIDTH"]), []
    for k in x[2]:
        z = np.nan_to_num((k - model.counts.mean) / model.counts.std)
        given = w["gru.weight_ih_l0"] @ z + w["gru.bias_ih_l0"]
        own = w["gru.weight_hh_l0"] @ h + w["gru.bias_hh_l0"]
        (reset, update, new), (reset_h, update_h, new_h) = np.split(given, 3), np.split(own, 3)
        keep = sigmoid(update + update_h)
        h = (1 - keep) * np.tanh(new + sigmoid(reset + reset_h) * new_h) + keep * h
        out.append(model.targets.std * (w["readout.weight"] @ h + w["readout.bias"]) + model.targets.mean)
    np.testing.assert_allclose(model.predict(x)[2], out, rtol=1e-4, atol=1e-4)  # float32 over 290 steps


def test_a_long_piece_goes_on_from_chunk_to_chunk(cut, monkeypatch) -> None:
    x, _, _, _, model = cut
    whole = model.predict(x)
    monkeypatch.setattr("ndt.decoders.gru.CHUNK", 64)
    for found, wanted in zip(model.predict(x), whole, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert model.predict([x[0][:0]])[0].shape == (0, 2)


def test_it_scores_its_predictions_and_learns_from_its_masks_alone(cut, short) -> None:
    x, y, train, valid, model = cut
    rows = [m & ~np.isnan(v).any(1) for m, v in zip(valid, y, strict=True)]
    np.testing.assert_allclose(model.valid_r2, r2(join(y, rows), join(model.predict(x), rows)), atol=1e-5)
    fewer = [m & (np.arange(len(m)) % 2 == 0) for m in valid]
    spoilt = [np.where((t | v)[:, None], k, 1e6) for k, t, v in zip(y, train, fewer, strict=True)]
    one, two = (fit_gru(x, k, train, fewer, bin_size=BIN, kind="continuous") for k in (y, spoilt))
    torch.testing.assert_close(one.network.state_dict(), two.network.state_dict(), rtol=0, atol=0)


def test_a_seed_says_all_and_torchs_own_generator_is_left_alone(cut, short) -> None:
    x, y, train, valid, _ = cut
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    fit = lambda seed: fit_gru(x, y, train, valid, bin_size=BIN, kind="continuous", seed=seed)
    one = fit(3)
    np.testing.assert_array_equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    torch.rand(7)  # another state of the global generator
    torch.testing.assert_close(fit(3).network.state_dict(), one.network.state_dict(), rtol=0, atol=0)
    assert (fit(4).network.readout.weight != one.network.readout.weight).any()


def test_a_stored_gru_predicts_the_same(cut) -> None:
    x, _, _, _, model = cut
    state = torch.random.get_rng_state()
    arrays: dict = {}
    again = unflatten(flatten(model, arrays), arrays)
    np.testing.assert_array_equal(torch.random.get_rng_state(), state)
    assert (again.kind, again.steps, again.valid_r2) == (model.kind, model.steps, model.valid_r2)
    for found, wanted in zip(again.predict(x), model.predict(x), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_it_learns_a_nonlinear_target(monkeypatch) -> None:
    counts, y = population(3000)
    rows = np.arange(len(y))
    train, valid, test = [rows < 2100], [(rows >= 2100) & (rows < 2400)], rows >= 2400
    monkeypatch.setattr("ndt.decoders.gru.TRAINING", replace(TRAINING, steps=120))
    ridge = fit_ridge([counts], [y], train, valid, bin_size=BIN)
    model = fit_gru([counts], [y], train, valid, bin_size=BIN, kind="continuous")
    linear, found = (r2(y[test], m.predict([counts])[0][test]) for m in (ridge, model))
    assert found > 0.8
    assert found > linear + 0.05


def test_classes_are_probabilities() -> None:
    counts, y = population(1500)
    label = (y[:, 0] > 10).astype(int) + 2 * (y[:, 1] > 0)
    rows = np.arange(len(y))
    train, valid, test = [rows < 1000], [(rows >= 1000) & (rows < 1200)], rows >= 1200
    one_hot = np.eye(4)[label]
    one_hot[:50] = np.nan
    model = fit_gru([counts], [one_hot], train, valid, bin_size=BIN, kind="class")
    p = model.predict([counts])[0]
    np.testing.assert_allclose(p.sum(1), 1.0)
    assert (p >= 0).all()
    assert np.mean(p[test].argmax(1) == label[test]) > 0.75
    assert np.mean(np.log(p[test, label[test]])) > -0.7  # chance is log 4


def test_no_labels_raise_an_input_error(cut) -> None:
    x, y, train, _, _ = cut
    with pytest.raises(InputError, match="valid: expected at least 2 labelled bins, found 0"):
        fit_gru(x, y, train, [np.zeros_like(m) for m in train], bin_size=BIN, kind="continuous")
