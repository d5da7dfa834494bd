"""Tokens a second of a training step beside padded transformers on the same tokens, and its share of the machine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ndt.benchmarks.flops import train_flops
from ndt.benchmarks.hardware import SHAPES, device, gemm_peak, sheet_peak
from ndt.benchmarks.peers import PaddedEncoder, PaddedSDPA, padded, padded_loss
from ndt.benchmarks.ragged import masked_loss, preset, ragged
from ndt.benchmarks.timing import interleaved, row
from ndt.config import BenchConfig
from ndt.memory import keep_freed_memory
from ndt.tokens import Batch

__all__ = ["Step", "train"]

WARM = 2  # steps until the heap has grown to what a step takes
PARTS = 5  # sequences that a padded peer takes at once on a CPU: masks L x L of each layer would fill tens of GB


@dataclass
class Step:
    """One training step: forward, backward, clipping, AdamW.

    Arguments:
        model: What learns.
        parts: The batch, in parts whose gradients add up.
        loss: Loss of the model on a part.
        bf16: Whether matrix products are in bf16.
    """

    model: nn.Module
    parts: Sequence[Any]
    loss: Callable[[nn.Module, Any], Tensor]
    bf16: bool = False

    def __post_init__(self) -> None:
        fused = True if device().type == "cpu" else None  # as the trainer's
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=fused)

    def __call__(self) -> float:
        """Takes the step and returns the loss before it."""
        total = 0.0
        self.optimizer.zero_grad()
        for part in self.parts:
            with torch.autocast(device().type, torch.bfloat16, enabled=self.bf16):
                loss = self.loss(self.model, part)
            loss.backward()
            total += float(loss.detach())
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()

        return total


def train(config: BenchConfig, *, longest: int = 1500) -> list[dict[str, Any]]:
    """Measures a step on `config.sequences` windows of up to `longest` tokens; all tokens count, hidden or visible.

    The last rows compare the step's operations (`ndt.benchmarks.flops`) with the best matrix product of each round,
    and on a GPU that we know with its data sheet (MFU).
    """
    keep_freed_memory()  # as the trainer does
    settings, bf16, where = preset(config.preset), config.precision == "bf16", device()
    data = ragged(settings.model.units_per_patch, sequences=config.sequences, longest=longest)
    batch = data.batch.to(where)
    parts = padded(batch, PARTS if where.type == "cpu" else batch.num_windows)
    size = parts[0].padding.shape[1]
    torch.manual_seed(settings.seed)
    steps = {
        "packed": Step(data.model(settings).to(where), [batch], masked_loss, bf16),
        "padded_transformer_encoder": Step(PaddedEncoder(settings.model, size).to(where), parts, padded_loss, bf16),
        "padded_sdpa": Step(PaddedSDPA(settings.model, size).to(where), parts, padded_loss, bf16),
    }
    dtype = torch.bfloat16 if bf16 else torch.float32
    shapes = (*SHAPES, (len(batch.time), settings.model.width, settings.model.feedforward * settings.model.width))
    peaks: list[float] = []
    product = {"measured_gemm": lambda: peaks.append(gemm_peak(dtype, shapes))}  # beside the step that it judges
    for _ in range(WARM):
        steps["packed"]()
    seconds = interleaved({**product, **steps}, config.repeats)
    del seconds["measured_gemm"]

    flops = train_flops(data.model(settings), data.batch)

    return _rows(f"train.packed.{config.precision}", batch, flops, seconds, peaks[-config.repeats :], dtype)


def _rows(
    name: str, batch: Batch, flops: int, seconds: dict[str, list[float]], peaks: list[float], dtype: torch.dtype
) -> list[dict[str, Any]]:
    L, own = len(batch.time), seconds.pop("packed")
    rates = [L / s for s in own]
    rows = [row(name, rates, "tokens/s", peer, [L / s for s in theirs]) for peer, theirs in seconds.items()]
    longest = int(torch.bincount(batch.window).max())
    rows.append(row("train.padding", [longest * batch.num_windows / L], "padded tokens/token"))
    rows.append(row("train.flops", [flops / L / 1e6], "MFLOP/token"))
    achieved = [flops / s for s in own]
    rows.append(row(f"{name}.peak", [a / 1e9 for a in achieved], "GFLOP/s", "measured_gemm", [p / 1e9 for p in peaks]))
    if sheet := sheet_peak(dtype):
        rows.append(row(f"{name}.mfu", [a / 1e9 for a in achieved], "GFLOP/s", "data_sheet", [sheet / 1e9]))

    return rows
