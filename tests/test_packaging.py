"""The installed shape, public names, and the direction of imports."""

import ast
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {"ndt": "ndt", "data": "ndt.data", "pretrain": "ndt.pretrain", "finetune": "ndt.finetune"}
FLOOR = {"ndt": 0, "ndt.data": 1, "ndt.pretrain": 2, "ndt.finetune": 2}
FACES = {"ndt", "ndt.api", "ndt.bench", "ndt.cli", "ndt.__main__", "ndt.demo"}  # stand above all rooms
BENCHMARKS = "ndt.benchmarks"  # the package of a face: its modules stand there, too
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@cache
def modules() -> dict[str, Path]:
    """Returns every module by its dotted name; the links inside ndt/ are not followed."""
    found = {}
    for folder, room in ROOMS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            inside = path.relative_to(ROOT / folder)
            if folder != "ndt" or inside.parts[0] not in ROOMS:
                found[".".join((room, *inside.with_suffix("").parts)).removesuffix(".__init__")] = path

    return found


def imports(path: Path, *, everywhere: bool) -> Iterator[str]:
    """Yields the dotted names that a module imports when it is loaded, or also those inside its functions."""
    stack: list[ast.AST] = list(ast.parse(path.read_text()).body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            stack += node.orelse
        elif everywhere or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            stack += ast.iter_child_nodes(node)


@cache
def graph() -> dict[str, set[str]]:
    """Returns for each module those of ours that it imports when it is loaded."""
    edges = {}
    for name, path in modules().items():
        wanted = {t for target in imports(path, everywhere=False) for t in (target, target.rpartition(".")[0])}
        exact = {t for t in wanted if t in modules() and t != name}
        edges[name] = {t for t in exact if not any(other.startswith(t + ".") for other in exact)} - {"ndt"}

    return edges


def room(name: str) -> str:
    return max((r for r in FLOOR if name == r or name.startswith(r + ".")), key=len)


def test_declared_packages_are_the_folders_with_init():
    declared = PROJECT["tool"]["setuptools"]
    found = {name for name, path in modules().items() if path.name == "__init__.py"}
    assert set(declared["packages"]) == found
    assert {p: (ROOT / folder).resolve() for p, folder in declared["package-dir"].items()} == {
        room: (ROOT / folder).resolve() for folder, room in ROOMS.items()
    }


def test_links_show_the_installed_shape():
    for folder in ("data", "pretrain", "finetune"):
        assert (ROOT / "ndt" / folder).readlink() == Path("..") / folder


def test_version_is_said_once():
    assert importlib.import_module("ndt").__version__ == PROJECT["project"]["version"]


@pytest.mark.parametrize("name", sorted(modules()))
def test_public_names_exist(name):
    module = importlib.import_module(name)
    assert isinstance(module.__all__, list)
    assert [n for n in module.__all__ if not hasattr(module, n)] == []
    assert len(set(module.__all__)) == len(module.__all__)


def test_imports_point_left():
    wrong = []
    for name, targets in graph().items():
        here = room(name)
        for target in targets:
            sideways = {here, room(target)} == {"ndt.pretrain", "ndt.finetune"}
            upward = FLOOR[room(target)] > FLOOR[here] or target in FACES or target.startswith(BENCHMARKS)
            if name not in FACES and not name.startswith(BENCHMARKS) and (sideways or upward):
                wrong.append(f"{name} imports {target}")
    assert wrong == []


def test_pretrain_and_finetune_never_meet():
    for name, path in modules().items():
        targets = {room(t) for t in imports(path, everywhere=True) if t.startswith("ndt.")}
        other = {"ndt.pretrain": "ndt.finetune", "ndt.finetune": "ndt.pretrain"}.get(room(name))
        assert other not in targets, f"{name} imports {other}"


def test_no_import_cycle():
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"cycle: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in done:
            for target in graph()[name]:
                visit(target, (*path, name))
            done.add(name)

    for name in graph():
        visit(name, ())


def test_no_bare_import_of_our_folders():
    for name, path in modules().items():
        tops = {target.partition(".")[0] for target in imports(path, everywhere=True)}
        assert not tops & {"data", "pretrain", "finetune"}, f"{name} imports a bare folder"


def loaded_by(code: str) -> set[str]:
    """Returns the modules that a fresh interpreter has loaded after `code`."""
    command = [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)

    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.slow
def test_training_needs_no_pynwb():
    """A compute node needs only the store."""
    loaded = loaded_by("import ndt.pretrain.train, ndt.finetune.adapt, ndt.data.store, ndt.reports.run")
    assert "torch" in loaded
    assert not loaded & {"pynwb", "hdmf", "xformers"}


def test_import_ndt_costs_no_torch():
    assert not loaded_by("import ndt, ndt.config, ndt.errors") & {"torch", "numpy", "pynwb", "h5py"}


def test_verbs_can_be_called_whatever_was_imported():
    """``ndt.report`` was the function at first, and the module after whatever had imported that."""
    code = "import ndt; verbs = 'ingest inspect pretrain finetune embed report simulate'.split(); "
    code += "first = [callable(getattr(ndt, v)) for v in verbs]; import ndt.reports.run, ndt.data.inspection.inspect; "
    loaded_by(code + "assert all(first) and all(callable(getattr(ndt, v)) for v in verbs)")
