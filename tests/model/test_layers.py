"""Blocks depend on differences in time only, context tokens have no time, and the attention window is a horizon."""

import math
from dataclasses import replace

import pytest
import torch
from problems import TINY

from ndt.model.attention_patterns import CONTEXT, PackedLayout, packed_layout
from ndt.model.layers import Attention, Block, Dropout, FeedForward, rotate

CONFIG = replace(TINY, width=32)


def packed(shift: int = 0, order: str = "joint", **options: int) -> PackedLayout:
    """Two windows of two context tokens and some bins each."""
    time = [CONTEXT, CONTEXT, *(t + shift for t in range(7)), CONTEXT, CONTEXT, *(t + shift for t in range(0, 9, 2))]
    window = torch.tensor([0] * 9 + [1] * 7)
    return packed_layout(window, torch.tensor(time), torch.zeros(16, dtype=torch.int64), 2, order=order, **options)


def test_rotation_by_hand() -> None:
    x = torch.tensor([[[1.0, 0.0, 5.0, 6.0]], [[1.0, 2.0, 3.0, 4.0]], [[1.0, 2.0, 3.0, 4.0]]])
    rows = PackedLayout(torch.tensor([2, 0, CONTEXT]), torch.tensor([3]), [])
    turned = [[[math.cos(2), math.sin(2), 5, 6]], [[1, 2, 3, 4]]]
    torch.testing.assert_close(rotate(x, rows, key=True), torch.tensor([*turned, [[0.0, 0, 3, 4]]]))
    query = [[math.cos(1) + 2 * math.sin(1), 2 * math.cos(1) - math.sin(1), 3, 4]]  # of a context, as if one bin before
    torch.testing.assert_close(rotate(x, rows, key=False), torch.tensor([*turned, query]))


def test_a_dimension_and_the_next_turn_together_and_precisely_in_float64() -> None:
    """Two frequencies, 1 and 1 / sqrt(1000), on four of eight dimensions, a million bins away."""
    t, x = 10**6, torch.tensor([[[1.0, 2, 3, 4, 5, 6, 7, 8]]], dtype=torch.float64)
    rows = PackedLayout(torch.tensor([t]), torch.tensor([1]), [])
    expected = []
    for a, b, frequency in ((1, 2, 1.0), (3, 4, 1000**-0.5)):
        turned = complex(a, b) * complex(math.cos(frequency * t), math.sin(frequency * t))
        expected += [turned.real, turned.imag]
    torch.testing.assert_close(
        rotate(x, rows, key=True)[0, 0].tolist(), [*expected, 5.0, 6.0, 7.0, 8.0], rtol=0, atol=1e-9
    )
    half = rotate(x.bfloat16(), PackedLayout(torch.tensor([t]), torch.tensor([1]), []), key=True)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), rotate(x, rows, key=True), rtol=0, atol=0.05)


def test_new_heads_favour_the_near_as_the_formula_says() -> None:
    """Of zero weights: b² times the sum of cosines of the distance at each frequency, nothing in the first head."""
    layer = Attention(replace(CONFIG, locality_bias=2.0))
    rows, biases = PackedLayout(torch.arange(12), torch.tensor([12]), []), []
    for bias in (layer.query.bias, layer.key_value.bias[:32]):
        head = bias.detach().view(2, 16).clone()
        assert head[:, :8:2].tolist() == [[0.0] * 4, [2.0] * 4]
        head[:, 1:8:2] = head[:, 8:] = 0.0  # the usual random start
        biases.append(head.expand(12, 2, 16))
    q, k = rotate(biases[0], rows, key=False), rotate(biases[1], rows, key=True)
    score = torch.einsum("the,she->hts", q, k)
    distance = (torch.arange(12)[:, None] - torch.arange(12)).double()[..., None]
    expected = 4 * (distance * 1000.0 ** (-torch.arange(4).double() / 4)).cos().sum(-1)
    torch.testing.assert_close(score[1].double(), expected, rtol=0, atol=1e-4)
    assert not score[0].any()


