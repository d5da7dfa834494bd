"""Ways to break an HDF5 file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py

__all__ = ["Case", "Change", "assign", "attribute", "edit", "put", "relink", "remove", "swap"]

Change = Callable[[h5py.File], object]


@dataclass(frozen=True)
class Case:
    """One broken file.

    Arguments:
        name: What is wrong with it; also names the file.
        expected: What may become of it.
        make: Writes it at a path, given the bytes of the valid one.
    """

    name: str
    expected: str
    make: Callable[[Path, bytes], object]


def edit(name: str, expected: str, change: Change) -> Case:
    def make(path: Path, template: bytes) -> None:
        path.write_bytes(template)
        with h5py.File(path, "r+") as file:
            change(file)

    return Case(name, expected, make)


def swap(file: h5py.File, path: str, data: object, **options: object) -> None:
    """Puts another dataset in a dataset's place; attributes, and references to it, stay."""
    old = file[path]
    attrs = dict(old.attrs)
    pointing = []

    def visit(name: str, thing: h5py.Group | h5py.Dataset) -> None:
        for key, value in thing.attrs.items():
            if isinstance(value, h5py.Reference) and value and file[value] == old:
                pointing.append((name, key))

    file.visititems(visit)
    del file[path]
    new = file.create_dataset(path, **({} if data is None else {"data": data}), **options)
    for key, value in attrs.items():
        new.attrs[key] = value
    for name, key in pointing:
        file[name].attrs[key] = new.ref


def put(path: str, data: object, **options: object) -> Change:
    return lambda file: swap(file, path, data, **options)


def assign(path: str, where: object, value: object) -> Change:
    """Changes some values of a dataset in place."""

    def change(file: h5py.File) -> None:
        data = file[path][()]
        data[where] = value
        file[path][()] = data

    return change


def attribute(path: str, name: str, value: object) -> Change:
    def change(file: h5py.File) -> None:
        if value is None:
            del file[path].attrs[name]
        else:
            file[path].attrs[name] = value

    return change


def remove(path: str) -> Change:
    return lambda file: file.__delitem__(path)


def relink(path: str, link: object) -> Change:
    def change(file: h5py.File) -> None:
        del file[path]
        file[path] = link

    return change
