"""A malformed file gives a one-line error, or a sentence among the dropped parts or the findings."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ndt.data.read.file_probe import _Child, session_id_of
from ndt.data.store import read_session
from tests.malformed import PASS, REFUSE, SAY, cases, write, write_template

SECONDS = 30.0
SERVER = [sys.executable, str(Path(__file__).parents[1] / "cli_child.py")]


@dataclass(frozen=True)
class Outcome:
    """What a verb did with a file: exit code (None: killed after `SECONDS`; below 0: a crash), output and errors."""

    code: int | None
    out: str = ""
    err: str = ""

    @property
    def wrong(self) -> str:
        """How it ended, unless that was well: by 0, or by 2 and one line."""
        if self.code is None:
            return "no end"
        lines = self.err.strip().splitlines()
        if self.code == 0:
            return "" if not lines else f"exit code 0 and on stderr: {lines[-1]}"
        if self.code == 2 and len(lines) == 1 and not self.out.strip():
            return ""

        return f"exit code {self.code}, {len(lines)} lines on stderr, the last of them {lines[-1:]}"


def ask(child: _Child, argv: list[str]) -> Outcome:
    try:
        return Outcome(**json.loads(child.ask(json.dumps(argv), SECONDS)))
    except (TimeoutError, subprocess.TimeoutExpired):
        return Outcome(None)
    except subprocess.CalledProcessError as error:
        return Outcome(error.returncode, err=error.stderr)


def tried(child: _Child, path: Path) -> dict[str, Outcome]:
    common = [str(path), "--json", "--quiet", "--probe_seconds", "5"]
    return {
        "inspect": ask(child, ["inspect", *common, "--nwb_check", "false"]),
        "ingest": ask(child, ["ingest", *common, "--out", str(path.parent / "store")]),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("malformed")


@pytest.fixture(scope="module")
def template(folder):
    return write_template(folder / "valid/valid.nwb")


@pytest.fixture(scope="module")
def outcomes(folder, template):
    """Every case by both verbs, in two processes that take half of them each."""
    content, every = template.read_bytes(), cases()

    def half(n: int) -> dict[str, dict[str, Outcome]]:
        child = _Child(SERVER)
        try:
            return {case.name: tried(child, write(case, folder, content)) for case in every[n::2]}
        finally:
            child.end()

    with ThreadPoolExecutor(2) as pool:
        halves = list(pool.map(half, range(2)))
    return halves[0] | halves[1]


def said(found: dict[str, Outcome]) -> set[str]:
    """What was dropped of a file that was taken, and what is to be doubted."""
    (entry,) = json.loads(found["ingest"].out)["sessions"].values()
    (looked,) = json.loads(found["inspect"].out)["files"]
    graded = {finding["message"] for finding in looked["findings"] if finding["grade"] != "note"}

    return {*entry["dropped"], *entry["warnings"], *graded}


@pytest.fixture(scope="module")
def valid(template):
    """What the verbs say of the file that nothing is wrong with."""
    child = _Child(SERVER)
    try:
        return tried(child, template)
    finally:
        child.end()


def test_the_same_two_hundred_each_time(folder, template):
    content = template.read_bytes()
    once, again = cases(), cases()

    assert len(once) >= 200
    assert [case.name for case in once] == [case.name for case in again]
    for first, second in list(zip(once, again, strict=True))[::20]:
        path = write(first, folder / "once", content)
        if path.is_file():
            wrote = path.read_bytes()
            assert wrote != content or first.expected == PASS
            assert write(second, folder / "again", content).read_bytes() == wrote


@pytest.mark.slow
def test_the_valid_file_is_taken_as_it_is(valid):
    assert [outcome.wrong for outcome in valid.values()] == ["", ""]
    assert [outcome.code for outcome in valid.values()] == [0, 0]
    (entry,) = json.loads(valid["ingest"].out)["sessions"].values()
    assert entry["dropped"] == ["units/spike_times: 241 of 1800 spikes lie outside observed time"]
    assert entry["warnings"] == []


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["inspect", "ingest"])
def test_one_line_or_none(outcomes, verb):
    """Never a traceback, never a hang, never a crash."""
    wrong = {name: found[verb].wrong for name, found in outcomes.items() if found[verb].wrong}
    assert wrong == {}


@pytest.mark.slow
def test_nothing_is_taken_in_silence(outcomes, valid):
    usual = said(valid)
    wrong = {}
    for case in cases():
        found = outcomes[case.name]
        taken = all(outcome.code == 0 for outcome in found.values())
        if case.expected == PASS and not taken:
            wrong[case.name] = f"refused: {found['ingest'].err}"
        elif case.expected == REFUSE and taken:
            wrong[case.name] = "taken"
        elif case.expected == SAY and taken and not said(found) - usual:
            wrong[case.name] = "taken in silence"
    assert wrong == {}


@pytest.mark.slow
def test_both_verbs_agree(outcomes):
    codes = {name: tuple(outcome.code for outcome in found.values()) for name, found in outcomes.items()}
    assert {name: pair for name, pair in codes.items() if len(set(pair)) > 1} == {}


def stores(folder: Path, outcomes: dict) -> Iterator[tuple[str, Path, bool]]:
    for name, found in outcomes.items():
        yield name, folder / name / "store", found["ingest"].code == 0


@pytest.mark.slow
def test_nothing_half_written(outcomes, folder):
    for name, root, taken in stores(folder, outcomes):
        found = sorted(path.name for path in root.iterdir()) if root.exists() else []
        assert found == (sorted(["manifest.json", f"{session_id_of(f'{name}.nwb')}.h5"]) if taken else []), name


@pytest.mark.slow
def test_what_was_taken_is_sound(outcomes, folder):
    """Later stages rely on it: finite, ascending times in observed time, units that exist."""
    for name, root, taken in stores(folder, outcomes):
        if not taken:
            continue
        session = read_session(root / f"{session_id_of(f'{name}.nwb')}.h5")
        times, index = session.spikes.timestamps, session.spikes.unit_index
        assert np.all(np.isfinite(times)), name
        assert np.all(np.diff(times) >= 0), name
        assert session.observed.contains(times).all(), name
        assert np.all((index >= 0) & (index < session.num_units)), name
        assert len(session.observed) > 0, name
        assert np.isfinite(session.observed.duration), name
        assert np.all(np.diff(np.c_[session.observed.start, session.observed.end].ravel()) > 0), name
        assert len(set(session.units.id.tolist())) == session.num_units, name
        assert all(len(column) == session.num_units for column in session.units.columns.values()), name
        for covariate in session.covariates.values():
            assert covariate.values.shape == (len(covariate.timestamps), len(covariate.dims)), name
            assert np.all(np.isfinite(covariate.timestamps)), name
            assert np.all(np.diff(covariate.timestamps) >= 0), name
