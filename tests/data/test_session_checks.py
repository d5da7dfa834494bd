"""Sessions of a store are checked when they are read."""

from contextlib import suppress

import h5py
import numpy as np
import pytest

from ndt.data import session_checks
from ndt.data.fingerprint import fingerprint
from ndt.data.leaks import read_fingerprint
from ndt.data.store import Store, read_entry, read_session, write_session
from ndt.errors import InputError
from tests.attacks import session_attacks
from tests.damage import REFUSE
from tests.problems import recording
from tests.stores import stored


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("session") / "sub-a_ses-1.h5"
    write_session(recording(), path, entry={"units": 5})

    return path


def test_a_valid_session_is_read_and_one_that_does_not_fit_together_is_refused(path, tmp_path) -> None:
    assert len(read_session(path).spikes.timestamps) > 1000
    content, other, taken = path.read_bytes(), tmp_path / "other.h5", []
    for case in session_attacks("session"):
        other.unlink(missing_ok=True)
        case.make(other, content)
        with suppress(InputError):
            read_session(other)
            taken += [case.name] * (case.expected == REFUSE)
    assert [name for name in taken if not name.startswith("session-name-")] == []  # those the store refuses


def test_a_session_of_another_name_is_not_the_one_of_the_manifest(tmp_path) -> None:
    store = stored([recording()], tmp_path)
    with h5py.File(tmp_path / "sub-a_ses-1.h5", "a") as file:
        file["session"].attrs["id"] = "sub-a_ses-2"
    with pytest.raises(InputError, match="session/id: expected sub-a_ses-1, found sub-a_ses-2"):
        Store(store.root).session("sub-a_ses-1")


@pytest.mark.parametrize("row", [3, 4, 5])
def test_order_is_checked_across_the_edges_of_chunks(path, monkeypatch, row) -> None:
    monkeypatch.setattr(session_checks, "ROWS", 4)
    session = read_session(path)
    session_checks.check_session(session, path)
    times = np.array(session.spikes.timestamps)
    times[row] = times[row - 1] - 1e-6
    object.__setattr__(session.spikes, "timestamps", times)
    with pytest.raises(InputError, match="spikes/timestamps: expected ascending times, found 1 that are earlier"):
        session_checks.check_session(session, path)


@pytest.mark.parametrize("name", ["hash", "unit", "time", "end"])
@pytest.mark.parametrize("damage", ["one", "sorted", "short", "text", "gone"])
def test_a_damaged_fingerprint_is_computed_again(tmp_path, name, damage) -> None:
    path, session = tmp_path / "a.h5", recording(((0.0, 100.0),))
    write_session(session, path)
    with h5py.File(path, "a") as file:
        values = file[f"fingerprint/{name}"][()]
        del file[f"fingerprint/{name}"]
        if damage == "one":
            values[len(values) // 2] += 1
        elif damage == "sorted":
            values = np.sort(values)[::-1]
        elif damage == "short":
            values = values[1:]
        elif damage == "text":
            values = np.array([b"a"] * len(values))
        if damage != "gone":
            file[f"fingerprint/{name}"] = values
    found, expected = read_fingerprint(path), fingerprint(session)
    assert len(found) > 0
    for key in ("hash", "unit", "time", "end"):
        np.testing.assert_array_equal(getattr(found, key), getattr(expected, key))


@pytest.mark.parametrize("text", ["[" * 10_000, "[1]", '{"units": "x"}', '{"units": -1}', "{"])
def test_a_damaged_entry_is_none(path, tmp_path, text) -> None:
    other = tmp_path / "other.h5"
    other.write_bytes(path.read_bytes())
    assert read_entry(other) == {"units": 5}
    with h5py.File(other, "a") as file:
        del file["brainset/entry"]
        file["brainset/entry"] = np.array([text.encode()])
    assert read_entry(other) == {}


@pytest.mark.parametrize("name", ["../x", "", ".", "..", "a/b", "/etc/passwd", "a\0b"])
def test_sessions_of_a_manifest_lie_in_the_store(tmp_path, name) -> None:
    store = stored([recording()], tmp_path)
    text = (store.root / "manifest.json").read_text().replace('"sub-a_ses-1"', f'"{name}"'.replace("\0", "\\u0000"))
    (store.root / "manifest.json").write_text(text)
    with pytest.raises(InputError, match="sessions: expected names that files of the store can have"):
        Store(store.root)
