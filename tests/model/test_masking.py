"""Masks: each kind hides what its definition says, exactly, and every kind leaves something to see and to predict."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import seeds

from ndt.config import MASK_KINDS, MaskConfig
from ndt.errors import InputError
from ndt.model.masking import KINDS, draw_mask, random_mask

P = 4


def drawn(kind: str, T: int, N: int, ratio: float, seed: int, group: np.ndarray | None = None) -> np.ndarray:
    """A mask; each unit is in a group of its own unless told otherwise."""
    group = np.arange(N) if group is None else group
    return draw_mask(T, group, [kind], ratio, P, np.random.default_rng(seed))


def runs(row: np.ndarray) -> list[int]:
    """Lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], row, [False]]).astype(int)))
    return np.diff(edges)[::2].tolist()


some = {"T": st.integers(2, 30), "N": st.integers(2, 14), "ratio": st.floats(0.05, 0.95), "seed": seeds}


@given(T=st.integers(1, 20), S=st.integers(1, 5), ratio=st.floats(0, 1), seed=st.integers(0, 99))
def test_masks_hide_exactly_as_much_as_asked(T, S, ratio, seed) -> None:
    hidden = random_mask((T, S), ratio, np.random.default_rng(seed))
    assert hidden.sum() == round(ratio * T * S)
    np.testing.assert_array_equal(hidden, random_mask((T, S), ratio, np.random.default_rng(seed)))


def test_masks_hide_every_patch_alike() -> None:
    rng = np.random.default_rng(0)
    mean = np.mean([random_mask((5, 4), 0.3, rng) for _ in range(4000)], 0)
    np.testing.assert_allclose(mean, 0.3, atol=0.04)  # five standard errors


