"""MATLAB's files before 7.3, read with every length checked against what is there.

A file is a header of 128 bytes and a row of elements, each a tag (type, length) and its data, padded to 8 bytes. An
array is an element of elements: flags with its class, its shape, its name, and what its class asks for. Compressed
elements hold one array each. A reader that believes lengths can be kept busy for ever by one wrong byte (scipy's can);
here no loop runs further than the bytes do.

Reference: MAT-File Format, The MathWorks, https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
"""

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["Mat5", "Struct"]

HEADER = 128
MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
TEXT = {16: "utf-8", 17: "utf-16", 18: "utf-32", 4: "utf-16", 2: "latin-1", 1: "latin-1"}
CELL, STRUCT, OBJECT, CHAR, SPARSE = 1, 2, 3, 4, 5
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
COMPLEX = 0x0800
DEPTH = 8  # arrays within arrays

Array = NDArray[Any]


@dataclass(frozen=True)
class Struct:
    """A struct or struct array.

    Arguments:
        fields: Values of each field, one an element, in the order of MATLAB.
        shape: Shape of the struct array.
    """

    fields: dict[str, list[Any]]
    shape: tuple[int, ...]


class Mat5:
    """An open file: where each variable lies, by name.

    Values are arrays of numbers, arrays of strings (one a row), object arrays (cells), or `Struct`. None stands for
    what MATLAB keeps to itself: functions, tables, objects.

    Arguments:
        file: The open file.
        most: Bytes that a variable may have at most.

    Raises:
        ValueError: if the file does not hold together.
    """

    def __init__(self, file: BinaryIO, most: int) -> None:
        self.file, self.most = file, most
        head = file.read(HEADER)
        if len(head) < HEADER or head[126:128] not in (b"IM", b"MI"):
            raise ValueError("no header of MATLAB 5 to 7.2")
        self.order = "<" if head[126:128] == b"IM" else ">"
        self.size = file.seek(0, 2)
        self.places = {name: place for name, place in self._index() if name}

    def __getitem__(self, name: str) -> Any:
        kind, start, length = self.places[name]
        data = self._bytes(kind, start, length)

        return _matrix(_Reader(data, self.order, self.most), 0)[1]

    def _index(self) -> Iterator[tuple[str, tuple[int, int, int]]]:
        """Yields the name and place of each variable; only as much is inflated as names it."""
        place = HEADER
        while place + 8 <= self.size:
            self.file.seek(place)
            kind, length = struct.unpack(self.order + "II", self.file.read(8))
            if place + 8 + length > self.size or kind not in (MATRIX, COMPRESSED):
                raise ValueError(f"an element of {length} bytes of type {kind} at byte {place} of {self.size}")
            head = self._bytes(kind, place + 8, min(length, 1024), 1024)
            yield _name(_Reader(head, self.order, self.most)), (kind, place + 8, length)
            place += 8 + length

    def _bytes(self, kind: int, start: int, length: int, most: int | None = None) -> bytes:
        """Returns the content of an element, or its first `most` bytes."""
        self._check_size(length if most is None else 0)
        self.file.seek(start)
        data = self.file.read(length)
        if kind == MATRIX:
            return data
        inflate = zlib.decompressobj()
        tag = inflate.decompress(data, 8)
        whole, size = struct.unpack(self.order + "II", tag)
        if whole != MATRIX:
            raise ValueError(f"an element of type {whole} in place of an array")
        self._check_size(size if most is None else 0)
        content = inflate.decompress(inflate.unconsumed_tail, max(min(size, most or size), 1))
        if most is None and (len(content) != size or (size and inflate.decompress(inflate.unconsumed_tail, 1))):
            raise ValueError(f"{len(content)} bytes where {size} are announced")
        if most is None and not inflate.eof:
            raise ValueError("a compressed array that does not end")

        return content

    def _check_size(self, size: int) -> None:
        if size > self.most:
            raise ValueError(f"{size} bytes are more than max_gib allows")


@dataclass
class _Reader:
    """Elements one after another; `most` bytes may come of them."""

    data: bytes
    order: str
    most: int
    place: int = 0

    def element(self) -> tuple[int, bytes]:
        """Returns type and data of the next element."""
        if self.place + 8 > len(self.data):
            raise ValueError("an array that ends before it is complete")
        kind, length = struct.unpack_from(self.order + "II", self.data, self.place)
        if kind >> 16:  # a small element: the length in the upper half, the data in place of the length
            kind, length = kind & 0xFFFF, kind >> 16
            start, after = self.place + 4, self.place + 8
            if length > 4:
                raise ValueError(f"{length} bytes in 4")
        else:
            start = self.place + 8
            after = start + length + (-length % 8)
        if start + length > len(self.data):
            raise ValueError(f"an element of {length} bytes where {len(self.data) - start} are left")
        self.place = after

        return kind, self.data[start : start + length]

    def numbers(self) -> Array:
        """Returns the next element as numbers, (K,)."""
        kind, data = self.element()
        if kind not in NUMBERS:
            raise ValueError(f"an element of type {kind} in place of numbers")

        return np.frombuffer(data, np.dtype(self.order + NUMBERS[kind]))

    def text(self) -> str:
        """Returns the next element as text."""
        kind, data = self.element()
        if kind not in TEXT:
            raise ValueError(f"an element of type {kind} in place of text")
        side = "" if TEXT[kind] in ("utf-8", "latin-1") else "-le" if self.order == "<" else "-be"

        return data.decode(TEXT[kind] + side, "replace")


def _name(reader: _Reader) -> str:
    for _ in range(2):  # flags and shape
        reader.numbers()

    return reader.text().rstrip("\0")


def _matrix(reader: _Reader, depth: int) -> tuple[str, Any]:
    """Returns name and value of the array that `reader` holds."""
    if not reader.data:
        return "", np.zeros((0, 0))  # how an empty cell is written
    if depth > DEPTH:
        raise ValueError(f"arrays in arrays, more than {DEPTH} deep")
    flags, shape = reader.numbers(), tuple(map(int, reader.numbers()))
    name = reader.text().rstrip("\0")
    if len(flags) != 2 or len(shape) < 2 or min(shape) < 0:
        raise ValueError(f"an array of flags {flags.tolist()} and shape {shape}")
    kind, size = int(flags[0]) & 0xFF, math.prod(shape)
    if int(flags[0]) & COMPLEX and (kind in CLASSES or kind == SPARSE):
        raise ValueError(f"complex numbers in {name or 'a cell'}")
    if kind in CLASSES:
        values = reader.numbers().astype(CLASSES[kind])
        return name, _reshaped(values, shape)
    if kind == CELL:
        return name, _cells([_inner(reader, depth) for _ in range(_few(size, reader))], shape)
    if kind in (STRUCT, OBJECT):
        return name, _struct(reader, shape, depth, kind == OBJECT)
    if kind == CHAR:
        return name, _rows(reader.text() if size else "", shape)
    if kind == SPARSE:
        return name, _sparse(reader, shape)

    return name, None


def _few(number: int, reader: _Reader) -> int:
    """Returns how many elements there are to read; each takes 8 bytes at least."""
    if number * 8 > len(reader.data) - reader.place:
        raise ValueError(f"{number} arrays in {len(reader.data) - reader.place} bytes")

    return number


def _inner(reader: _Reader, depth: int) -> Any:
    kind, data = reader.element()
    if kind != MATRIX:
        raise ValueError(f"an element of type {kind} in place of an array")

    return _matrix(_Reader(data, reader.order, reader.most), depth + 1)[1]


def _reshaped(values: Array, shape: tuple[int, ...]) -> Array:
    if len(values) != math.prod(shape):
        raise ValueError(f"{len(values)} values for shape {shape}")

    return values.reshape(shape, order="F")


def _cells(values: list[Any], shape: tuple[int, ...]) -> Array:
    cells = np.empty(len(values), object)
    for i, value in enumerate(values):  # one by one: NumPy would stack cells of one shape
        cells[i] = value

    return _reshaped(cells, shape)


def _struct(reader: _Reader, shape: tuple[int, ...], depth: int, named: bool) -> Struct:
    if named:
        reader.text()  # its class
    width = reader.numbers()
    _, letters = reader.element()
    if len(width) != 1 or not 0 < width[0] <= len(letters) + 1 or len(letters) % width[0]:
        raise ValueError(f"names of fields of {width.tolist()} letters")
    step = int(width[0])
    names = [letters[i : i + step].split(b"\0")[0].decode("latin-1") for i in range(0, len(letters), step)]
    number = _few(math.prod(shape) * len(names), reader)
    values = [_inner(reader, depth) for _ in range(number)]  # element after element, each with all its fields

    return Struct({name: values[i :: len(names)] for i, name in enumerate(names)}, shape)


def _rows(text: str, shape: tuple[int, ...]) -> Array:
    """Returns text as strings, one a row."""
    if len(shape) == 2 and shape[0] == 1:
        return np.array([text], np.str_)
    letters = _reshaped(np.array(list(text), "U1"), shape).reshape(shape[0], -1)

    return np.array(["".join(row) for row in letters.tolist()], np.str_)


def _sparse(reader: _Reader, shape: tuple[int, ...]) -> Array:
    """Returns a sparse matrix in full; it lies by columns."""
    if 8 * math.prod(shape) > reader.most:
        raise ValueError(f"a sparse matrix of shape {shape}, too large to be written out")
    rows, ends, values = reader.numbers(), reader.numbers(), reader.numbers()
    number = int(ends[-1]) if len(ends) == shape[1] + 1 else -1
    if not 0 <= number <= min(len(rows), len(values)) or np.any(np.diff(ends) < 0) or ends[0] != 0:
        raise ValueError("a sparse matrix whose columns do not fit")
    rows, full = rows[:number], np.zeros(shape)
    if number and (rows.min() < 0 or rows.max() >= shape[0]):
        raise ValueError("a sparse matrix with a row too many")
    full[rows, np.repeat(np.arange(shape[1]), np.diff(ends))] = values[:number]

    return full
