"""A unit's own recent counts, to which the rate head adds what the population tells."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ndt.model.tokens import Batch

__all__ = ["TIME_CONSTANTS", "recent_counts"]

TIME_CONSTANTS = (2.0, 8.0, 32.0)  # bins

# L = tokens, P = units of a patch, J = patches of the batch, K = time constants


@torch.no_grad()
def recent_counts(
    batch: Batch, mean: Float[Tensor, "J P"], time_constants: Sequence[float] = TIME_CONSTANTS
) -> Float[Tensor, "L P K"]:
    r"""Returns causal averages of each entry's own visible counts in earlier bins of its window.

    .. math:: m_{tk} = \frac{\bar c + \sum_{s < t} e^{-(t - s) / \tau_k} c_s}{1 + \sum_{s < t} e^{-(t - s) / \tau_k}}

    over the visible bins s, with the unit's mean count :math:`\bar c` as one more observation. Bins in which the whole
    patch was not observed are left out of time.

    Arguments:
        batch: The batch.
        mean: Mean count of each member of each patch.
        time_constants: The K time constants :math:`\tau_k` in bins.
    """
    slots = int(batch.slot.max()) + 1 if batch.num_tokens else 1
    sequence, seen = batch.window * slots + batch.slot, batch.seen
    decay = torch.exp(-1 / torch.tensor(time_constants, device=mean.device, dtype=mean.dtype))
    shape = (batch.num_windows * slots, mean.shape[1], len(time_constants))
    total, number = mean.new_zeros(shape), mean.new_zeros(shape)
    found = mean.new_empty(batch.num_tokens, *shape[1:])
    by_time = torch.argsort(batch.time, stable=True)
    counts = torch.where(seen, batch.counts, 0).to(mean.dtype)
    for rows in by_time.split(torch.bincount(batch.time).tolist()):
        at = sequence[rows]
        found[rows] = (mean[batch.patch[rows], :, None] + total[at]) / (1 + number[at])
        total[at] = decay * (total[at] + counts[rows, :, None])
        number[at] = decay * (number[at] + seen[rows, :, None])

    return found
