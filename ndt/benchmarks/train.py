"""``ndt bench train``: a training step beside that of a padded transformer on the same tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ndt.benchmarks.padded import PaddedTransformer, padded, padded_loss
from ndt.benchmarks.ragged import masked_loss, preset, ragged
from ndt.benchmarks.timing import device, interleaved, row
from ndt.config import BenchConfig
from ndt.train.memory import keep_freed_memory

__all__ = ["Step", "train"]

WARM = 2  # untimed steps, in which the heap grows to what a step takes
PARTS = 5  # sequences that a padded peer takes at once on a CPU: the masks L x L of all would fill tens of GB


@dataclass
class Step:
    """One training step: forward, backward, clipping, AdamW.

    Arguments:
        model: The model.
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


def train(config: BenchConfig, *, sequences: int = 30, longest: int = 1500) -> list[dict[str, Any]]:
    """Measures tokens/s of a step on windows of up to `longest` tokens, hidden and visible tokens together."""
    keep_freed_memory()  # as the trainer does
    settings, bf16, where = preset(config.preset), config.precision == "bf16", device()
    data = ragged(settings.model.units_per_patch, sequences=sequences, longest=longest)
    batch = data.batch.to(where)
    parts = padded(batch, PARTS if where.type == "cpu" else batch.num_windows)
    size = parts[0].padding.shape[1]
    torch.manual_seed(settings.seed)
    packed = Step(data.model(settings).to(where), [batch], masked_loss, bf16)
    peer = Step(PaddedTransformer(settings.model, size).to(where), parts, padded_loss, bf16)
    for _ in range(WARM):
        packed()
    seconds = interleaved({"packed": packed, "padded_sdpa": peer}, config.repeats)
    L = len(batch.time)
    own, other = ([L / s for s in seconds[name]] for name in ("packed", "padded_sdpa"))

    return [
        row(f"train.packed.{config.precision}", own, "tokens/s", "padded_sdpa", other),
        row("train.padding", [size * batch.num_windows / L], "padded tokens/token"),
    ]
