"""NDT2 as published, as a reference, with the attention layers, tokens and training of the main model.

A unit is identified by its index in its patch, which suits persistent channels only. Time and slot have learned
embeddings, tokens attend to all tokens of their own and earlier bins, feed-forward parts have two layers. The encoder
skips hidden tokens; a rate decoder, in which each enters as one learned mask token, predicts their counts, and the
decoder of the target cross-attends to all latents. `configs/pretrain/ndt2.yaml` is its preset.

Reference: Ye, Collinger, Wehbe, Gaunt (2023), "Neural Data Transformer 2", NeurIPS.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from ndt.config import ModelConfig
from ndt.errors import InputError
from ndt.model.attention_patterns import AttentionPattern, PackedLayout, Sequences, packed_layout
from ndt.model.checkpoint import ModelSpec
from ndt.model.layers import Attention, Dropout
from ndt.model.tokens import Batch
from ndt.model.transformer import NDT, Encoded
from ndt.session import Session

__all__ = ["NDT2", "CrossDecoder", "Quirks"]

MAX_COUNT = 20  # larger spike counts are clipped
MAX_BINS, MAX_SLOTS = 250, 9  # rows of the tables of time and slots: 5 s of 20 ms bins, 288 channels in patches of 32

# L = tokens, W = chosen tokens, M = rows of the memory, P = units of a patch, R = bins of the batch, D = width,
# C = target dimensions


def _look_up(table: nn.Embedding, index: Int[Tensor, " L"], what: str) -> Float[Tensor, "L D"]:
    """Returns rows of a learned table of bins or slots; raises an InputError beyond the table."""
    if len(index) and int(index.max()) >= table.num_embeddings:
        expected = f"at most {table.num_embeddings}, the rows of NDT2's table"
        raise InputError("model", f"{what} of a window", expected, int(index.max()) + 1)

    return table(index)


class _LearnedPosition(nn.Module):
    """Embeds a token's bin and slot by tables."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

        self.slot = nn.Embedding(MAX_SLOTS, config.width)
        self.time = nn.Embedding(MAX_BINS, config.width)

    def forward(self, time: Int[Tensor, " L"], slot: Int[Tensor, " L"]) -> Float[Tensor, "L D"]:
        return _look_up(self.time, time, "bins") + _look_up(self.slot, slot, "patches")


