"""The model learns: every parameter gets a gradient, and one batch is overfit."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import NDT2, TINY, busy_model, random_window, recording, specification

from ndt.config import ModelConfig
from ndt.model.architectures import new_model
from ndt.model.checkpoint import TargetSpec
from ndt.model.decoding_loss import decoding_loss
from ndt.model.likelihood import count_nll
from ndt.model.masking import random_mask
from ndt.model.tokens import ACTIVITY, Batch, Window, pack
from ndt.model.transformer import NDT
from ndt.target import Part

P = TINY.units_per_patch
STILL = {"width": 24, "dropout": 0.0, "drop_path": 0.0, "count_dropout": 0.0}
CONFIGS = {
    "ndt": replace(TINY, **STILL),
    "window": replace(TINY, **STILL, attention_window=3),
    "ndt2": replace(NDT2, **STILL),
}
PARTS = (
    Part(name="vel", kind="continuous", dims=("x", "y"), unit="m/s"),
    Part(name="trials/cue", kind="class", dims=("left", "right", "up"), per="trials"),
)


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


@pytest.mark.parametrize("name", [n if n == "ndt" else pytest.param(n, marks=pytest.mark.slow) for n in CONFIGS])
def test_one_batch_is_overfit(name) -> None:
    torch.manual_seed(0)
    model = new_model(specification([recording(num_units=9)], config=CONFIGS[name])).train()
    batch = structured_batch()
    if model.KNOWS_UNITS:
        model.identity.activity[:, 0].fill_(batch.counts.float().mean())
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    start, found = None, None
    for _ in range(70):
        said = model(batch)
        masked = count_nll(said.log_rates, batch) / batch.hidden.sum()
        error = (said.decoded - batch.target).square().mean()
        start = float(masked.detach()) if start is None else start
        optimizer.zero_grad()
        (masked + error).backward()
        optimizer.step()
        found = (float(masked.detach()), float(error.detach()))
    assert found[0] < start - 0.8  # nats per unit and bin; knowing the drive gains about 1.1
    assert found[1] < 0.1


def busy(config: ModelConfig, parts: tuple[Part, ...]) -> NDT:
    """A model of eight units at known depths that decodes these parts, every weight random."""
    spec = specification([recording(num_units=8)], config=config)
    dims = tuple(c for part in parts for c in part.columns)
    known = {"mean": (0.0,) * len(dims), "std": (1.0,) * len(dims)}
    target = TargetSpec(name="a,b", dims=dims, unit="", parts=parts, **known)
    vocabulary = replace(spec.vocabulary, unit_depths=tuple(np.linspace(-1.0, 1.0, 8)))

    return busy_model(replace(spec, target=target, vocabulary=vocabulary))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_learns(name) -> None:
    """Also those of the head of labels per trial, where there is one."""
    parts, rng = PARTS if name != "ndt2" else PARTS[:1], np.random.default_rng(0)
    model = busy(CONFIGS[name], parts)
    window = random_window(6, 8, rng, absent=0.0)
    labels = np.eye(3)[rng.integers(3, size=6)].astype(np.float32)
    activity = rng.standard_normal((8, len(ACTIVITY))).astype(np.float32) ** 2
    target = np.concatenate([window.target, labels], 1) if len(parts) > 1 else window.target
    trial = np.stack([np.full(6, -1), np.repeat([4, 5], 3)], 1)[:, : len(parts)]
    batch = pack([replace(window, target=target, trial=trial, activity=activity)], P)
    said = model(batch)
    (count_nll(said.log_rates, batch) + decoding_loss(said.decoded, batch.target, parts)).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert set(silent) <= {"heads.1.score.bias"}  # the softmax over a trial's bins cancels it


@pytest.mark.slow
def test_a_population_of_1500_units_trains() -> None:
    """More patches than any table of slots holds; patches of 32 units, forty steps on the same four windows."""
    torch.manual_seed(0)
    rng, N = np.random.default_rng(0), 1500
    config = replace(TINY, **STILL | {"width": 32}, units_per_patch=32)
    model, some = NDT(specification([recording(num_units=N)], config=config, dims=0)).train(), []
    gain = rng.uniform(0.5, 1.5, N)
    for _ in range(4):
        rates = np.exp(-1.0 + 0.7 * np.repeat(rng.standard_normal(5), 4)[:, None] * gain)
        hidden = np.repeat(random_mask((20, 47), 0.5, rng), 32, axis=1)[:, :N]
        counts = rng.poisson(np.minimum(rates, 20)).astype(np.uint8)
        valid, unit = np.ones((20, N), bool), np.arange(N)
        some.append(Window(counts=counts, valid=valid, unit=unit, context=np.arange(3), hidden=hidden))
    batch = pack(some, 32)
    model.identity.activity[:, 0] = torch.from_numpy(batch_means(some))
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
