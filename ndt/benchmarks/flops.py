"""Floating-point operations of a training step, from the architecture and the lengths of the sequences."""

from collections.abc import Sequence

from ndt.config import ModelConfig

__all__ = ["blocks_flops", "train_flops"]


def blocks_flops(config: ModelConfig, num_layers: int, lengths: Sequence[int]) -> int:
    r"""Returns what the forward pass of transformer blocks takes on sequences of :math:`n_i` tokens.

    .. math:: M \sum_i \left[ n_i (8 + 4 F) D^2 + 4 n_i^2 D \right]

    for M layers of width D and a feed-forward block of width F D: two operations for each weight of the matrices of
    queries, keys, values and output (:math:`4 D^2`) and of the feed-forward block (:math:`2 F D^2`), and for scores and
    their products with values. All pairs are counted, also those that a causal mask hides.

    Arguments:
        config: Architecture; uses `width`, `feedforward`.
        num_layers: Layers M.
        lengths: Tokens of each sequence, context tokens included.
    """
    D, F = config.width, config.feedforward
    each = (n * (8 + 4 * F) * D**2 + 4 * n**2 * D for n in lengths)

    return num_layers * sum(each)


def train_flops(config: ModelConfig, visible: Sequence[int], tokens: Sequence[int], num_context: int) -> int:
    """Returns what forward and backward pass take: three times the forward pass of encoder and masked decoder.

    The backward pass multiplies each matrix twice, for the gradients of its input and its weight. Embedding, read-out,
    norms and the optimiser are left out, so that a share of the machine's peak is understated, by some percent.

    Arguments:
        config: Architecture.
        visible: Tokens of each window that the encoder sees.
        tokens: All tokens of each window, which the masked decoder sees.
        num_context: Context tokens of a window; both see them.
    """
    encoder = blocks_flops(config, config.num_layers, [n + num_context for n in visible])
    decoder = blocks_flops(config, config.num_decoder_layers, [n + num_context for n in tokens])

    return 3 * (encoder + decoder)
