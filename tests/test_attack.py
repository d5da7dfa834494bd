"""Damaged and hostile files: each verb reads them or refuses them in one line, in time, and leaves nothing behind."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import numpy as np
import pytest

from ndt.data.read.file_probe import _Child
from tests.attacked import TARGETS, Target, make_world
from tests.attacks import attacks
from tests.damage import REFUSE
from tests.hdf5_edits import Case

SECONDS = 60.0  # of one case, on a busy machine; most take a tenth of a second
SERVER = [sys.executable, str(Path(__file__).parent / "cli_child.py")]
SAMPLE = 3  # attacks on each target in the slow suite


class Field:
    """A copy of the world with a process that runs verbs in it; it is whole again after each case."""

    def __init__(self, world: Path, root: Path) -> None:
        self.world, self.root, self.child = world, root, _Child(SERVER)
        shutil.copytree(world, root)
        self.whole = self.seen()

    def tried(self, target: Target, case: Case) -> str:
        """Returns how a case went wrong; an empty text if it did not."""
        path, content = self.root / target.file, (self.world / target.file).read_bytes()
        case.make(path, content)
        out = self.root / "out" / (target.out or "none")
        argv = [
            str(self.root / word) if (self.root / word).exists() or word == target.file else word
            for word in target.argv
        ]
        argv += ["--out", str(out)] if target.out else []
        before = self.seen()
        try:
            found = json.loads(self.child.ask(json.dumps([*argv, "--json", "--quiet"]), SECONDS))
            wrong = self.judged(found, case, before)
        except (TimeoutError, subprocess.TimeoutExpired):
            wrong = "no end"
        except subprocess.CalledProcessError as error:
            wrong = f"a crash, {error.returncode}: {error.stderr[-300:]}"
        self.restore(target)

        return wrong

    def judged(self, found: dict, case: Case, before: dict[str, tuple[int, int]]) -> str:
        lines = [line for line in found["err"].strip().splitlines() if not line.startswith("warning: ")]
        left = [name for name in self.seen() if Path(name).name.startswith(".")]
        if left:
            return f"leaves {left}"
        if found["code"] == 0:
            if case.expected == REFUSE:
                return "taken"
            return f"exit code 0 and on stderr: {lines[-1]}" if lines else ""
        if found["code"] != 2 or len(lines) != 1 or found["out"].strip():
            return f"exit code {found['code']}, {len(lines)} lines on stderr: {' | '.join(lines[-3:])}"
        if any(ord(letter) < 32 or 0x202A <= ord(letter) <= 0x202E for letter in lines[0]):
            return f"hidden characters on stderr: {lines[0]!r}"

        return f"refused, and changes {sorted(set(self.seen()) ^ set(before))}" if self.seen() != before else ""

    def seen(self) -> dict[str, tuple[int, int]]:
        """Size and time of all files."""
        paths = (p for p in self.root.rglob("*") if p.is_file() and not p.is_symlink())
        return {str(p.relative_to(self.root)): (p.stat().st_size, p.stat().st_mtime_ns) for p in paths}

    def restore(self, target: Target) -> None:
        path = self.root / target.file
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        shutil.copy2(self.world / target.file, path)
        if self.seen() != self.whole:
            shutil.rmtree(self.root)
            shutil.copytree(self.world, self.root)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def fields(world, tmp_path_factory):
    """Two of them, for two processes."""
    queue: Queue = Queue()
    made = [Field(world, tmp_path_factory.mktemp("field") / "world") for _ in range(2)]
    for field in made:
        queue.put(field)
    yield queue
    for field in made:
        field.child.end()


def wrongs(fields: Queue, target: Target, cases: list[Case]) -> dict[str, str]:
    """Names of the cases that went wrong, and how."""

    def one(case: Case) -> tuple[str, str]:
        field = fields.get()
        try:
            return case.name, field.tried(target, case)
        finally:
            fields.put(field)

    with ThreadPoolExecutor(fields.qsize()) as pool:
        return {name: wrong for name, wrong in pool.map(one, cases) if wrong}


@pytest.mark.slow
def test_there_are_a_thousand_and_the_same_each_time(world):
    once, again = attacks(world), attacks(world)
    names = [case.name for cases in once.values() for case in cases]
    assert len(names) >= 1000
    assert len(set(names)) == len(names)
    assert names == [case.name for cases in again.values() for case in cases]


@pytest.mark.slow
def test_valid_files_are_taken(world, fields):
    valid = Case("valid", "taken", lambda path, content: None)
    found = {name: wrongs(fields, target, [valid]) for name, target in TARGETS.items()}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


@pytest.mark.slow
def test_a_sample(world, fields):
    rng, found = np.random.default_rng(int(os.environ.get("NDT_ATTACK_SEED", 0))), {}
    for name, cases in attacks(world).items():
        chosen = rng.choice(len(cases), SAMPLE, replace=False)
        found |= wrongs(fields, TARGETS[name], [cases[int(i)] for i in chosen])
    assert found == {}


@pytest.mark.attack
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", TARGETS)
def test_every_attack(world, fields, name):
    assert wrongs(fields, TARGETS[name], attacks(world)[name]) == {}
