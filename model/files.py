"""Opening what somebody else put there: only regular files, and never more of them than expected. And writing whole."""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

_KINDS = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def open_regular(path: Path) -> BufferedReader:
    """A regular file, open for reading; nothing else is opened, nor waited for.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    try:
        _check_regular(path.stat())  # a device may act when it is opened
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a name with a zero byte in it
        raise OSError(errno.EINVAL, str(error)) from error
    try:
        _check_regular(os.fstat(descriptor))  # which may have been put there since
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


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "a device")
        raise OSError(errno.EINVAL, f"it is {kind}")


def write_whole(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all; of several processes that write it, each writes a whole one.

    What is no UTF-8, as in a name, is written as an escape.

    Raises:
        OSError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
