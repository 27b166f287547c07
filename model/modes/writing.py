"""Files that this program writes and goes on with: whole or absent, never through a link, by one process at a time."""

import csv
import errno
import fcntl
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Self

from model.errors import CaseError
from model.files import read_bounded

logger = logging.getLogger(__name__)

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
"""What a cell must not begin with, as a spreadsheet may run it; the last marks those that did."""


def lock(folder: Path) -> int:
    """Makes a folder, and keeps other processes from writing there until the returned descriptor is closed.

    Raises:
        CaseError: another process writes there, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(held)
        raise CaseError(f"Another process writes to {folder}; wait for it, or give another folder.") from error
    except OSError as error:  # some network file systems have no locks
        logger.warning("%s cannot be locked (%s); let no other process write there.", folder, error.strerror)
    return held


class OwnFolder:
    """A folder with tables, for one process at a time; a context manager.

    Args:
        folder: made when missing.

    Raises:
        CaseError: on entering, another process writes there, or it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Self:
        self._lock = lock(self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def append_rows(self, tables: Mapping[str, Sequence[Sequence[object]]]) -> dict[str, int]:
        """Adds rows to tables, on the disk; returns the bytes of those that were added to.

        Raises:
            OSError: one cannot be written.
        """
        sizes = {}
        for name, rows in tables.items():
            if rows:
                with open_own(self.folder / name, "a") as file:
                    csv.writer(file).writerows(rows)
                    sizes[name] = flushed(file)
        return sizes


class Whole:
    """A text file to write that appears under its name when it is complete and on the disk; a context manager."""

    def __init__(self, path: Path) -> None:
        self.path, self.partial = path, path.with_name(f".{path.name.lstrip('.')}.partial")

    def __enter__(self) -> IO[str]:
        self.file = open_own(self.partial, "w")
        return self.file

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            with self.file:
                if kind is None:
                    flushed(self.file)
            if kind is None:
                self.partial.replace(self.path)
        finally:
            self.partial.unlink(missing_ok=True)


def flushed(file: IO[str]) -> int:
    """Puts what was written on the disk; returns the size of the file."""
    file.flush()
    os.fsync(file.fileno())
    return os.fstat(file.fileno()).st_size


def open_own(path: Path, mode: str) -> IO[str]:
    """A text file that is no link; bytes of a file name that are no UTF-8 are kept as they are."""
    flags = {"r": os.O_RDONLY, "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC, "a": os.O_WRONLY | os.O_APPEND}[mode]
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    return os.fdopen(descriptor, mode, encoding="utf-8", errors="surrogateescape", newline="")


def read_own(path: Path, limit: int) -> bytes:
    """The bytes of a file that is no link.

    Raises:
        OSError: it is a link or no regular file, cannot be read, or has more than `limit` bytes.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        return read_bounded(Path(f"/proc/self/fd/{file.fileno()}"), limit)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, through no link.

    Raises:
        CaseError: it cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(path, flags, 0o666), "wb") as file:
            file.write(content)
    except OSError as error:
        raise unwritable(path.parent, error) from error


def make_folder(path: Path) -> None:
    """Makes a folder, which is no link, unless it is there.

    Raises:
        CaseError: it cannot be made, or something else is there.
    """
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    if path.is_symlink():
        raise CaseError(f"{path} is a link; remove it, or give another folder.")


def to_cell(text: str) -> str:
    """A text as a cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def from_cell(cell: str) -> str:
    """The text of a cell that `to_cell` made."""
    return cell[1:] if cell.startswith("'") else cell


def read_table(path: Path) -> Iterator[dict[str, str]]:
    """The rows of one of a finished run's tables by column, texts and names of files as they are.

    Raises:
        OSError: it cannot be read, or is no table.
    """
    with open_own(path, "r") as table:
        try:
            for row in csv.DictReader(table):
                yield {column: from_cell(cell or "") for column, cell in row.items() if column is not None}
        except csv.Error as error:
            raise OSError(errno.EILSEQ, f"no table: {error}") from error


def unwritable(folder: Path, error: OSError) -> CaseError:
    return CaseError(f"{folder} cannot be written ({error.strerror}); give a writable folder with space.")
