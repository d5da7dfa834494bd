"""The decoding loss equals its definition in float64, with its gradient and its number of labels."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds

from ndt.model.decoding_loss import decoding_loss, num_labels
from ndt.target import Part, part_columns

VEL = Part(name="vel", kind="continuous", dims=("x", "y"), unit="m/s")
SPEED = Part(name="speed", kind="continuous", dims=("v",), unit="m/s")
HEAD = Part(name="head", kind="angle", dims=("yaw",))
GO = Part(name="trials/go", kind="class", dims=("a", "b", "c"), per="trials")
STAGE = Part(name="stage", kind="class", dims=("n", "r"))


def problem(parts, num_bins, seed, missing=0.3):
    """Random predictions and targets, with each part missing in some bins."""
    rng = np.random.default_rng(seed)
    target = []
    for part in parts:
        if part.kind == "class":
            values = np.eye(part.num_columns)[rng.integers(part.num_columns, size=num_bins)]
        else:
            values = rng.standard_normal((num_bins, part.num_columns))
        values[rng.random(num_bins) < missing] = np.nan
        target.append(values)
    target = torch.tensor(np.concatenate(target, 1), dtype=torch.float32)

    return torch.tensor(rng.standard_normal(target.shape) * 3, dtype=torch.float32), target


def slow_loss(decoded, target, parts) -> tuple[float, int]:
    """The definition, bin by bin, and the number of labels."""
    total, number = 0.0, 0
    for x, y in zip(decoded.double().numpy(), target.double().numpy(), strict=True):
        for part, columns in zip(parts, part_columns(parts), strict=True):
            if np.isnan(y[columns]).any():
                continue
            number += 1
            if part.kind == "class":
                chances = np.exp(x[columns]) / np.exp(x[columns]).sum()
                total -= math.log(chances[y[columns].argmax()]) / math.log(part.num_columns)
            else:
                total += np.mean((x[columns] - y[columns]) ** 2)

    return total, number


@given(st.lists(st.sampled_from([VEL, SPEED, HEAD, GO, STAGE]), min_size=1, max_size=4), st.integers(1, 9), seeds)
def test_the_loss_is_its_definition(parts, num_bins, seed) -> None:
    decoded, target = problem(parts, num_bins, seed)
    total, number = slow_loss(decoded, target, parts)
    np.testing.assert_allclose(float(decoding_loss(decoded, target, parts)), total, rtol=1e-5, atol=1e-6)
    assert int(num_labels(target, parts)) == number


def test_its_gradient_is_that_of_chances_and_of_squares_and_nothing_where_there_is_no_label() -> None:
    parts = [VEL, GO]
    decoded, target = problem(parts, 40, seed=0)
    decoded.requires_grad_(True)
    decoding_loss(decoded, target, parts).backward()
    x, y = decoded.detach(), target
    expected = torch.cat([x[:, :2] - y[:, :2], (x[:, 2:].softmax(1) - y[:, 2:]) / math.log(3)], 1)
    torch.testing.assert_close(decoded.grad, expected.nan_to_num(), rtol=1e-5, atol=1e-6)
    missing = target.isnan()
    assert 0 < missing[:, 0].sum() < 40
    assert not decoded.grad[missing].any()


@pytest.mark.parametrize("part", [VEL, SPEED, HEAD, GO, STAGE])
def test_what_knows_nothing_costs_one_of_every_part(part) -> None:
    _, target = problem([part], 500, seed=1, missing=0.0)
    if part.kind != "class":
        target = (target - target.mean(0)) / target.std(0, correction=0)
    loss = decoding_loss(torch.full_like(target, 0.7 if part.kind == "class" else 0.0), target, [part])
    torch.testing.assert_close(loss / num_labels(target, [part]), torch.tensor(1.0))


def test_of_one_quantity_it_is_the_mean_squared_error_over_bins_and_dimensions_to_the_last_bit() -> None:
    decoded, target = problem([VEL], 101, seed=2)
    missing = target.isnan()
    before = torch.where(missing, 0.0, decoded - target.nan_to_num()).square().sum() / (~missing).sum()
    torch.testing.assert_close(
        decoding_loss(decoded, target, [VEL]) / num_labels(target, [VEL]), before, rtol=0, atol=0
    )


def test_logits_that_are_large_or_half_precision_cost_what_they_should() -> None:
    target = torch.tensor([[1.0, 0.0]])
    for logits, loss in (([200.0, -200.0], 0.0), ([-200.0, 200.0], 400 / math.log(2))):
        found = decoding_loss(torch.tensor([logits]).bfloat16(), target, [STAGE])
        torch.testing.assert_close(found, torch.tensor(loss))


def test_a_batch_without_a_label_costs_nothing_and_has_a_gradient() -> None:
    decoded = torch.zeros(3, 5, requires_grad=True)
    target = torch.full((3, 5), torch.nan)
    loss = decoding_loss(decoded, target, [VEL, GO])
    loss.backward()
    assert (float(loss.detach()), int(num_labels(target, [VEL, GO]))) == (0.0, 0)
    torch.testing.assert_close(decoded.grad, torch.zeros(3, 5))
