"""Tables that label crops, and the crops they name, in the folder of a data set."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from model.constants import CLASSES
from model.images.read import SUFFIXES
from training.data.sample import DataError

Row = dict[str, str]
"""A row of a table, names of columns in lower case, nothing with white space around it."""

SPELLINGS = dict.fromkeys(("nmf", "mf", "normal", "false", "0", "0.0"), 0)
SPELLINGS |= dict.fromkeys(("amf", "atypical", "true", "1", "1.0"), 1)
"""How tables write a label or a vote, in lower case."""

SLIDE_SUFFIXES = {*SUFFIXES, ".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".isyntax", ".czi", ".dcm"}
"""Of files of whole slides, in lower case."""

NOTHING = ("", "nan", "none", "na", "n/a", "null", "-")
"""Cells that say nothing, in lower case."""


def read_table(path: Path, advice: str) -> list[dict[str, Any]]:
    """The rows of a CSV file in UTF-8, with or without a byte order mark; cells that a short row lacks are None.

    Args:
        path: the file.
        advice: what to do when it cannot be read, for the sentence of the error.

    Raises:
        DataError: it is missing, or no UTF-8 text.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); {advice}.") from error
    except ValueError as error:
        raise DataError(f"{path} is no UTF-8 text ({error}); save it as CSV in UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"{path} is no CSV file ({error}); save it as CSV in UTF-8.") from error


def normal_row(row: Mapping[str, str | None]) -> Row:
    """A row with the names of its columns in lower case, and without the white space around names and cells."""
    return {name.strip().lower(): (value or "").strip() for name, value in row.items() if name is not None}


def find_table(source: str, folder: Path, tables: Sequence[tuple[str, ...]]) -> tuple[Path, list[Row]]:
    """The one table in a folder, or in the folders in it, that has the columns of one of the forms.

    Raises:
        DataError: there is none, or more than one; or a cell of these columns, other than an expert's, is empty.
    """
    found, lacking = [], []
    for path in visible_files(folder, (".csv",)):
        rows = [normal_row(row) for row in read_table(path, "give a table that can be read")]
        wanting = [[column for column in columns if not rows or column not in rows[0]] for columns in tables]
        fewest = min(wanting, key=len)
        if fewest:
            lacking.append((len(fewest), f"{path} has no rows with a column {fewest[0]}"))
        else:
            found.append((path, rows, tables[wanting.index(fewest)]))
    needed = " or ".join(",".join(columns) for columns in tables)
    if not found:
        reason = min(lacking)[1] if lacking else f"{folder} has no table"
        raise DataError(f"{reason}; {source} comes with a CSV file that has the columns {needed}.")
    if len(found) > 1:
        raise DataError(f"Both {found[0][0]} and {found[1][0]} may be the table of {source}; leave one in the folder.")
    path, rows, columns = found[0]
    for line, row in enumerate(rows, start=2):
        if empty := [column for column in columns if not row[column] and not column.startswith("expert")]:
            raise DataError(
                f"{path}, line {line}: the cell of the column {empty[0]} is empty; fill it, or remove the row."
            )
    return path, rows


def find_crop(crops: dict[str, list[Path]], name: str, label: int) -> Path | None:
    """The crop of a row, or None.

    Args:
        crops: image files by name without suffix.
        name: of the crop in the table: with or without suffix and folders.
        label: among crops of one name, the one in the folder of this class is meant.

    Raises:
        ValueError: several may be meant.
    """
    wanted = Path(name)
    found = crops.get(wanted.stem if wanted.suffix.lower() in SUFFIXES else wanted.name, [])
    if len(found) > 1:
        found = [path for path in found if path.parts[-len(wanted.parts) :] == wanted.parts] or found
    if len(found) > 1:
        found = [path for path in found if folder_label(path) == label] or found
    if len(found) > 1:
        raise ValueError(f"both {found[0]} and {found[1]} may be the crop {name}; leave one in the folder")
    return found[0] if found else None


def spelled(cell: str, column: str) -> int:
    """1 for atypical, 0 for normal.

    Raises:
        ValueError: the cell says neither.
    """
    if cell.lower() not in SPELLINGS:
        raise ValueError(f"the {column} is '{cell}'; write AMF or NMF, atypical or normal, True or False, 1 or 0")
    return SPELLINGS[cell.lower()]


def vote_share(votes: Sequence[bool], label: int) -> float:
    """Share of the experts' votes (true for atypical) that agree with the label; 1 without votes.

    Raises:
        ValueError: most of the votes are against the label.
    """
    agreement = sum(vote == bool(label) for vote in votes) / len(votes) if votes else 1.0
    if agreement < 0.5:
        raise ValueError(f"most of the experts' votes are against the label {CLASSES[label]}; correct one of them")
    return agreement


def named_phases(cells: Iterable[str]) -> tuple[str, ...]:
    """The names in a row's cells, a cell an expert; empty cells are left out.

    Raises:
        ValueError: a name has a semicolon in it, which separates names in a manifest.
    """
    names = tuple(cell.strip() for cell in cells if cell.strip().lower() not in NOTHING)
    for name in names:
        if ";" in name:
            raise ValueError(f"the phase '{name}' has a semicolon in it; write a comma")
    return names


def slide_name(cell: str, digits: int = 3) -> str:
    """One name for a slide however it is spelled: `002` for `002.tiff`, `2`, `images/002.tif` and `images\\002.TIFF`.

    Folders and an image's suffix are left out, and a number has leading zeros.

    Args:
        cell: what a table calls it.
        digits: of a number, at least.

    Raises:
        ValueError: nothing is left.
    """
    name = cell.replace("\\", "/").rsplit("/", 1)[-1].strip()
    stem, dot, suffix = name.rpartition(".")
    if dot and f".{suffix.lower()}" in SLIDE_SUFFIXES:
        name = stem
    if not name:
        raise ValueError(f"the slide is '{cell}', which is no name; write which slide the crop is of")
    return f"{int(name):0{digits}d}" if name.isdecimal() else name


def group_name(cell: str) -> str:
    """A group of a manifest, its last part spelled as `slide_name` spells a slide; raises as that."""
    folder, slash, slide = cell.strip().replace("\\", "/").rpartition("/")
    return f"{folder}{slash}{slide_name(slide)}"


def folder_label(path: Path) -> int | None:
    """Label by the folder an image is in, None unless that is called `Atypical` or `Normal`."""
    name = path.parent.name.lower()
    return CLASSES.index(name) if name in CLASSES else None


def images(folder: Path) -> list[Path]:
    """All images in a folder and the folders in it, sorted.

    Raises:
        DataError: it is no folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give the one that the data set was unpacked to.")
    return visible_files(folder, SUFFIXES)


def visible_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files with one of the suffixes, sorted; not what archives from a Mac add (`._…`, `__MACOSX`)."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and "__MACOSX" not in path.parts
    )
