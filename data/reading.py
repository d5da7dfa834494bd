"""What is carried through the reading of one file: its name, its limits, and what has to be said of it."""

import math
import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt.errors import InputError

__all__ = ["LONGEST", "Ragged", "Reading", "named", "slope_of"]

GIB = 1 << 30
LONGEST = 200  # characters of what was found: hdmf prints whole objects


def named(path: str, wanted: tuple[str, ...]) -> bool:
    """Whether a path is one of those wanted, each a path or the end of one; ``*`` and ``?`` stand for others."""
    return any(fnmatchcase(f"/{path}", f"*/{slope_of(name) or name}") for name in wanted)


def slope_of(word: str) -> str | None:
    """Returns what ``name=diff(OF)`` is the rate of change of; None for any other word."""
    found = re.fullmatch(r"[^=]+=diff\((.+)\)", word)

    return None if found is None else found[1]


@dataclass(frozen=True)
class Ragged:
    """A column whose rows have any length: row n is ``flat[ends[n - 1] : ends[n]]``.

    Arguments:
        flat: All rows one after another; an HDF5 dataset, or an array.
        ends: Where each of the N rows ends, (N,), not descending.
    """

    flat: Any
    ends: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Length of each row, (N,)."""
        return np.diff(self.ends, prepend=0)


@dataclass
class Reading:
    """One file as it is read.

    Arguments:
        where: The file, for messages.
        max_gib: Largest array that is read, in GiB.
        dropped: One sentence for each thing that is left out; grows.
        warnings: One sentence for each thing that is kept and should be doubted; grows.
    """

    where: str
    max_gib: float = 8.0
    dropped: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def error(self, name: str, expected: str, found: object) -> InputError:
        """Returns what to raise about a field of the file."""
        text = str(found)

        return InputError(self.where, name, expected, text if len(text) <= LONGEST else f"{text[:LONGEST]} …")

    def too_large(self, data: Any) -> str | None:
        """Returns how large an array says that it is, where that is more than is read; its data are not touched."""
        item = getattr(getattr(data, "dtype", None), "itemsize", 8) or 8
        gib = math.prod(map(int, np.shape(data))) * item / GIB

        return f"{gib:,.1f} GiB" if gib > self.max_gib else None

    def array(self, data: Any, name: str, dtype: Any = None) -> NDArray[Any]:
        """Returns a dataset as an array in memory.

        Raises:
            InputError: if it is larger than `max_gib`, cannot be read, or holds no numbers where a `dtype` is asked.
        """
        if (size := self.too_large(data)) is not None:
            raise self.error(name, f"at most {self.max_gib:g} GiB (max_gib)", size)
        kind = getattr(getattr(data, "dtype", None), "kind", None)
        if dtype is not None and kind is not None and kind not in "biuf":
            raise self.error(name, "numbers", f"dtype {data.dtype}")
        try:
            return np.asarray(data[:] if np.shape(data) else data, dtype)
        except (OSError, ValueError, TypeError) as error:
            raise self.error(name, "values that can be read", f"{type(error).__name__} {error}") from error

    def ragged(self, table: Any, name: str, num_rows: int) -> Ragged | None:
        """Returns a ragged column of a table in an HDF5 group, its index checked and its data not yet read.

        Raises:
            InputError: if the index is missing, descends, or does not end where the data end.
        """
        if name not in table:
            return None
        path, flat, index = f"units/{name}", table[name], table.get(f"{name}_index")
        if index is None:
            raise self.error(f"{path}_index", "an index that says where each unit's rows end", "none")
        ends = self.array(index, f"{path}_index", np.float64)
        if np.any(ends != np.floor(ends)) or np.any(np.abs(ends) > 2**52):  # NaN: not the same as itself
            raise self.error(f"{path}_index", "whole numbers", ends[ends != np.floor(ends)][:1])
        ends = ends.astype(np.int64)
        if np.ndim(ends) != 1 or len(ends) != num_rows:
            raise self.error(f"{path}_index", f"one value for each of {num_rows} units", f"shape {np.shape(ends)}")
        if np.any(np.diff(ends, prepend=0) < 0):
            raise self.error(f"{path}_index", "values that do not descend", ends[np.flatnonzero(np.diff(ends) < 0)[:1]])
        size = int(np.shape(flat)[0]) if np.shape(flat) else 0
        if num_rows and ends[-1] != size:
            raise self.error(f"{path}_index", f"to end at {size} values", int(ends[-1]))

        return Ragged(flat, ends)
