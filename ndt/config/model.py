"""Settings of the architecture."""

from dataclasses import dataclass

from ndt.config.reader import choose, require
from ndt.errors import InputError

__all__ = ["ARCHITECTURES", "ModelConfig"]

ARCHITECTURES = ("ndt", "ndt2", "ndt2_quirks")
LARGEST = {  # sizes, so that a file cannot ask for a model that takes forever to build
    "num_layers": 1000, "num_decoder_layers": 1000, "num_heads": 1024, "units_per_patch": 65_536, "unit_width": 4096,
    "feedforward": 64,
}  # fmt: skip
PUBLISHED = {"causal": True, "attention_window": 0}  # settings that NDT2 fixes


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture of the transformer. The defaults are the preset `tiny`.

    Arguments:
        architecture: ``ndt`` (ours), ``ndt2`` (as published) or ``ndt2_quirks`` (as its code was released); see
            `ndt.model.ndt2`.
        width: Width D of tokens; a multiple of 4 times `num_heads`.
        num_layers: Encoder layers.
        num_decoder_layers: Layers of NDT2's two decoders, of rates and of the target; the main model has none.
        num_heads: Attention heads H.
        units_per_patch: Largest number of units P in one patch. Sessions with as many units have one token a bin.
        unit_width: Dimensions E of a unit's vector.
        num_stem_layers: Temporal convolutions between read-in and encoder; n layers read 2 (2^n - 1) bins of the past.
        locality_bias: Initial bias of attention scores towards tokens near in time; it rises from 0 in the first head
            to this value in the last.
        causal: Whether the outputs at a bin depend only on its past and present.
        attention_window: Number of bins that a token attends to in one layer, its own included; 0 for all.
        feedforward: Hidden width of the feed-forward part over `width`.
        dropout: Dropout probability of stem, encoder and heads.
        drop_path: Probability that the residual branches of an encoder layer are left out of a window, in training.
        count_dropout: Probability that a count is replaced by its mean at the read-in, in training.
    """

    architecture: str = "ndt"
    width: int = 128
    num_layers: int = 2
    num_decoder_layers: int = 2
    num_heads: int = 4
    units_per_patch: int = 2048
    unit_width: int = 32
    num_stem_layers: int = 4
    locality_bias: float = 2.0
    causal: bool = True
    attention_window: int = 0
    feedforward: int = 2
    dropout: float = 0.2
    drop_path: float = 0.5
    count_dropout: float = 0.3

    def __post_init__(self) -> None:
        require(self, {name: (1, most) for name, most in LARGEST.items()}, "model.")
        require(self, dict.fromkeys(("dropout", "drop_path", "count_dropout"), (0, 0.99)), "model.")
        require(self, {"width": (4, 65_536), "attention_window": (0, 1_000_000), "locality_bias": (0, 10)}, "model.")
        require(self, {"num_stem_layers": (0, 12)}, "model.")
        choose(self, "model", architecture=ARCHITECTURES)
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
