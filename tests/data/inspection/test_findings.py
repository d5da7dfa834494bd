"""A planted fault gives one finding with its number; a clean recording gives none."""

import re

import numpy as np
import pytest

from ndt.data.inspection.quality import assess
from ndt.intervals import Intervals
from tests.data.inspection.test_quality import poisson, series, session


def said(made, grade, pattern):
    """How many findings of this grade match."""
    return sum(f.grade == grade and re.search(pattern, f.message) is not None for f in assess(made).findings)


def clean(**fields):
    """A recording with nothing to say about: refractory units, a covariate, trials."""
    trains = []
    for seed in range(12):
        isi = 0.003 + np.random.default_rng(seed).exponential(0.1, 3000)
        trains.append(np.cumsum(isi)[np.cumsum(isi) < 200.0])
    times = np.arange(0, 200, 0.05) + 0.025
    starts = np.arange(0.0, 200.0, 10.0)
    usual = {
        "observed": [(0, 200)],
        "covariates": {"vel": series(times, np.stack([np.sin(times), np.cos(times)], 1))},
        "intervals": {"trials": Intervals(starts, starts + 10.0)},
    }

    return session(fields.pop("trains", trains), **{**usual, **fields})


def test_of_a_clean_recording_nothing_is_said():
    assert assess(clean()).findings == ()


TIMES = np.arange(0, 200, 0.05) + 0.025
WAVE = np.sin(TIMES)
TRAINS = clean().spikes.timestamps, clean().spikes.unit_index


def trains_of_clean():
    return [TRAINS[0][TRAINS[1] == n] for n in range(12)]


def with_covariate(times, values):
    return clean(covariates={"vel": series(times, values)})


def with_trials(start, end):
    return clean(intervals={"trials": Intervals(start, end)})


def holes(share):
    values = np.stack([WAVE, np.cos(TIMES)], 1)
    values[: int(share * len(TIMES)), 1] = np.nan
    return values


