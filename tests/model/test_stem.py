"""The stem: read-in and temporal convolution equal their formulas on ragged windows."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import TINY, random_window
from strategies import windows

from ndt.config import ModelConfig
from ndt.model.identity import Population
from ndt.model.stem import ReadIn, Stem, at_lags
from ndt.model.tokens import Batch, Window, pack

P, E, D = TINY.units_per_patch, TINY.unit_width, TINY.width


def population(batch: Batch, seed: int = 0) -> Population:
    """Units with random vectors, one of them silent."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.rand(len(batch.unit), generator=generator, dtype=torch.float64) * 3
    mean[0] = 0.0
    return Population(torch.randn((len(mean), E), generator=generator, dtype=torch.float64), mean)


def slow_read_in(batch: Batch, units: Population) -> torch.Tensor:
    """The formula, entry by entry."""
    found = torch.zeros(batch.num_tokens, E, dtype=torch.float64)
    for token in range(batch.num_tokens):
        valid = batch.valid[token].nonzero()[:, 0].tolist()
        seen = [place for place in valid if not batch.hidden[token, place]]
        for place in seen:
            n = int(batch.members[batch.patch[token], place])
            mean = float(units.mean_counts[n])
            z = (int(batch.counts[token, place]) - mean) / (mean + 0.1) ** 0.5
            found[token] += min(max(z, -6.0), 6.0) * units.vectors[n] * len(valid) ** 0.5 / len(seen)

    return found


@settings(max_examples=20)
@given(some=st.lists(windows(num_units=8), min_size=1, max_size=3), patch=st.sampled_from([3, 64]))
def test_the_read_in_is_the_formula(some, patch) -> None:
    """Also of windows of one session in another order of units, and of counts beyond six standard deviations."""
    some = [*some, replace(some[0], unit=some[0].unit[::-1].copy(), counts=some[0].counts * 9)]
    batch = pack(some, patch)
    units = population(batch)
    found = ReadIn(0.5).eval()(batch, units)
    torch.testing.assert_close(found, slow_read_in(batch, units), rtol=0, atol=1e-10)


def test_what_is_not_seen_contributes_nothing() -> None:
    window = random_window(6, 8, np.random.default_rng(0))
    seen = window.valid & ~window.hidden
    other = replace(window, counts=np.where(seen, window.counts, 50).astype(np.uint8))
    batches = [pack([w], P) for w in (window, other)]
    one, two = (ReadIn(0.0)(b, population(b)) for b in batches)
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert not one[~batches[0].visible].any()
    assert one[batches[0].visible].abs().amax(1).min() > 0


def test_more_observed_units_do_not_make_larger_tokens() -> None:
    """Independent units of any number give inputs of one size, whether or not some are hidden."""
    rng, sizes = np.random.default_rng(0), {}
    for N in (4, 40, 300):
        for hidden in (0.0, 0.5):
            window = Window(
                counts=rng.poisson(1.0, (1000, N)).astype(np.uint8),
                valid=np.ones((1000, N), bool),
                unit=np.arange(N),
                context=np.arange(1),
                hidden=np.tile(np.arange(N) < hidden * N, (1000, 1)),
            )
            batch = pack([window], 512)
            vectors = torch.randn(N, 64, generator=torch.Generator().manual_seed(0))
            units = Population(8 * torch.nn.functional.normalize(vectors), torch.ones(N))
            sizes[N, hidden] = float(ReadIn(0.0)(batch, units).square().mean())
    for hidden, expected in ((0.0, 1 / 1.1), (0.5, 2 / 1.1)):  # variance of counts 1, over mean + 0.1
        found = [sizes[N, hidden] for N in (4, 40, 300)]
        np.testing.assert_allclose(found, expected, rtol=0.15)


def test_counts_are_left_out_in_training_at_their_probability() -> None:
    """A count that is left out is its mean: it contributes nothing; the others are larger by 1 / (1 - p)."""
    N, T, p = 10, 2000, 0.3
    window = Window(
        counts=np.full((T, N), 3, np.uint8), valid=np.ones((T, N), bool), unit=np.arange(N), context=np.arange(1)
    )
    batch = pack([window], N)
    units = Population(torch.eye(N), torch.ones(N))  # a dimension of its own for each unit
    z = 2 / 1.1**0.5 / N**0.5  # of all N units
    layer = ReadIn(p)
    torch.testing.assert_close(layer.eval()(batch, units), torch.full((T, N), z))
    torch.manual_seed(0)
    found = layer.train()(batch, units)
    out = found == 0
    torch.testing.assert_close(found[~out], torch.full_like(found[~out], z / (1 - p)), rtol=1e-4, atol=0)
    assert float((out.double().mean(0) - p).abs().max()) < 5 * (p * (1 - p) / T) ** 0.5


