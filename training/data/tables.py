"""Tables that label crops: which one is a set's, and what its cells say."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from model.constants import CLASSES
from model.images.read import SUFFIXES
from training.data.crop_files import slashed, visible_files
from training.data.csv_file import Table, read_csv
from training.data.sample import DataError
from training.data.text import listing

logger = logging.getLogger(__name__)

SPELLINGS = dict.fromkeys(("nmf", "mf", "normal", "false", "0", "0.0", "0,0"), 0)
SPELLINGS |= dict.fromkeys(("amf", "atypical", "true", "1", "1.0", "1,0"), 1)
"""How tables write a label or a vote, in lower case."""

SLIDE_SUFFIXES = {*SUFFIXES, ".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".isyntax", ".czi", ".dcm"}
"""Of files of whole slides, in lower case."""

NOTHING = ("", "nan", "none", "na", "n/a", "null", "-")
"""Cells that say nothing, in lower case."""


def find_table(source: str, folder: Path, tables: Sequence[tuple[str, ...]], beside: Sequence[Path] = ()) -> Table:
    """The one table in a folder, or in the folders in it, that has the columns of one of the forms.

    Other CSV files may be in the folder, whatever they are; those that cannot be read are logged. Of several tables
    that name a split, as `train.csv` and `test.csv`, those of the test split are passed over, which is logged, too.

    Args:
        source: whose table it is.
        folder: to look in.
        tables: the columns of each form, in lower case.
        beside: CSV files elsewhere that may be the table, too.

    Raises:
        DataError: there is none, or more than one; or a cell of these columns, other than an expert's, is empty.
    """
    found: list[tuple[Table, tuple[str, ...]]] = []
    lacking: list[tuple[int, str]] = []
    unreadable: list[str] = []
    for path in [*visible_files(folder, (".csv",)), *beside]:
        try:
            table = read_csv(path, "give a table that can be read")
        except DataError as error:
            unreadable.append(str(error).rstrip("."))
            continue
        wanting = [
            [column for column in columns if not table.rows or column not in table.columns] for columns in tables
        ]
        fewest = min(wanting, key=len)
        if fewest:
            lacking.append((len(fewest), f"{path} has no rows with a column {fewest[0]}"))
        else:
            found.append((table, tables[wanting.index(fewest)]))
    if not found:
        needed = " or ".join(",".join(columns) for columns in tables)
        reasons = [*unreadable, *(reason for _, reason in sorted(lacking)[:1])] or [f"{folder} has no table"]
        raise DataError(f"{'; '.join(reasons)}; {source} comes with a CSV file that has the columns {needed}.")
    for reason in unreadable:
        logger.warning("Not looked at for the table of %s: %s.", source, reason)
    held_out = [table.path for table, _ in found if "test" in table.path.stem.lower()]
    if 0 < len(held_out) < len(found):
        found = [each for each in found if each[0].path not in held_out]
        logger.warning("%s", listing(f"tables of {source} are passed over, being of its test split", held_out))
    if len(found) > 1:
        first, second = found[0][0].path, found[1][0].path
        raise DataError(f"Both {first} and {second} may be the table of {source}; leave one in the folder.")
    table, columns = found[0]
    check_cells(table, [column for column in columns if not column.startswith("expert")])
    return table


def check_cells(table: Table, columns: Sequence[str]) -> None:
    """Raises a DataError about the first row in which a cell of these columns says nothing."""
    for line, row in table.numbered():
        for column in columns:
            if (cell := row.get(column, "")).lower() in NOTHING:
                what = f"says '{cell}'" if cell else "is empty"
                raise DataError(
                    f"{table.path}, line {line}: the cell of the column {column} {what}; fill it, or remove the row."
                )


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


def agreement_share(cell: str) -> float:
    """Share of the experts that gave the label, 1/2 to 1, as a table writes it; 1 where it says nothing.

    Raises:
        ValueError: it is no such share.
    """
    if cell.lower() in NOTHING:
        return 1.0
    try:
        share = float(cell.replace(",", "."))
    except ValueError:
        share = float("nan")
    if not 0.5 <= share <= 1:
        raise ValueError(f"the agreement is {cell}; write the share of experts who gave the label")
    return share


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
    name = slashed(cell).rsplit("/", 1)[-1].strip()
    stem, dot, suffix = name.rpartition(".")
    if dot and f".{suffix.lower()}" in SLIDE_SUFFIXES:
        name = stem
    if not name:
        raise ValueError(f"the slide is '{cell}', which is no name; write which slide the crop is of")
    return f"{int(name):0{digits}d}" if name.isdecimal() else name


def group_name(cell: str) -> str:
    """A group of a manifest, its last part spelled as `slide_name` spells a slide; raises as that."""
    folder, slash, slide = slashed(cell.strip()).rpartition("/")
    return f"{folder}{slash}{slide_name(slide)}"
