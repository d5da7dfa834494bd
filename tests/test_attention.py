"""Packed attention is attention: each query reads what it may see, and nothing else."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import slow_attention
from strategies import layout as laid
from strategies import ragged, seeds

from ndt.attention import CONTEXT, Layout, attention


def operands(
    queries: Layout, keys: Layout, seed: int, dtype: torch.dtype, H: int = 2, E: int = 8
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = (len(queries.time), len(keys.time), len(keys.time))
    return [torch.randn((n, H, E), generator=generator, dtype=dtype).requires_grad_() for n in lengths]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(times=ragged(), causal=st.booleans(), seed=seeds)
def test_packed_attention_is_a_slow_loop_with_its_gradients(dtype, times, causal, seed) -> None:
    queries, keys = (laid(x, causal) for x in times)
    x = operands(queries, keys, seed, dtype)
    y = [t.detach().clone().requires_grad_() for t in x]
    found, expected = attention(*x, queries, keys), slow_attention(*y, queries, keys)
    weight = torch.linspace(-1, 2, found.numel(), dtype=dtype).reshape(found.shape)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    close = {
        "rtol": 0,
        "atol": 1e-12 if dtype == torch.float64 else 2e-5,
        "check_dtype": False,
    }  # sums of a dozen terms
    torch.testing.assert_close(found, expected, **close)
    for a, b in zip(x, y, strict=True):
        torch.testing.assert_close(a.grad, torch.zeros_like(b) if b.grad is None else b.grad, **close)


@pytest.mark.parametrize("causal", [True, False])
def test_data_read_context_and_context_never_reads_data(causal) -> None:
    layout = Layout([4], torch.tensor([CONTEXT, CONTEXT, 0, 1]), causal)
    q, k, v = operands(layout, layout, 0, torch.float64)
    reads = (
        torch.autograd.functional.jacobian(lambda v: attention(q, k, v, layout, layout).sum((1, 2)), v)
        .abs()
        .sum((2, 3))
    )
    seen = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, not causal], [1, 1, 1, 1]], dtype=torch.bool)
    torch.testing.assert_close(reads > 0, seen)


def test_a_query_that_sees_nothing_gets_zeros_and_no_gradient() -> None:
    queries, keys = Layout([2, 1], torch.tensor([0, 5, 3])), Layout([1, 0], torch.tensor([4]))
    x = operands(queries, keys, 0, torch.float32)
    out = attention(*x, queries, keys)
    torch.testing.assert_close(out[[0, 2]], torch.zeros(2, 2, 8), rtol=0, atol=0)
    torch.testing.assert_close(out[1], x[2][0])  # the only key there is
    out.sum().backward()
    for t in x:
        assert t.grad.isfinite().all()


@given(times=ragged(), causal=st.booleans(), seed=seeds)
def test_sequences_do_not_see_each_other(times, causal, seed) -> None:
    queries, keys = (laid(x, causal) for x in times)
    q, k, v = operands(queries, keys, seed, torch.float32)
    together = attention(q, k, v, queries, keys).split(queries.lengths)
    a = b = 0
    for i, (n, m) in enumerate(zip(queries.lengths, keys.lengths, strict=True)):
        alone = [
            Layout([length], x.time[at : at + length], x.causal) for length, x, at in ((n, queries, a), (m, keys, b))
        ]
        found = attention(q[a : a + n], k[b : b + m], v[b : b + m], *alone)
        torch.testing.assert_close(together[i], found, rtol=0, atol=0)
        a, b = a + n, b + m


def test_what_the_future_holds_changes_no_bit_of_the_past() -> None:
    layout = Layout([40, 30], torch.cat([torch.arange(40), torch.arange(30)]))
    q, k, v = operands(layout, layout, 0, torch.float32)
    before = attention(q, k, v, layout, layout)
    late = layout.time >= 17
    changed = [torch.where(late[:, None, None], 100 * x + 3, x) for x in (k, v)]
    after = attention(q, *changed, layout, layout)
    assert torch.equal(before[~late], after[~late])
    assert not torch.equal(before[late], after[late])
