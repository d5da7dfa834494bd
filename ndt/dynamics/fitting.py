"""What fits of dynamics share: a learning rate's course, an average of weights, threads."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["follow", "rate", "threads"]


def rate(step: int, steps: int) -> float:
    """Returns the share of the peak learning rate: a warm-up of a fiftieth of the steps, and a cosine to 0."""
    return min(1.0, (step + 1) / max(steps // 50, 1)) * (1 + math.cos(math.pi * step / steps)) / 2


def follow(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Moves an average of weights towards a model's; early averages forget sooner, so that they begin where it is."""
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for kept, new in zip(average.parameters(), model.parameters(), strict=True):
            kept.lerp_(new, 1 - decay)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Sets torch's threads within a block; 0 leaves them."""
    before = torch.get_num_threads()
    if number:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
