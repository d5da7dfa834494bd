"""Every attack on every file that a verb reads: the same ones for the same seed."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import yaml

from tests.attacked import DYNAMICS, RECIPE, SESSION, TARGETS
from tests.damage import ANY, REFUSE, archives, bytes_of, leaves, raw, replaced, tensors, yamls
from tests.hdf5_edits import Case, assign, attribute, edit, put, relink, remove, swap
from tests.malformed import cases as recordings

__all__ = ["attacks", "session_attacks"]

FORMS = {"json": leaves, "npz": archives, "safetensors": tensors}
NUMBER = {  # of values that are replaced in a JSON file
    "manifest": 40, "manifest-inspected": 10, "model": 60, "run": 12, "ensemble": 70, "decoder-model": 50,
    "metrics-evaluated": 6, "metrics": 110, "pretraining": 20, "curve": 30, "rotation": 20, "state": 40, "hoam": 30,
    "wlm": 50, "wlm-inner": 12,
}  # fmt: skip
STRINGS, PAIRS = h5py.string_dtype(), [("a", "f8"), ("b", "i4")]
SPIKES, UNITS, VEL = "spikes/timestamps", "spikes/unit_index", "covariates/vel"


def attacks(world: Path, seed: int = 0) -> dict[str, list[Case]]:
    """Returns all attacks on each target, by its name."""
    found = {}
    for name, target in TARGETS.items():
        rng, valid = np.random.default_rng([seed, len(found)]), (world / target.file).read_bytes()
        suffix = Path(target.file).suffix[1:]
        cases = [*raw(name, ANY if suffix in ("jsonl", "yaml") else REFUSE), *bytes_of(name, rng)]
        if suffix == "json":
            cases += leaves(name, valid, rng, NUMBER[name])
        elif suffix == "npz":
            cases += archives(name, valid, rng)
        elif suffix == "safetensors":
            cases += tensors(name, valid, rng, number=6)
        elif suffix == "h5":
            cases += [*bytes_of(f"{name}-more", rng, 10, 30), *session_attacks(name)]
        elif suffix == "nwb":  # tests/malformed.py has those that ingest reads
            cases += [replace(case, name=f"{name}-recording-{case.name}", expected=ANY) for case in recordings()[::5]]
        elif name in ("settings", "recipe"):
            cases += yamls(name, {"settings": DYNAMICS, "recipe": RECIPE}[name], rng)
        found[name] = cases + list(_own(name, valid))

    return found


def _own(name: str, valid: bytes) -> Iterator[Case]:
    """Values that were taken in silence, or took for ever."""
    nan, inf = float("nan"), float("inf")

    def each(path: tuple, *values: object) -> Iterator[Case]:
        for value in values:
            yield replaced(f"{name}-{'.'.join(map(str, path)).replace('/', '|')}-is-{value!r:.20}", REFUSE, path, value)

    if name in ("model", "decoder-model"):
        for key in ("num_layers", "width", "num_heads", "unit_width", "units_per_patch", "feedforward"):
            yield from each(("config", key), 10_000_000, 10**18, -1, 0, 1.5, nan, "3", None)
        yield from each(("config", "num_layers"), 1000)
        yield from each(("config", "width"), 65_536)
        yield from each(("bin_size",), 0, -0.05, nan, inf, 1e-12, "0.05", None)
        yield from each(("window_bins",), 0, -1, 10**12, 1.5, "20", None)
        yield from each(("format",), 99, None, "6")
        yield from each(("vocabulary", "units", 0), None, 3)
        yield from each(("vocabulary", "contexts", 0), "x", "colour:red")
    if name == "decoder-model":
        yield from each(("target", "std"), [0.0, 1.0], [nan, 1.0], [-1.0, 1.0], [1.0], [inf, 1.0], ["1", "1"], None)
        yield from each(("target", "mean"), [nan, 0.0], [0.0], None)
        yield from each(("target", "parts"), [], None)
    if name == "ensemble":
        weights = ("ensemble", "parts", 0, "weights")
        yield from each((*weights, "network"), nan, -0.5, 7, "1", None, inf, {"class": "float", "value": "nan"})
        yield from each(("ensemble", "parts", 0, "conformal", "level"), 0, 1, 2, nan, "0.9")
        yield from each(("ensemble", "parts", 0, "conformal", "kind"), "angle", "x", 3)
        yield from each(("ensemble", "parts", 0, "class"), "Ridge", "os.system", "Popen", None)
        yield from each(("ensemble", "input_drift", "window"), 0, -1, 10**12, "5", 2.5)
        yield from each(("ensemble", "unit_ids"), [], ["a", "a"], "abc", None)
        yield from each(("ensemble",), {"class": "array", "name": "x"}, {"class": "float", "value": "x"})
    if name == "state":
        yield from each(("step",), ..., 10**12, -1, "2", None, 1.5, nan, 1)
        yield from each(("tokens",), -1, "x", 1.5)
        yield from each(("seconds",), -1.0, nan, "x")
        yield from each(("averages",), {"target": ["x", 0.0]}, [1], {"target": [1, nan]})
    if name in ("hoam", "wlm"):
        yield from each(("num_dims",), 0, -1, 3, 10**9, "2", None)
        yield from each(("num_parameters",), -1, 5, 10**12)
        yield from each(("periodic",), [True], [0, 0], None)
    if name == "hoam":
        yield from each(("config", "potential", "depth"), 10_000_000, 0, "3", 10**18)
        yield from each(("config", "potential", "width"), 10_000_000, 8192, nan)
        yield from each(("config", "potential", "time_frequencies"), 10**9)
    if name == "wlm":
        yield from each(("step",), 1e-15, -1, nan, "x")
        yield from each(("velocity",), "x", None, 3)
    if name.startswith("manifest"):
        yield from each(("version",), 99, "2", None)
        yield from each(("sessions",), [], None, {"../../x": {"source": "a"}}, {"": {"source": "a"}})
        yield from each(("sessions", SESSION, "source"), None, 3)
        yield from each(("sessions", SESSION, "role"), "x", 3)
    if name == "settings":
        for key, value in (("num_particles", 10**18), ("steps", 10**18), ("num_nodes", 10**12), ("noise", inf)):
            text = yaml.safe_dump({**DYNAMICS, "hoam": {**DYNAMICS["hoam"], key: value}})
            yield Case(f"{name}-{key}-huge", REFUSE, lambda path, _, text=text: path.write_text(text))


def session_attacks(name: str) -> Iterator[Case]:
    """HDF5 of a store whose content does not fit together."""

    def own(word: str, change: object, expected: str = REFUSE) -> Case:
        read = name == "session"  # `ndt inspect STORE` reads fingerprints, and sessions only if they overlap
        return edit(f"{name}-{word}", expected if read else ANY, change)

    yield own("spikes-descend", lambda f: f[SPIKES].__setitem__((), f[SPIKES][()][::-1]))
    yield own("spikes-two-swapped", lambda f: f[SPIKES].__setitem__(slice(4, 6), f[SPIKES][4:6][::-1]))
    yield own("spikes-half-shuffled", _half_shuffled)
    for word, value in {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "1e300": 1e300}.items():
        yield own(f"spike-{word}", assign(SPIKES, 5, value))
        yield own(f"domain-{word}", assign("domain/end", 0, value))
        yield own(f"covariate-time-{word}", assign(f"{VEL}/timestamps", 5, value))
    yield own("unit-past", assign(UNITS, 5, 99))
    yield own("unit-negative", assign(UNITS, 5, -1))
    yield own("units-short", lambda f: swap(f, UNITS, f[UNITS][:-1]))
    yield own("spikes-short", lambda f: swap(f, SPIKES, f[SPIKES][:-3]))
    yield own("spikes-2d", lambda f: swap(f, SPIKES, f[SPIKES][()][None]))
    for path in (SPIKES, UNITS, "units/id", "domain/start", f"{VEL}/timestamps", f"{VEL}/values"):
        word, expected = path.replace("/", "-"), ANY if path in ("units/id", f"{VEL}/values") else REFUSE
        yield own(f"missing-{word}", remove(path), expected)
        yield own(f"text-{word}", lambda f, p=path: swap(f, p, np.array([b"a"] * len(f[p]), "S1")), expected)
        yield own(
            f"objects-{word}", lambda f, p=path: swap(f, p, np.array(["a"] * len(f[p]), h5py.string_dtype())), ANY
        )
        yield own(
            f"compound-{word}", lambda f, p=path: swap(f, p, np.zeros(len(f[p]), [("a", "f8"), ("b", "i4")])), ANY
        )
        yield own(f"scalar-{word}", put(path, 3.0), ANY)
        yield own(f"declared-{word}", _declared(path))
        yield own(f"link-{word}", relink(path, h5py.SoftLink("/nowhere")))
        yield own(f"loop-{word}", relink(path, h5py.SoftLink(f"/{path}")))
        yield own(f"elsewhere-{word}", relink(path, h5py.ExternalLink("/dev/zero", "/x")))
    for path in ("spikes", "units", "domain", "covariates", "session", "brainset", "fingerprint", VEL):
        yield own(f"gone-{path.replace('/', '-')}", remove(path), ANY)
        yield own(f"dataset-{path.replace('/', '-')}", _as_dataset(path), ANY)
    yield own("holds-itself", lambda f: f["covariates"].__setitem__("a", f["/"]))
    yield own("outside", _outside)
    yield own("deep", lambda f: f.create_group("covariates/" + "/".join("a" * 400)))
    yield own("version", attribute("/", "ndt_store_version", 99))
    yield own("version-text", attribute("/", "ndt_store_version", "x"))
    yield own("name-other", attribute("session", "id", "sub-x"))
    yield own("name-number", attribute("session", "id", 7))
    for word, value in {"nan": np.nan, "negative": -1.0, "huge": 1e9, "text": "x"}.items():
        yield own(f"count-bin-{word}", attribute("session", "count_bin", value))
    for word, text in {"deep": "[" * 10_000, "number": "7", "numbers": "[1, 2]", "few": '["x"]', "code": "x"}.items():
        yield own(f"dims-{word}", attribute(VEL, "dims", text))
    yield own("conventions", attribute("brainset", "conventions", "[1]"))
    yield own("size-text", attribute("brainset", "size", "x"))
    yield own("ids-twice", lambda f: f["units/id"].__setitem__((), f["units/id"][0]))
    yield own("ids-not-utf8", lambda f: swap(f, "units/id", np.array([b"\xff\xfe"] * len(f["units/id"]))))
    yield own("domain-reversed", lambda f: f["domain/end"].__setitem__(0, -5.0))
    yield own("domain-long", assign("domain/end", 0, 1e12))
    yield own("values-short", lambda f: swap(f, f"{VEL}/values", f[f"{VEL}/values"][:-1]))
    yield own("covariate-descends", lambda f: f[f"{VEL}/timestamps"].__setitem__((), f[f"{VEL}/timestamps"][()][::-1]))
    for key in ("hash", "unit", "time", "end"):
        data = f"fingerprint/{key}"
        yield own(f"print-{key}-zero", lambda f, p=data: f[p].__setitem__((), 0), ANY)
        yield own(f"print-{key}-short", lambda f, p=data: swap(f, p, f[p][:-1]), ANY)
        yield own(f"print-{key}-text", lambda f, p=data: swap(f, p, np.array([b"a"] * len(f[p]))), ANY)
        yield own(f"print-{key}-gone", remove(data), ANY)


def _half_shuffled(file: h5py.File) -> None:
    times = file[SPIKES][()]
    half = len(times) // 2
    times[half:] = np.random.default_rng(0).permutation(times[half:])
    file[SPIKES][()] = times


def _declared(path: str) -> object:
    def change(file: h5py.File) -> None:
        shape, dtype = (1 << 50, *file[path].shape[1:]), file[path].dtype
        swap(file, path, None, shape=shape, dtype=dtype, chunks=(64, *shape[1:]))

    return change


def _as_dataset(path: str) -> object:
    def change(file: h5py.File) -> None:
        del file[path]
        file[path] = np.zeros(3)

    return change


def _outside(file: h5py.File) -> None:
    data = file[SPIKES]
    swap(file, SPIKES, None, shape=data.shape, dtype="f8", external=[("/dev/zero", 0, data.shape[0] * 8)])


def count(found: dict[str, list[Case]]) -> str:
    """Returns the number of attacks on each target, as JSON."""
    return json.dumps({name: len(cases) for name, cases in found.items()})
