"""Packed attention equals a slow loop over the allowed keys of each query, with memory proportional to tokens."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from problems import slow_attention
from strategies import pattern, ragged, sequences

from ndt.errors import InputError
from ndt.model.attention import attention, chosen_backend, using_backend
from ndt.model.attention_patterns import CONTEXT, MASKS, AttentionPattern
from ndt.model.kernels import BACKENDS, SHORT

CPU = torch.device("cpu")


@pytest.fixture
def kernel(request, monkeypatch) -> None:
    """Plain products for sequences of any length, or the fused kernel for all."""
    monkeypatch.setattr("ndt.model.kernels.SHORT", {"plain": 10**6, "fused": 0}[request.param])


def operands(path: AttentionPattern, dtype: torch.dtype, seed: int = 0, H: int = 2, E: int = 8) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = (len(path.queries.time), len(path.keys.time), len(path.keys.time))
    return [torch.randn((n, H, E), generator=generator).to(dtype).requires_grad_() for n in lengths]


def both(path: AttentionPattern, dtype: torch.dtype, seed: int = 0) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Outputs and gradients of packed attention, and of a slow loop in float64 on the same numbers."""
    every = []
    for attend, to in ((attention, dtype), (slow_attention, torch.float64)):
        x = [t.detach().to(to).requires_grad_() for t in operands(path, dtype, seed)]
        out = attend(*x, path)
        weight = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).reshape(out.shape)
        if out.requires_grad:  # unless nobody reads anything
            (out.double() * weight).sum().backward()
        every.append([out.detach(), *(torch.zeros_like(t) if t.grad is None else t.grad for t in x)])
    return every[0], every[1]


