"""Averages of a unit's own recent counts equal their definition, and read visible counts of the past alone."""

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import TINY, random_window
from strategies import windows

from ndt.model.history import recent_counts
from ndt.model.tokens import Batch, pack

P = TINY.units_per_patch
TAU = (1.5, 10.0)


def means(batch: Batch) -> torch.Tensor:
    return torch.rand(batch.members.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def averages(batch: Batch, mean: torch.Tensor, tau=TAU) -> torch.Tensor:
    """Of all tokens."""
    return recent_counts(batch, torch.ones(batch.num_tokens, dtype=torch.bool), mean, tau)


def slow_recent_counts(batch: Batch, mean: torch.Tensor) -> torch.Tensor:
    """The definition, entry by entry; time is counted in tokens of the patch and window."""
    found = torch.zeros(*batch.counts.shape, len(TAU), dtype=torch.float64)
    key = torch.stack([batch.window, batch.slot], 1)
    for t in range(batch.num_tokens):
        past = [s for s in range(batch.num_tokens) if (key[s] == key[t]).all() and batch.time[s] < batch.time[t]]
        for place in range(batch.counts.shape[1]):
            for k, tau in enumerate(TAU):
                total, number = float(mean[batch.patch[t], place]), 1.0
                for back, s in enumerate(reversed(past), 1):
                    if batch.seen[s, place]:
                        total += np.exp(-back / tau) * int(batch.counts[s, place])
                        number += np.exp(-back / tau)
                found[t, place, k] = total / number

    return found


@settings(max_examples=15)
@given(some=st.lists(windows(num_units=4), min_size=1, max_size=3))
def test_averages_are_the_definition(some) -> None:
    batch = pack(some, P)
    found = averages(batch, means(batch), TAU)
    torch.testing.assert_close(found, slow_recent_counts(batch, means(batch)), rtol=0, atol=1e-10)


@settings(max_examples=15)
@given(some=st.lists(windows(num_units=8), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_tokens_may_be_chosen(some, seed) -> None:
    batch = pack(some, P)
    chosen = torch.rand(batch.num_tokens, generator=torch.Generator().manual_seed(seed)) < 0.3
    found = recent_counts(batch, chosen, means(batch), TAU)
    torch.testing.assert_close(found, averages(batch, means(batch))[chosen], rtol=0, atol=0)


def test_of_a_constant_count_the_average_approaches_it_from_the_mean() -> None:
    window = replace(random_window(200, 1, np.random.default_rng(0), absent=0.0, hidden=0.0))
    batch = pack([replace(window, counts=np.full((200, 1), 4, np.uint8))], P)
    found = averages(batch, torch.tensor([[1.0]]), (3.0,))[:, 0, 0]
    assert found[0] == 1.0
    assert (found.diff() >= 0).all()
    past = np.exp(-1 / 3) / (1 - np.exp(-1 / 3))  # the weight of an infinite past, beside 1 of the mean
    torch.testing.assert_close(found[-1], torch.tensor((1 + 4 * past) / (1 + past), dtype=torch.float32))


def test_hidden_and_later_counts_are_not_read() -> None:
    window = random_window(20, 4, np.random.default_rng(0))
    unseen = window.hidden | ~window.valid
    late = np.arange(20)[:, None] >= 12
    batch = pack([window], P)
    before = averages(batch, means(batch), TAU)
    other = pack([replace(window, counts=np.where(unseen, 99, window.counts).astype(np.uint8))], P)
    torch.testing.assert_close(averages(other, means(batch), TAU), before, rtol=0, atol=0)
    other = pack([replace(window, counts=np.where(late, window.counts + 3, window.counts).astype(np.uint8))], P)
    after = averages(other, means(batch), TAU)
    past = batch.time <= 12
    torch.testing.assert_close(after[past], before[past], rtol=0, atol=0)
    assert (after[~past] - before[~past]).abs().max() > 0.1
