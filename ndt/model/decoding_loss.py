"""Loss of decoded targets."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ndt.target import Part, part_columns

__all__ = ["decoding_loss", "num_labels"]

# R = bins of the batch, C = target dimensions


def decoding_loss(decoded: Float[Tensor, "R C"], target: Float[Tensor, "R C"], parts: Sequence[Part]) -> Tensor:
    r"""Returns the loss summed over labelled bins and parts; divided by `num_labels` it is their mean.

    A part's loss at a bin is the mean squared error of its standardised columns, or for K classes the cross-entropy of
    the softmax of its logits,

    .. math:: -\frac{1}{\log K} \sum_k y_k \log \frac{e^{x_k}}{\sum_j e^{x_j}} ,

    so that predicting the mean, or equal probabilities, has loss 1 for every part.

    Arguments:
        decoded: Standardised values, and logits of classes.
        target: Standardised values, and 1 or 0 for each class; a part with a NaN at a bin has no label there.
        parts: Parts of the target, whose columns these are.
    """
    total = torch.zeros((), device=decoded.device)
    for part, columns in zip(parts, part_columns(parts), strict=True):
        x, y = decoded[:, columns].float(), target[:, columns]
        missing = y.isnan().any(1, keepdim=True)
        y = y.nan_to_num()
        if part.kind == "class":
            entropy = -(y * x.log_softmax(1)).sum(1, keepdim=True)
            total = total + torch.where(missing, 0.0, entropy).sum() / math.log(part.num_columns)
        else:
            total = total + torch.where(missing, 0.0, x - y).square().sum() / part.num_columns

    return total


def num_labels(target: Float[Tensor, "R C"], parts: Sequence[Part]) -> Tensor:
    """Returns the number of labelled bins, summed over parts."""
    return torch.stack([(~target[:, columns].isnan().any(1)).sum() for columns in part_columns(parts)]).sum()
