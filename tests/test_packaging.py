"""The installed shape, public names, the rooms, and the direction of imports between them."""

import ast
import importlib
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {"ndt": "ndt", "data": "ndt.data", "pretrain": "ndt.pretrain", "finetune": "ndt.finetune"}
FRONT = "__init__ __main__ api arguments bench benchmarks cli demo demo_rotation fit_dynamics"
ORDER = [  # a room is a package or modules, without `ndt.`; it imports from itself and from rooms above it in this list
    "text errors parsing schema intervals segments session spikes target verbs",
    "config",
    "model",
    "train",
    "evaluation",
    "decoders",
    "dynamics",
    "reports",
    # sessions in time and on disk
    "data.covariates data.fingerprint data.session_checks data.session_reader data.splits data.store data.workers",
    "data.read | data.simulate",  # rooms on one line do not import each other
    "data.inspection",
    "data",
    "pretrain | finetune",
    FRONT,
]
LEVELS = {
    name: (level, f"ndt: {room.strip()}")
    for level, line in enumerate(ORDER)
    for room in line.split("|")
    for name in room.split()
}
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
    """Yields the dotted names that a module imports when it is loaded, or all, also in functions and for types."""
    stack: list[ast.AST] = list(ast.parse(path.read_text()).body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) and not everywhere:
            stack += node.orelse
        elif everywhere or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            stack += ast.iter_child_nodes(node)


def imported(name: str, *, everywhere: bool) -> set[str]:
    """Returns our modules that a module imports, without the packages that hold them."""
    wanted = {
        t for target in imports(modules()[name], everywhere=everywhere) for t in (target, target.rpartition(".")[0])
    }
    exact = {t for t in wanted if t in modules() and t != name}

    return {t for t in exact if not any(other.startswith(t + ".") for other in exact)} - {"ndt"}


def room(name: str) -> tuple[int, str]:
    """Returns the level and the room of a module by the longest name in `ORDER` that it begins with."""
    parts = name.split(".")[1:] or ["__init__"]
    known = [".".join(parts[:i]) for i in range(len(parts), 0, -1) if ".".join(parts[:i]) in LEVELS]
    assert known, f"{name} has no room"

    return LEVELS[known[0]]


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


def test_version_of_the_package_is_that_of_the_project():
    assert importlib.import_module("ndt").__version__ == PROJECT["project"]["version"]


@pytest.mark.parametrize("name", sorted(modules()))
def test_public_names_exist(name):
    module = importlib.import_module(name)
    assert isinstance(module.__all__, list)
    assert [n for n in module.__all__ if not hasattr(module, n)] == []
    assert len(set(module.__all__)) == len(module.__all__)


def test_rooms_import_only_from_rooms_above_them():
    """Anywhere in a module: at its top, in functions, and for types."""
    wrong = []
    for name in modules():
        level, here = room(name)
        for target in imported(name, everywhere=True) if level < len(ORDER) - 1 else ():
            other, there = room(target)
            if here != there and other >= level:
                wrong.append(f"{name} ({here}) imports {target} ({there})")
    assert wrong == []


def test_packages_state_what_they_may_import():
    packages = {
        name: ast.get_docstring(ast.parse(p.read_text())) for name, p in modules().items() if p.stem == "__init__"
    }
    assert [name for name, text in packages.items() if "Imports:" not in (text or "")] == []


def test_folders_are_small_and_module_names_unique():
    """Benchmarks are named after what they measure, so they may share names."""
    paths = [path for path in modules().values() if path.stem not in ("__init__", "__main__")]
    assert {folder: n for folder, n in Counter(path.parent.name for path in paths).items() if n > 25} == {}
    names = Counter(path.stem for path in paths if path.parent.name != "benchmarks")
    assert [name for name, n in names.items() if n > 1] == []


def test_no_import_cycle():
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"cycle: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in done:
            for target in imported(name, everywhere=False):
                visit(target, (*path, name))
            done.add(name)

    for name in modules():
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
    code += "first = [callable(getattr(ndt, v)) for v in verbs]; import ndt.reports.run, ndt.data.inspect; "
    loaded_by(code + "assert all(first) and all(callable(getattr(ndt, v)) for v in verbs)")
