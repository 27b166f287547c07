"""Which images there are in a folder and in the folders below it."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from model.images.read import SUFFIXES

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listed:
    """An image, or a folder that could not be looked into.

    Attributes:
        name: path below the folder that is listed, with slashes.
        bytes: size of the file.
        modified: when it was last changed, nanoseconds since 1970.
        problem: why it cannot be used, as far as listing tells; empty for an image.
    """

    name: str
    bytes: int = 0
    modified: int = 0
    problem: str = ""


def order(name: str) -> tuple[str, ...]:
    """What names are sorted by: folder by folder, so that a walk need not hold more than one folder's names."""
    return tuple(name.split("/"))


def list_images(root: Path, say: bool = True) -> Iterator[Listed]:
    """The images of a tree, in `order`; hidden files and folders are left out.

    Links to folders are followed, but never back up, never twice to the same folder, and not to one inside the tree.

    Args:
        root: the folder.
        say: log the links that are passed over.
    """
    followed: set[tuple[int, int]] = set()  # what was entered by a link, and what lies below: the rest cannot be twice
    # For each folder on the way down: its (device, inode), what is left of it, and whether a link led here.
    way = [(_identity(root), _sorted_entries(root, ""), False)]
    while way:
        entry = next(way[-1][1], None)
        if entry is None:
            way.pop()
            continue
        if isinstance(entry, Listed):
            yield entry
            continue
        name, is_link = entry
        identity, linked = _identity(root / name), is_link or way[-1][2]
        known = identity and (identity in [above for above, *_ in way] or (linked and identity in followed))
        if known or (is_link and _is_listed(root, root / name)):
            if say:
                logger.warning("%s leads to a folder that is read at another place; it was passed over.", root / name)
            continue
        if linked and identity:
            followed.add(identity)
        way.append((identity, _sorted_entries(root, name), linked))


def _is_listed(root: Path, link: Path) -> bool:
    """Whether what a link leads to is itself in the tree, and not hidden there."""
    try:
        inside = link.resolve().relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):  # it lies elsewhere, or the links go round
        return False
    return not any(part.startswith(".") for part in inside.parts)


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
        return found.st_dev, found.st_ino
    except OSError:
        return None  # listing it will say why


def _sorted_entries(root: Path, below: str) -> Iterator[Listed | tuple[str, bool]]:
    """Images in one folder, and the names of the folders in it with whether they are links, sorted."""
    try:
        with os.scandir(root / below) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        yield Listed(below or ".", problem=f"{root / below} cannot be listed ({error.strerror}); make it readable.")
        return
    for entry in ordered:
        if entry.name.startswith("."):
            continue  # what file systems leave beside the images
        name = f"{below}/{entry.name}" if below else entry.name
        try:
            if entry.is_dir():
                yield name, entry.is_symlink()
            elif Path(entry.name).suffix.lower() in SUFFIXES:
                found = entry.stat()
                yield Listed(name, found.st_size, found.st_mtime_ns)
        except OSError as error:
            if Path(entry.name).suffix.lower() in SUFFIXES or isinstance(error, PermissionError):
                yield Listed(name, problem=f"{root / name} cannot be opened ({error.strerror}); mend or remove it.")
