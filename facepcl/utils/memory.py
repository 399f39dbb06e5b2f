"""What the C library does with freed memory."""

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # <malloc.h>


def keep_freed_memory() -> None:
    """Have the C library (glibc) keep what is freed instead of giving it back to the system.

    Else the tensors of each batch are paged in anew: a quarter of the time of an embedding. For our command,
    whose process is its own; a library does not touch such settings.
    """
    with suppress(OSError, TypeError, AttributeError):  # no glibc here
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most it takes
        mallopt(M_TRIM_THRESHOLD, 1 << 30)


def give_back_freed_memory() -> None:
    """Have glibc give back what it kept: what comes next needs its own."""
    with suppress(OSError, TypeError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
