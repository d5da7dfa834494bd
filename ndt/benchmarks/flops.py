"""Floating-point operations of a training step, from the architecture and who reads whom."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ndt.layers import Block
from ndt.model import NDT
from ndt.routes import Route
from ndt.tokens import Batch

__all__ = ["attention_flops", "train_flops"]


def attention_flops(route: Route, width: int) -> int:
    r"""Returns what scores and their products with values take along a route, forward.

    .. math:: 4 D \sum_i p_i

    where :math:`p_i` is the number of pairs of a query and a key that it may read, in sequence i. Of the mask ``time``
    all pairs of a sequence are counted: kernels that know it compute them all.
    """
    n, m = route.queries.lengths.double(), route.keys.lengths.double()
    pairs = n * m - n * (n - 1) / 2 if route.mask == "causal" else n * m

    return int(4 * width * pairs.sum())


def train_flops(model: NDT, batch: Batch) -> int:
    """Returns what forward and backward pass take: three times the forward pass of encoder and masked decoder.

    Two operations for each weight of a block's matrices and each row that is multiplied by it. The backward pass
    multiplies each matrix twice, for the gradients of its input and its weight. Embedding, read-out, norms and the
    optimiser are left out, so that a share of the machine's peak is understated, by some percent.
    """
    with torch.no_grad():
        _, seen = model._arrange(batch, batch.visible)
        _, every = model._arrange(batch, torch.ones_like(batch.visible))
    total, D = 0, model.config.width
    for blocks, rows in ((model.encoder, seen), (model.rate_decoder, every)):
        for i, block in enumerate(blocks):
            assert isinstance(block, Block)
            chosen = len(rows.time)
            if blocks is model.rate_decoder and i == len(blocks) - 1:
                chosen = int(batch.wanted.sum())  # of the last block, what is asked for
            read = _weights((block.attention.query, block.attention.key_value))
            rest = _weights((block.attention.out, block.feedforward))
            total += 2 * (len(rows.time) * read + chosen * rest) + attention_flops(rows.route(i), D)

    return 3 * total


def _weights(modules: Iterable[nn.Module]) -> int:
    return sum(p.numel() for m in modules for p in m.parameters() if isinstance(p, Tensor) and p.ndim == 2)
