"""Two hundred NWB files that are broken in two hundred ways, the same ones for the same seed.

Each starts as a small valid recording: units with `obs_intervals` and electrodes, covariates, trials, invalid times.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np

from tests.hdf5_edits import Case, Change, assign, attribute, edit, put, relink, remove, swap
from tests.recordings import invalid, series, tracking, trials, units, write_nwb

__all__ = ["ANY", "PASS", "REFUSE", "SAY", "cases", "write", "write_template"]

# What may become of a file:
REFUSE = "refused"
SAY = "refused, or taken with a sentence in dropped or warnings"
PASS = "taken"  # odd, but legal
ANY = "refused, or taken"  # what was hit may mean nothing, or not be for us to know

MANY = 1 << 50
SPIKES, INDEX = "units/spike_times", "units/spike_times_index"
OBS, OBS_INDEX = "units/obs_intervals", "units/obs_intervals_index"
HAND, GRID = "processing/behavior/hand_vel", "processing/behavior/cursor"
TRIALS = "intervals/trials"
ELECTRODES = "general/extracellular_ephys/electrodes"
SECONDS, NUM_UNITS, NUM_SPIKES = 20.0, 6, 300


def write_template(path: Path) -> Path:
    """Writes the valid recording."""
    rng = np.random.default_rng(0)
    spikes = [np.sort(rng.uniform(0, SECONDS, NUM_SPIKES)) for _ in range(NUM_UNITS)]
    obs = [[0.0, 8.0, 9.0, SECONDS]] * (NUM_UNITS - 1) + [[0.0, SECONDS / 2]]
    columns = {"quality": ["good", "mua"] * (NUM_UNITS // 2), "depth_um": np.arange(float(NUM_UNITS))}
    hand = np.sin(np.arange(400))[:, None] * [1.0, 2.0]

    return write_nwb(
        path,
        units(spikes, obs, [0, 1, 1, 0, 2, 2], **columns),
        series("hand_vel", hand),
        series("cursor", hand[:, 0], rate=20.0),
        tracking,
        trials,
        invalid((12.0, 12.5)),
    )


def cases(seed: int = 0) -> list[Case]:
    """Returns all of them, by name unlike any other."""
    rng = np.random.default_rng(seed)
    groups = (
        _cut(rng), _flipped(rng), _no_files(), _dtypes(), _ranks(), _indices(), _links(), _missing(),
        _values(), _spans(), _lengths(), _declared(), _namespaces(), _text(),
    )  # fmt: skip
    found = [case for group in groups for case in group]
    assert len({case.name for case in found}) == len(found)

    return found


def _cut(rng: np.random.Generator) -> Iterator[Case]:
    for n, share in enumerate(np.sort(rng.uniform(0, 1, 20))):

        def make(path: Path, template: bytes, share: float = share) -> None:
            path.write_bytes(template[: int(share * len(template))])

        yield Case(f"cut-{n:02d}", REFUSE, make)


def _flipped(rng: np.random.Generator) -> Iterator[Case]:
    """Random bytes: anywhere (mostly HDF5's own), in the superblock and root, and in one dataset's data."""

    def anywhere(number: int, low: float, high: float) -> Callable[[Path, bytes], object]:
        seed = int(rng.integers(1 << 32))

        def make(path: Path, template: bytes) -> None:
            own, content = np.random.default_rng(seed), np.frombuffer(template, np.uint8).copy()
            at = (own.uniform(low, high, number) * len(content)).astype(int)
            content[at] ^= own.integers(1, 256, number, dtype=np.uint8)
            path.write_bytes(content.tobytes())

        return make

    for n, number in enumerate([1] * 6 + [16] * 8 + [400] * 8 + [8000] * 4):
        yield Case(f"flip-{n:02d}-{number}", ANY, anywhere(number, 0.0, 1.0))
    for n in range(6):
        yield Case(f"flip-head-{n}", ANY, anywhere(4, 0.0, 0.005))
    for n, path in enumerate((SPIKES, INDEX, OBS, OBS_INDEX, f"{HAND}/timestamps", f"{TRIALS}/start_time")):
        seed = int(rng.integers(1 << 32))

        def noise(file: h5py.File, path: str = path, seed: int = seed) -> None:
            shape, dtype = file[path].shape, file[path].dtype
            data = np.random.default_rng(seed).bytes(int(np.prod(shape)) * dtype.itemsize)
            file[path][()] = np.frombuffer(data, dtype).reshape(shape)

        yield edit(f"noise-{n}", SAY if path.startswith((HAND, TRIALS)) else REFUSE, noise)


def _no_files() -> Iterator[Case]:
    def hdf5(path: Path, template: bytes) -> None:
        h5py.File(path, "w").close()

    def folder(path: Path, template: bytes) -> None:
        path.mkdir()

    signature = b"\x89HDF\r\n\x1a\n"
    for name, content in (("empty", b""), ("text", b"spikes"), ("signature", signature), ("zeros", bytes(1 << 16))):
        yield Case(f"no-{name}", REFUSE, lambda path, _, content=content: path.write_bytes(content))
    yield Case("no-superblock", REFUSE, lambda path, t: path.write_bytes(bytes(512) + signature + b"\xff" * 2000))
    yield Case("no-nwb", REFUSE, hdf5)
    yield Case("no-folder", REFUSE, folder)
    yield Case("no-loop", REFUSE, lambda path, _: path.symlink_to(path.name))
    yield Case("no-target", REFUSE, lambda path, _: path.symlink_to("nowhere.nwb"))
    yield Case("no-fifo", REFUSE, lambda path, _: os.mkfifo(path))
    yield Case("trailing-bytes", ANY, lambda path, t: path.write_bytes(t + b"\xff" * 999))
    yield Case("user-block", ANY, lambda path, t: path.write_bytes(bytes(512) + t))
    yield Case("name-not-utf8-\udcff", PASS, lambda path, t: path.write_bytes(t))


def _dtypes() -> Iterator[Case]:
    words = lambda path: lambda file: swap(file, path, np.array([b"a"] * len(file[path]), h5py.string_dtype()))
    refs = lambda path: (
        lambda file: swap(file, path, np.array([file.ref] * len(file[path]), h5py.ref_dtype), dtype=h5py.ref_dtype)
    )
    pairs = np.dtype([("a", "f8"), ("b", "i4")])
    compound = lambda path: lambda file: swap(file, path, np.zeros(file[path].shape, pairs))
    for kind, change in (("strings", words), ("references", refs), ("compounds", compound)):
        for path in (SPIKES, INDEX, OBS, OBS_INDEX, "units/id"):
            yield edit(f"dtype-{kind}-{path.split('/')[-1]}", REFUSE if path != "units/id" else ANY, change(path))
        for path in (f"{HAND}/data", f"{HAND}/timestamps", f"{TRIALS}/start_time", "units/electrodes"):
            yield edit(f"dtype-{kind}-{path.replace('/', '-')}", SAY, change(path))
    yield edit("dtype-quality-references", SAY, refs("units/quality"))
    yield edit("dtype-quality-compounds", SAY, compound("units/quality"))
    yield edit("dtype-float-index", ANY, lambda f: swap(f, INDEX, f[INDEX][()].astype("f8")))
    yield edit("dtype-half-index", REFUSE, lambda f: swap(f, INDEX, f[INDEX][()] + 0.5))
    yield edit("dtype-integer-spikes", ANY, lambda f: swap(f, SPIKES, np.sort(f[SPIKES][()]).astype("i8") * 0))
    yield edit("dtype-complex-spikes", REFUSE, lambda f: swap(f, SPIKES, f[SPIKES][()].astype("c16")))
    yield edit("dtype-opaque-spikes", REFUSE, lambda f: swap(f, SPIKES, f[SPIKES][()].view("V8")))


def _ranks() -> Iterator[Case]:
    for path, expected in ((SPIKES, REFUSE), (INDEX, REFUSE), (OBS, REFUSE), (OBS_INDEX, REFUSE), ("units/id", ANY)):
        name = path.split("/")[-1]
        yield edit(f"rank-0-{name}", expected, lambda f, p=path: swap(f, p, f[p][()].ravel()[0]))
        yield edit(f"rank-3-{name}", expected, lambda f, p=path: swap(f, p, np.zeros((2, 2, 2), f[p].dtype)))
        yield edit(f"rank-empty-{name}", expected, lambda f, p=path: swap(f, p, h5py.Empty(f[p].dtype)))
    for path in (f"{HAND}/data", f"{HAND}/timestamps", f"{GRID}/data", f"{TRIALS}/start_time", "units/quality"):
        yield edit(f"rank-0-{path.replace('/', '-')}", SAY, lambda f, p=path: swap(f, p, f[p][()].ravel()[0]))
        yield edit(f"rank-3-{path.replace('/', '-')}", SAY, lambda f, p=path: swap(f, p, f[p][()].reshape(1, 1, -1)))
    yield edit("rank-obs-triples", REFUSE, lambda f: swap(f, OBS, np.zeros((len(f[OBS]), 3))))


def _indices() -> Iterator[Case]:
    for path in (INDEX, OBS_INDEX, "units/electrodes_index"):
        name, expected = path.split("/")[-1], REFUSE if path in (INDEX, OBS_INDEX) else SAY
        yield edit(f"index-past-{name}", expected, lambda f, p=path: swap(f, p, np.r_[f[p][:-1].astype("u8"), 60_000]))
        yield edit(f"index-early-{name}", expected, lambda f, p=path: assign(p, -1, f[p][-1] - 1)(f))
        yield edit(f"index-falls-{name}", expected, assign(path, 2, 0))
        yield edit(f"index-negative-{name}", expected, lambda f, p=path: swap(f, p, np.r_[f[p][:-1].astype("i8"), -1]))
        yield edit(f"index-short-{name}", expected, lambda f, p=path: swap(f, p, f[p][:-1]))
        yield edit(f"index-long-{name}", expected, lambda f, p=path: swap(f, p, np.r_[f[p][()], f[p][-1:]]))
    yield edit("index-electrode-nowhere", SAY, assign("units/electrodes", 0, 99))
    yield edit("index-electrode-negative", SAY, assign("units/electrodes", 0, -7))


def _links() -> Iterator[Case]:
    for path, expected in ((SPIKES, REFUSE), ("units", REFUSE), (f"{HAND}/data", SAY), (TRIALS, SAY), (HAND, SAY)):
        name = path.replace("/", "-")
        yield edit(f"link-dangling-{name}", expected, relink(path, h5py.SoftLink("/nowhere")))
        yield edit(f"link-cyclic-{name}", expected, relink(path, h5py.SoftLink(f"/{path}")))
        yield edit(f"link-elsewhere-{name}", expected, relink(path, h5py.ExternalLink("gone.nwb", f"/{path}")))
    yield edit("link-units-are-root", REFUSE, lambda f: relink("units", f["/"])(f))
    yield edit("link-behavior-holds-itself", ANY, lambda f: f["processing/behavior"].__setitem__("a", f["processing"]))
    yield edit("link-to-fifo", SAY, _fifo)
    yield edit("link-to-zeros", SAY, lambda f: f.__setitem__("acquisition/x", h5py.ExternalLink("/dev/zero", "/x")))
    yield edit("link-to-itself", ANY, lambda f: f.__setitem__("acquisition/x", h5py.ExternalLink(f.filename, "/")))
    yield edit("reference-index-of-nothing", ANY, _gone(INDEX))
    yield edit("reference-obs-index-of-nothing", ANY, _gone(OBS_INDEX))
    yield edit("reference-null", ANY, attribute(INDEX, "target", h5py.Reference()))
    yield edit("reference-to-itself", ANY, lambda f: f[INDEX].attrs.__setitem__("target", f[INDEX].ref))
    yield edit("reference-group-null", SAY, lambda f: f[f"{ELECTRODES}/group"].__setitem__(0, h5py.Reference()))
    yield edit("reference-electrodes-table", SAY, lambda f: f["units/electrodes"].attrs.__setitem__("table", f.ref))
    yield edit("data-elsewhere", REFUSE, _outside)


def _fifo(file: h5py.File) -> None:
    """Links to a file that nobody writes: whoever opens it waits."""
    os.mkfifo(Path(file.filename).with_name("fifo"))
    file["acquisition/x"] = h5py.ExternalLink("fifo", "/x")


def _gone(path: str) -> Change:
    """Points the target of an index at something that is then removed."""

    def change(file: h5py.File) -> None:
        file["scratch_data"] = [1.0]
        file[path].attrs["target"] = file["scratch_data"].ref
        del file["scratch_data"]

    return change


def _outside(file: h5py.File) -> None:
    """Keeps spike times in a raw file that is not there."""
    data = file[SPIKES]
    swap(file, SPIKES, None, shape=data.shape, dtype="f8", external=[("gone.raw", 0, data.shape[0] * 8)])


def _missing() -> Iterator[Case]:
    for path in (SPIKES, INDEX, "units", "units/id", OBS_INDEX, OBS):
        yield edit(f"missing-{path.replace('/', '-')}", REFUSE if path in (SPIKES, "units") else ANY, remove(path))
    for path in ("general", "general/subject", ELECTRODES, "session_start_time", "identifier", "file_create_date"):
        yield edit(f"missing-{path.replace('/', '-')}", ANY, remove(path))
    for path in (f"{HAND}/data", f"{HAND}/timestamps", f"{GRID}/starting_time", f"{TRIALS}/stop_time", "processing"):
        yield edit(f"missing-{path.replace('/', '-')}", ANY if path == "processing" else SAY, remove(path))
    for path, name in (
        ("/", "neurodata_type"), ("/", "nwb_version"), ("/", "namespace"), ("units", "neurodata_type"),
        ("units", "colnames"), (SPIKES, "neurodata_type"), (INDEX, "target"), (HAND, "neurodata_type"),
        (f"{HAND}/data", "unit"), (f"{GRID}/starting_time", "rate"), (TRIALS, "colnames"), ("/", "object_id"),
    ):  # fmt: skip
        expected = {"/": REFUSE, HAND: SAY}.get(path, ANY) if name == "neurodata_type" else ANY
        yield edit(f"missing-attribute-{name}-{path.replace('/', '-')}", expected, attribute(path, name, None))


def _values() -> Iterator[Case]:
    odd = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "1e300": 1e300, "-1e300": -1e300}
    for name, value in odd.items():
        yield edit(f"spike-{name}", REFUSE if "1e" not in name else SAY, assign(SPIKES, 5, value))
        yield edit(f"timestamp-{name}", SAY, assign(f"{HAND}/timestamps", 5, value))
        yield edit(f"obs-{name}", REFUSE if "1e" not in name else SAY, assign(OBS, (0, 1), value))
        yield edit(f"trial-{name}", SAY if name != "1e300" else ANY, assign(f"{TRIALS}/stop_time", 1, value))
    for name in ("nan", "inf", "1e300"):
        yield edit(f"covariate-{name}", ANY, assign(f"{HAND}/data", (slice(5, 9), 0), odd[name]))
    for name, value in {"nan": np.nan, "inf": np.inf, "0": 0.0, "-20": -20.0, "1e-300": 1e-300, "1e300": 1e300}.items():
        yield edit(f"rate-{name}", SAY, attribute(f"{GRID}/starting_time", "rate", value))
    for name, value in {"nan": np.nan, "inf": np.inf, "1e300": 1e300}.items():
        yield edit(f"start-{name}", SAY, put(f"{GRID}/starting_time", value))
        yield edit(
            f"conversion-{name}", SAY if name != "1e300" else ANY, attribute(f"{HAND}/data", "conversion", value)
        )
    yield edit(
        "spikes-descend", SAY, lambda f: f[SPIKES].__setitem__(slice(0, NUM_SPIKES), f[SPIKES][:NUM_SPIKES][::-1])
    )
    yield edit("spikes-shuffled", SAY, _shuffled)
    yield edit("timestamps-descend", SAY, lambda f: f[f"{HAND}/timestamps"].__setitem__((), np.arange(400.0)[::-1]))
    yield edit("timestamps-stand-still", SAY, lambda f: f[f"{HAND}/timestamps"].__setitem__((), np.zeros(400)))
    yield edit("obs-reversed", SAY, lambda f: f[OBS].__setitem__((), f[OBS][()][:, ::-1]))
    yield edit("obs-empty", ANY, lambda f: f[OBS].__setitem__((), np.zeros(f[OBS].shape)))
    yield edit("all-invalid", REFUSE, _all_invalid)
    yield edit("trials-reversed", SAY, assign(f"{TRIALS}/stop_time", slice(None), -1.0))


def _all_invalid(file: h5py.File) -> None:
    file["intervals/invalid_times/start_time"][0], file["intervals/invalid_times/stop_time"][0] = -1.0, 1e6


def _shuffled(file: h5py.File) -> None:
    file[SPIKES][()] = np.random.default_rng(0).permutation(file[SPIKES][()])


def _spans(far: float = 1e9) -> Iterator[Case]:
    """Seconds since 1970 beside seconds since the start: nothing may be allocated by the time between."""
    times, hand = np.arange(400) / 20, f"{HAND}/timestamps"
    yield edit("span-series-far", SAY, lambda f: f[hand].__setitem__((), times + far))
    yield edit("span-series-spread", SAY, lambda f: f[hand].__setitem__((), np.geomspace(1, far, 400)))
    yield edit("span-series-jumps", ANY, lambda f: f[hand].__setitem__(slice(200, None), times[200:] + far))
    yield edit("span-spikes-far", SAY, lambda f: f[SPIKES].__setitem__((), f[SPIKES][()] + far))
    yield edit("span-one-spike-far", SAY, assign(SPIKES, NUM_SPIKES - 1, far))
    yield edit("span-obs-far", ANY, assign(OBS, (1, 1), far))
    yield edit("span-trials-far", ANY, assign(f"{TRIALS}/stop_time", -1, 1e15))

    def unobserved(file: h5py.File) -> None:
        for path in (OBS, OBS_INDEX):
            del file[path]
        names = [name for name in file["units"].attrs["colnames"] if name != "obs_intervals"]
        file["units"].attrs["colnames"] = np.array(names, h5py.string_dtype())
        file[SPIKES][NUM_SPIKES - 1] = far

    yield edit("span-one-spike-far-without-obs", ANY, unobserved)


def _lengths() -> Iterator[Case]:
    yield edit("ids-twice", SAY, lambda f: swap(f, "units/id", np.zeros(NUM_UNITS, int)))
    yield edit("ids-fewer", SAY, lambda f: swap(f, "units/id", np.arange(NUM_UNITS - 2)))
    yield edit("ids-more", SAY, lambda f: swap(f, "units/id", np.arange(NUM_UNITS + 2)))
    yield edit("column-short", SAY, lambda f: swap(f, "units/depth_um", np.arange(2.0)))
    yield edit("column-long", SAY, lambda f: swap(f, "units/depth_um", np.arange(200.0)))
    yield edit(
        "column-unknown", ANY, attribute("units", "colnames", np.array(["spike_times", "no"], h5py.string_dtype()))
    )
    yield edit("columns-twice", ANY, attribute("units", "colnames", np.array(["spike_times"] * 2, h5py.string_dtype())))
    yield edit("series-short", SAY, lambda f: swap(f, f"{HAND}/data", np.zeros((99, 2))))
    yield edit("series-long", SAY, lambda f: swap(f, f"{HAND}/data", np.zeros((999, 2))))
    yield edit("series-no-samples", SAY, lambda f: swap(f, f"{HAND}/data", np.zeros((0, 2))))
    yield edit("trials-short", SAY, lambda f: swap(f, f"{TRIALS}/stop_time", np.array([2.0])))
    yield edit("no-spikes", SAY, lambda f: (swap(f, SPIKES, np.zeros(0)), assign(INDEX, slice(None), 0)(f)))


def _declared() -> Iterator[Case]:
    """More data than there are, in every dataset that has a length: chunked, so that nothing is stored."""
    where = {
        SPIKES: REFUSE, INDEX: REFUSE, OBS: REFUSE, OBS_INDEX: REFUSE, "units/id": REFUSE, "units/quality": REFUSE,
        "units/electrodes": REFUSE, "units/electrodes_index": REFUSE, "units/depth_um": REFUSE,
        f"{HAND}/data": REFUSE, f"{HAND}/timestamps": REFUSE, f"{GRID}/data": REFUSE,
        "acquisition/Position/xy/data": REFUSE, f"{TRIALS}/start_time": REFUSE, f"{TRIALS}/id": REFUSE,
        f"{TRIALS}/words": REFUSE, f"{TRIALS}/words_index": REFUSE, "intervals/invalid_times/stop_time": REFUSE,
        f"{ELECTRODES}/id": REFUSE, f"{ELECTRODES}/group": REFUSE, f"{ELECTRODES}/location": REFUSE,
        "file_create_date": ANY,
    }  # fmt: skip
    for path, expected in where.items():

        def change(file: h5py.File, path: str = path) -> None:
            shape, dtype = (MANY, *file[path].shape[1:]), file[path].dtype
            swap(file, path, None, shape=shape, dtype=dtype, chunks=(64, *shape[1:]))

        yield edit(f"declared-{path.replace('/', '-')}", expected, change)
    wide = {"shape": (400, 1 << 40), "dtype": "f8", "chunks": (1, 1024)}
    yield edit("declared-wide", SAY, put(f"{HAND}/data", None, **wide))
    small = {"shape": (1 << 20,), "dtype": "f8", "chunks": (1024,)}  # 8 MB of zeros that nobody wrote
    yield edit("declared-little", SAY, put(SPIKES, None, **small))


def _namespaces() -> Iterator[Case]:
    def cached(text: str) -> Change:
        def change(file: h5py.File) -> None:
            (version,) = file["specifications/core"].values()
            name = next(iter(version))
            del version[name]
            version[name] = text

        return change

    yield edit("namespace-unknown", ANY, attribute(HAND, "namespace", "nobody"))
    yield edit("namespace-of-root", ANY, attribute("/", "namespace", "nobody"))
    yield edit("type-unknown", SAY, attribute(HAND, "neurodata_type", "FooSeries"))
    yield edit("type-units-unknown", ANY, attribute("units", "neurodata_type", "Foo"))
    yield edit("type-swapped", ANY, attribute(HAND, "neurodata_type", "Units"))
    yield edit("type-units-are-a-series", ANY, attribute("units", "neurodata_type", "TimeSeries"))
    yield edit("type-number", ANY, attribute("units", "neurodata_type", 7))
    yield edit("version-old", ANY, attribute("/", "nwb_version", "1.0.6"))
    yield edit("version-new", ANY, attribute("/", "nwb_version", "99.0"))
    yield edit("version-odd", ANY, attribute("/", "nwb_version", "\n"))
    yield edit("cache-missing", PASS, remove("specifications"))
    yield edit("cache-odd", ANY, cached("{"))
    yield edit("cache-other", ANY, cached(json.dumps({"namespaces": [{"name": "core"}]})))


def _text() -> Iterator[Case]:
    raw = lambda values: np.array(values, h5py.string_dtype("ascii", 4))
    yield edit("text-quality-not-utf8", SAY, put("units/quality", raw([b"\xff\xfe\x00a"] * NUM_UNITS)))
    yield edit("text-location-not-utf8", SAY, lambda f: swap(f, f"{ELECTRODES}/location", raw([b"\xff"] * 3)))
    yield edit("text-cue-not-utf8", SAY, put(f"{TRIALS}/cue", raw([b"\xe9"] * 3)))
    yield edit("text-task-not-utf8", ANY, put("session_description", np.bytes_(b"\xff\xfe")))
    yield edit("text-subject-not-utf8", ANY, put("general/subject/subject_id", np.bytes_(b"m\xff")))
    yield edit("text-subject-path", PASS, put("general/subject/subject_id", "../../x\ny"))
    yield edit("text-long", ANY, put("session_description", "a" * 5_000_000))
    yield edit("text-date", ANY, put("session_start_time", "yesterday"))
    yield edit("text-date-number", ANY, put("session_start_time", 7))
    yield edit("text-deep", ANY, lambda f: f.create_group("processing/behavior/" + "/".join("a" * 900)))


def write(case: Case, folder: Path, template: bytes) -> Path:
    """Writes a case into a folder of its own; returns its path."""
    path = folder / case.name / f"{case.name}.nwb"
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir(parents=True)
    case.make(path, template)

    return path
