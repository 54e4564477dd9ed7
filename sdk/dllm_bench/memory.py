"""How this process holds on to memory. Imports no torch."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors; elsewhere do nothing.

    By default it hands tensors of this size back to the kernel at every step and asks for them again: on two cores a
    quarter of the processor time of `compare` went into page faults.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for parameter, size in ((_M_MMAP_THRESHOLD, 32 << 20), (_M_TRIM_THRESHOLD, 1 << 30)):
        mallopt(parameter, size)