@pytest.mark.parametrize("kernel", ["plain", "fused"], indirect=True)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some=ragged())
def test_packed_attention_is_a_slow_loop_with_its_gradients(kernel, dtype, atol, some) -> None:
    for found, expected in zip(*both(pattern(**some), dtype, some["seed"]), strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("kernel", ["plain", "fused"], indirect=True)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("attention_window", [0, 5])
def test_many_long_sequences_in_any_order_are_a_slow_loop(kernel, mask, attention_window) -> None:
    """Runs of sequences of equal size, of which each is computed at once, with more keys than queries."""
    keys = [[CONTEXT] * 2 + list(range(n)) for n in (9, 9, 9, 4, 4, 20)]
    path = pattern([k[3:] for k in keys], keys, mask, attention_window, permuted=True, seed=3)
    for found, expected in zip(*both(path, torch.float32), strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mask", MASKS)
def test_sequences_that_read_themselves_are_a_slow_loop_on_both_sides_of_the_limit_of_plain_products(mask) -> None:
    """Two of each length, so that runs have more than one; rows lie anyhow, each once."""
    path = pattern([list(range(n)) for n in (SHORT - 1, SHORT + 1, 40) for _ in range(2)], mask=mask, permuted=True)
    assert path.keys is path.queries
    for found, expected in zip(*both(path, torch.float32), strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


@settings(max_examples=30)
@given(some=ragged())
def test_half_precision_on_a_cpu_is_float32_rounded_once(some) -> None:
    """Eight bits of mantissa; gradients of keys that several queries read are added up in as few."""
    found, expected = both(pattern(**some), torch.bfloat16, some["seed"])
    torch.testing.assert_close(found[0].double(), expected[0], rtol=2**-8, atol=1e-5)
    for a, b in zip(found[1:], expected[1:], strict=True):
        least = 1e-6  # of a lone key the weight is one whatever the query, whose gradient is zero but for rounding
        atol = 2**-4 * float(b.abs().max()) + least if b.numel() else 0  # a sum may be smaller than what it sums
        torch.testing.assert_close(a.double(), b, rtol=2**-6, atol=atol)


def test_who_reads_whom_by_hand() -> None:
    """Two context tokens and two bins; the last two queries of three keys, as cached decoding has them."""
    times = [[CONTEXT, CONTEXT, 0, 1]]
    for path, expected in (
        (pattern(times), [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]),
        (pattern(times, mask="causal"), [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]),
        (pattern([[5, 6]], [[CONTEXT, 5, 6]], "causal"), [[1, 1, 0], [1, 1, 1]]),
        (pattern(times, mask="full"), [[1, 1, 1, 1]] * 4),
        (
            pattern([[0, 1, 2]], [[CONTEXT, 0, 1, 2]], "full", attention_window=2),
            [[1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 1, 1]],
        ),
    ):
        q, k, v = operands(path, torch.float64)
        heard = torch.autograd.functional.jacobian(
            lambda v, q=q, k=k, path=path: attention(q, k, v, path).sum((1, 2)), v
        )
        torch.testing.assert_close(heard.abs().sum((2, 3)) > 0, torch.tensor(expected, dtype=torch.bool))


@pytest.mark.parametrize(
    "path",
    [
        pattern([[0, 5], [3]], [[4], []]),
        pattern([[0, 5], [3]], [[4], []], "causal"),
        pattern([[9, 4], [3]], [[4], []], "full", attention_window=1),
    ],
)
def test_a_query_that_reads_nothing_gets_zeros_and_no_gradient(path) -> None:
    x = operands(path, torch.float32)
    out = attention(*x, path)
    torch.testing.assert_close(out[[0, 2]], torch.zeros(2, 2, 8), rtol=0, atol=0)
    torch.testing.assert_close(out[1], x[2][0])  # the only key there is
    out.sum().backward()
    for t in x:
        assert t.grad.isfinite().all()


@settings(max_examples=30)
@given(some=ragged())
def test_sequences_do_not_see_each_other(some) -> None:
    path = pattern(**{**some, "permuted": False})
    q, k, v = operands(path, torch.float32, some["seed"])
    together = attention(q, k, v, path).split(path.queries.lengths.tolist())
    a = b = 0
    for found, one, other in zip(together, some["queries"], some["keys"], strict=True):
        n, m = len(one), len(other)
        alone = pattern([one], [other], path.mask, path.attention_window)
        expected = attention(q[a : a + n], k[b : b + m], v[b : b + m], alone)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)  # in batches of another size
        a, b = a + n, b + m


@pytest.mark.parametrize("kernel", ["plain", "fused"], indirect=True)
@pytest.mark.parametrize("mask", ["time", "causal"])
@pytest.mark.parametrize("attention_window", [0, 6])
def test_what_the_future_holds_changes_no_bit_of_the_past(kernel, mask, attention_window) -> None:
    path = pattern([list(range(40)), list(range(30)), list(range(30))], mask=mask, attention_window=attention_window)
    q, k, v = operands(path, torch.float32)
    before, late = attention(q, k, v, path), path.queries.time >= 17
    after = attention(q, *(torch.where(late[:, None, None], 100 * x + 3, x) for x in (k, v)), path)
    assert torch.equal(before[~late], after[~late])
    assert not torch.equal(before[late], after[late])


@pytest.mark.parametrize("kernel", ["plain", "fused"], indirect=True)
@pytest.mark.parametrize("mask", MASKS)
def test_what_is_kept_for_the_backward_pass_is_linear_in_tokens(kernel, mask) -> None:
    """At one longest sequence, twice the sequences hold twice the bytes, in ragged sequences as in equal ones."""

    def saved(copies: int) -> int:
        path = pattern([list(range(n)) for n in (32, 30, 17, 9)] * copies, mask=mask)
        x, kept = operands(path, torch.float32), {}

        def keep(t: torch.Tensor) -> torch.Tensor:
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            out = attention(*x, path)
        assert out.requires_grad
        return sum(kept.values())

    small, large = saved(8), saved(16)
    assert abs(large / small - 2) < 0.1
    assert small >= 3 * 8 * 88 * 16 * 4  # queries, keys and values at least: what is counted is there


def test_the_backend_is_chosen_and_refused() -> None:
    assert chosen_backend("time", 0, CPU, torch.float32) is BACKENDS["sdpa"]
    with pytest.raises(InputError, match="attention backend: expected auto or one of xformers, varlen, flex, sdpa"):
        with using_backend("flash"):
            pass
    path = pattern([[0, 1]])
    x = operands(path, torch.float32)
    for name in ("xformers", "varlen", "flex"):
        with using_backend(name), pytest.raises(InputError, match=f"attention backend {name}: .*CUDA only"):
            attention(*x, path)
    with using_backend("sdpa"):
        assert chosen_backend("full", 3, CPU, torch.bfloat16) is BACKENDS["sdpa"]
    with using_backend("auto"):  # after an error, as before it
        attention(*x, path)


def test_rows_have_an_inverse_and_sequences_have_offsets() -> None:
    some = sequences([[0, 1], [], [2]], torch.tensor([2, 0, 1]))
    assert some.offsets.tolist() == [0, 2, 2, 3]
    assert some.offsets.dtype == torch.int32
    assert some.max_length == 2
    assert some.rows[some.inverse].tolist() == [0, 1, 2]
    assert sequences([]).max_length == 0
