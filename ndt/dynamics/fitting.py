"""Stochastic optimisation of a loss: Adam, warm-up and cosine schedule, and an average of the weights."""

import copy
import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ndt.errors import InputError

__all__ = ["Progress", "descend"]

M = TypeVar("M", bound=nn.Module)
VALIDATIONS = 20  # evaluations of the validation loss
Progress = Callable[[int, float], None]  # called with steps taken and the last loss


def descend(
    model: M, loss: Callable[[], Tensor], steps: int, learning_rate: float, progress: Progress | None = None, *,
    held: Callable[[M], float] | None = None, clip: float = 0.0, ema: float = 0.99,
) -> tuple[M, NDArray[np.float64]]:  # fmt: skip
    """Minimises a loss and returns the average of the model's weights, and the loss of each step.

    Arguments:
        model: Model to fit.
        loss: Draws a batch and returns its loss by the model.
        steps: Number of steps.
        learning_rate: Peak learning rate of Adam; a cosine to 0 follows a short warm-up.
        progress: Called after each step.
        held: Loss of the validation samples. It is evaluated `VALIDATIONS` times, evenly spaced, and the average with
            the least is returned; without it, the last.
        clip: Largest norm of a gradient; 0 for none.
        ema: Decay of the average; it is shorter in early steps, to forget the initial weights.

    Raises:
        InputError: if a loss is not finite.
    """
    average = copy.deepcopy(model).requires_grad_(False)
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, steps))
    losses, least, best = np.zeros(steps), math.inf, average
    looks = set(np.linspace(steps, 0, VALIDATIONS, endpoint=False).round().astype(int).tolist()) if held else set()
    for step in range(steps):
        found = loss()
        losses[step] = found.item()
        if not math.isfinite(losses[step]):
            expected = "a finite number in every step (a lower learning rate may help)"
            raise InputError("fit", "loss", expected, f"{losses[step]} in step {step + 1}")
        optimiser.zero_grad()
        found.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            for kept, new in zip(average.parameters(), model.parameters(), strict=True):
                if new.requires_grad:
                    kept.lerp_(new, 1 - min(ema, (1 + step) / (10 + step)))
        if held is not None and step + 1 in looks and (now := held(average)) < least:
            least, best = now, copy.deepcopy(average)
        if progress is not None:
            progress(step + 1, losses[step])

    return best.eval(), losses


def _rate(step: int, steps: int) -> float:
    """Returns the factor of the peak learning rate: a warm-up of a fiftieth of the steps, and a cosine to 0."""
    return min(1.0, (step + 1) / max(steps // 50, 1)) * (1 + math.cos(math.pi * step / steps)) / 2