@settings(max_examples=30)
@given(some=st.lists(windows(), min_size=1, max_size=4), lags=st.lists(st.integers(-9, 9), min_size=1, max_size=3))
def test_a_lag_is_the_token_of_the_same_patch_that_many_bins_earlier(some, lags) -> None:
    """In windows of several patches and of different lengths, with missing tokens; L where there is none."""
    batch = pack(some, P)
    where = list(zip(batch.window.tolist(), batch.slot.tolist(), batch.time.tolist(), strict=True))
    at = {key: i for i, key in enumerate(where)}
    for lag, found in zip(lags, at_lags(batch, lags), strict=True):
        assert found.tolist() == [at.get((b, s, t - lag), len(where)) for b, s, t in where]


def dense(T: int, N: int, seed: int = 0) -> Window:
    return random_window(T, N, np.random.default_rng(seed), absent=0.0, hidden=0.2)


def new_stem(**changes: object) -> tuple[Stem, ModelConfig]:
    config = replace(TINY, **changes)
    torch.manual_seed(0)
    return Stem(config).double().eval(), config


def convolved(stem: Stem, config: ModelConfig, tokens: torch.Tensor) -> torch.Tensor:
    """The layers by torch's convolution, (T, D), of one patch of a dense window."""
    x = stem.linear(tokens).T[None]  # (1, D, T)
    for i, layer in enumerate(stem.layers):
        reach = 2**i
        weight = torch.stack(layer.weight.split(D, 1), 2)  # (D, D, 3), taps in the order of their columns
        if config.causal:
            padded = torch.nn.functional.pad(x, (2 * reach, 0))
        else:
            padded = torch.nn.functional.pad(x, (reach, reach))
            weight = weight[..., [0, 2, 1]]  # columns: before, after, at
        x = x + torch.nn.functional.gelu(torch.nn.functional.conv1d(padded, weight, layer.bias, dilation=reach))

    return x[0].T


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("num_stem_layers", [0, 1, 3])
def test_layers_are_dilated_convolutions_of_each_patch(num_stem_layers, causal) -> None:
    """In each window and patch by itself; before its first bin there are zeros."""
    stem, config = new_stem(num_stem_layers=num_stem_layers, causal=causal)
    batch = pack([dense(13, 8), dense(6, 5, seed=1)], P)
    units = population(batch)
    found, tokens = stem(batch, units), stem.read_in(batch, units)
    for window in (0, 1):
        for slot in range((3, 2)[window]):
            rows = (batch.window == window) & (batch.slot == slot)
            torch.testing.assert_close(found[rows], convolved(stem, config, tokens[rows]), rtol=0, atol=1e-10)


def test_a_missing_token_is_as_a_bin_before_the_window() -> None:
    """A bin in which no unit of the patch was observed has no token, and those after it read zeros there."""
    stem, _ = new_stem(num_stem_layers=1)
    window = dense(9, 3)
    window.valid[4] = False
    batch = pack([window], P)
    units = population(batch)
    assert batch.time.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    x = torch.zeros(9, D, dtype=torch.float64)
    x[batch.time] = stem.linear(stem.read_in(batch, units))
    taps = torch.cat([torch.nn.functional.pad(x, (0, 0, lag, 0))[:9] for lag in (2, 1, 0)], 1)
    expected = x + torch.nn.functional.gelu(stem.layers[0](taps))
    torch.testing.assert_close(stem(batch, units), expected[batch.time], rtol=0, atol=1e-10)


def test_the_past_is_read_as_far_as_the_settings_say_and_the_future_not_at_all() -> None:
    """n layers of three taps read 2 (2^n - 1) bins of the past."""
    stem, _ = new_stem(num_stem_layers=3)
    window = dense(40, 3)
    window.hidden[:] = False
    batch, changed = pack([window], P), 20
    counts = batch.counts.clone()
    counts[changed] += 1
    units = population(batch)
    difference = (stem(replace(batch, counts=counts), units) - stem(batch, units)).abs().amax(1)
    assert difference.nonzero()[:, 0].tolist() == list(range(changed, changed + 2 * (2**3 - 1) + 1))
