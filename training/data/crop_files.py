"""Files in the folder of a data set: which there are, and which one a table means."""

import os
import unicodedata
from pathlib import Path

from model.constants import CLASSES
from model.images.read import SUFFIXES
from training.data.sample import DataError


def set_folder(folder: Path, name: str) -> Path:
    """Where a set is in a folder: in one called as the set, as where a repository holds several; else in itself.

    Args:
        folder: as the user gave it; the folders in it and the folders in those are looked at.
        name: of the set.

    Raises:
        DataError: it is no folder, or two folders in it are called so.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give the one that the data set was unpacked to.")
    for level in ("*", "*/*"):
        found = [path for path in sorted(folder.glob(level)) if path.is_dir() and path.name.lower() == name.lower()]
        if len(found) > 1:
            raise DataError(f"Both {found[0]} and {found[1]} may be {name}; give the folder of one of them.")
        if found:
            return found[0]
    return folder


def images(folder: Path) -> list[Path]:
    """All images in a folder and the folders in it, sorted.

    Raises:
        DataError: it is no folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give the one that the data set was unpacked to.")
    return visible_files(folder, SUFFIXES)


def visible_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files with one of the suffixes in a folder and the folders in it, sorted; links are followed, each folder once.

    What is hidden there is passed over (`._…`, `.ipynb_checkpoints`), and what archives from a Mac add (`__MACOSX`).

    Raises:
        DataError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(
            f"{error.filename} cannot be read ({error.strerror}); allow it, or remove the folder."
        ) from error

    found: list[Path] = []
    seen: set[str] = set()
    for above, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        if (place := os.path.realpath(above)) in seen:
            folders.clear()
            continue
        seen.add(place)
        names = (name for name in files if not name.startswith("."))
        found += [Path(above, name) for name in names if Path(name).suffix.lower() in suffixes]
    return sorted(found)


def folder_label(path: Path) -> int | None:
    """Label by the folder an image is in, None unless that is called `Atypical` or `Normal`."""
    name = path.parent.name.lower()
    return CLASSES.index(name) if name in CLASSES else None


def slashed(name: str) -> str:
    """A path with slashes for backslashes and accents in one form (NFC): systems differ in both."""
    return unicodedata.normalize("NFC", name).replace("\\", "/")


def crop_key(name: str) -> str:
    """What a crop is found by: its name without suffix and folders, however its accents are composed."""
    name = slashed(name).rsplit("/", 1)[-1]
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in SUFFIXES else name


def find_path(root: Path, name: str) -> Path:
    """The file that a path in a table means, with backslashes or accents composed otherwise than on the disk.

    Args:
        root: where a relative path starts.
        name: the path as the table has it.

    Returns:
        As written where there is such a file, or none in another form either.
    """
    composed = slashed(name)
    forms = [name, name.replace("\\", "/"), composed, unicodedata.normalize("NFD", composed)]
    return next((root / form for form in forms if (root / form).is_file()), root / name)


def find_crop(crops: dict[str, list[Path]], name: str, label: int) -> Path | None:
    """The crop of a row, or None.

    Args:
        crops: image files by `crop_key`.
        name: of the crop in the table: with or without suffix and folders.
        label: among crops of one name, the one in the folder of this class is meant.

    Raises:
        ValueError: several may be meant.
    """
    found = crops.get(crop_key(name), [])
    if len(found) > 1:
        wanted = Path(slashed(name)).parts
        found = [path for path in found if Path(slashed(str(path))).parts[-len(wanted) :] == wanted] or found
    if len(found) > 1:
        found = [path for path in found if folder_label(path) == label] or found
    if len(found) > 1:
        raise ValueError(f"both {found[0]} and {found[1]} may be the crop {name}; leave one in the folder")
    return found[0] if found else None


def find_exactly(crops: dict[str, list[Path]], name: str, label: int) -> Path | None:
    """As `find_crop`, but all the folders in the name must be those that the crop is in."""
    *folders, last = Path(slashed(name)).parts
    wanted = (*folders, crop_key(last))
    found = []
    for path in crops.get(crop_key(last), []):
        *above, file = Path(slashed(str(path))).parts
        if (*above, crop_key(file))[-len(wanted) :] == wanted:
            found.append(path)
    return find_crop({crop_key(last): found}, name, label)
