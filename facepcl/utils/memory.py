"""What the C library does with freed memory."""

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # <malloc.h>


def keep_freed_memory() -> None:
    """Tell the C library (glibc) to keep freed memory instead of returning it to the system.

    Otherwise the system maps new pages for the tensors of each batch, which takes a quarter of the time of an
    embedding. Only commands call this: their process is their own, and a library leaves such settings alone.
    """
    with suppress(OSError, TypeError, AttributeError):  # no glibc here
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most it takes
        mallopt(M_TRIM_THRESHOLD, 1 << 30)


def give_back_freed_memory() -> None:
    """Have glibc give back what it kept: what comes next needs its own."""
    with suppress(OSError, TypeError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
