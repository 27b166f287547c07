"""Opening an image file: a regular one, of a size that is read, whatever lies under its name."""

import os
from io import BufferedReader
from pathlib import Path

from model.errors import CropError
from model.files import open_regular

MAX_BYTES = 1 << 30
"""Of a file."""


def open_image(path: Path, max_bytes: int = MAX_BYTES) -> BufferedReader:
    """Opens an image file to read; waits for nothing: what is no regular file is refused before it is opened.

    Raises:
        CropError: it is missing, unreadable, no regular file (a directory, a pipe, a device), empty or too large.
    """
    try:
        file = open_regular(path)
    except OSError as error:
        raise CropError(f"{path} cannot be opened: {error.strerror}; give a readable image file.") from error
    size = os.fstat(file.fileno()).st_size
    if 0 < size <= max_bytes:
        return file
    file.close()
    if size == 0:
        raise CropError(f"{path} is empty; export it again.")
    raise CropError(f"{path} is {size} bytes large, more than the {max_bytes} that are read; split it.")
