"""Kernels state what they do not support, build the same masks, and agree with the reference on a GPU."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from problems import reads, slow_attention
from strategies import pattern, ragged

from ndt.errors import InputError
from ndt.model.attention import attention, chosen_backend, using_backend
from ndt.model.attention_patterns import CONTEXT, MASKS, AttentionPattern
from ndt.model.kernels import BACKENDS, Backend, Varlen, flex_mask, xformers_bias

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
HALF, FULL = torch.bfloat16, torch.float32
TIMES = [[CONTEXT, CONTEXT, *range(n)] for n in (6, 6, 3, 11)]


def cached(mask: str, attention_window: int = 0) -> AttentionPattern:
    """Sequences with fewer queries than keys, one of them without any query."""
    return pattern([TIMES[0][2:], TIMES[1][5:], [], TIMES[3][9:]], TIMES, mask, attention_window)


@pytest.mark.parametrize(
    ("name", "mask", "attention_window", "device", "dtype", "reason"),
    [
        ("xformers", "full", 0, CPU, HALF, "CUDA only"),
        ("xformers", "time", 0, CUDA, HALF, "masks by index in the sequence, not the mask by time"),
        ("xformers", "causal", 4, CUDA, FULL, "not an attention window in bins"),
        ("xformers", "full", 4, CUDA, FULL, "not an attention window in bins"),
        ("varlen", "causal", 0, CPU, HALF, "CUDA only"),
        ("varlen", "causal", 0, CUDA, FULL, "float16 and bfloat16, not float32"),
        ("varlen", "time", 0, CUDA, HALF, "not the mask by time"),
        ("varlen", "causal", 2, CUDA, torch.float16, "not an attention window in bins"),
        ("flex", "time", 2, CPU, FULL, "backward pass on CUDA only"),
    ],
)
def test_a_kernel_names_what_it_does_not_support(name, mask, attention_window, device, dtype, reason) -> None:
    assert reason in BACKENDS[name].unsupported(mask, attention_window, device, dtype)
    with using_backend(name), pytest.raises(InputError, match=f"settings: attention backend {name}: .*{reason}"):
        chosen_backend(mask, attention_window, device, dtype)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("attention_window", [0, 3])
def test_a_kernel_supports_all_else(mask, attention_window, monkeypatch) -> None:
    monkeypatch.setattr("ndt.model.kernels._xformers", object)  # as if it were installed and imported
    plain = mask != "time" and not attention_window
    able = lambda device, dtype: [
        n for n, b in BACKENDS.items() if not b.unsupported(mask, attention_window, device, dtype)
    ]
    assert able(CPU, FULL) == able(CPU, HALF) == ["sdpa"]
    assert able(CUDA, HALF) == (["xformers", "varlen", "flex", "sdpa"] if plain else ["flex", "sdpa"])
    assert able(CUDA, FULL) == (["xformers", "flex", "sdpa"] if plain else ["flex", "sdpa"])
    assert chosen_backend(mask, attention_window, CUDA, HALF) is BACKENDS[able(CUDA, HALF)[0]]
    assert chosen_backend(mask, attention_window, CPU, HALF) is BACKENDS["sdpa"]
    assert all(isinstance(b, Backend) for b in BACKENDS.values())


def test_without_xformers_the_next_is_taken(monkeypatch) -> None:
    monkeypatch.setattr("ndt.model.kernels._xformers", lambda: None)
    assert "not installed" in BACKENDS["xformers"].unsupported("causal", 0, CUDA, HALF)
    assert chosen_backend("causal", 0, CUDA, HALF) is BACKENDS["varlen"]


@pytest.mark.parametrize("mask", ["full", "causal"])
def test_xformers_bias_is_the_mask(mask) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a build for another torch
            import xformers.ops.fmha.attn_bias  # noqa: F401
    except Exception as error:
        pytest.skip(f"xformers does not import: {error}")
    for path in (cached(mask), pattern(TIMES, mask=mask)):
        bias = xformers_bias(path).materialize(reads(path).shape)
        torch.testing.assert_close(bias == 0, reads(path))
        assert bias[~reads(path)].isneginf().all()


@settings(max_examples=40)
@given(some=ragged())
def test_flex_mask_is_the_mask(some) -> None:
    path = pattern(**{**some, "permuted": False})
    expected = reads(path)
    if not expected.numel():
        return
    seen = flex_mask(path).mask_mod
    i, j = (torch.arange(n) for n in expected.shape)
    found = torch.vmap(torch.vmap(seen, (None, None, None, 0)), (None, None, 0, None))(i[0], i[0], i, j)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("mask", "attention_window"), [("time", 0), ("time", 3), ("causal", 0), ("causal", 3), ("full", 0)]
)
def test_flex_attention_computes_it(mask, attention_window) -> None:
    """Uncompiled, the kernel runs on a CPU too; its blocks of 128 hold several sequences."""
    from torch.nn.attention.flex_attention import flex_attention

    path = pattern(
        [list(range(n)) for n in (90, 100, 7)], [[CONTEXT, *range(n)] for n in (90, 100, 7)], mask, attention_window
    )
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(n, 2, 8, generator=generator) for n in (197, 200, 200))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning that it is slow uncompiled
        out = flex_attention(*(x.transpose(0, 1)[None] for x in (q, k, v)), block_mask=flex_mask(path))
    torch.testing.assert_close(out[0].transpose(0, 1), attention(q, k, v, path), rtol=0, atol=1e-5)


def plain_varlen(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1)) -> torch.Tensor:
    """`varlen_attn` as torch documents it; FlashAttention's windows end where queries and keys end together."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert max_q >= int(cu_seq_q.diff().max())
    assert max_k >= int(cu_seq_k.diff().max())
    out, left_right = [], window_size
    for a, b, c, d in zip(cu_seq_q[:-1], cu_seq_q[1:], cu_seq_k[:-1], cu_seq_k[1:], strict=True):
        place = torch.arange(b - a)[:, None] + (d - c) - (b - a)
        keys = torch.arange(d - c)
        seen = torch.ones(int(b - a), int(d - c), dtype=torch.bool)
        for side, far in zip(left_right, (place - keys, keys - place), strict=True):
            seen &= (far <= side) if side >= 0 else torch.tensor(True)
        score = torch.einsum("qhe,khe->hqk", q[a:b], k[c:d]) * q.shape[-1] ** -0.5
        out.append(torch.einsum("hqk,khe->qhe", score.masked_fill(~seen, -torch.inf).softmax(-1), v[c:d]))
    return torch.cat(out)


