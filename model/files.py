"""Opening what somebody else put there: only regular files, and never more of them than expected."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path) -> BinaryIO:
    """A regular file, open for reading; a pipe, a device or a folder is refused without waiting for it.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    # What is there may change between a look at it and opening it, so the look is at what was opened.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a small regular file.

    Raises:
        OSError: it cannot be read, is no regular file, or has more than `limit` bytes.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"larger than the {limit} bytes that are read")
    return content
