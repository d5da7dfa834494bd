"""Hypothesis strategies: ragged packed sequences, windows, and recordings with gaps."""

import numpy as np
import torch
from hypothesis import strategies as st
from problems import random_window, recording

from ndt.model.attention_patterns import CONTEXT, MASKS, AttentionPattern, Sequences
from ndt.model.tokens import Window
from ndt.session import Session

seeds = st.integers(0, 2**31)
times = st.lists(st.integers(CONTEXT, 4), max_size=6)


@st.composite
def ragged(draw: st.DrawFn) -> dict[str, object]:
    """What `route` makes a route of; any sequence may be empty or hold context tokens alone, and have fewer keys.

    Not yet routes: beartype, which checks those, uses chance of its own, which hypothesis forbids in a strategy.
    """
    number = draw(st.integers(1, 4))
    some = st.lists(times, min_size=number, max_size=number)

    return {
        "queries": draw(some),
        "keys": draw(some),
        "mask": draw(st.sampled_from(MASKS)),
        "attention_window": draw(st.sampled_from([0, 0, 1, 3])),
        "permuted": draw(st.booleans()),
        "seed": draw(seeds),
    }


def sequences(some: list[list[int]], rows: torch.Tensor | None = None) -> Sequences:
    """Sequences that are given by the bins of their tokens."""
    flat = [t for sequence in some for t in sequence]

    return Sequences(
        torch.tensor([len(s) for s in some], dtype=torch.int64), torch.tensor(flat, dtype=torch.int64), rows
    )


def pattern(
    queries: list[list[int]],
    keys: list[list[int]] | None = None,
    mask: str = "time",
    attention_window: int = 0,
    permuted: bool = False,
    seed: int = 0,
) -> AttentionPattern:
    """The route of sequences given by the bins of tokens; `permuted`, rows lie anyhow, some in several sequences."""
    generator = torch.Generator().manual_seed(seed)
    Q, K = (sum(map(len, some)) for some in (queries, keys or []))
    rows_q = torch.randperm(Q, generator=generator) if permuted else None
    if keys is None:  # sequences read themselves
        own = sequences(queries, rows_q)
        return AttentionPattern(own, own, mask, attention_window)
    rows_k = torch.randint(max(K, 1), (K,), generator=generator) if permuted else None

    return AttentionPattern(sequences(queries, rows_q), sequences(keys, rows_k), mask, attention_window)


@st.composite
def windows(draw: st.DrawFn, num_units: int | None = None, least: int = 1) -> Window:
    """A window of up to 8 bins; units may be missing at times, or throughout."""
    T, N = draw(st.integers(least, 8)), num_units or draw(st.integers(1, 8))
    chance = st.sampled_from([0.0, 0.3, 0.8])

    return random_window(T, N, np.random.default_rng(draw(seeds)), absent=draw(chance), hidden=draw(chance))


@st.composite
def recordings(draw: st.DrawFn) -> Session:
    """A recording in 1 to 14 segments, whose labels may begin late and end early."""
    number = draw(st.integers(1, 14))
    lengths = draw(st.lists(st.floats(0.2, 12.0), min_size=number, max_size=number))
    gaps = draw(st.lists(st.floats(0.06, 3.0), min_size=number, max_size=number))
    ends = np.cumsum(np.array(lengths) + gaps)
    segments = [(float(b - length), float(b)) for b, length in zip(ends, lengths, strict=True)]
    last = segments[-1][1]
    labels = (draw(st.floats(0.0, 0.3)) * last, draw(st.floats(0.6, 1.0)) * last) if draw(st.booleans()) else None

    return recording(segments, labels=labels, num_units=draw(st.integers(1, 4)), seed=draw(seeds))
