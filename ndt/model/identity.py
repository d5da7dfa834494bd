"""Unit identity: a vector for each unit, from what is known of it without labels, and a learned residual."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ndt.config import ModelConfig
from ndt.model.tokens import ACTIVITY, Batch
from ndt.model.vocabulary import Vocabulary

__all__ = ["Population", "UnitIdentity"]

HIDDEN = 64  # width of the shared network
KNOWN_DROPOUT = 0.1  # probability that a measure of activity, or a unit's region, probe and depth, is left out
CLIP = 5.0  # standard deviations; a unit of few spikes has extreme measures

# U = units of the batch, A = measures of activity, E = width of a unit's vector


class Population(NamedTuple):
    """Units of a batch.

    Arguments:
        vectors: Vector of each unit, (U, E).
        mean_counts: Spikes per bin of each unit, (U,).
    """

    vectors: Tensor
    mean_counts: Tensor


class UnitIdentity(nn.Module):
    r"""Vector of a unit, which read-in and rates share.

    .. math:: u_n = V\, \mathrm{GELU}(W a_n + s_n) + s'_n + r_n

    :math:`a_n` are standardised measures of the unit's own activity in unlabelled time (`ndt.data.activity`), so that a
    session that the model has never seen has vectors at once; :math:`s_n, s'_n` are sums of learned rows of its region
    and probe, and of its depth times a learned vector; :math:`r_n` is a learned residual. Rows and residuals start at
    zero, where an unknown region or unit stays, and are left out at random in pretraining.

    Arguments:
        config: Architecture; uses `unit_width`.
        vocabulary: Names of units, regions and probes.

    Attributes:
        residual_dropout: Probability that a unit's residual is left out in training; 0 unless pretraining sets it.
    """

    activity: Tensor
    activity_mean: Tensor
    activity_std: Tensor
    site_of_unit: Tensor
    depth_of_unit: Tensor

    def __init__(self, config: ModelConfig, vocabulary: Vocabulary) -> None:
        super().__init__()

        E, A, U = config.unit_width, len(ACTIVITY), len(vocabulary.units)
        self.residual_dropout = 0.0
        self.residual = nn.Parameter(torch.zeros(U, E))
        self.site = nn.Parameter(torch.zeros(len(vocabulary.sites), HIDDEN + E))  # region and probe
        self.depth = nn.Parameter(torch.zeros(HIDDEN + E))  # per millimetre
        self.inner, self.outer = nn.Linear(A, HIDDEN), nn.Linear(HIDDEN, E)
        self.register_buffer("activity", torch.zeros(U, A))
        self.register_buffer("activity_mean", torch.zeros(A))
        self.register_buffer("activity_std", torch.ones(A))
        sites = torch.tensor(vocabulary.unit_sites or [(0, 0)] * U, dtype=torch.long).view(-1, 2)
        self.register_buffer("site_of_unit", sites, persistent=False)
        depths = torch.tensor(vocabulary.unit_depths or [0.0] * U, dtype=torch.float32)
        self.register_buffer("depth_of_unit", depths, persistent=False)

    def standardise(self, activity: Float[Tensor, "U A"]) -> None:
        """Sets the mean and standard deviation by which activity is standardised to those of these units."""
        self.activity_mean.copy_(activity.mean(0))
        self.activity_std.copy_(activity.std(0, correction=0).clamp(min=1e-3))

    def forward(self, batch: Batch) -> Population:
        """Returns the batch's units; activity is that of their session if the batch has it, else the model's."""
        unit = batch.unit
        activity = torch.where(batch.activity.isnan(), self.activity[unit], batch.activity)
        a = ((activity - self.activity_mean) / self.activity_std).clamp(-CLIP, CLIP)
        known = self.depth_of_unit[unit, None] * self.depth
        if len(self.site):
            known = known + self.site[self.site_of_unit[unit]].sum(1)
        residual = self.residual.index_select(0, unit)
        if self.training:
            a = a * self._kept(a.shape, KNOWN_DROPOUT, a)
            known = known * self._kept((len(unit), 1), KNOWN_DROPOUT, a)
            residual = residual * self._kept((len(unit), 1), self.residual_dropout, a)
        inner, direct = known.split([HIDDEN, known.shape[1] - HIDDEN], 1)
        vectors = self.outer(F.gelu(self.inner(a) + inner)) + direct + residual

        return Population(vectors, activity[:, 0])

    @staticmethod
    def _kept(shape: tuple[int, ...], dropout: float, like: Tensor) -> Bool[Tensor, "*shape"] | Int[Tensor, "*shape"]:
        """Returns 1 with probability ``1 - dropout``, else 0; not rescaled, since all is present in use."""
        return (torch.rand(shape, device=like.device) >= dropout).to(like.dtype)
