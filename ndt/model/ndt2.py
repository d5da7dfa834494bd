"""NDT2 as published, as a reference: its modules replace those of `ndt.model.transformer.NDT`, whose layers they share.

A unit is identified by its index in its patch, which suits persistent channels only. Time and slot have learned
embeddings, tokens attend to all tokens of their own and earlier bins, feed-forward parts have two layers, and the
decoder cross-attends to all tokens. `configs/pretrain/ndt2.yaml` is its preset.

Reference: Ye, Collinger, Wehbe, Gaunt (2023), "Neural Data Transformer 2", NeurIPS.
"""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ndt.config import ModelConfig
from ndt.errors import InputError
from ndt.model.attention_patterns import AttentionPattern, PackedLayout, Sequences, packed_layout
from ndt.model.checkpoint import ModelSpec
from ndt.model.layers import Attention, Block, Dropout
from ndt.model.patches import MAX_COUNT, Population
from ndt.model.tokens import Batch
from ndt.model.transformer import NDT, Encoded

__all__ = ["NDT2", "CrossDecoder", "Quirks"]

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

        self.count = nn.Embedding(MAX_COUNT + 1, config.width // config.units_per_patch, padding_idx=frozen)

    def forward(self, batch: Batch, chosen: Bool[Tensor, " L"], population: Population) -> Float[Tensor, "W D"]:
        counts = torch.where(batch.seen, batch.counts, 0)[chosen]

        return self.count(counts.clamp(max=self.count.num_embeddings - 1)).flatten(1)


class _SlotReadout(nn.Module):
    """Linear map from a token's latent to the log rates of its patch (sec. 3.1)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

        self.linear = nn.Linear(config.width, config.units_per_patch)

    def forward(
        self, z: Float[Tensor, "W D"], batch: Batch, chosen: Bool[Tensor, " L"], population: Population
    ) -> Float[Tensor, "W P"]:
        return self.linear(z)


class _FeedForward(nn.Sequential):
    """Two layers with a GELU in between."""

    def __init__(self, config: ModelConfig) -> None:
        D, hidden = config.width, config.feedforward * config.width
        super().__init__(nn.Linear(D, hidden), nn.GELU(), nn.Linear(hidden, D))


class _Block(Block):
    """A block without rotary embedding."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, rotary=False, feedforward=_FeedForward)


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


class NDT2(NDT):
    """Neural Data Transformer 2; windows have at most `MAX_BINS` bins."""

    ARCHITECTURE: ClassVar[str] = "ndt2"
    EMBEDDING: ClassVar[type[nn.Module]] = _SlotEmbedding
    POSITION: ClassVar[type[nn.Module]] = _LearnedPosition
    BLOCK: ClassVar[type[Block]] = _Block
    READOUT: ClassVar[type[nn.Module]] = _SlotReadout
    ORDER: ClassVar[str] = "joint"
    KNOWS_UNITS: ClassVar[bool] = False

    def __init__(self, spec: ModelSpec) -> None:
        if spec.window_bins > MAX_BINS:
            seconds = f"{spec.window_bins} ({spec.window_bins * spec.bin_size:g} s)"
            raise InputError("model", "window", f"at most {MAX_BINS} bins, the rows of NDT2's table", seconds)
        super().__init__(spec)

    def _add_units(self, spec: ModelSpec) -> None:
        """Adds nothing: units have no embeddings."""

    def _decoder(self, spec: ModelSpec) -> nn.Module:
        assert spec.target is not None, "a decoder has a target"
        if spec.config.decoder == "cross":
            return CrossDecoder(spec.config, len(spec.target.dims))

        return super()._decoder(spec)

    def population(self, batch: Batch) -> Population:
        """Returns the batch's units: mean counts, and embeddings with zero dimensions."""
        mean = self._mean_counts(batch)

        return Population(mean.new_zeros(len(mean), 0), mean)

    def decode(
        self, batch: Batch, encoded: Encoded | None = None, *, detach_latents: bool = False
    ) -> Float[Tensor, "Q C"]:
        """Returns the target at each bin, in units of its standard deviation on the training split."""
        if not isinstance(self.decoder, CrossDecoder):
            return super().decode(batch, encoded, detach_latents=detach_latents)
        encoded = encoded or self.encode(batch)

        return self.decoder(batch, encoded.memory, encoded.layout)


class _FiveFrozen(_SlotEmbedding):
    """The embedding of count 5 stays zero, because the released code pads batches with fives."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, frozen=5)


class Quirks(NDT2):
    """NDT2 with four behaviours of its released code that the paper does not mention.

    One mask is drawn for all windows of a batch, the embedding of count 5 stays zero, the first 120 ms of each window
    have no decoding loss, and validation R² is averaged over batches.
    """

    ARCHITECTURE: ClassVar[str] = "ndt2_quirks"
    EMBEDDING: ClassVar[type[nn.Module]] = _FiveFrozen
    SHARED_MASK: ClassVar[bool] = True
    UNDECODED: ClassVar[float] = 0.12
    R2_BINS: ClassVar[int | None] = 64 * 50  # of a batch
