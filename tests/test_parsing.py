"""Readers of files that may be damaged or hostile."""

import io
import json
import os
import zipfile
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndt.errors import InputError
from ndt.parsing import read_json, read_lines, read_npz, read_store, read_text, read_yaml
from tests.damage import archives, leaves, raw


@pytest.mark.parametrize("case", list(raw("x")), ids=lambda case: case.name)
@pytest.mark.parametrize("reader", [read_json, read_npz, read_text, read_yaml])
def test_what_is_no_file_of_the_format_is_an_error_that_names_it(tmp_path, case, reader) -> None:
    path = tmp_path / "file"
    case.make(path, b"")
    if reader in (read_text, read_yaml) and case.name in ("x-text", "x-zeros", "x-empty"):
        return  # of any text
    with pytest.raises(InputError, match=f"{path}: "):
        reader(path)


def test_json_is_bounded_in_depth(tmp_path) -> None:
    path = tmp_path / "x.json"
    path.write_text("[" * 39 + "]" * 39)
    assert read_json(path)
    for depth in (41, 100, 1_000, 100_000):
        path.write_text("[" * depth + "]" * depth)
        with pytest.raises(InputError, match=r"deep"):
            read_json(path)


PLAIN = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text()


@given(st.recursive(PLAIN, lambda x: st.lists(x) | st.dictionaries(st.text(), x), max_leaves=20))
def test_json_comes_back_as_it_was(tmp_path_factory, found) -> None:
    path = tmp_path_factory.mktemp("json") / "x.json"
    path.write_text(json.dumps(found))
    assert read_json(path) == found


def test_a_log_ends_where_a_crash_cut_it(tmp_path) -> None:
    path = tmp_path / "log.jsonl"
    assert read_lines(path, dict) == []
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_lines(path, dict[str, int]) == [{"step": 1}, {"step": 2}]
    path.write_text('{"step": 1}\n[2]\n')
    with pytest.raises(InputError, match="line 2: expected keys"):
        read_lines(path, dict[str, int])


def test_aliases_of_yaml_may_repeat_settings_but_not_grow_without_end(tmp_path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: &a [1, 2]\nb: *a\n")
    assert read_yaml(path) == {"a": [1, 2], "b": [1, 2]}
    bomb = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1]\n"
    bomb += "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 8)}]\n" for i in range(12))
    for text, told in ((bomb, "at most 100,000 values"), ("&a [*a]", "deep"), ("&a {b: *a}", "deep")):
        path.write_text(text)
        with pytest.raises(InputError, match=told):
            read_yaml(path)
    path.write_text("a: " + "x" * (1 << 20))
    with pytest.raises(InputError, match="at most 1 MiB"):
        read_yaml(path)


def test_an_archive_comes_back_as_it_was(tmp_path) -> None:
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(["x", "yé"]), "c": np.array(True), "d": np.zeros((0, 2))}
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    found = read_npz(tmp_path / "x.npz", ("a",))
    assert list(found) == list(arrays)
    for name, values in arrays.items():
        np.testing.assert_array_equal(found[name], values)
    with pytest.raises(InputError, match="e: expected an array of that name, found a, b, c, d"):
        read_npz(tmp_path / "x.npz", ("e",))


def test_archives_that_declare_more_than_they_hold_take_no_memory(tmp_path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(3))
    for case in archives("x", buffer.getvalue(), np.random.default_rng(0)):
        if case.expected == "refused in one line":
            case.make(tmp_path / "x.npz", buffer.getvalue())
            with pytest.raises(InputError, match=r"x\.npz: "):
                read_npz(tmp_path / "x.npz")


def test_an_encrypted_or_odd_archive_is_refused(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("../../up.npy", b"\x93NUMPY")
        file.writestr("readme.txt", "text")
    with pytest.raises(InputError, match=r"x\.npz: content: expected an .npz file"):
        read_npz(tmp_path / "x.npz")


def test_a_run_knows_its_store_if_it_has_one(tmp_path) -> None:
    assert read_store(tmp_path) is None
    (tmp_path / "run.json").write_text('{"store": "/a/b"}')
    assert str(read_store(tmp_path)) == "/a/b"
    (tmp_path / "run.json").write_text('{"store": 3}')
    with pytest.raises(InputError, match="store: expected text, found 3"):
        read_store(tmp_path)


def test_damaged_json_never_raises_anything_else(tmp_path) -> None:
    valid = json.dumps({"a": [1, {"b": None}], "c": "x", "d": 1.5}).encode()
    for case in leaves("x", valid, np.random.default_rng(0), 200):
        case.make(tmp_path / "x.json", valid)
        with suppress(InputError):
            read_json(tmp_path / "x.json", dict[str, list[int] | str | float])


def test_a_pipe_is_refused_at_once(tmp_path) -> None:
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(InputError, match="found a device or pipe"):
        read_json(tmp_path / "x.json")
