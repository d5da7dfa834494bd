"""Conventions of well-known archives (NLB, FALCON, IBL, Allen), recognised by the content of a file."""

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ndt.intervals import Intervals

__all__ = ["is_period", "of_probes", "recognise", "subject_name"]

Columns = Mapping[str, NDArray[np.generic]]
PERIODS = {"openloopkinematics", "openloopkinematicsvelocity", "trialnum", "eval_mask", "blacklist"}  # FALCON's H1
NLB_SPLITS = {"train", "val", "test", "none"}
ALLEN = {"isi_violations", "amplitude_cutoff", "presence_ratio"}


def recognise(columns: Columns, tables: Mapping[str, Intervals], counted: bool) -> dict[str, str]:
    """Returns the conventions that a file follows, each with a sentence on the settings that it suggests.

    Arguments:
        columns: Columns of units.
        tables: Tables of intervals.
        counted: Whether the file holds spike counts.
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
    """Whether `rate` of a series holds its period, and `offset` its first timestamp, as in FALCON's H1."""
    return name.lower() in PERIODS and 0 < rate < 1


def subject_name(found: str) -> str:
    """Returns a subject's name without FALCON's split, which would separate units of the same electrode."""
    return re.sub(r"[_-]held[_-](in|out)[_-](calib|eval|minival)$|[_-]minival$", "", found)


def of_probes(table: Intervals, group: NDArray[np.generic]) -> list[tuple[Intervals, NDArray[np.int64] | None]]:
    """Returns invalid times with the units that they concern: all (None), or the units of the probes that tags name.

    Allen's files tag a row with the probe that failed, while the others recorded.

    Arguments:
        table: ``invalid_times``, optionally with a column `tags` of words separated by commas.
        group: Probe of each unit, (N,).
    """
    tags = table.columns.get("tags")
    probes = set(map(str, np.unique(group))) - {""}
    rows: dict[frozenset[str], list[int]] = {}
    for row in range(len(table)):
        named = probes & set(str(tags[row]).split(",")) if tags is not None else set()
        rows.setdefault(frozenset(named), []).append(row)

    return [
        (table.select(np.array(some)), np.flatnonzero(np.isin(group.astype(str), sorted(which))) if which else None)
        for which, some in rows.items()
    ]