@pytest.mark.parametrize("order", ["joint", "axial"])
@pytest.mark.parametrize("shift", [1, 10**6])
def test_shifting_all_time_changes_nothing(order, shift) -> None:
    """Angles in float32 lost a tenth of a radian at a million bins; context keys turned with time would change too."""
    torch.manual_seed(0)
    layer, x = Attention(CONFIG), torch.randn(16, 32)
    early, late = packed(order=order), packed(shift, order)
    torch.testing.assert_close(layer(x, late, late.pattern(0)), layer(x, early, early.pattern(0)), rtol=0, atol=2e-6)


def test_time_between_two_bins_matters() -> None:
    torch.manual_seed(0)
    layer, x = Attention(CONFIG), torch.randn(16, 32)
    plain, stretched = packed(), packed()
    stretched.time[:9] *= torch.where(stretched.time[:9] == CONTEXT, 1, 3)
    assert (layer(x, stretched, plain.pattern(0)) - layer(x, plain, plain.pattern(0))).abs().max() > 1e-3


def test_within_a_bin_and_where_it_is_not_rotary_attention_has_no_time() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 32)
    for rotary, layer in ((False, 0), (True, 2)):
        attend, early, late = Attention(CONFIG, rotary=rotary), packed(order="axial"), packed(5, "axial")
        found, expected = (attend(x, rows, rows.pattern(layer)) for rows in (late, early))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.97])
def test_dropout_zeroes_that_share_and_keeps_the_mean(p) -> None:
    torch.manual_seed(0)
    x = torch.ones(400, 500, requires_grad=True)
    found = Dropout(p)(x)
    error = 5 * math.sqrt(p * (1 - p) / x.numel())
    assert abs(float((found == 0).double().mean()) - p) < error
    kept = found[found != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - p)), rtol=1e-3, atol=0)  # p to 1 / 65536
    rows = (found == 0).double().mean(1)  # no pattern along rows: their shares scatter as independent draws do
    assert 0.8 < float(rows.std()) / math.sqrt(p * (1 - p) / 500) < 1.2
    neighbours = torch.corrcoef(torch.stack([(found == 0).flatten()[:-1], (found == 0).flatten()[1:]]).double())[0, 1]
    assert abs(float(neighbours)) < 5 / math.sqrt(x.numel())
    found.sum().backward()
    torch.testing.assert_close(x.grad, found.detach())


def test_dropout_is_a_function_of_the_seed_and_nothing_outside_training() -> None:
    x, drop = torch.randn(7, 3), Dropout(0.5)
    torch.manual_seed(1)
    one = drop(x)
    torch.manual_seed(1)
    assert torch.equal(one, drop(x))
    assert not torch.equal(one, drop(x))
    assert drop(x.bfloat16()).dtype == torch.bfloat16
    assert drop.eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_branches_are_added_to_the_input_by_their_scales() -> None:
    """Each reads normalised rows; a new block changes its input little, and one whose scales are zero not at all."""
    torch.manual_seed(0)
    x, rows, block = 3 * torch.randn(16, 32) + 1, packed(), Block(CONFIG)
    with torch.no_grad():
        for scale in (block.scale, block.feedforward_scale):
            assert (scale == scale[0]).all()
            assert 0 < float(scale[0]) < 1
            scale.copy_(torch.randn(32))
    middle = x + block.scale * block.attention(block.norm(x), rows, rows.pattern(0))
    expected = middle + block.feedforward_scale * block.feedforward(block.feedforward_norm(middle))
    torch.testing.assert_close(block(x, rows, rows.pattern(0)), expected)
    torch.testing.assert_close(block.norm(x), torch.nn.functional.layer_norm(x, (32,)))
    with torch.no_grad():
        block.scale.zero_()
        block.feedforward_scale.zero_()
    torch.testing.assert_close(block(x, rows, rows.pattern(0)), x, rtol=0, atol=0)


