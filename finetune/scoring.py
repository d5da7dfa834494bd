"""What a fine-tuned decoder is worth: its delivered blend, its intervals, and every score beside the baselines'."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.blend import blend_weights, blended
from ndt.bootstrap import block_bootstrap_r2
from ndt.config import FinetuneConfig
from ndt.conformal import Conformal
from ndt.data.windows import TEST, VALID, Grid
from ndt.delivered import Delivered, PartBlend
from ndt.errors import InputError
from ndt.finetune.baselines import Baselines
from ndt.finetune.objective import decode
from ndt.input_range import Flags, InputRange
from ndt.metrics import r2
from ndt.model import NDT
from ndt.scores import score
from ndt.target import Target, labelled

__all__ = ["Scored", "certainty", "score_nothing", "score_session"]

COVERAGE = 0.9

Rows = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What was found of a decoder.

    Arguments:
        metrics: What metrics.json says.
        predictions: What predictions.npz holds.
        delivered: What is delivered beside the network; None where there is too little to score.
    """

    metrics: dict[str, Any]
    predictions: dict[str, NDArray[Any]]
    delivered: Delivered | None


@dataclass(frozen=True, kw_only=True)
class _PartScored:
    blend: PartBlend
    metrics: dict[str, Any]
    decoded: dict[str, Rows]


def score_nothing(model: NDT, grid: Grid, target: Target, chosen: NDArray[np.bool_], config: FinetuneConfig) -> Scored:
    """Says what was done to a session without enough labels to be scored."""
    return Scored(metrics=_about(grid, target, chosen, config), predictions={}, delivered=None)


def score_session(model: NDT, grid: Grid, target: Target, chosen: NDArray[np.bool_], config: FinetuneConfig) -> Scored:
    """Fits the baselines, blends them with the network on validation, and scores all on the test block's same bins.

    Arguments:
        model: The fine-tuned network.
        grid: The session's bins.
        target: What is decoded.
        chosen: Bins that were trained on, (R,).
        config: Fine-tuning.
    """
    network = decode(model, grid, grid.block >= VALID)
    counts = grid.all_counts()
    pieces = np.split(counts, np.flatnonzero(np.diff(grid.piece)) + 1)
    masks = np.split(chosen, np.flatnonzero(np.diff(grid.piece)) + 1)
    begin = time.perf_counter()
    parts = [_score_part(i, network, counts, grid, target, chosen, config) for i in range(len(target.parts))]
    seconds = time.perf_counter() - begin
    input_range = InputRange.fit(pieces, masks, grid.bin_size)
    flags = input_range.check(pieces).select(grid.block == TEST)
    shared = _about(grid, target, chosen, config) | {"baseline_seconds": seconds}
    shared["input_range"] = _range_metrics(flags, grid)
    for found in parts:
        found.metrics["test"]["out_of_range"] = float(flags.flagged.mean())
    delivered = Delivered(
        parts=tuple(found.blend for found in parts),
        unit_ids=tuple(map(str, grid.session.units.id)),
        input_range=input_range,
    )
    covariates = {p.name: found.metrics for p, found in zip(target.parts, parts, strict=True)}
    metrics = shared | parts[0].metrics | {"covariates": covariates}

    return Scored(metrics=metrics, predictions=_predictions(grid, target, parts, flags), delivered=delivered)


def scored_rows(grid: Grid, mask: str) -> NDArray[np.bool_]:
    """Returns which bins a table of intervals says to score, (R,).

    Arguments:
        grid: The session's bins.
        mask: Name of the table, and where in its bin a sample of it stands: ``TABLE@start``, ``TABLE@centre`` (as
            ``TABLE`` alone) or ``TABLE@end``. FALCON's is ``eval_mask@end`` in H1 and M1, ``eval_mask@start`` in M2.

    Raises:
        InputError: if the session has no such table.
    """
    table, _, place = mask.partition("@")
    tables, places = grid.session.intervals, {"start": 0.0, "": 0.5, "centre": 0.5, "end": 1.0}
    if table not in tables or place not in places:
        expected = f"one of {', '.join(tables) or 'no table'}, with @start, @centre or @end behind it or nothing"
        raise InputError(grid.session.session_id, "mask", expected, repr(mask))

    return tables[table].contains(grid.start + places[place] * grid.bin_size)


def _about(grid: Grid, target: Target, chosen: NDArray[np.bool_], config: FinetuneConfig) -> dict[str, Any]:
    return {
        "session": grid.session.session_id,
        "covariate": target.name,
        "seed": config.seed,
        "bin_size": grid.bin_size,
        "lag": target.lag,
        "adapt": config.adapt,
        "calibration_seconds": float((chosen & labelled(target)).sum() * grid.bin_size),
    }


