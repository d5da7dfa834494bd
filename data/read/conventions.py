"""Habits of well-known archives, recognised by what a file holds: what is done about each, and what one may set."""

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ndt.intervals import Intervals

__all__ = ["is_period", "of_probes", "recognise", "subject_name"]

Columns = Mapping[str, NDArray[np.generic]]
PERIODS = {"openloopkinematics", "openloopkinematicsvelocity", "trialnum", "eval_mask", "blacklist"}  # of FALCON's H1
NLB_SPLITS = {"train", "val", "test", "none"}
ALLEN = {"isi_violations", "amplitude_cutoff", "presence_ratio"}


def recognise(columns: Columns, tables: Mapping[str, Intervals], counted: bool) -> dict[str, str]:
    """Returns the conventions that a file follows, and a sentence about each.

    Arguments:
        columns: Columns of units.
        tables: Tables of intervals.
        counted: Whether spikes were counted in bins.
    """
    trials = tables.get("trials", Intervals.empty()).columns
    found = {}
    splits = set(map(str, np.unique(trials["split"]))) if "split" in trials else set()
    if "heldout" in columns or (splits and splits <= NLB_SPLITS):
        found["NLB"] = "held-out units are in the column heldout; split=trials/split follows the benchmark's blocks"
    if {"eval_mask", "Blacklist", "blacklist"} & set(tables) or (counted and "cue" in trials):
        found["FALCON"] = "the table eval_mask says which time is scored; counts_at says where a bin's timestamp lies"
    if any(name.startswith("ibl_") for name in columns):
        found["IBL"] = "select='ibl_quality_score == 1' keeps units that pass the laboratory's criteria"
    if ALLEN & set(columns) and not any(name.startswith("ibl_") for name in columns):
        found["Allen"] = "select='quality == \"good\"' and bounds on isi_violations or presence_ratio choose units"

    return found


def is_period(name: str, rate: float) -> bool:
    """Whether a series keeps its period as `rate`, and its first timestamp as `offset`, as FALCON's H1 does."""
    return name.lower() in PERIODS and 0 < rate < 1


def subject_name(found: str) -> str:
    """Returns a subject's name without FALCON's split, which would make other units of the same electrodes."""
    return re.sub(r"[_-]held[_-](in|out)[_-](calib|eval|minival)$|[_-]minival$", "", found)


def of_probes(table: Intervals, group: NDArray[np.generic]) -> list[tuple[Intervals, NDArray[np.int64] | None]]:
    """Returns invalid times by the units that they concern: all (None), or those of the probes that their tags name.

    Allen's files tag a row with the probe that failed; the others went on recording.

    Arguments:
        table: ``invalid_times``, perhaps with a column `tags` of words joined by commas.
        group: Probe of each unit, (N,).
    """
    tags = table.columns.get("tags")
    probes = set(map(str, np.unique(group))) - {""}
    rows: dict[frozenset[str], list[int]] = {}
    for row in range(len(table)):
        named = probes & set(str(tags[row]).split(",")) if tags is not None else set()
        rows.setdefault(frozenset(named), []).append(row)

    return [
        (table.select(np.array(some)), None if not which else np.flatnonzero(np.isin(group.astype(str), sorted(which))))
        for which, some in rows.items()
    ]