def test_branches_of_a_layer_are_left_out_of_whole_windows_in_training_only() -> None:
    torch.manual_seed(0)
    p, B, n = 0.3, 2000, 3
    block = Block(replace(CONFIG, drop_path=p))
    window = torch.arange(B).repeat_interleave(n)
    rows = packed_layout(window, torch.arange(n).repeat(B), torch.zeros_like(window), B, order="joint")
    x = torch.randn(n, 32).repeat(B, 1)  # all windows alike
    full = block.eval()(x, rows, rows.pattern(0)).detach()
    torch.testing.assert_close(block(x, rows, rows.pattern(0)), full, rtol=0, atol=0)
    found = block.train()(x, rows, rows.pattern(0)).detach().view(B, n, 32)
    out = (found == x.view(B, n, 32)).all(2).all(1)
    assert abs(float(out.double().mean()) - p) < 5 * (p * (1 - p) / B) ** 0.5
    kept = found[~out]
    torch.testing.assert_close(kept, kept[:1].expand_as(kept), rtol=0, atol=1e-5)
    middle = x + block.scale * block.attention(block.norm(x), rows, rows.pattern(0)) / (1 - p)  # the mean stays
    expected = middle + block.feedforward_scale * block.feedforward(block.feedforward_norm(middle)) / (1 - p)
    torch.testing.assert_close(kept[0], expected[:n], rtol=0, atol=1e-5)


def test_swiglu_by_hand_and_of_as_many_parameters_as_two_plain_layers() -> None:
    torch.manual_seed(0)
    config = replace(CONFIG, width=96)
    gated, plain = FeedForward(config), 2 * config.feedforward * 96 * 96
    assert abs(sum(p.numel() for p in gated.parameters()) / plain - 1) < 0.1
    x = torch.randn(5, 96)
    gate, value = (x @ gated.inner.weight.T + gated.inner.bias).chunk(2, -1)
    expected = (gate * torch.sigmoid(gate) * value) @ gated.outer.weight.T + gated.outer.bias
    torch.testing.assert_close(gated(x), expected)


@pytest.mark.parametrize("order", ["joint", "axial"])
def test_reach_is_a_horizon_of_one_layer(order) -> None:
    """In a window of 3 W bins, the output at t depends on the last W bins and the contexts, as in a window of W."""
    torch.manual_seed(0)
    W, block, x = 4, Block(CONFIG), torch.randn(2 + 3 * 4, 32, requires_grad=True)
    laid = lambda bins: packed_layout(
        torch.zeros(2 + len(bins), dtype=torch.int64),
        torch.tensor([CONTEXT, CONTEXT, *bins]),
        torch.zeros(2 + len(bins), dtype=torch.int64),
        1,
        order=order,
        attention_window=W,
    )
    rows = laid(range(3 * W))
    for t in (0, 3, 7, 3 * W - 1):
        first = max(t - W + 1, 0)
        out = block(x, rows, rows.pattern(0))[2 + t]
        (gradient,) = torch.autograd.grad(out.square().sum(), x)
        heard = [b == CONTEXT or first <= b <= t for b in rows.time.tolist()]
        torch.testing.assert_close(gradient.abs().sum(1) > 0, torch.tensor(heard))
        cropped = laid(range(first, t + 1))
        alone = block(x[torch.tensor(heard)], cropped, cropped.pattern(0))[-1]
        torch.testing.assert_close(out, alone, rtol=0, atol=1e-6)


def test_every_parameter_of_a_block_gets_a_gradient() -> None:
    torch.manual_seed(0)
    block, rows = Block(CONFIG), packed()
    out = block(torch.randn(16, 32), rows, rows.pattern(0))
    (out * torch.randn(16, 32)).sum().backward()
    silent = [name for name, p in block.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []
