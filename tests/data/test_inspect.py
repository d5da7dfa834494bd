"""Summaries of recordings, against answers by hand and simulated truth; many files, and bad ones."""

import dataclasses
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import recording

from ndt.config import IngestConfig, SimulateConfig
from ndt.data.inspect import _names, inspect
from ndt.data.inspection.findings import Finding
from ndt.data.inspection.nwb_check import check_nwb
from ndt.data.inspection.presence import sampled
from ndt.data.inspection.quality import Quality
from ndt.data.inspection.summary import examine, summarise
from ndt.data.simulate.recordings import simulate
from ndt.intervals import Intervals
from ndt.session import Covariate
from tests.realdata import real_file
from tests.recordings import invalid, series, trials, units, write_nwb

CONFIG = IngestConfig(probe_seconds=0.0, workers=1)


def covariate(timestamps, values=None, name="vel"):
    timestamps = np.asarray(timestamps, float)
    values = np.zeros((len(timestamps), 1)) if values is None else values
    dims = tuple(map(str, range(values.shape[1])))

    return Covariate(name=name, path=f"behavior/{name}", timestamps=timestamps, values=values, dims=dims, unit="cm")


def quality(session, *findings):
    """A quality with only findings."""
    none, N = Intervals.empty(), session.num_units
    unit = dict.fromkeys(("num_spikes", "observed_seconds", "rate_hz", "presence", "duplicate_group"), np.zeros(N))

    return Quality(
        units=unit | {"isi_under_2ms": np.full(N, np.nan)},
        presence_edges=np.zeros(2),
        presence_hz=np.zeros((1, N)),
        pairs=(),
        gaps=none,
        silences=none,
        findings=findings,
    )


def spans(starts_and_ends):
    return Intervals(*np.reshape(starts_and_ends, (-1, 2)).T)


def test_a_summary_says_what_is_kept_and_why_the_rest_is_not(tmp_path):
    fill = [units(electrodes=[1, 0, 1]), series(), series("slow", rate=0.5), trials, invalid((1.0, 2.5))]
    path = write_nwb(tmp_path / "sub-x_ses-1_ecephys.nwb", *fill)
    (found,) = inspect(f"{tmp_path}/*.nwb", CONFIG, nwb_check=False)

    assert json.loads(json.dumps(found, allow_nan=False)) == found
    expected = {
        "session_id": "sub-x_ses-1",
        "source": str(path),
        "size": path.stat().st_size,
        "subject": "x",
        "units": 3,
        "regions": ["M1", "PMd"],
        "spikes": 4,
        "count_bin": 0.0,
        "segments": 2,
        "intervals": {"invalid_times": 1, "trials": 3},
        "labels": {"trials": ["cue", "target", "words"]},
    }
    assert {key: found[key] for key in expected} == expected
    assert "units/spike_times: 4 of 8 spikes lie outside observed time" in found["dropped"]
    assert any(sentence.startswith("processing/behavior/slow") for sentence in found["dropped"] + found["warnings"])
    assert found["observed_seconds"] == pytest.approx(3.75 - 0.25 - 1.5)  # from first to last spike, invalid times cut
    (hand_vel,) = [c for c in found["covariates"] if c["name"] == "hand_vel"]
    assert (hand_vel["path"], hand_vel["shape"], hand_vel["samples"]) == ("processing/behavior/hand_vel", [80, 2], 80)
    assert hand_vel["rate"] == pytest.approx(20.0)
    assert (hand_vel["coverage"], hand_vel["missing"]) == (pytest.approx(1.0), 0.0)


def test_coverage_is_the_share_of_observed_time_that_has_samples():
    """Observed are [0, 6) and [8, 12); samples at 10 Hz cover [2, 7) and [11, 13): 4 s + 1 s of 10 s."""
    times = np.r_[np.arange(2.05, 7, 0.1), np.arange(11.05, 13, 0.1)]
    values = np.zeros((len(times), 2))
    values[:7, 1] = np.nan  # one dimension without a value: the sample is missing
    session = dataclasses.replace(
        recording([(0.0, 6.0), (8.0, 12.0)]), covariates={"vel": covariate(times, values)}
    )  # fmt: skip
    (found,) = summarise(session)["covariates"]
    assert found["coverage"] == pytest.approx(0.5)
    assert found["missing"] == pytest.approx(7 / 70)
    assert found["shape"] == [70, 2]


def test_samples_reach_half_an_interval_and_jitter_leaves_no_gap():
    found = sampled(covariate([0, 1, 2.4, 3.4, 6, 7]))
    np.testing.assert_allclose([found.start, found.end], [[-0.5, 5.5], [3.9, 7.5]])
    some = sampled(covariate([0, 1, 2, 3, 4, 5]), np.array([1, 1, 0, 0, 1, 0], bool))
    np.testing.assert_allclose([some.start, some.end], [[-0.5, 3.5], [1.5, 4.5]])
    assert len(sampled(covariate([]))) == 0


@given(st.lists(st.integers(0, 100_000), min_size=2, max_size=30, unique=True))
def test_sampled_time_holds_each_sample_and_little_more_than_an_interval_for_each(times):
    one = covariate(np.sort(times) / 1000)
    found = sampled(one)
    assert found.contains(one.timestamps).all()
    assert found.duration <= 1.5 * one.interval * len(times) * (1 + 1e-9)


def test_tables_by_hand():
    """Rows [0, 2), [1, 3), [3, 4) and [8, 9) where [0, 1) and [2.5, 8.5) are observed; one begins before one ended."""
    columns = {
        "target": np.array([3, 1, 3, 2]),
        "cue": np.array(["a", "", "a", "b"]),
        "rt": np.array([0.5, np.nan, 0.5, 0.25]),
        "correct": np.array([True, False, True, True]),
        "place": np.zeros((4, 3)),
    }
    rows = Intervals([3, 0, 1, 8], [4, 2, 3, 9], columns)
    events = Intervals([0.5, 0.5, 2.0], [0.5, 0.5, 2.0])
    session = dataclasses.replace(
        recording([(0.0, 1.0), (2.5, 8.5)]), intervals={"trials": rows, "licks": events, "none": Intervals.empty()}
    )
    licks, none, found = examine(session)["tables"]
    assert found["observed"] == pytest.approx((1 + 0.5 + 0.25 + 0.5) / 4)
    assert (found["name"], found["rows"], found["median_seconds"], found["overlaps"]) == ("trials", 4, 1.5, 1)
    assert found["columns"] == [
        {"name": "correct", "kind": "yes or no", "distinct": 2, "missing": 0, "values": {"no": 1, "yes": 3}},
        {"name": "cue", "kind": "text", "distinct": 3, "missing": 0, "values": {"(empty)": 1, "a": 2, "b": 1}},
        {"name": "place", "kind": "number, 3 a row", "distinct": None, "missing": 0, "values": {}},
        {"name": "rt", "kind": "number", "distinct": 2, "missing": 1, "values": {"0.25": 1, "0.5": 2, "missing": 1}},
        {"name": "target", "kind": "number", "distinct": 3, "missing": 0, "values": {"1": 1, "2": 1, "3": 2}},
    ]
    assert (licks["rows"], licks["overlaps"], licks["median_seconds"]) == (3, 0, 0.0)
    assert licks["observed"] == pytest.approx(2 / 3)
    assert (none["rows"], none["overlaps"], none["observed"]) == (0, 0, 0.0)


def test_the_grade_is_that_of_the_worst_finding():
    session = recording()
    grades = ("note", "error", "warning")
    found = examine(session, quality(session, *(Finding(grade=g, where="x", message=g) for g in grades)))
    assert found["grade"] == "error"
    assert [f["message"] for f in found["findings"]] == ["note", "error", "warning"]
    assert examine(session, quality(session))["grade"] == "ok"


def test_what_was_left_out_is_said_once_unless_it_is_worse_than_a_note():
    session = dataclasses.replace(recording(), dropped=("a: lost", "b: lost"))
    found = examine(
        session,
        quality(
            session,
            Finding(grade="note", where="file", message="a: lost"),
            Finding(grade="warning", where="file", message="b: lost"),
        ),
    )
    assert [f["message"] for f in found["findings"]] == ["b: lost"]
    assert found["dropped"] == ["a: lost", "b: lost"]


def test_numbers_that_are_none_are_null():
    """NaN is no JSON: a unit without two spikes has no share of short intervals."""
    session = recording()
    found = examine(session, quality(session))
    assert found["quality"]["units"]["isi_under_2ms"] == [None] * 5
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_splits_have_a_guard_of_two_seconds():
    """Of 100 s: train [0, 68), validation [70, 78), test [80, 100)."""
    found = examine(recording([(0.0, 100.0)]))["split"]
    assert found["guard_seconds"] == 2.0
    for block, ends in (("train", (0, 68)), ("valid", (70, 78)), ("test", (80, 100))):
        np.testing.assert_allclose(found[block]["intervals"], [ends], atol=0.06)
        assert found[block]["seconds"] == pytest.approx(ends[1] - ends[0], abs=0.1)


def test_a_missing_split_has_a_reason():
    found = examine(recording([(0.0, 4.0)]))["split"]
    assert set(found) == {"error"}
    assert found["error"].startswith("observed time: expected train, validation and test splits of at least 1 s")


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    config = SimulateConfig(
        num_subjects=1, num_sessions=1, num_units=12, num_electrodes=16, seconds=120.0, awkward=("gaps", "empty_units")
    )
    return simulate(tmp_path_factory.mktemp("simulated"), config)[0]


@pytest.fixture(scope="module")
def written(truth, tmp_path_factory):
    """The simulated recording and a broken file, inspected into a folder."""
    (truth.path.parent / "broken.nwb").write_text("no")
    out = tmp_path_factory.mktemp("inspected") / "made" / "here"
    entries = inspect(f"{truth.path.parent}/*.nwb", CONFIG, out, nwb_check=False)

    return out, entries


def test_a_simulated_recording_is_described_as_it_was_made(truth, written):
    _, (_, found) = written
    assert found["observed_seconds"] == pytest.approx(truth.observed.duration)
    assert found["segments"] == len(truth.observed)
    gaps = Intervals(truth.observed.end[:-1], truth.observed.start[1:])
    np.testing.assert_allclose(found["quality"]["gaps"]["intervals"], np.stack([gaps.start, gaps.end], 1))
    assert found["quality"]["gaps"]["seconds"] == pytest.approx(gaps.duration)

    num_spikes = truth.counts.sum(0)
    assert np.sum(num_spikes == 0) == 2
    assert found["spikes"] == num_spikes.sum()
    measured = found["quality"]["units"]
    np.testing.assert_array_equal(measured["num_spikes"], num_spikes)
    np.testing.assert_allclose(measured["rate_hz"], num_spikes / truth.observed.duration)
    assert [s is None for s in measured["isi_under_2ms"]] == (num_spikes == 0).tolist()
    assert any("2 of 12 units have no spike" in f["message"] for f in found["findings"])

    blocks = [spans(found["split"][name]["intervals"]) for name in ("train", "valid", "test")]
    for block in blocks:
        assert (block - truth.observed).duration < 1e-9
    assert (blocks[0] & blocks[1]).duration == (blocks[1] & blocks[2]).duration == 0
    for c in found["covariates"]:
        whole_bins = np.sum(truth.valid(truth.observed)) * truth.bin_size  # samples lie at centres of observed bins
        assert c["coverage"] == pytest.approx(whole_bins / truth.observed.duration, abs=0.01)


def test_storing_and_reading_touch_numbers_alone():
    """Whoever ingests needs neither figures nor pages."""
    code = "import ndt.data.ingest, ndt.data.reading, ndt.data.read.nwb, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"matplotlib", "jinja2", "ndt.reports.page", "ndt.reports.plots", "ndt.data.inspect"} & set(
        done.stdout.split()
    )


def test_a_bad_file_is_listed_and_the_others_go_on(written):
    out, (bad, good) = written
    assert set(bad) == {"source", "error", "grade"}
    assert bad["error"].startswith(f"{bad['source']}: file: expected an HDF5 file, found ")
    assert bad["grade"] == "error"
    assert "error" not in good
    assert sorted(p.name for p in out.iterdir()) == ["index.html", "inspect.json", "sub-simA_ses-01.html"]
    assert json.loads((out / "inspect.json").read_text()) == {"files": [bad, good]}
    assert good["page"] == "sub-simA_ses-01.html"


def test_where_no_file_can_be_read_nothing_is_written(tmp_path):
    (tmp_path / "a.nwb").write_text("no")
    (found,) = inspect([tmp_path / "a.nwb"], CONFIG, tmp_path / "out")
    assert "a.nwb: file: expected an HDF5 file" in found["error"]
    assert not (tmp_path / "out").exists()


def test_whatever_goes_wrong_with_a_file_is_one_line(tmp_path, monkeypatch):
    path = write_nwb(tmp_path / "a.nwb", units())
    monkeypatch.setattr("ndt.data.inspect.assess", lambda session: 1 / 0)
    (found,) = inspect(path, CONFIG, tmp_path / "out")
    assert found["error"] == (
        f"{path}: inspection: expected a recording that can be inspected, found ZeroDivisionError division by zero"
    )
    assert not (tmp_path / "out").exists()


def test_a_process_that_dies_costs_its_own_file_alone(tmp_path, monkeypatch):
    path = write_nwb(tmp_path / "a.nwb", units())
    monkeypatch.setattr("ndt.data.inspect.spread", lambda call, items, workers, cluster: iter([(0, None)]))
    (found,) = inspect(path, CONFIG)
    assert found["error"].startswith(f"{path}: file: expected a recording, found a crash")


def test_pages_have_names_of_their_own():
    """Nothing overwrites another page of that name, or one that some file systems take for the same, or the index."""
    assert _names(["a", "b", "a", "A", "index", "a-2"]) == ["a", "b", "a-2", "A-3", "index-2", "a-2-2"]


def inspector(monkeypatch, *messages, error=None):
    """Puts in NWB Inspector's place one that finds these messages."""

    def inspect_nwbfile(nwbfile_path):
        if error:
            raise error
        yield from messages

    monkeypatch.setitem(sys.modules, "nwbinspector", SimpleNamespace(inspect_nwbfile=inspect_nwbfile))


def message(importance, check, name, text="about it"):
    what = {"check_function_name": check, "location": "/acquisition/", "object_name": name, "message": text}

    return SimpleNamespace(importance=SimpleNamespace(name=importance), **what)


def test_messages_of_one_check_are_one_and_the_most_important_come_first(monkeypatch):
    many = [message("BEST_PRACTICE_VIOLATION", "check_b", f"s{n:02}") for n in range(20)]
    inspector(monkeypatch, *many, None, message("CRITICAL", "check_a", "x", "Traceback …\n  File …\nValueError: bad\n"))
    first, second = check_nwb("a.nwb")["messages"]
    assert (first["importance"], first["check"], first["message"]) == ("CRITICAL", "check_a", "ValueError: bad")
    assert (second["count"], second["objects"][:2]) == (20, ["/acquisition/s00", "/acquisition/s01"])
    assert len(second["objects"]) == 8


def test_an_object_whose_place_names_it_is_named_once(monkeypatch):
    inspector(monkeypatch, message("CRITICAL", "check_a", "acquisition"), message("CRITICAL", "check_b", "x"))
    assert [m["objects"] for m in check_nwb("a.nwb")["messages"]] == [["/acquisition"], ["/acquisition/x"]]


def test_a_check_that_fails_or_is_not_there_is_said_and_breaks_nothing(monkeypatch):
    inspector(monkeypatch, error=RuntimeError("odd file"))
    assert check_nwb("a.nwb") == {"skipped": "NWB Inspector failed on this file: RuntimeError odd file"}
    monkeypatch.setitem(sys.modules, "nwbinspector", None)
    assert "pip install 'ndt[nwb-check]'" in check_nwb("a.nwb")["skipped"]
    assert "NWB files on local storage only" in check_nwb("a.mat")["skipped"]


@pytest.mark.slow
def test_nwb_inspector_itself(tmp_path):
    pytest.importorskip("nwbinspector", reason="the extra nwb-check is not installed")
    path = write_nwb(tmp_path / "sub-x_ses-1.nwb", units(), series())
    (found,) = inspect(path, CONFIG)
    checks = {m["check"] for m in found["nwb_check"]["messages"]}
    assert "check_subject_age" in checks  # the file's subject has none


@pytest.mark.real
def test_a_real_recording():
    (found,) = inspect(real_file("sub-A2929/*.nwb"), nwb_check=False)

    rates = {covariate["name"]: covariate["rate"] for covariate in found["covariates"]}
    assert rates["CompassDirection/ry"] == pytest.approx(120, rel=0.01)
    assert (found["units"], found["regions"]) == (15, ["adn", "ca1"])
    (ry,) = [c for c in found["covariates"] if c["name"] == "CompassDirection/ry"]
    assert ry["coverage"] == pytest.approx(529.4 / 1200, abs=0.001)