@pytest.mark.parametrize("mask", ["full", "causal"])
def test_varlen_gets_the_offsets_of_sequences_and_the_causal_mask(mask, monkeypatch) -> None:
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    monkeypatch.setattr(varlen, "varlen_attn", plain_varlen)
    path, generator = cached(mask), torch.Generator().manual_seed(0)
    Q, K = reads(path).shape
    q, k, v = (torch.randn(n, 2, 8, generator=generator) for n in (Q, K, K))
    torch.testing.assert_close(Varlen().attend(q, k, v, path), attention(q, k, v, path), rtol=0, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("dtype", "tolerance"), [(HALF, 1e-2), (FULL, 1e-4)])
@pytest.mark.parametrize("attention_window", [0, 3])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", BACKENDS)
def test_on_a_gpu_every_kernel_is_the_reference(name, mask, attention_window, dtype, tolerance) -> None:
    """Outputs and gradients, relative to the largest; unsupported masks are skipped, with the reason."""
    if reason := BACKENDS[name].unsupported(mask, attention_window, CUDA, dtype):
        pytest.skip(reason)
    path = pattern([t[2:] for t in TIMES], TIMES, mask, attention_window, permuted=True)
    here = pattern([t[2:] for t in TIMES], TIMES, mask, attention_window, permuted=True)
    for some in (path.queries, path.keys):
        some.time, some.rows = some.time.cuda(), some.rows.cuda()
    generator, every = torch.Generator().manual_seed(0), []
    numbers = [torch.randn(n, 2, 32, generator=generator).to(dtype) for n in (26, 34, 34)]
    with using_backend(name):
        every.append([x.cuda().requires_grad_() for x in numbers])
        every[0].insert(0, attention(*every[0], path))
    every.append([x.double().requires_grad_() for x in numbers])
    every[1].insert(0, slow_attention(*every[1], here))
    for some in every:
        some[0].double().square().sum().backward()
    for found, expected in zip(*([s[0], *(x.grad for x in s[1:])] for s in every), strict=True):
        scale = float(expected.detach().abs().max())
        torch.testing.assert_close(found.double().cpu(), expected, rtol=0, atol=tolerance * scale)
