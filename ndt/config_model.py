"""Settings of the architecture."""

from dataclasses import dataclass

from ndt.errors import InputError
from ndt.settings import INF, choose, require

__all__ = ["ModelConfig"]

DECODERS = ("convolved", "counts", "pooled", "cross", "linear")  # of covariates


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture of the transformer. The defaults are the preset `tiny`.

    Arguments:
        width: Width D of tokens; a multiple of 4 times `num_heads`.
        num_layers: Encoder layers.
        num_decoder_layers: Layers of the masked decoder and of the covariate decoder.
        num_heads: Attention heads H.
        units_per_patch: Units P in one patch.
        units: What a unit is: ``vectors`` (a vector keyed by its identity) or ``slots`` (its place in its patch, NDT2).
        unit_width: Dimensions of a unit's vector.
        max_count: Spike counts above this are clipped.
        positions: How time enters: ``rotary`` (relative) or ``learned`` (tables, as in NDT2).
        recency: With rotary positions, how strongly new heads favour what is near in time: from 0 in the first to this.
        max_bins: With learned positions, longest window in bins.
        max_slots: With learned positions, most patches in a session.
        order: Who reads whom: ``joint`` (NDT2), ``sequential`` or ``factorised``; see `ndt.routes`.
        causal: Whether a bin reads only its past and present.
        reach: How many bins back a token reads in one layer, its own included; 0 for all of its window.
        norm: ``post`` (NDT2) or ``pre``, which deep stacks need.
        activation: Of feed-forward blocks: ``swiglu``, or ``gelu`` (NDT2) with as many parameters.
        qk_norm: Whether queries and keys are normalised.
        feedforward: Hidden width of the feed-forward block over `width`.
        dropout: Dropout probability.
        covariates: Covariate decoder: convolutions over ``counts`` (by vectors of units, and nothing is encoded; slots
            have none, and latents are read instead) or ``convolved`` (over counts and latents), ``pooled`` or ``cross``
            (NDT2) queries of latents, or ``linear`` in the latents of a few bins; see `ndt.convolution`, `ndt.decoder`,
            `ndt.linear`.
        linear_bins: Bins that a linear decoder reads, the last of them the one that is decoded.
        conv_width: Where covariates are convolved, width G of the convolutions.
        num_conv_layers: Their layers; n reach 2 (2^n - 1) bins back.
        num_stacks: Stacks of them whose mean is what is decoded.
        count_dropout: Share of counts that they read as their mean while training.
        conv_dropout: Dropout probability within them.
        likelihood: Of spike counts: ``poisson`` or ``negative_binomial``.
        context_tokens: Tokens of each context.
        compat: NDT2's quirks: one mask for all windows of a batch, five spikes as a frozen zero, the first 120 ms of
            each window not decoded, validation R² averaged over batches.
    """

    width: int = 96
    num_layers: int = 2
    num_decoder_layers: int = 2
    num_heads: int = 4
    units_per_patch: int = 32
    units: str = "vectors"
    unit_width: int = 32
    max_count: int = 20
    positions: str = "rotary"
    recency: float = 2.0
    max_bins: int = 200
    max_slots: int = 9
    order: str = "factorised"
    causal: bool = True
    reach: int = 0
    norm: str = "post"
    activation: str = "swiglu"
    qk_norm: bool = False
    feedforward: int = 2
    dropout: float = 0.0
    covariates: str = "counts"
    linear_bins: int = 1
    conv_width: int = 128
    num_conv_layers: int = 4
    num_stacks: int = 2
    count_dropout: float = 0.3
    conv_dropout: float = 0.3
    likelihood: str = "poisson"
    context_tokens: int = 1
    compat: bool = False

    def __post_init__(self) -> None:
        at_least_one = ("num_layers", "num_decoder_layers", "num_heads", "units_per_patch", "unit_width", "feedforward")
        require(self, {**dict.fromkeys(at_least_one, (1, INF)), "max_count": (1, 255), "max_bins": (1, INF)}, "model.")
        require(self, {"width": (4, INF), "dropout": (0, 0.99), "max_slots": (1, INF), "reach": (0, INF)}, "model.")
        require(self, {"recency": (0, 10)}, "model.")
        require(self, {"context_tokens": (1, 64), "conv_width": (1, INF), "num_conv_layers": (0, 12)}, "model.")
        require(self, {"linear_bins": (1, INF)}, "model.")
        require(self, {"num_stacks": (1, 64), "count_dropout": (0, 0.99), "conv_dropout": (0, 0.99)}, "model.")
        choose(self, "model", positions=("rotary", "learned"), units=("vectors", "slots"), norm=("pre", "post"))
        choose(self, "model", order=("joint", "sequential", "factorised"), activation=("gelu", "swiglu"))
        choose(self, "model", covariates=DECODERS, likelihood=("poisson", "negative_binomial"))
        if self.width % (4 * self.num_heads):
            raise InputError("settings", "model.width", f"a multiple of {4 * self.num_heads}", self.width)
        if self.units == "slots" and self.width % self.units_per_patch:
            expected = f"a multiple of model.units_per_patch ({self.units_per_patch}) where units are slots"
            raise InputError("settings", "model.width", expected, self.width)
        if self.units == "slots" and self.likelihood != "poisson":
            raise InputError("settings", "model.likelihood", "poisson where units are slots", self.likelihood)
        if self.order == "sequential" and not self.causal:
            raise InputError("settings", "model.order", "joint or factorised where model.causal is false", self.order)

    @property
    def decodes_counts(self) -> bool:
        """Whether covariates are decoded from counts alone: then nothing needs to be encoded for them."""
        return self.covariates == "counts" and self.units == "vectors"