def _score_part(
    i: int,
    network: Rows,
    counts: Rows,
    grid: Grid,
    target: Target,
    chosen: NDArray[np.bool_],
    config: FinetuneConfig,
) -> _PartScored:
    part, columns, known = target.parts[i], target.columns(i), labelled(target, i)
    y = target.values[:, columns]
    train, valid, test = chosen & known, known & (grid.block == VALID), known & (grid.block == TEST)
    if config.eval_mask:
        test &= scored_rows(grid, config.eval_mask)
    baselines = Baselines.fit(grid, part.kind, y, train, valid, config, counts=counts)
    decoded = {**baselines.decoded, "network": network[:, columns]}
    members = {name: decoded[name] for name in config.blend if name in decoded}
    weights = blend_weights(y[valid], {name: rows[valid] for name, rows in members.items()})
    delivered = blended(members, weights)
    conformal = Conformal.fit(y[valid], delivered[valid], part.kind, level=COVERAGE, piece=grid.piece[valid])

    trial = target.trial[i][test] if part.per else None
    scores: Callable[[Rows], dict[str, Any]] = lambda rows: score(y[test], rows[test], part.kind, trial=trial)

    sure = certainty(y[test], delivered[test], baselines.decoded["ridge"][test], conformal, grid.piece[test])
    scored = {}
    for name, rows in baselines.decoded.items():
        over = block_bootstrap_r2(y[test], delivered[test], grid.piece[test], peer=rows[test])
        behind = {"delivered_over": over.value, "delivered_over_error": over.error}
        scored[name] = scores(rows) | behind | baselines.facts[name]
    metrics = {
        "covariate": part.name,
        "kind": part.kind,
        "dims": list(part.columns),
        "unit": part.unit,
        "test": scores(delivered) | sure,
        "network": scores(network[:, columns]),
        "valid": {name: r2(y[valid], rows[valid]) for name, rows in {**members, "delivered": delivered}.items()},
        "weights": weights,
        "baselines": scored | {name: fact for name, fact in baselines.facts.items() if name not in scored},
    }
    peers = {name: baselines.fitted[name] for name in weights if name != "network"}
    blend = PartBlend(part=part, columns=columns, weights=weights, peers=peers, conformal=conformal)
    decoded = {"true": y, **members, "ridge": baselines.decoded["ridge"], "delivered": delivered}
    decoded["half"] = conformal.half_width(delivered)
    decoded["adaptive"] = np.full_like(decoded["half"], np.nan)
    decoded["adaptive"][grid.block == TEST] = conformal.adapt(y[grid.block == TEST], delivered[grid.block == TEST])

    return _PartScored(blend=blend, metrics=metrics, decoded=decoded)


def certainty(
    true: Rows, delivered: Rows, ridge: Rows | None, conformal: Conformal, piece: NDArray[np.integer]
) -> dict[str, Any]:
    """Returns how sure the delivered decoder's score is, by how much it exceeds ridge's, and what its intervals hold.

    Arguments:
        true: Measured values of the rows that are scored, (R, C).
        delivered: What was decoded, (R, C).
        ridge: What ridge decoded, (R, C); None where it was not fitted.
        conformal: The intervals.
        piece: Piece that each row lies in, (R,).
    """
    bootstrap = block_bootstrap_r2(true, delivered, piece)
    found: dict[str, Any] = {"r2_interval_95": list(bootstrap.interval()), "r2_error": bootstrap.error}
    if ridge is not None:
        over = block_bootstrap_r2(true, delivered, piece, peer=ridge)
        found |= {"over_ridge": over.value, "over_ridge_error": over.error}

    return found | conformal.measure(true, delivered, piece)


def _range_metrics(flags: Flags, grid: Grid) -> dict[str, Any]:
    """What the watch on the input says of the test block."""
    ids = grid.session.units.id
    shift = flags.shift[np.argmax(np.abs(flags.shift))] if len(flags.shift) else float("nan")

    return {
        "lost_units": [str(ids[n]) for n in flags.lost_units],
        "rate_shift": float(shift),
        "flagged": float(flags.flagged.mean()) if len(flags.flagged) else float("nan"),
    }


def _predictions(grid: Grid, target: Target, parts: list[_PartScored], flags: Flags) -> dict[str, NDArray[Any]]:
    """What is true and what was decoded in the test block, (T, C) each; names of further parts begin with theirs."""
    rows = grid.block == TEST
    found: dict[str, NDArray[Any]] = {"time": grid.start[rows] + grid.bin_size / 2, "piece": grid.piece[rows]}
    found["out_of_range"] = flags.flagged
    for i, (part, scored) in enumerate(zip(target.parts, parts, strict=True)):
        begin = f"{part.name}/" if i else ""
        for name, values in scored.decoded.items():
            found[begin + {"half": "half_width", "adaptive": "adaptive_half_width"}.get(name, name)] = values[rows]
        found |= {begin + "dims": np.array(part.columns), begin + "unit": np.array(part.unit)}
        found[begin + "kind"] = np.array(part.kind)

    return found
