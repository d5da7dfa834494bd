"""Settings of the architecture."""

from dataclasses import dataclass

from ndt.config.reader import INF, choose, require
from ndt.errors import InputError

__all__ = ["DECODERS", "ModelConfig"]

DECODERS = {
    "ndt": ("tcn", "tcn_latents", "linear"),
    "ndt2": ("cross", "linear"),
    "ndt2_quirks": ("cross", "linear"),
}  # of each architecture
PUBLISHED = {"norm": "post", "causal": True, "attention_window": 0}  # settings that NDT2 fixes


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture of the transformer. The defaults are the preset `tiny`.

    Arguments:
        architecture: ``ndt`` (ours), ``ndt2`` (as published) or ``ndt2_quirks`` (as its code was released); see
            `ndt.model.ndt2`.
        width: Width D of tokens; a multiple of 4 times `num_heads`.
        num_layers: Encoder layers.
        num_decoder_layers: Layers of the rate decoder, and of NDT2's decoder.
        num_heads: Attention heads H.
        units_per_patch: Units P in one patch.
        unit_width: Dimensions of an identity embedding.
        locality_bias: Initial bias of attention scores towards tokens near in time; it rises from 0 in the first head
            to this value in the last.
        causal: Whether the outputs at a bin depend only on its past and present.
        attention_window: Number of bins that a token attends to in one layer, its own included; 0 for all.
        norm: Layer norm: ``post``, or ``pre`` for deep models.
        feedforward: Hidden width of the feed-forward part over `width`.
        dropout: Dropout probability.
        decoder: ``tcn``: a temporal convolutional network (TCN) of counts, without the encoder; ``tcn_latents``: a TCN
            of counts and latents; ``linear``: a linear filter of latents; ``cross``: NDT2's, queries that attend to
            latents. See `ndt.model.tcn`, `ndt.model.linear`, `ndt.model.ndt2`.
        tcn_width: Width G of the TCN's layers.
        num_tcn_layers: Layers of the TCN; n layers read 2 (2^n - 1) bins of the past.
        num_members: Number of TCNs; the decoder's output is their mean.
        count_dropout: Probability that a count is replaced by its mean in the TCN's input, in training.
        tcn_dropout: Dropout probability within the TCN.
    """

    architecture: str = "ndt"
    width: int = 96
    num_layers: int = 2
    num_decoder_layers: int = 2
    num_heads: int = 4
    units_per_patch: int = 32
    unit_width: int = 32
    locality_bias: float = 2.0
    causal: bool = True
    attention_window: int = 0
    norm: str = "post"
    feedforward: int = 2
    dropout: float = 0.0
    decoder: str = "tcn"
    tcn_width: int = 128
    num_tcn_layers: int = 4
    num_members: int = 2
    count_dropout: float = 0.3
    tcn_dropout: float = 0.3

    def __post_init__(self) -> None:
        at_least_one = ("num_layers", "num_decoder_layers", "num_heads", "units_per_patch", "unit_width", "feedforward")
        require(self, dict.fromkeys((*at_least_one, "tcn_width"), (1, INF)), "model.")
        require(self, dict.fromkeys(("dropout", "count_dropout", "tcn_dropout"), (0, 0.99)), "model.")
        require(self, {"width": (4, INF), "attention_window": (0, INF), "locality_bias": (0, 10)}, "model.")
        require(self, {"num_tcn_layers": (0, 12), "num_members": (1, 64)}, "model.")
        choose(self, "model", architecture=tuple(DECODERS), norm=("pre", "post"))
        choose(self, "model", decoder=DECODERS[self.architecture])
        if self.width % (4 * self.num_heads):
            raise InputError("settings", "model.width", f"a multiple of {4 * self.num_heads}", self.width)
        if self.architecture != "ndt":
            self._check_published()

    def _check_published(self) -> None:
        if self.width % self.units_per_patch:
            expected = f"a multiple of model.units_per_patch ({self.units_per_patch}) in NDT2"
            raise InputError("settings", "model.width", expected, self.width)
        for name, value in PUBLISHED.items():
            if (found := getattr(self, name)) != value:
                raise InputError("settings", f"model.{name}", f"{value} in NDT2", found)

    @property
    def decoder_reads_counts(self) -> bool:
        """Whether the decoder reads counts alone, so that decoding does not run the encoder."""
        return self.decoder == "tcn"
