"""Keeps freed memory in the process, so that large tensors cause no page faults at every step."""

import ctypes
import sys

__all__ = ["keep_freed_memory"]

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # parameters of mallopt, from malloc.h


def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory for the next allocation; returns whether it does.

    By default glibc maps each block of 32 MiB or more separately and unmaps it when freed, so that each such tensor
    costs a page fault every 4 KiB. The threshold cannot be raised above 32 MiB, but separate maps and trimming of the
    heap can be turned off; the process then keeps its peak memory until it ends. Without glibc nothing changes.

    Reference: https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):  # musl has no mallopt
        return False

    return bool(libc.mallopt(M_MMAP_MAX, 0)) and bool(libc.mallopt(M_TRIM_THRESHOLD, -1))
