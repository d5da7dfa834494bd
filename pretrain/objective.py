"""Masked modelling: predict the counts of hidden entries from the visible ones."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ndt.config import PretrainConfig
from ndt.data.sampler import Sampler
from ndt.data.windows import TRAIN, VALID, Grid
from ndt.decoder import squared_error
from ndt.errors import InputError
from ndt.likelihood import count_nll, poisson_nll
from ndt.masking import KINDS, draw_mask
from ndt.metrics import bits_per_spike, r2
from ndt.model import NDT, TABLES
from ndt.session import Session
from ndt.tokens import Batch, Window, pack
from ndt.vocabulary import Rows, Vocabulary

__all__ = ["VALID_MASKS", "MaskedModelling", "ValidWindow"]

Labels = NDArray[np.float32]

VALID_WINDOWS = 192  # at most so many validation windows: validation is a minor share of training
VALID_SEED = 977
VALID_PATCH = 32  # of the random mask, whatever the model's patches: all models are asked the same
VALID_MASKS = {"random": 0.5, "unit": 0.5, "forward": 0.4}  # kinds, and the ratio of each; see `ndt.masking`


@dataclass(frozen=True)
class ValidWindow:
    """A validation window with one of the stored masks."""

    kind: str
    window: Window


class MaskedModelling:
    """Objective of pretraining: the likelihood of hidden entries, and decoding where there is something to decode.

    Arguments:
        grids: Binned sessions, all with one bin width.
        vocabulary: Rows of their units and contexts.
        config: Pretraining.
        window_bins: Longest window.
        labels: Standardised covariate of each session at its bins, (R, C), NaN where missing; None to decode nothing.
    """

    def __init__(
        self,
        grids: Sequence[Grid],
        vocabulary: Vocabulary,
        config: PretrainConfig,
        window_bins: int,
        labels: Sequence[Labels] | None = None,
    ) -> None:
        self.config, self.patch = config, config.model.units_per_patch
        self.labels = labels
        self.weights = {kind: getattr(config.mask, kind) for kind in KINDS}
        train = [g.block == TRAIN for g in grids]
        self.sampler = Sampler(
            grids, train, vocabulary, window_bins=window_bins, min_bins=config.min_bins, seed=config.seed
        )
        self.shuffled = [_shuffles(g.session, config.shuffle_units) for g in grids]
        self.valid = valid_windows(grids, vocabulary, config.min_bins, window_bins, labels)
        if not self.valid:
            expected = f"an unbroken run of {config.min_bins} bins"
            raise InputError(grids[0].session.session_id, "validation block", expected, "none")

    def batch(self, step: int, rows: range) -> Batch:
        """Returns these windows of the global batch of a step, with their masks."""
        return pack([self._window(step, place) for place in rows], self.patch)

    def _window(self, step: int, place: int) -> Window:
        """Returns one training window: units shuffled and dropped, contexts dropped, entries hidden."""
        config, rng = self.config, self.sampler.generator(step, place)
        session, window = self.sampler.draw(rng)
        rows = self.sampler.rows[session]
        T, N = window.counts.shape
        keep = np.arange(N)
        if config.unit_dropout:
            keep = keep[rng.random(N) >= config.unit_dropout * rng.random()]
            keep = keep if len(keep) else np.array([rng.integers(N)])
        if self.shuffled[session]:
            keep = rng.permutation(keep)
        context = window.context
        if config.context_dropout:
            context = context[rng.random(len(context)) >= config.context_dropout]
        if config.model.compat:  # one mask for all windows of a batch
            rng = np.random.default_rng([config.seed, step])
        first = step < config.mask.alone and self.weights["random"] > 0
        weights = {"random": 1.0} if first else self.weights
        hidden = draw_mask(T, rows.region[keep], weights, config.mask.ratio, self.patch, rng, rows.group[keep])
        assert window.mean_counts is not None, "the sampler knows the rates of its sessions"

        return replace(
            window,
            counts=window.counts[:, keep],
            valid=window.valid[:, keep],
            unit=window.unit[keep],
            mean_counts=window.mean_counts[keep],
            context=context,
            hidden=hidden,
            target=None if self.labels is None else self.labels[session][slice(*window.index)],
        )

    def targets(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Returns the number of hidden entries, and that of labelled bins times dimensions."""
        numbers = {"nll": batch.hidden.sum()}
        if self.labels is not None:
            numbers["mse"] = (~batch.target.isnan()).sum()

        return numbers

    def losses(self, model: torch.nn.Module, batch: Batch, step: int) -> dict[str, tuple[Tensor, float]]:
        """Returns the likelihood of the hidden entries, and squared error over labelled bins and dimensions."""
        prediction = model(batch)
        terms = {"nll": (count_nll(prediction.log_rates, prediction.log_dispersion, batch), 1.0)}
        if self.labels is not None:
            terms["mse"] = (squared_error(prediction.decoded, batch.target), self.config.decoding_weight)

        return terms

    def rate(self, name: str, step: int) -> float:
        """Returns the rate of tables, and 1 for all else."""
        return self.config.table_rate if name in TABLES else 1.0

    @torch.no_grad()
    def validate(self, model: NDT) -> dict[str, float]:
        """Returns NLL (nats per unit and bin), that of constant rates, and bits per spike over them.

        Over all stored masks at once, and for each kind under ``kind/…``. Likelihoods are Poisson's of the predicted
        means, whatever the model was trained with; constant rates are each unit's mean on its training block. The score
        is the mean of the kinds' bits per spike. Where there are labels, R² of what is decoded is under ``r2``.
        """
        model.eval()
        found: dict[str, float] = {}
        sums = {kind: self._sums(model, [v for v in self.valid if v.kind == kind]) for kind in VALID_MASKS}
        for prefix, (nll, null, spikes, entries) in {**sums, "": np.sum(list(sums.values()), 0)}.items():
            at = f"{prefix}/" if prefix else ""
            found[f"{at}nll"], found[f"{at}null_nll"] = nll / entries, null / entries
            found[f"{at}bits_per_spike"] = bits_per_spike(nll, null, spikes)

        if any(not np.isnan(v.window.target).all() for v in self.valid if v.window.target is not None):
            found["r2"] = self._r2(model)

        return {"score": float(np.mean([found[f"{kind}/bits_per_spike"] for kind in VALID_MASKS])), **found}

    def _r2(self, model: NDT) -> float:
        """R² (variance-weighted) of what is decoded of the windows with random masks, as they are masked."""
        some = [v.window for v in self.valid if v.kind == "random"]
        batch = pack(some, self.patch).to(next(model.parameters()).device)
        labelled = ~batch.target.isnan().any(1)
        decoded = model.decode(batch, model.encode(batch))

        return r2(batch.target[labelled].cpu().numpy(), decoded[labelled].float().cpu().numpy())

    def _sums(self, model: NDT, valid: Sequence[ValidWindow]) -> NDArray[np.float64]:
        """Sums over hidden entries: NLL, NLL of constant rates, spikes, entries."""
        device, total = next(model.parameters()).device, np.zeros(4)
        for at in range(0, len(valid), 32):
            some = valid[at : at + 32]
            batch = pack([v.window for v in some], self.patch).to(device)
            log_rates = model(batch).log_rates
            wanted = batch.wanted
            counts, hidden = batch.counts[wanted], batch.hidden[wanted]
            constant = _constant_log_rates(batch)[wanted]
            nll, null = poisson_nll(log_rates, counts, hidden), poisson_nll(constant, counts, hidden)
            total += [float(nll), float(null), float(counts[hidden].sum()), float(hidden.sum())]

        return total


