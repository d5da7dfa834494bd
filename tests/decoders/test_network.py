"""Training of networks: windows cover the training rows, weights are averaged, and the best validation is kept."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ndt.decoders.network import Training, _batch, _windows, best_network, padded, target_loss, to_targets
from ndt.segments import Scaler

TRAINING = Training(window_bins=24, warm_bins=6, batch_size=4, steps=12, warmup=3, ema=0.9, valid_every=1, patience=100)
TRAIN = [np.ones(40, bool), np.ones(7, bool)]


class Number(nn.Module):
    """A single weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))


def trained(training: Training = TRAINING, scores=None):
    """Lets the weight rise by the learning rate at each step; returns the weights seen in validation too."""
    network, seen = Number(), []

    def score(average: Number) -> float:
        seen.append(average.weight.item())
        return seen[-1] if scores is None else scores[len(seen) - 1]

    optimiser = torch.optim.SGD(network.parameters(), lr=1e-2)
    loss = lambda rows, scored: -network.weight
    return *best_network(network, optimiser, loss, score, TRAIN, training, 0), seen


@pytest.mark.parametrize("warm", [0, 6])
def test_each_labelled_training_row_is_scored_once_a_pass_and_with_bins_before_it(warm: int) -> None:
    lengths, rng = [100, 5, 24, 25, 61], np.random.default_rng(0)
    first, edges = np.cumsum(lengths) - lengths, np.cumsum(lengths)[:-1]
    segment, train = np.repeat(np.arange(5), lengths), rng.random(sum(lengths)) < 0.8
    windows = _windows(np.split(train, edges), replace(TRAINING, warm_bins=warm), rng)
    seen, count = np.zeros(sum(lengths), int), 0
    while count < 7 * train.sum():
        rows, scored = next(windows)
        assert len(rows) <= TRAINING.window_bins
        np.testing.assert_array_equal(np.diff(rows), 1)
        assert len(set(segment[rows])) == 1
        assert ((np.arange(len(rows)) >= warm) | (rows[0] == first[segment[rows[0]]]))[scored].all()
        seen[rows] += scored
        count += scored.sum()
    np.testing.assert_array_equal(seen, 7 * train)


def test_a_batch_by_hand() -> None:
    rows, scored = _batch([(np.array([4, 5, 6]), np.array([False, True, True])), (np.array([0]), np.array([True]))], 9)
    np.testing.assert_array_equal(rows, [[4, 5, 6], [0, 9, 9]])
    np.testing.assert_array_equal(scored, [[False, True, True], [True, False, False]])


def test_the_average_and_the_rates_are_those_of_a_slow_loop() -> None:
    found, step, best, seen = trained()
    weight, average, expected = 0.0, 0.0, []
    for k in range(1, 13):
        rate = 1e-2 * min(k / 3, 1) * (1 + math.cos(math.pi * (k - 1) / 12)) / 2
        weight += rate
        decay = min(0.9, k / (k + 9))
        average = decay * average + (1 - decay) * weight
        expected.append(average)
    np.testing.assert_allclose(seen, expected, rtol=1e-5)
    assert (step, best) == (12, found.weight.item())


def test_the_best_validation_is_kept_and_training_stops_without_a_better_one() -> None:
    found, step, best, seen = trained(replace(TRAINING, patience=3), [0.1, 0.4, math.nan, 0.2, 0.3, 0.9])
    assert (step, best, len(seen)) == (2, 0.4, 5)
    assert found.weight.item() == seen[1]
    *_, seen = trained(replace(TRAINING, valid_every=5))  # the last step is validated too
    assert len(seen) == 3


def test_losses_and_targets_by_hand() -> None:
    assert float(target_loss(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 1.0]]), "angle")) == 2.5
    logits, first = torch.log(torch.tensor([[1.0, 3.0]])), torch.tensor([[1.0, 0.0]])
    torch.testing.assert_close(target_loss(logits, first, "class"), torch.tensor(math.log(4.0)))
    scaler = Scaler(np.array([1.0, 2.0]), np.array([2.0, 4.0]))
    np.testing.assert_allclose(to_targets(logits, scaler, "class"), [[0.25, 0.75]], rtol=1e-6)
    np.testing.assert_array_equal(to_targets(torch.ones(1, 2), scaler, "continuous"), [[3.0, 6.0]])
    np.testing.assert_array_equal(padded([np.ones((2, 1)), np.ones((1, 1))]), [[1], [1], [1], [0]])
