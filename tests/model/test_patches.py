"""Counts to embeddings and latents to rates, against loops over units that follow the formulas."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from problems import TINY, random_window
from strategies import windows

from ndt.model.patches import MAX_COUNT, PatchEmbedding, Population, RateReadout
from ndt.model.tokens import Batch, pack

P, E, D = TINY.units_per_patch, TINY.unit_width, TINY.width


def filled(layer: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The layer with every weight drawn at random: a new readout's are zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return layer


def population(batch: Batch, seed: int = 0) -> Population:
    generator = torch.Generator().manual_seed(seed)
    U = len(batch.unit)
    return Population(torch.randn((U, E), generator=generator), torch.rand(U, generator=generator) * 3)


@settings(max_examples=20)
@given(window=windows(num_units=8))
def test_an_embedding_is_the_sum_over_visible_units_of_the_formula(window) -> None:
    window = replace(window, counts=window.counts * 9)  # some above the largest that is known
    layer, batch = filled(PatchEmbedding(TINY)).double(), pack([window, window], P)
    units = population(batch)
    units = Population(units.vectors.double(), units.mean_counts.double())
    found, expected = layer(batch, batch.visible, units), []
    for token in batch.visible.nonzero()[:, 0].tolist():
        total = torch.zeros(D, dtype=torch.float64)
        for place in range(P):
            if not batch.valid[token, place] or batch.hidden[token, place]:
                continue
            n, c = int(batch.members[batch.patch[token], place]), min(int(batch.counts[token, place]), MAX_COUNT)
            u, mean = units.vectors[n], units.mean_counts[n]
            inner = layer.count.weight[c] + layer.unit.weight @ u + layer.unit.bias
            total = total + torch.nn.functional.gelu(inner) + (c - mean) / (mean + 0.1).sqrt() * (layer.gain.weight @ u)
        expected.append(layer.out.weight @ (total / P**0.5) + layer.out.bias)
    torch.testing.assert_close(found, torch.stack(expected) if expected else found.new_zeros(0, D), rtol=0, atol=1e-10)


@pytest.mark.parametrize("gathered", [0, 2**23])  # a product a patch, or keys copied for each token
@settings(max_examples=20)
@given(window=windows(num_units=8))
def test_rates_are_the_formula_unit_by_unit(gathered, window) -> None:
    batch = pack([window, replace(window, unit=window.unit[::-1].copy())], P)
    layer, units = filled(RateReadout(TINY)), population(batch)
    W = int(batch.predicted.sum())
    z = torch.randn((W, D), generator=torch.Generator().manual_seed(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ndt.model.patches.GATHERED", gathered)
        found = layer(z, batch, batch.predicted, units)
    for i, token in enumerate(batch.predicted.nonzero()[:, 0].tolist()):
        for place in batch.hidden[token].nonzero()[:, 0].tolist():
            n = int(batch.members[batch.patch[token], place])
            u = units.vectors[n]
            product = (layer.unit.weight @ u + layer.unit.bias) @ (layer.latent.weight @ z[i] + layer.latent.bias)
            base = layer.base.weight[0] @ u + layer.base.bias[0] + units.mean_counts[n].clamp(min=1e-4).log()
            torch.testing.assert_close(found[i, place], product + base, rtol=1e-4, atol=1e-4)
    assert found.shape == (W, P)


def test_a_new_model_predicts_the_mean_of_each_unit() -> None:
    torch.manual_seed(0)
    batch = pack([random_window(4, 3, np.random.default_rng(0), absent=0.0)], P)
    every = torch.ones(batch.num_tokens, dtype=torch.bool)
    units = Population(torch.randn(3, E), torch.tensor([0.5, 0.0, 2.0]))
    found = RateReadout(TINY)(torch.randn(4, D), batch, every, units)
    torch.testing.assert_close(found.exp(), torch.tensor([[0.5, 1e-4, 2.0]]).expand(4, -1))  # a silent one is finite