@given(**some)
def test_random_hides_whole_tokens_as_many_as_asked(T, N, ratio, seed) -> None:
    hidden, S = drawn("random", T, N, ratio, seed), -(-N // P)
    tokens = hidden[:, ::P]
    np.testing.assert_array_equal(hidden, np.repeat(tokens, P, axis=1)[:, :N])
    assert tokens.sum() == round(ratio * T * S)


@given(T=st.integers(8, 30), N=st.integers(2, 14), ratio=st.floats(0.3, 0.7), seed=seeds)
def test_spans_are_runs_of_one_length_within_each_patch(T, N, ratio, seed) -> None:
    """Runs lie on a grid of one length, from a start of each patch's own; only the window's ends may cut one."""
    hidden = drawn("span", T, N, ratio, seed)
    tokens = hidden[:, ::P]
    np.testing.assert_array_equal(hidden, np.repeat(tokens, P, axis=1)[:, :N])
    inner = []
    for column in tokens.T:
        ends = np.flatnonzero(np.diff(column.astype(int))) + 1  # where a run begins or ends, inside the window
        inner += np.diff(ends).tolist()
    longest = max(T // 4, 2)
    assert any(all(n % length == 0 for n in inner) for length in range(2, longest + 1))


def test_spans_hide_as_much_as_asked_on_average() -> None:
    rng = np.random.default_rng(0)
    mean = np.mean([draw_mask(40, np.arange(12), ["span"], 0.4, P, rng).mean() for _ in range(2000)])
    np.testing.assert_allclose(mean, 0.4, atol=0.02)


@given(**some)
def test_units_are_hidden_throughout_and_no_more_than_asked(T, N, ratio, seed) -> None:
    hidden = drawn("unit", T, N, ratio, seed)
    np.testing.assert_array_equal(hidden, np.broadcast_to(hidden[0], (T, N)))
    assert 1 <= hidden[0].sum() <= min(max(round(ratio * N), 1), N - 1)


def test_the_share_of_units_and_of_bins_is_drawn_anew() -> None:
    for kind, axis in (("unit", 0), ("forward", 1)):
        numbers = [int(drawn(kind, 20, 20, 0.8, seed).any(axis).sum()) for seed in range(300)]
        assert set(numbers) == set(range(1, 17))


@given(**some)
def test_forward_hides_the_last_bins(T, N, ratio, seed) -> None:
    hidden = drawn("forward", T, N, ratio, seed)
    number = int(hidden[:, 0].sum())
    np.testing.assert_array_equal(hidden, np.arange(T)[:, None] >= np.full(N, T - number))
    assert 1 <= number <= min(max(round(ratio * T), 1), T - 1)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=50)
@given(T=st.integers(2, 20), N=st.integers(2, 14), seed=seeds)
def test_something_is_left_and_something_is_hidden(kind, T, N, seed) -> None:
    """Of random tokens where as many as that are asked for; a window of two tokens at half is the least."""
    hidden = drawn(kind, T, N, 0.5, seed)
    assert hidden.shape == (T, N)
    assert hidden.dtype == bool
    assert hidden.any()
    assert not hidden.all()


def test_kinds_are_drawn_with_equal_probability() -> None:
    kinds, rng = ("random", "unit", "forward"), np.random.default_rng(0)
    found = dict.fromkeys(kinds, 0)
    for _ in range(2000):
        hidden = draw_mask(16, np.arange(16), kinds, 0.25, P, rng)
        throughout, bins = (hidden == hidden[0]).all(), (hidden == hidden[:, :1]).all()
        found["unit" if throughout else "forward" if bins else "random"] += 1
    for kind in kinds:
        np.testing.assert_allclose(found[kind] / 2000, 1 / 3, atol=0.05)  # more than four standard errors


def test_a_mask_is_a_function_of_the_generator() -> None:
    kinds, rng = tuple(KINDS), np.random.default_rng
    a, b = ([draw_mask(9, np.arange(14), kinds, 0.5, P, rng(s)).tobytes() for s in range(40)] for _ in range(2))
    assert a == b
    assert len(set(a)) > 20


def test_bad_mask_settings_are_refused_by_name() -> None:
    for name, value in (("ratio", 1.0), ("ratio", 0.0), ("kinds", ()), ("kinds", ("random", "region"))):
        with pytest.raises(InputError, match=rf"settings: mask\.{name}: expected"):
            MaskConfig(**{name: value})
    assert tuple(KINDS) == MASK_KINDS


@given(**some)
def test_without_groups_units_are_drawn_as_they_always_were(T, N, ratio, seed) -> None:
    """The rule before there were groups: a refactor changes no mask, or every figure would move."""
    rng = np.random.default_rng(seed)
    predicted = int(np.clip(round(ratio * rng.random() * N), 1, N - 1))
    expected = np.broadcast_to(np.isin(np.arange(N), rng.permutation(np.arange(N))[:predicted]), (T, N))

    own = np.random.default_rng(seed).permutation(N)  # numbers of their own, whichever
    for group in (np.arange(N), own):
        again = np.random.default_rng(seed)
        np.testing.assert_array_equal(draw_mask(T, group, ["unit"], ratio, P, again), expected)
        assert again.bit_generator.state == rng.bit_generator.state  # what is drawn next is the same, too


@given(**some, number=st.integers(2, 14))
def test_units_of_a_group_are_hidden_together(T, N, ratio, seed, number) -> None:
    group = np.random.default_rng(seed).integers(number, size=N)
    hidden = drawn("unit", T, N, ratio, seed, group)
    np.testing.assert_array_equal(hidden, np.broadcast_to(hidden[0], (T, N)))
    for g in np.unique(group):
        assert len(set(hidden[0, group == g])) == 1
    there = len(np.unique(group))
    assert 1 <= len(np.unique(group[hidden[0]])) <= max(min(round(ratio * there), there - 1), 1)


@given(**some, kind=st.sampled_from(["random", "span", "forward"]))
def test_groups_change_no_mask_that_hides_bins(T, N, ratio, seed, kind) -> None:
    found = drawn(kind, T, N, ratio, seed, np.zeros(N, np.int64))
    np.testing.assert_array_equal(found, drawn(kind, T, N, ratio, seed))
