"""A unit's own recent counts, to which the rate head adds what the population tells."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ndt.model.tokens import Batch

__all__ = ["TIME_CONSTANTS", "recent_counts"]

TIME_CONSTANTS = (2.0, 8.0, 32.0)  # bins

# L = tokens, W = chosen tokens, P = units of a patch, J = patches of the batch, K = time constants


@torch.no_grad()
def recent_counts(
    batch: Batch,
    chosen: Bool[Tensor, " L"],
    mean: Float[Tensor, "J P"],
    time_constants: Sequence[float] = TIME_CONSTANTS,
) -> Float[Tensor, "W P K"]:
    r"""Returns causal averages of the own visible counts of each entry of the chosen tokens, in earlier bins.

    .. math:: m_{tk} = \frac{\bar c + \sum_{s < t} e^{-(t - s) / \tau_k} c_s}{1 + \sum_{s < t} e^{-(t - s) / \tau_k}}

    over the visible bins s of its window, with the unit's mean count :math:`\bar c` as one more observation. Bins in
    which the whole patch was not observed are left out of time.

    Arguments:
        batch: The batch.
        chosen: Tokens to return.
        mean: Mean count of each member of each patch.
        time_constants: The K time constants :math:`\tau_k` in bins.
    """
    slots = int(batch.slot.max()) + 1 if batch.num_tokens else 1
    sequence = batch.window * slots + batch.slot
    needed = sequence.new_zeros(batch.num_windows * slots, dtype=torch.bool)
    needed[sequence[chosen]] = True
    rows = needed[sequence].nonzero()[:, 0]  # tokens of the sequences that hold a chosen one
    rows = rows[torch.argsort(batch.time[rows], stable=True)]
    place = needed.cumsum(0) - 1  # of each needed sequence
    decay = torch.exp(-1 / torch.tensor(time_constants, device=mean.device, dtype=mean.dtype))
    shape = (int(needed.sum()), mean.shape[1], len(time_constants))
    total, number = mean.new_zeros(shape), mean.new_zeros(shape)
    found = mean.new_empty(int(chosen.sum()), *shape[1:])
    into = chosen.cumsum(0) - 1  # row of each chosen token in the result
    seen = batch.seen
    for same_time in rows.split(torch.bincount(batch.time[rows]).tolist()):
        at, asked = place[sequence[same_time]], chosen[same_time]
        earlier, wanted = at[asked], same_time[asked]
        found[into[wanted]] = (mean[batch.patch[wanted], :, None] + total[earlier]) / (1 + number[earlier])
        visible = seen[same_time, :, None].to(mean.dtype)
        total[at] = decay * (total[at] + visible * batch.counts[same_time, :, None])
        number[at] = decay * (number[at] + visible)

    return found
