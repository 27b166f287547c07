"""Opening an image file: a regular one, of a size that is read, whatever lies under its name."""

import os
import stat
from io import BufferedReader
from pathlib import Path

from model.errors import CropError

MAX_BYTES = 1 << 30
"""Of a file."""


def open_image(path: Path, max_bytes: int = MAX_BYTES) -> BufferedReader:
    """Opens an image file to read; waits for nothing: what is no regular file is refused before it is opened.

    Raises:
        CropError: it is missing, unreadable, no regular file (a directory, a pipe, a device), empty or too large.
    """
    try:
        _check_regular(path, path.stat())  # a device may act when it is opened
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # nor wait for a pipe swapped in since
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CropError(f"{path} cannot be opened: {reason}; give a readable image file.") from error
    try:
        status = os.fstat(descriptor)
        _check_regular(path, status)
        if status.st_size == 0:
            raise CropError(f"{path} is empty; export it again.")
        if status.st_size > max_bytes:
            raise CropError(
                f"{path} is {status.st_size} bytes large, more than the {max_bytes} that are read; split it."
            )
    except CropError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _check_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(status.st_mode), "a device")
        raise CropError(f"{path} cannot be opened: it is {kind}; give a readable image file.")
