"""Blocks: time enters as a difference only, and contexts have none."""

import math

import pytest
import torch

from ndt.attention import CONTEXT, Layout
from ndt.config import ModelConfig
from ndt.layers import Attention, Block, rotate

CONFIG = ModelConfig(width=32, num_heads=2)


def packed(shift: int = 0) -> Layout:
    """Two sequences of two context tokens and some bins each."""
    data = [torch.arange(7), torch.arange(0, 9, 2)]
    context = torch.full((2,), CONTEXT)
    return Layout([9, 7], torch.cat([context, data[0] + shift, context, data[1] + shift]))


def test_rotation_by_hand() -> None:
    x = torch.tensor([[[1.0, 0.0, 5.0, 6.0]], [[1.0, 2.0, 3.0, 4.0]], [[1.0, 2.0, 3.0, 4.0]]])
    layout = Layout([3], torch.tensor([2, 0, CONTEXT]))
    found = rotate(x, layout, key=True)
    expected = [[[math.cos(2), math.sin(2), 5, 6]], [[1, 2, 3, 4]], [[0, 0, 3, 4]]]
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("shift", [1, 10**6])
def test_shifting_all_time_changes_nothing(shift) -> None:
    """Angles in float32 lost a tenth of a radian at a million bins; context keys turned with time would change too."""
    torch.manual_seed(0)
    layer, x = Attention(CONFIG), torch.randn(16, 32)
    early, late = packed(), packed(shift)
    torch.testing.assert_close(layer(x, x, late, late), layer(x, x, early, early), rtol=0, atol=2e-6)


def test_time_between_two_bins_matters() -> None:
    torch.manual_seed(0)
    layer, x = Attention(CONFIG), torch.randn(16, 32)
    stretched = packed()
    stretched.time[:9] *= torch.where(stretched.time[:9] == CONTEXT, 1, 3)
    assert (layer(x, x, stretched, stretched) - layer(x, x, packed(), packed())).abs().max() > 1e-3


def test_learned_positions_leave_attention_without_time() -> None:
    torch.manual_seed(0)
    layer, x = Attention(ModelConfig(width=32, num_heads=2, positions="learned")), torch.randn(4, 32)
    every = [Layout([4], torch.arange(4) * step) for step in (1, 5)]
    torch.testing.assert_close(layer(x, x, every[0], every[0]), layer(x, x, every[1], every[1]), rtol=0, atol=0)


def test_a_block_reads_its_memory_first() -> None:
    torch.manual_seed(0)
    block, x, memory = Block(CONFIG, cross=True), torch.randn(16, 32), torch.randn(16, 32, requires_grad=True)
    layout = packed()
    block(x, layout, memory, packed())[2].sum().backward()  # the first bin of the first sequence
    assert torch.equal(memory.grad.abs().sum(1) > 0, torch.tensor([1, 1, 1] + [0] * 13, dtype=torch.bool))
    with pytest.raises(ValueError, match="memory"):
        block(x, layout)


def test_every_parameter_of_a_block_gets_a_gradient() -> None:
    torch.manual_seed(0)
    block, layout = Block(CONFIG, cross=True), packed()
    block(torch.randn(16, 32), layout, torch.randn(16, 32), layout).square().sum().backward()
    silent = [name for name, p in block.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []
