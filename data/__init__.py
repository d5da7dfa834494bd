"""Recordings: NWB files in, a store of sessions out. Importing this reads neither pynwb nor h5py.

`ndt.data.ingest.ingest` and `ndt.data.inspect.inspect` are not offered here, where they would hide their own modules.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ndt.data.inspect import summarise
    from ndt.data.nwb import read_nwb
    from ndt.data.probe import find_files
    from ndt.data.store import Store, read_session, write_session

__all__ = ["Store", "find_files", "read_nwb", "read_session", "summarise", "write_session"]

_HOMES = {
    "Store": "store",
    "find_files": "probe",
    "read_nwb": "nwb",
    "read_session": "store",
    "summarise": "inspect",
    "write_session": "store",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"ndt.data.{_HOMES[name]}"), name)