def _shuffles(session: Session, shuffle_units: str) -> bool:
    """Whether units of a session change patches: under ``auto``, where no other session can know them."""
    if shuffle_units != "auto":
        return shuffle_units == "always"

    return all(str(u).startswith(f"{session.session_id}/") for u in session.units.id)


def valid_windows(
    grids: Sequence[Grid],
    vocabulary: Vocabulary,
    min_bins: int,
    window_bins: int,
    labels: Sequence[Labels] | None = None,
) -> list[ValidWindow]:
    """Returns the stored set of masks: validation windows side by side over all sessions, each kind of mask in turn.

    A mask is a function of its kind, its session and the window's first bin, so that all models that share bin width
    and window are asked the same.
    """
    found = []
    for i, grid in enumerate(grids):
        rows = vocabulary.rows(grid.session)
        rates = grid.mean_counts(grid.block == TRAIN)[rows.order]
        for first, last in grid.runs(grid.block == VALID):
            for begin in range(first, last, window_bins):
                if (end := min(begin + window_bins, last)) - begin >= min_bins:
                    target = None if labels is None else labels[i][begin:end]
                    found.append((grid, begin, end, rows, rates, target))
    keep = np.unique(np.linspace(0, len(found) - 1, min(VALID_WINDOWS // len(VALID_MASKS), len(found))).round())

    return [_asked(kind, *found[int(i)]) for kind in VALID_MASKS for i in keep]


def _asked(
    kind: str, grid: Grid, begin: int, end: int, rows: Rows, rates: NDArray[np.float64], target: Labels | None
) -> ValidWindow:
    name = f"{kind}/{grid.session.session_id}".encode()
    rng = np.random.default_rng([VALID_SEED, zlib.crc32(name), int(begin)])
    hidden = draw_mask(int(end - begin), rows.region, {kind: 1.0}, VALID_MASKS[kind], VALID_PATCH, rng, rows.group)

    window = grid.window(begin, end, rows)

    return ValidWindow(kind, replace(window, hidden=hidden, mean_counts=rates, target=target))


def _constant_log_rates(batch: Batch) -> Tensor:
    """Log of each unit's mean count in its own session, laid out as the batch's tokens, (L, P).

    A rate of zero is raised to one spike in ten thousand bins, or a single validation spike would make it infinite.
    """
    return batch.mean_counts.clamp(min=1e-4).log()[batch.members[batch.patch]]
