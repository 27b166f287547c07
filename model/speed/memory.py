"""Memory that is freed stays with the process."""

import ctypes

from model.speed import PLAIN


def keep_freed_memory() -> None:
    """Tells the C library to keep the memory of one layer's output for the next instead of giving it back.

    Otherwise every layer gets fresh pages from the system, one by one: a third of the time of a small network.
    """
    if PLAIN:
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return  # a C library other than glibc
    mallopt(_M_MMAP_MAX, 0)  # also that of large outputs, which would otherwise get pages of their own
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
