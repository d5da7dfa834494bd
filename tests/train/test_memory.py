"""Freed memory is kept, without page faults at every step."""

import platform
import subprocess
import sys

import pytest

from ndt.train import memory
from ndt.train.memory import keep_freed_memory

FAULTS = """
import ctypes, resource
from ndt.train.memory import keep_freed_memory
if {keep}:
    assert keep_freed_memory() and keep_freed_memory()
libc, size = ctypes.CDLL(None), 1 << 26
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.memset.argtypes, libc.free.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t], [ctypes.c_void_p]
def touch():
    block = libc.malloc(size)
    libc.memset(block, 1, size)
    libc.free(block)
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
touch()
before = faults()
for _ in range(10):
    touch()
print(faults() - before)
"""


def faults(keep: bool) -> int:
    """Page faults of using 64 MiB ten times over, in a process of its own: the setting cannot be undone."""
    command = [sys.executable, "-c", FAULTS.format(keep=keep)]

    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_large_blocks_are_not_faulted_in_anew() -> None:
    assert faults(keep=True) < 100
    assert faults(keep=False) > 10 * 64 / 2 * 0.8  # even huge pages fault once in 2 MiB


@pytest.mark.parametrize("system", ["darwin", "win32", "linux"])
def test_elsewhere_it_does_nothing(monkeypatch, system) -> None:
    """On Linux with another C library there is neither the function nor the parameter."""
    monkeypatch.setattr(memory.sys, "platform", system)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert keep_freed_memory() is False