class _SlotEmbedding(nn.Module):
    """Concatenates embeddings of the counts of a patch's units (sec. 3.1), D / P dimensions each.

    Entries that are not visible have count 0. The embedding of the count `frozen` stays zero.
    """

    def __init__(self, config: ModelConfig, frozen: int | None = None) -> None:
        super().__init__()

        self.units = config.units_per_patch
        self.count = nn.Embedding(MAX_COUNT + 1, config.width // self.units, padding_idx=frozen)

    def forward(self, batch: Batch, chosen: Bool[Tensor, " L"]) -> Float[Tensor, "W D"]:
        counts = torch.where(batch.seen, batch.counts, 0)[chosen].long()
        counts = F.pad(counts, (0, self.units - counts.shape[1]))  # a batch of small sessions has narrow tokens

        return self.count(counts.clamp(max=MAX_COUNT)).flatten(1)


class _FeedForward(nn.Sequential):
    """Two layers with a GELU in between."""

    def __init__(self, config: ModelConfig) -> None:
        D, hidden = config.width, config.feedforward * config.width
        super().__init__(nn.Linear(D, hidden), nn.GELU(), nn.Linear(hidden, D))


class _Block(nn.Module):
    """A block without rotary embedding, its layer norms after the sums."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

        self.norm, self.attention = nn.LayerNorm(config.width), Attention(config, rotary=False)
        self.feedforward_norm, self.feedforward = nn.LayerNorm(config.width), _FeedForward(config)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "L D"],
        layout: PackedLayout,
        pattern: AttentionPattern,
        keep: Int[Tensor, " R"] | None = None,
    ) -> Float[Tensor, "R D"]:
        """Returns all transformed rows, or the rows `keep`: the last block skips rows that no readout uses."""
        inner = self.attention(x, layout, pattern, keep=keep)
        x = self.norm((x if keep is None else x.index_select(0, keep)) + self.dropout(inner))

        return self.feedforward_norm(x + self.dropout(self.feedforward(x)))


class _CrossBlock(nn.Module):
    """Cross-attention to a memory, then a block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

        self.norm = nn.LayerNorm(config.width)
        self.attention = Attention(config, rotary=False)
        self.dropout = Dropout(config.dropout)
        self.block = _Block(config)

    def forward(
        self,
        x: Float[Tensor, "R D"],
        layout: PackedLayout,
        memory: Float[Tensor, "M D"],
        cross: AttentionPattern,
        memory_layout: PackedLayout,
    ) -> Float[Tensor, "R D"]:
        x = self.norm(x + self.dropout(self.attention(x, layout, cross, memory, memory_layout)))

        return self.block(x, layout, layout.pattern(0))


class CrossDecoder(nn.Module):
    """Decoder with one query per bin.

    A query is the embedding of its bin; it attends to all tokens of its own and earlier bins, then to earlier queries.

    Arguments:
        config: Architecture.
        target_dims: Dimensions C.
    """

    def __init__(self, config: ModelConfig, target_dims: int) -> None:
        super().__init__()

        self.time = nn.Embedding(MAX_BINS, config.width)
        self.blocks = nn.ModuleList(_CrossBlock(config) for _ in range(config.num_decoder_layers))
        self.readout = nn.Linear(config.width, target_dims)

    def forward(self, batch: Batch, memory: Float[Tensor, "M D"], memory_layout: PackedLayout) -> Float[Tensor, "R C"]:
        """Returns the target at each bin, standardised.

        Arguments:
            batch: The batch.
            memory: Encoded context and data tokens.
            memory_layout: Their layout.
        """
        time = batch.bin_time
        layout = packed_layout(batch.bin_window, time, torch.zeros_like(time), batch.num_windows, order="joint")
        keys = Sequences(memory_layout.lengths, memory_layout.time)
        cross = AttentionPattern(Sequences(layout.lengths, layout.time), keys, "time")
        x = _look_up(self.time, time, "bins")
        for block in self.blocks:
            x = block(x, layout, memory, cross, memory_layout)

        return self.readout(x)


@dataclass(frozen=True, kw_only=True)
class _Memory(Encoded):
    """Outputs of the encoder: beside latents of data tokens, all encoded tokens, (K + M, D), and their layout."""

    memory: Float[Tensor, "M D"]
    layout: PackedLayout


class NDT2(NDT):
    """Neural Data Transformer 2; windows have at most `MAX_BINS` bins."""

    ARCHITECTURE: ClassVar[str] = "ndt2"
    ORDER: ClassVar[str] = "joint"
    KNOWS_UNITS: ClassVar[bool] = False
    FROZEN_COUNT: ClassVar[int | None] = None  # whose embedding stays zero

    def __init__(self, spec: ModelSpec) -> None:
        if spec.window_bins > MAX_BINS:
            seconds = f"{spec.window_bins} ({spec.window_bins * spec.bin_size:g} s)"
            raise InputError("model", "window", f"at most {MAX_BINS} bins, the rows of NDT2's table", seconds)
        if any(part.per for part in spec.parts):
            raise InputError("model", "target", "labels per bin, for NDT2", "labels per trial")
        super().__init__(spec)

    def _build(self, spec: ModelSpec) -> None:
        c = spec.config
        del self.identity  # units have no vectors
        nn.init.normal_(self.context, std=0.02)
        self.dropout = Dropout(c.dropout)  # of the inputs and outputs of encoder and rate decoder
        self.embed = _SlotEmbedding(c, self.FROZEN_COUNT)
        self.position, self.rate_position = _LearnedPosition(c), _LearnedPosition(c)
        self.mask_token = nn.Parameter(0.02 * torch.randn(c.width))
        self.encoder = nn.ModuleList(_Block(c) for _ in range(c.num_layers))
        self.rate_decoder = nn.ModuleList(_Block(c) for _ in range(c.num_decoder_layers))
        self.rates = nn.Linear(c.width, c.units_per_patch)
        self.decoder = CrossDecoder(c, sum(part.num_columns for part in spec.parts)) if spec.parts else None

    def observe(self, session: Session, activity: NDArray[np.float32]) -> "NDT2":
        """Returns the model, which uses no measure of activity."""
        return self

    def drop_residuals(self, probability: float) -> None:
        """Does nothing: NDT2 has no residuals."""

    def standardise(self, activity: Iterable[NDArray[np.float32]]) -> None:
        """Does nothing; see `observe`."""

    def extended(self, spec: ModelSpec) -> "NDT2":
        """Returns a copy for a specification with more contexts, or another target.

        Unknown contexts start at the mean of their kind. The decoder is kept if the target is the same.
        """
        other, weights = type(self)(spec), self.state_dict()
        if self.spec.parts != spec.parts:
            weights = {k: v for k, v in weights.items() if not k.startswith("decoder.")}
        new, known = other.state_dict(), weights.pop("context")
        new["context"][: len(known)] = known
        kinds = [name.partition(":")[0] for name in spec.vocabulary.contexts]
        for row in range(len(known), len(kinds)):
            if same := [i for i in range(len(known)) if kinds[i] == kinds[row]]:
                new["context"][row] = known[same].mean(0)
        other.load_state_dict(weights, strict=False)
        other.store = self.store

        return other

    def contexts(self, batch: Batch) -> Float[Tensor, "K D"]:
        """Returns the context tokens."""
        return self.context[batch.context] + self.context_kind[self.kind_of_context[batch.context]]

    def encode(self, batch: Batch) -> Encoded:
        """Returns latents of the visible tokens; the encoder does not process the others."""
        visible = batch.visible
        tokens = self.embed(batch, visible) + self.position(batch.time[visible], batch.slot[visible])
        order, layout = self.layout(batch, visible)
        x = torch.cat([self.contexts(batch), self.dropout(tokens)]).index_select(0, order)
        for i, block in enumerate(self.encoder):
            x = block(x, layout, layout.pattern(i))
        x = self.dropout(x)

        return _Memory(tokens=x.index_select(0, layout.data), chosen=visible, memory=x, layout=layout)

    def log_rates(self, batch: Batch, encoded: Encoded, *, every: bool = False) -> Float[Tensor, "W P"]:
        """Returns log spikes per bin of all units of the tokens to be predicted, or of every token."""
        x = self.mask_token.expand(batch.num_tokens, -1).to(encoded.tokens.dtype)
        x = x.masked_scatter(encoded.chosen[:, None], encoded.tokens) + self.rate_position(batch.time, batch.slot)
        order, layout = self.layout(batch, torch.ones_like(encoded.chosen))
        x = torch.cat([self.context[batch.context], self.dropout(x)]).index_select(0, order)
        chosen = torch.ones_like(encoded.chosen) if every else batch.predicted
        last = len(self.rate_decoder) - 1
        for i, block in enumerate(self.rate_decoder):
            x = block(x, layout, layout.pattern(i), keep=layout.data[chosen] if i == last else None)

        return self.rates(self.dropout(x))[:, : batch.counts.shape[1]]

    def read_target(self, batch: Batch, encoded: Encoded) -> Float[Tensor, "R V"]:
        """Returns the target at each bin, in units of its standard deviation on the training split."""
        assert isinstance(encoded, _Memory)
        assert self.decoder is not None, "the model has a target"

        return self.decoder(batch, encoded.memory, encoded.layout)


class Quirks(NDT2):
    """NDT2 with four behaviours of its released code that the paper does not mention.

    One mask is drawn for all windows of a batch, the embedding of count 5 stays zero (the code pads batches with
    fives), the first 120 ms of each window have no decoding loss, and validation R² is averaged over batches.
    """

    ARCHITECTURE: ClassVar[str] = "ndt2_quirks"
    FROZEN_COUNT: ClassVar[int | None] = 5
    SHARED_MASK: ClassVar[bool] = True
    UNDECODED: ClassVar[float] = 0.12
    R2_BINS: ClassVar[int | None] = 64 * 50  # of a batch
