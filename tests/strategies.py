"""Hypothesis strategies: ragged packed sequences, windows, and recordings with gaps."""

import numpy as np
import torch
from hypothesis import strategies as st
from problems import random_window, recording

from ndt.attention import CONTEXT, Layout
from ndt.session import Session
from ndt.tokens import Window

seeds = st.integers(0, 2**31)
times = st.lists(st.integers(CONTEXT, 4), max_size=6)


def layout(sequences: list[list[int]], causal: bool = True) -> Layout:
    """The layout of sequences that are given by the times of their tokens."""
    flat = [t for sequence in sequences for t in sequence]

    return Layout([len(s) for s in sequences], torch.tensor(flat, dtype=torch.int64), causal)


@st.composite
def ragged(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]]]:
    """Times of queries and keys in as many sequences, any of which may be empty or hold context tokens alone.

    Not yet layouts: beartype, which checks those, uses chance of its own, which hypothesis forbids in a strategy.
    """
    B = draw(st.integers(1, 4))
    some = st.lists(times, min_size=B, max_size=B)

    return draw(some), draw(some)


@st.composite
def windows(draw: st.DrawFn, num_units: int | None = None, least: int = 1) -> Window:
    """A window of up to 8 bins; units may be missing at times, or throughout."""
    T, N = draw(st.integers(least, 8)), num_units or draw(st.integers(1, 8))
    chance = st.sampled_from([0.0, 0.3, 0.8])

    return random_window(T, N, np.random.default_rng(draw(seeds)), absent=draw(chance), hidden=draw(chance))


@st.composite
def recordings(draw: st.DrawFn) -> Session:
    """A recording in 1 to 14 pieces, whose labels may begin late and end early."""
    number = draw(st.integers(1, 14))
    lengths = draw(st.lists(st.floats(0.2, 12.0), min_size=number, max_size=number))
    gaps = draw(st.lists(st.floats(0.06, 3.0), min_size=number, max_size=number))
    ends = np.cumsum(np.array(lengths) + gaps)
    pieces = [(float(b - length), float(b)) for b, length in zip(ends, lengths, strict=True)]
    last = pieces[-1][1]
    labels = (draw(st.floats(0.0, 0.3)) * last, draw(st.floats(0.6, 1.0)) * last) if draw(st.booleans()) else None

    return recording(pieces, labels=labels, num_units=draw(st.integers(1, 4)), seed=draw(seeds))
