"""The TCN: causal, within segments, reproducible from its seed, and able to learn a filter of short segments."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import erf

from ndt.decoders import tcn
from ndt.decoders.ensemble import flatten, unflatten
from ndt.decoders.ridge import fit_ridge
from ndt.decoders.tcn import Convolutions, fit_tcn
from ndt.errors import InputError
from ndt.evaluation.metrics import r2
from ndt.model.checkpoint import load_arrays, save_arrays

BIN = 0.05
TRAINING = replace(tcn.TRAINING, window_bins=24, batch_size=16, steps=80, warmup=10, ema=0.9, valid_every=20)
SMALL = {
    "READIN_WIDTH": 8,
    "WIDTH": 16,
    "LAYERS": 3,
    "TRAINING": TRAINING,
    "LEARNING_RATE": 1e-2,
    "READIN_LR_SCALE": 10.0,
    "COUNT_DROPOUT": 0.1,
    "DROPOUT": 0.1,
}
FIT = {"bin_size": BIN, "kind": "continuous"}


def join(arrays, masks):
    return np.concatenate([x[m] for x, m in zip(arrays, masks, strict=True)])


@pytest.fixture(autouse=True, scope="module")
def _small():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setattr(f"ndt.decoders.tcn.{name}", value)
        yield


@pytest.fixture
def short(monkeypatch):
    """Networks of five steps."""
    for name, value in {"WIDTH": 8, "TRAINING": replace(TRAINING, steps=5)}.items():
        monkeypatch.setattr(f"ndt.decoders.tcn.{name}", value)


def filtered(lengths, N: int = 12, seed: int = 0):
    """Counts, and a target that is a known filter of five bins of their logarithms' common latents."""
    rng = np.random.default_rng(seed)
    mix, taps, x, y = rng.standard_normal((2, N)), np.array([0.1, 0.2, 0.4, 0.2, 0.1]), [], []
    for T in lengths:
        z = np.stack([np.convolve(rng.standard_normal(T + 8), np.ones(9) / 3, "valid") for _ in range(2)], 1)
        x.append(rng.poisson(2 * np.exp(0.5 * z @ mix)).astype(float))
        past = np.pad(z, ((4, 0), (0, 0)))
        y.append(sum(w * past[k : k + T] for k, w in enumerate(taps)) * [3.0, 1.0] + [10.0, 0.0])
    return x, y


def thirds(lengths):
    """Masks of training, validation and test segments, in turn."""
    return [[np.full(T, i % 10 in where) for i, T in enumerate(lengths)] for where in (range(7), (7, 8), (9,))]


@pytest.fixture(scope="module")
def cut():
    """Segments of which one is shorter than a window, with masks scattered over them, and a network fitted to them."""
    x, v = filtered([400, 10, 290, 200])
    x[0][::7, 3] = np.nan
    v[0][40:60, 1] = np.nan
    rng = np.random.default_rng(1)
    train = [rng.random(len(k)) < 0.7 for k in x]
    valid = [~m for m in train]
    return x, v, train, valid, fit_tcn(x, v, train, valid, **FIT)


def test_segments_do_not_mix_and_later_spikes_leave_earlier_predictions_bit_equal(cut) -> None:
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


def test_the_memory_is_as_long_as_stated(cut) -> None:
    x, _, _, _, model = cut
    before, memory = model.predict(x)[0], model.network.memory
    assert memory == 2 * (1 + 2 + 4)
    changed = x[0].copy()
    changed[100] += 5
    moved = np.abs(model.predict([changed])[0] - before).max(1)
    assert moved[100 : 101 + memory].min() > 0
    np.testing.assert_array_equal(moved[101 + memory :], 0.0)


def test_estimates_are_those_of_the_equations_step_by_step(cut) -> None:
    """A slow loop in float64; counts that are not observed are left out of the sum, which is scaled to the others."""
    x, _, _, _, model = cut
    members, estimates = model.network.members, []
    for member in members:
        w = {name: v.double().numpy() for name, v in member.state_dict().items()}
        rows: list[list[np.ndarray]] = [[] for _ in range(SMALL["LAYERS"] + 1)]
        for c in x[0]:
            seen = ~np.isnan(c)
            z = np.clip((c - model.counts.mean) / np.sqrt(model.counts.mean + 0.1), -6, 6)[seen]
            rows[0].append(w["inputs.weight"] @ (z @ w["readin"][seen] / np.sqrt(seen.sum())) + w["inputs.bias"])
        zero = np.zeros(SMALL["WIDTH"])
        for i in range(SMALL["LAYERS"]):
            for t, own in enumerate(rows[i]):
                taps = [rows[i][t - s * 2**i] if t >= s * 2**i else zero for s in (2, 1, 0)]
                a = w[f"layers.{i}.weight"] @ np.concatenate(taps) + w[f"layers.{i}.bias"]
                rows[i + 1].append(own + a * (1 + erf(a / np.sqrt(2))) / 2)
        estimates.append(np.array(rows[-1]) @ w["readout.weight"].T + w["readout.bias"])
    expected = model.targets.std * np.mean(estimates, 0) + model.targets.mean
    np.testing.assert_allclose(model.predict(x)[0], expected, rtol=1e-4, atol=1e-4)  # float32


