"""Settings of the architecture."""

from dataclasses import dataclass

from ndt.config.reader import INF, choose, require
from ndt.errors import InputError

__all__ = ["DECODERS", "ModelConfig"]

DECODERS = {
    "ndt": ("counts", "convolved", "linear"),
    "ndt2": ("cross", "linear"),
    "ndt2_quirks": ("cross", "linear"),
}  # covariate decoders of each architecture
PUBLISHED = {"norm": "post", "causal": True, "attention_window": 0}  # what NDT2 does not choose


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture of the transformer. The defaults are the preset `tiny`.

    Arguments:
        architecture: ``ndt`` (ours), ``ndt2`` (as published, to compare with) or ``ndt2_quirks`` (as its code was
            released); see `ndt.model.ndt2`.
        width: Width D of tokens; a multiple of 4 times `num_heads`.
        num_layers: Encoder layers.
        num_decoder_layers: Layers of the masked decoder, and of NDT2's covariate decoder.
        num_heads: Attention heads H.
        units_per_patch: Units P in one patch.
        unit_width: Dimensions of a unit's vector.
        max_count: Spike counts above this are clipped.
        locality_bias: How strongly new heads favour what is near in time: from 0 in the first to this.
        causal: Whether a bin reads only its past and present.
        attention_window: How many bins back a token reads in one layer, its own included; 0 for all of its window.
        norm: ``post``, or ``pre``, which deep stacks need.
        feedforward: Hidden width of the feed-forward block over `width`.
        dropout: Dropout probability.
        covariates: Covariate decoder: convolutions over ``counts`` (by vectors of units, and nothing is encoded) or
            ``convolved`` (over counts and latents), ``linear`` in the latents of a few bins, or NDT2's ``cross``
            (queries that attend to latents); see `ndt.model.tcn`, `ndt.model.linear`, `ndt.model.ndt2`.
        conv_width: Where covariates are convolved, width G of the convolutions.
        num_conv_layers: Their layers; n reach 2 (2^n - 1) bins back.
        num_members: Stacks of them whose mean is what is decoded.
        count_dropout: Share of counts that they read as their mean while training.
        conv_dropout: Dropout probability within them.
    """

    architecture: str = "ndt"
    width: int = 96
    num_layers: int = 2
    num_decoder_layers: int = 2
    num_heads: int = 4
    units_per_patch: int = 32
    unit_width: int = 32
    max_count: int = 20
    locality_bias: float = 2.0
    causal: bool = True
    attention_window: int = 0
    norm: str = "post"
    feedforward: int = 2
    dropout: float = 0.0
    covariates: str = "counts"
    conv_width: int = 128
    num_conv_layers: int = 4
    num_members: int = 2
    count_dropout: float = 0.3
    conv_dropout: float = 0.3

    def __post_init__(self) -> None:
        at_least_one = ("num_layers", "num_decoder_layers", "num_heads", "units_per_patch", "unit_width", "feedforward")
        require(
            self, {**dict.fromkeys(at_least_one, (1, INF)), "max_count": (1, 255), "locality_bias": (0, 10)}, "model."
        )
        require(self, {"width": (4, INF), "dropout": (0, 0.99), "attention_window": (0, INF)}, "model.")
        require(self, {"conv_width": (1, INF), "num_conv_layers": (0, 12), "num_members": (1, 64)}, "model.")
        require(self, {"count_dropout": (0, 0.99), "conv_dropout": (0, 0.99)}, "model.")
        choose(self, "model", architecture=tuple(DECODERS), norm=("pre", "post"))
        choose(self, "model", covariates=DECODERS[self.architecture])
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
    def decodes_counts(self) -> bool:
        """Whether covariates are decoded from counts alone: then nothing needs to be encoded for them."""
        return self.covariates == "counts"
