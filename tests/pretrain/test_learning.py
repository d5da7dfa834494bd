"""The model learns: every parameter gets a gradient, and one batch is overfit."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import TINY, random_window, recording, specification, with_means

from ndt.model.likelihood import count_nll
from ndt.model.masking import random_mask
from ndt.model.tokens import Batch, Window, pack
from ndt.model.transformer import NDT
from tests.model.test_transformer import CONFIGS, P, gradients, model_of


def structured_batch() -> Batch:
    """Eight windows in which all units fire together at random moments, which is also the target."""
    rng, some = np.random.default_rng(0), []
    for _ in range(8):
        drive = np.repeat(rng.random(5) < 0.5, 4)[:, None]
        target = np.concatenate([drive, 1 - drive], 1).astype(np.float32) * 2 - 1
        some.append(
            Window(
                counts=rng.poisson(np.where(drive, 4.0, 0.2), (20, 9)).astype(np.uint8),
                valid=np.ones((20, 9), bool),
                unit=np.arange(9),
                context=np.arange(3),
                hidden=np.repeat(random_mask((20, 3), 0.3, rng), 3, axis=1),
                target=target,
            )
        )
    return pack(some, P)


@pytest.mark.parametrize("name", [n if n == "axial" else pytest.param(n, marks=pytest.mark.slow) for n in CONFIGS])
def test_one_batch_is_overfit(name) -> None:
    torch.manual_seed(0)
    config = replace(CONFIGS[name], width=24, dropout=0.0, tcn_dropout=0.0, count_dropout=0.0)
    model, batch = NDT(specification([recording(num_units=9)], config=config)).train(), structured_batch()
    model.mean_counts.fill_(batch.counts.float().mean())
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    start, found = None, None
    for _ in range(70):
        said = model(batch)
        masked = count_nll(said.log_rates, batch) / batch.hidden.sum()
        stacks = len(said.decoded) // len(batch.target)  # of convolutions, each of which learns by itself
        error = (said.decoded - batch.target.repeat(stacks, 1)).square().mean()
        start = float(masked.detach()) if start is None else start
        optimizer.zero_grad()
        (masked + error).backward()
        optimizer.step()
        found = (float(masked.detach()), float(error.detach()))
    assert found[0] < start - 0.8  # nats per unit and bin; knowing the drive gains about 1.1
    assert found[1] < 0.1


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_learns(name) -> None:
    model = model_of(CONFIGS[name])
    silent = [n for n, g in gradients(model, structured_batch_of(8)).items() if not g.abs().sum() > 0]
    assert silent == []


def structured_batch_of(N: int) -> Batch:
    return pack([random_window(6, N, np.random.default_rng(0), absent=0.0)], P)


@pytest.mark.slow
def test_a_population_of_1500_units_trains() -> None:
    """More patches than any table of slots holds; patches of 32 units, forty steps on the same four windows."""
    torch.manual_seed(0)
    rng, N = np.random.default_rng(0), 1500
    config = replace(TINY, width=32, units_per_patch=32)
    model, some = NDT(specification([recording(num_units=N)], config=config, dims=0)).train(), []
    gain = rng.uniform(0.5, 1.5, N)
    for _ in range(4):
        rates = np.exp(-1.0 + 0.7 * np.repeat(rng.standard_normal(5), 4)[:, None] * gain)
        hidden = np.repeat(random_mask((20, 47), 0.5, rng), 32, axis=1)[:, :N]
        counts = rng.poisson(np.minimum(rates, 20)).astype(np.uint8)
        valid, unit = np.ones((20, N), bool), np.arange(N)
        some.append(Window(counts=counts, valid=valid, unit=unit, context=np.arange(3), hidden=hidden))
    batch = pack(some, 32)
    with_means(model, batch_means(some))
    optimizer, losses, began = torch.optim.AdamW(model.parameters(), lr=3e-3), [], time.monotonic()
    for _ in range(40):
        said = model(batch)
        loss = count_nll(said.log_rates, batch) / batch.hidden.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert time.monotonic() - began < 40 * 5  # a step takes a fraction of a second on an idle core
    assert losses[-1] < losses[0] - 0.015  # of the 0.05 that the common drive explains


def batch_means(some: list[Window]) -> np.ndarray:
    """Mean count of each unit over windows of the same units."""
    return np.concatenate([w.counts for w in some]).mean(0)