PLANTED = [
    (lambda: clean(trains=[[], []]), "error", "none of 2 units fires"),
    (lambda: clean(observed=[(0, 0)]), "error", "no observed time"),
    (lambda: clean(trains=[*trains_of_clean(), [], []]), "note", r"2 of 14 units have no spike \(u12, u13\)"),
    (lambda: clean(trains=trains_of_clean()[:3]), "note", "3 units fire: expect weak"),
    (lambda: clean(count_bin=0.02), "note", "counted in bins of 20 ms"),
    (
        lambda: clean(trains=[np.round(t, 3) for t in trains_of_clean()]),
        "note",
        "multiples of 1 ms: duplicates and cross-talk are not assessed",
    ),
    (
        lambda: clean(
            trains=[np.sort(np.r_[t, t[:40] + 0.001]) for t in trains_of_clean()[:1]] + trains_of_clean()[1:]
        ),
        "warning",
        r"1 of 12 units have more than 1 % .* \(worst: u0 2\.",
    ),
    (
        lambda: clean(trains=[t[t < 70] for t in trains_of_clean()[:1]] + trains_of_clean()[1:]),
        "warning",
        r"1 of 12 units fire in less than half of the blocks .*u0 40 %\)",  # 4 of 10 blocks of 20 s
    ),
    (
        lambda: clean(trains=[*trains_of_clean(), trains_of_clean()[3] + 1e-4]),
        "warning",
        r"1 pair of units share .* like duplicates \(worst: u3 and u12 100 %, by chance",
    ),
    (
        lambda: clean(trains=[*trains_of_clean(), np.sort(np.r_[trains_of_clean()[3][::3], poisson(8.0, 200.0)])]),
        "warning",
        r"1 pair of units share .* like cross-talk \(worst: u3 and u12",
    ),
    (lambda: clean(observed=[(0, 90), (110, 200)]), "note", r"1 gap of 20.0 s in all, 10 % of the 200.0 s"),
    (lambda: with_covariate(TIMES[:1600], WAVE[:1600]), "warning", r"vel: 40 % of observed time is covered"),
    (lambda: clean(covariates={}), "note", "no covariates"),
    (lambda: with_covariate(TIMES, holes(0.06)), "warning", "vel: 6 % of samples in observed time lack a value"),
    (lambda: with_covariate(TIMES, np.ones((4000, 2))), "warning", "vel: constant in observed time"),
    (
        lambda: with_covariate(TIMES, np.stack([WAVE, 0 * WAVE], 1)),
        "note",
        r"vel: 1 of 2 dimensions \(y\) constant in observed time",
    ),
    (
        lambda: with_covariate(np.delete(TIMES, np.arange(1, 3990, 50)), np.delete(WAVE, np.arange(1, 3990, 50))),
        "warning",
        r"vel: 80 intervals between timestamps \(2\.04 %\) last more than 1.5 times the usual 0.05 s, up to 0.1 s",
    ),
    (
        lambda: with_covariate(np.delete(TIMES, [7]), np.delete(WAVE, [7])),
        "note",
        r"vel: 1 interval between timestamps \(0\.025 %\)",
    ),
    (lambda: with_covariate(np.floor(TIMES), WAVE), "warning", "vel: more than half of the timestamps repeat"),
    (lambda: clean(intervals={}), "note", "no table of trials"),
    (lambda: with_trials([20.0, 0.0, 5.0], [30.0, 10.0, 8.0]), "note", "1 of 3 trials begin before"),
    (lambda: with_trials([0.0, 195.0, 300.0], [10.0, 205.0, 310.0]), "note", "2 of 3 trials lie .* in part, 1 wholly"),
    (lambda: clean(observed=[(0, 3)]), "note", "too short to be split"),
    (lambda: clean(warnings=("trials: doubtful",)), "warning", "trials: doubtful"),
    (lambda: clean(dropped=("trials/x: not read",)), "note", "trials/x: not read"),
    (lambda: clean(dropped=("u: 1 of 200 spikes lie outside observed time",)), "note", "1 of 200"),
    (lambda: clean(dropped=("u: 3 of 200 spikes lie outside observed time",)), "warning", "3 of 200"),
    (
        lambda: clean(trains=[1000 * t for t in trains_of_clean()], observed=[(0, 200_000)]),
        "warning",
        "milliseconds or samples",
    ),
    (
        lambda: clean(trains=[t / 1000 for t in trains_of_clean()], observed=[(0, 0.2)]),
        "warning",
        "12 of 12 units fire more than 1000 times a second",
    ),
]


@pytest.mark.parametrize(("make", "grade", "pattern"), PLANTED, ids=[p[:40] for _, _, p in PLANTED])
def test_what_is_planted_is_said_once(make, grade, pattern):
    assert said(make(), grade, pattern) == 1


def test_findings_come_worst_first_and_what_covariates_share_is_said_once():
    times = TIMES[:400]
    both = {name: series(times, WAVE[:400], name) for name in ("b", "a")}
    grades = [f.grade for f in assess(clean(trains=[[], []], covariates=both)).findings]

    assert grades == sorted(grades, key=("error", "warning", "note").index)
    assert said(clean(covariates=both), "warning", "^a, b: 10 % of observed time") == 1


def test_a_unit_that_fires_rarely_is_not_lost():
    rare = poisson(0.02, 200.0, seed=3)  # four spikes: it cannot fire in half of ten blocks
    assert len(rare) < 5
    assert said(clean(trains=[*trains_of_clean(), rare]), "warning", "less than half") == 0


def test_samples_dropped_in_a_gap_are_not_missed():
    seen = Intervals([0, 110], [90, 200]).contains(TIMES)
    made = clean(observed=[(0, 90), (110, 200)], covariates={"vel": series(TIMES[seen], WAVE[seen])})

    assert said(made, "note", "intervals? between timestamps") == 0
    assert said(made, "warning", "observed time is covered") == 0


def test_units_that_share_spikes_are_numbered():
    trains = trains_of_clean()
    found = assess(clean(trains=[*trains, trains[3] + 1e-4])).units["duplicate_group"]

    np.testing.assert_array_equal(found, [-1, -1, -1, 0] + [-1] * 8 + [0])
