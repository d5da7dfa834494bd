"""Controls of a pretrained decoder: its encoder replaced by noise, units' identities permuted, contexts left out."""

import copy
from typing import Any

import numpy as np
import torch

from ndt.data.store import Store
from ndt.data.targets import build_targets
from ndt.data.windows import TEST, BinnedSession
from ndt.evaluation.metrics import score
from ndt.finetune.decoding import decode
from ndt.model.transformer import NDT
from ndt.session import Session
from ndt.target import scored_bins

__all__ = ["ENCODER", "contextless", "network_scores", "noised", "permuted"]

ENCODER = ("stem.", "position.", "encoder.")  # beginnings of the names of parameters between counts and latents


def noised(model: NDT, seed: int = 0) -> NDT:
    """Returns a copy whose stem and encoder have noise of each weight's own mean square in place of the weights."""
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if name.startswith(ENCODER):
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise.to(parameter) * parameter.square().mean().sqrt())

    return other


def permuted(model: NDT, session: Session, seed: int = 0) -> NDT:
    """Returns a copy in which each unit of a session has the identity of another one of it."""
    other, identity = copy.deepcopy(model), model.identity
    rows = torch.from_numpy(model.rows(session).unit)
    order = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    with torch.no_grad():
        for name in ("activity", "residual", "site_of_unit", "depth_of_unit"):
            getattr(other.identity, name)[rows] = getattr(identity, name)[order]
        # what a count is standardised by stays that of the unit itself
        other.identity.activity[rows, 0] = identity.activity[rows, 0]

    return other


def contextless(model: NDT) -> NDT:
    """Returns a copy for which every session, subject and task is unknown: the residuals of contexts are zero."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.context.zero_()

    return other


def network_scores(model: NDT, store: Store, session: str) -> dict[str, Any]:
    """Returns the scores of the first part of a model's target on a session's test split."""
    spec = model.spec
    assert spec.target is not None, "the model has a target"
    binned = BinnedSession(store.session(session), spec.bin_size, spec.window_bins * spec.bin_size)
    names = [part.request for part in spec.target.parts]
    target = build_targets(binned.session, names, binned.start, binned.bin_size, lag=spec.target.lag)
    rows, columns = scored_bins(target, 0, np.asarray(binned.split == TEST)), target.columns(0)

    return score(target.values[rows, columns], decode(model, binned, rows)[rows, columns], target.parts[0].kind)
