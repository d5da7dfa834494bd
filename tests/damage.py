"""Ways to damage a file: any file, and JSON, NumPy archives, safetensors and YAML by their content.

A way is a name, what may become of the file, and a function that writes it in the place of the valid one.
"""

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.hdf5_edits import Case

__all__ = ["ANY", "REFUSE", "archives", "bytes_of", "leaves", "raw", "replaced", "tensors", "yamls"]

REFUSE = "refused in one line"
ANY = "refused in one line, or taken"

Make = Callable[[Path, bytes], object]


def _written(content: bytes) -> Make:
    return lambda path, _: path.write_bytes(content)


def bytes_of(name: str, rng: np.random.Generator, cuts: int = 6, flips: int = 8) -> Iterator[Case]:
    """Cut and flipped bytes, anywhere and at the head."""
    for n, share in enumerate(np.sort(rng.uniform(0, 1, cuts))):
        yield Case(f"{name}-cut-{n}", ANY, lambda path, t, share=share: path.write_bytes(t[: int(share * len(t))]))
    for n in range(flips):
        seed, number, high = int(rng.integers(1 << 32)), (1, 4, 40)[n % 3], (1.0, 0.02)[n % 2]

        def make(path: Path, template: bytes, seed: int = seed, number: int = number, high: float = high) -> None:
            own, content = np.random.default_rng(seed), np.frombuffer(template, np.uint8).copy()
            at = (own.uniform(0, high, number) * len(content)).astype(int)
            content[at] ^= own.integers(1, 256, number, dtype=np.uint8)
            path.write_bytes(content.tobytes())

        yield Case(f"{name}-flip-{n}", ANY, make)


def raw(name: str, expected: str = REFUSE) -> Iterator[Case]:
    """What is no file of the format, or no file: folders, links, pipes, devices, pickles."""

    def link(target: str) -> Make:
        def make(path: Path, _: bytes) -> None:
            path.unlink(missing_ok=True)
            path.symlink_to(target)

        return make

    def special(make_it: Callable[[Path], object]) -> Make:
        def make(path: Path, _: bytes) -> None:
            path.unlink(missing_ok=True)
            make_it(path)

        return make

    yield Case(f"{name}-empty", expected, _written(b""))
    yield Case(f"{name}-zeros", expected, _written(bytes(5000)))
    yield Case(f"{name}-text", expected, _written(b"spikes"))
    yield Case(f"{name}-noise", expected, _written(np.random.default_rng(0).bytes(4096)))
    yield Case(f"{name}-pickle", expected, _written(pickle.dumps({"a": [1.0]})))
    yield Case(f"{name}-folder", expected, special(Path.mkdir))
    yield Case(f"{name}-fifo", expected, special(os.mkfifo))
    yield Case(f"{name}-link-to-itself", ANY, special(lambda path: path.symlink_to(path.name)))
    yield Case(f"{name}-link-to-nothing", ANY, link("nowhere"))
    yield Case(f"{name}-link-to-zeros", expected, link("/dev/zero"))
    yield Case(f"{name}-link-up", expected, link("../.."))


def _text(name: str, valid: bytes) -> Iterator[Case]:
    """JSON that is none, or that no program should follow."""
    deep, text = "[" * 100_000 + "]" * 100_000, valid.decode()
    yield Case(f"{name}-deep", REFUSE, _written(deep.encode()))
    yield Case(f"{name}-deep-mappings", REFUSE, _written(('{"a":' * 60 + "1" + "}" * 60).encode()))
    yield Case(f"{name}-list", REFUSE, _written(b"[1, 2]"))
    yield Case(f"{name}-number", REFUSE, _written(b"7"))
    yield Case(f"{name}-null", REFUSE, _written(b"null"))
    yield Case(f"{name}-nothing", ANY, _written(b"{}"))
    yield Case(f"{name}-digits", REFUSE, _written(b'{"a": ' + b"9" * 10_000 + b"}"))
    yield Case(f"{name}-latin", REFUSE, _written(b'{"a": "\xe9\xff"}'))
    yield Case(f"{name}-bom", ANY, _written(b"\xef\xbb\xbf" + valid))
    yield Case(f"{name}-utf16", REFUSE, _written(text.encode("utf-16")))
    yield Case(f"{name}-trailing", REFUSE, _written(valid.rstrip() + b"}"))


ODD: tuple[Any, ...] = (
    None, True, -1, 0, 10**12, 10**400, -0.5, float("nan"), float("inf"), 1e300, "", "x", "../../x", "a\x1b[31m\u202e",
    [], [1], {}, {"a": 1}, [[[]]],
)  # fmt: skip


def _paths(found: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(found, dict | list):
        for key in found if isinstance(found, dict) else range(len(found)):
            yield from _paths(found[key], (*path, key))


def _parent(found: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        found = found[key]

    return found


def replaced(name: str, expected: str, path: tuple[Any, ...], value: Any) -> Case:
    """One value of a JSON file replaced, or, if it is `...`, removed."""

    def make(file: Path, template: bytes) -> None:
        found = json.loads(template)
        parent = _parent(found, path)
        if value is ...:
            del parent[path[-1]]
        else:
            parent[path[-1]] = value
        text = json.dumps(found)
        file.write_text(text)

    return Case(name, expected, make)


def leaves(name: str, valid: bytes, rng: np.random.Generator, number: int) -> Iterator[Case]:
    """JSON in which one value was replaced by another or removed; besides, text that is no JSON."""
    yield from _text(name, valid)
    found = json.loads(valid)
    paths = [path for path in _paths(found) if path]
    for n in range(number):
        path = (
            paths[int(rng.integers(len(paths)))]
            if n >= len(paths)
            else paths[n * len(paths) // min(number, len(paths))]
        )
        odd = ODD[int(rng.integers(len(ODD)))] if n % 5 else ...
        yield replaced(f"{name}-{n}-{'.'.join(map(str, path))[:60].replace('/', '|')}-{odd!r:.12}", ANY, path, odd)


def _npz(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)

    return buffer.getvalue()


def archives(name: str, valid: bytes, rng: np.random.Generator) -> Iterator[Case]:
    """NumPy archives in which one array is missing, of another type or shape, or holds other numbers."""
    with np.load(io.BytesIO(valid)) as file:
        arrays = {key: file[key] for key in file.files}

    def changed(key: str, value: Any) -> Make:
        kept = {k: v for k, v in arrays.items() if k != key} | ({} if value is None else {key: value})
        return _written(_npz(kept))

    def header(shape: str, descr: str = "'<f8'") -> bytes:
        text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
        text += b" " * (63 - (10 + len(text)) % 64) + b"\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text

    def member(content: bytes) -> Make:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
            for key in arrays:
                file.writestr(f"{key}.npy", content)
        return _written(buffer.getvalue())

    for key, values in arrays.items():
        words = np.array(["a"] * max(values.size, 1)).reshape(values.shape if values.size else (1,))
        yield Case(f"{name}-{key}-missing".replace("/", "|"), ANY, changed(key, None))
        yield Case(f"{name}-{key}-objects".replace("/", "|"), REFUSE, changed(key, np.array([{}, None], object)))
        yield Case(f"{name}-{key}-text".replace("/", "|"), ANY, changed(key, words))
        yield Case(f"{name}-{key}-scalar".replace("/", "|"), ANY, changed(key, np.float64(3)))
        yield Case(f"{name}-{key}-deep".replace("/", "|"), ANY, changed(key, values[None, None]))
        if values.dtype.kind == "f" and values.size:
            for word, number in (("nan", np.nan), ("inf", np.inf), ("huge", 1e300), ("negative", -7.0)):
                other = np.array(values, np.float64)
                other.ravel()[int(rng.integers(other.size))] = number
                yield Case(f"{name}-{key}-{word}".replace("/", "|"), ANY, changed(key, other))
        if values.ndim and values.size:
            yield Case(f"{name}-{key}-short".replace("/", "|"), ANY, changed(key, values[:-1]))
            yield Case(f"{name}-{key}-reversed".replace("/", "|"), ANY, changed(key, values[::-1]))
            yield Case(f"{name}-{key}-none".replace("/", "|"), ANY, changed(key, values[:0]))
    yield Case(f"{name}-declared", REFUSE, member(header(f"({1 << 50},)")))
    yield Case(f"{name}-negative", REFUSE, member(header("(-5,)")))
    yield Case(f"{name}-declared-wide", REFUSE, member(header(f"(3, {1 << 40})")))
    yield Case(f"{name}-object-header", REFUSE, member(header("(3,)", "'|O'") + pickle.dumps([1, 2, 3])))
    yield Case(f"{name}-header-code", REFUSE, member(header("(__import__('os').getpid(),)")))
    yield Case(f"{name}-bomb", REFUSE, member(header(f"({1 << 33},)", "'|i1'") + bytes(1 << 22)))


def _tensors(content: bytes) -> tuple[dict[str, Any], bytes]:
    (size,) = struct.unpack("<Q", content[:8])

    return json.loads(content[8 : 8 + size]), content[8 + size :]


def _safetensors(head: dict[str, Any] | bytes, body: bytes) -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()

    return struct.pack("<Q", len(text)) + text + body


def tensors(name: str, valid: bytes, rng: np.random.Generator, number: int = 12) -> Iterator[Case]:
    """Safetensors files with other heads, and with numbers that are not finite."""
    head, body = _tensors(valid)
    names = [key for key in head if key != "__metadata__"]
    floats = [key for key in names if head[key]["dtype"] == "F32" and np.prod(head[key]["shape"]) > 0]

    def numbers(key: str, value: float, every: bool = False) -> Make:
        a, b = head[key]["data_offsets"]
        values = np.frombuffer(body[a:b], "<f4").copy()
        values[0 : len(values) if every else 1] = value
        return _written(_safetensors(head, body[:a] + values.tobytes() + body[b:]))

    def headed(key: str, **fields: Any) -> Make:
        return _written(_safetensors(head | {key: head[key] | fields}, body))

    for n in range(number):
        key = floats[int(rng.integers(len(floats)))]
        yield Case(f"{name}-nan-{n}", REFUSE, numbers(key, np.nan))
        yield Case(f"{name}-inf-{n}", ANY, numbers(key, np.inf))
        yield Case(f"{name}-huge-{n}", ANY, numbers(key, 3e38, every=True))
    first = names[0]
    yield Case(f"{name}-integers", REFUSE, headed(floats[0], dtype="I32"))
    yield Case(f"{name}-dtype", REFUSE, headed(first, dtype="Q99"))
    yield Case(f"{name}-flat", REFUSE, headed(floats[-1], shape=[1, int(np.prod(head[floats[-1]]["shape"]))]))
    yield Case(f"{name}-shape", REFUSE, headed(first, shape=[1 << 60]))
    yield Case(f"{name}-offsets", REFUSE, headed(first, data_offsets=[0, 1 << 60]))
    yield Case(f"{name}-negative", REFUSE, headed(first, shape=[-1]))
    yield Case(f"{name}-missing", REFUSE, _written(_safetensors({k: v for k, v in head.items() if k != first}, body)))
    yield Case(
        f"{name}-renamed",
        REFUSE,
        _written(_safetensors({(k if k != first else "x"): v for k, v in head.items()}, body)),
    )
    yield Case(f"{name}-head-size", REFUSE, _written(struct.pack("<Q", 1 << 62) + valid[8:]))
    yield Case(f"{name}-head-list", REFUSE, _written(_safetensors(b"[]", body)))
    yield Case(f"{name}-head-deep", REFUSE, _written(_safetensors(b"[" * 50_000, body)))
    yield Case(f"{name}-no-body", REFUSE, _written(_safetensors(head, b"")))
    yield Case(f"{name}-more-body", ANY, _written(valid + b"\0" * 64))


def yamls(name: str, valid: dict[str, Any], rng: np.random.Generator) -> Iterator[Case]:
    """YAML with tags, aliases without end, and settings of other types and sizes."""
    import yaml

    bomb = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
    )
    texts = {
        "python-object": "!!python/object/apply:os.system ['true']",
        "python-name": "a: !!python/name:os.system",
        "python-module": "a: !!python/module:os",
        "python-new": "a: !!python/object/new:os.system [true]",
        "own-tag": "a: !thing 3",
        "bool-tag": "a: !!bool x",
        "int-tag": "a: !!int x",
        "time-tag": "a: !!timestamp x",
        "binary-tag": "a: !!binary '*'",
        "date": "a: 2024-99-99",
        "digits": "a: " + "9" * 10_000,
        "deep": "[" * 10_000,
        "deep-closed": "[" * 300 + "]" * 300,
        "deep-mapping": "".join(" " * i + "a:\n" for i in range(300)),
        "bomb": bomb,
        "merge-bomb": "a: &a {x: 1}\nb: {<<: *a, <<: *a}",
        "itself": "&a [*a]",
        "itself-mapping": "&a {a: *a}",
        "list": "- 1",
        "number": "7",
        "word": "x",
        "documents": "a: 1\n---\nb: 2",
        "tabs": "a:\n\t- 1",
        "keys": "? [1, 2]\n: 3",
        "number-key": "7: 3",
        "null-key": "~: 3",
        "control": 'a: "\\x1b[31m"',
        "latin": None,
        "unknown": "colour: red",
        "class-path": "class_path: os.system\ninit_args: {command: 'true'}",
    }
    for word, text in texts.items():
        yield Case(f"{name}-{word}", REFUSE, _written(b"a: \xff\xfe" if text is None else text.encode()))

    settings = [path for path in _paths(valid) if path]
    for n in range(40):
        path, odd = settings[n % len(settings)], ODD[int(rng.integers(len(ODD)))]

        def make(file: Path, _: bytes, path: tuple[Any, ...] = path, odd: Any = odd) -> None:
            found = json.loads(json.dumps(valid))
            _parent(found, path)[path[-1]] = odd
            file.write_text(yaml.safe_dump(found))

        yield Case(f"{name}-{n}-{'.'.join(map(str, path))}-{odd!r:.12}", ANY, make)