def test_a_long_segment_goes_on_from_chunk_to_chunk(cut, monkeypatch) -> None:
    x, _, _, _, model = cut
    whole = model.predict(x)
    monkeypatch.setattr("ndt.decoders.tcn.CHUNK", 64)
    for found, wanted in zip(model.predict(x), whole, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert model.predict([x[0][:0]])[0].shape == (0, 2)


def test_it_scores_its_predictions_and_learns_from_its_masks_alone(cut, short) -> None:
    x, y, train, valid, model = cut
    rows = [m & ~np.isnan(v).any(1) for m, v in zip(valid, y, strict=True)]
    np.testing.assert_allclose(model.valid_r2, r2(join(y, rows), join(model.predict(x), rows)), atol=1e-5)
    fewer = [m & (np.arange(len(m)) % 2 == 0) for m in valid]
    spoilt = [np.where((t | v)[:, None], k, 1e6) for k, t, v in zip(y, train, fewer, strict=True)]
    one, two = (fit_tcn(x, k, train, fewer, **FIT, auxiliary=k) for k in (y, spoilt))
    torch.testing.assert_close(one.network.state_dict(), two.network.state_dict(), rtol=0, atol=0)


def test_a_seed_says_all_and_torchs_own_generator_is_left_alone(cut, short) -> None:
    x, y, train, valid, _ = cut
    state = torch.random.get_rng_state()
    fit = lambda seed: fit_tcn(x, y, train, valid, **FIT, seed=seed)
    one = fit(3)
    np.testing.assert_array_equal(torch.random.get_rng_state(), state)
    torch.rand(7)  # another state of the global generator
    torch.testing.assert_close(fit(3).network.state_dict(), one.network.state_dict(), rtol=0, atol=0)
    assert (fit(4).network.members[0].readin != one.network.members[0].readin).any()


def test_a_tcn_on_disk_predicts_the_same(cut, tmp_path) -> None:
    x, _, _, _, model = cut
    state = torch.random.get_rng_state()
    arrays: dict = {}
    found = flatten(model, arrays)
    save_arrays(arrays, tmp_path / "arrays.safetensors")
    again = unflatten(found, load_arrays(tmp_path / "arrays.safetensors"))
    np.testing.assert_array_equal(torch.random.get_rng_state(), state)
    assert (again.kind, again.steps, again.valid_r2) == (model.kind, model.steps, model.valid_r2)
    for found, wanted in zip(again.predict(x), model.predict(x), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("layers", [1, 11])
def test_sizes_follow_from_the_weights(layers: int) -> None:
    network = Convolutions(3, 5, 4, 2, 6, layers).eval()
    z = torch.randn(1, 20, 5)
    again = Convolutions.of({name: w.numpy() for name, w in network.state_dict().items()})
    torch.testing.assert_close(again(z), network(z), rtol=0, atol=0)


def test_it_learns_a_known_filter_of_short_segments() -> None:
    """Trials of 4 to 20 bins, of which most are shorter than the network's memory."""
    lengths = list(np.random.default_rng(2).integers(4, 21, 200))
    x, y = filtered(lengths)
    train, valid, test = thirds(lengths)
    model = fit_tcn(x, y, train, valid, **FIT)
    ridge = fit_ridge(x, y, train, valid, bin_size=BIN)
    found, linear = (r2(join(y, test), join(m.predict(x), test)) for m in (model, ridge))
    assert found > 0.7
    assert found > linear - 0.05


def test_auxiliary_targets_are_trained_on_but_not_predicted(cut, short) -> None:
    x, y, train, valid, _ = cut
    missing, given = [np.full((len(k), 1), np.nan) for k in x], [k[:, :1] for k in y]
    one, two = (fit_tcn(x, y, train, valid, **FIT, auxiliary=a) for a in (missing, given))
    assert one.predict(x)[0].shape == two.predict(x)[0].shape == (400, 2)
    before, after = (m.network.members[0].readout.bias.detach().numpy() for m in (one, two))  # biases do not decay
    with torch.random.fork_rng():
        torch.manual_seed(0)
        start = Convolutions(2, 12, 3, 8, 8, SMALL["LAYERS"]).members[0].readout.bias.detach().numpy()
    np.testing.assert_allclose(before[2], start[2], rtol=1e-6)
    assert (after != before).all()


def test_classes_are_probabilities() -> None:
    lengths = [20] * 60
    x, y = filtered(lengths)
    label = [(v[:, 0] > 10).astype(int) + 2 * (v[:, 1] > 0) for v in y]
    one_hot = [np.eye(4)[k] for k in label]
    one_hot[0][:] = np.nan
    train, valid, test = thirds(lengths)
    p = join(fit_tcn(x, one_hot, train, valid, bin_size=BIN, kind="class").predict(x), test)
    np.testing.assert_allclose(p.sum(1), 1.0)
    assert (p >= 0).all()
    true = join(label, test)
    assert np.mean(p.argmax(1) == true) > 0.5
    assert np.mean(np.log(p[np.arange(len(p)), true])) > -1.1  # chance is log 4


def test_no_labels_raise_an_input_error(cut) -> None:
    x, y, train, _, _ = cut
    with pytest.raises(InputError, match="valid: expected at least 2 labelled bins, found 0"):
        fit_tcn(x, y, train, [np.zeros_like(m) for m in train], **FIT)
