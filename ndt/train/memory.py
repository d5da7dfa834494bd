"""Keeps the memory of large tensors from being handed back and fetched anew at every step."""

import ctypes
import sys

__all__ = ["keep_freed_memory"]

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # parameters of mallopt, from malloc.h


def keep_freed_memory() -> bool:
    """Lets the C library keep freed memory for the next allocation; returns whether it will.

    glibc maps each block of 32 MiB or more by itself and unmaps it when it is freed, so that every such tensor costs a
    page fault and a cleared page every 4 KiB, each time. The threshold cannot be raised past 32 MiB; but blocks can be
    kept off maps altogether, and the heap from being trimmed. The process then holds its high-water mark until it ends.
    Changes nothing where the C library is not glibc, and may be called more than once.

    Reference: https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):  # musl has no mallopt
        return False

    return bool(libc.mallopt(M_MMAP_MAX, 0)) and bool(libc.mallopt(M_TRIM_THRESHOLD, -1))
