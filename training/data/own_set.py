"""A lab's own crops: a folder of images and a table that says what each shows and which slide it is of."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path, PurePosixPath

from model.constants import CLASSES
from training.data.crop_files import find_exactly, slashed
from training.data.csv_file import Row, Table, read_csv
from training.data.published_sets import slide_group
from training.data.sample import DataError
from training.data.table_set import VOTE_COLUMN, DataSet, Figure, read_rows
from training.data.tables import NOTHING, agreement_share, check_cells, spelled

logger = logging.getLogger(__name__)

ROLES = ("file", "label", "slide", "domain", "source", "agreement", "experts")
"""What a column can be to this program; a column of that name is taken for it when the user names no other."""
NEEDED = ("file", "label", "slide")
NO_SLIDE = "none"
"""In the place of the slide's column: every crop is of a slide of its own."""


@dataclass(frozen=True)
class OwnSet:
    """Where the crops are, and how to read their table.

    Attributes:
        images: folder of the crops, in it or in folders in it.
        labels: the table, a CSV file anywhere.
        columns: column by role, of `ROLES`, in any case; that of `experts` may be several, with a plus between them.
        spellings: label by what the table writes for it, in lower case; instead of those of
            `training.data.tables.SPELLINGS`, unless empty.
        name: of the set; also the source and domain of its crops where the table has no column for them.
    """

    images: Path
    labels: Path
    columns: Mapping[str, str] = field(default_factory=dict)
    spellings: Mapping[str, int] = field(default_factory=dict)
    name: str = "own"


def parse_columns(text: str) -> dict[str, str]:
    """Columns by role from `file=NAME,label=NAME,…`.

    Raises:
        DataError: a part is not of that form, or a role is unknown or named twice.
    """
    columns: dict[str, str] = {}
    for part in text.split(","):
        role, _, column = (word.strip() for word in part.partition("="))
        if role not in ROLES or not column:
            raise DataError(f"--columns has the part '{part}'; write ROLE=COLUMN, with a role of {', '.join(ROLES)}.")
        if role in columns:
            raise DataError(f"--columns names {role} twice; leave one of them.")
        columns[role] = column.lower()
    return columns


def own_spellings(atypical: list[str], normal: list[str]) -> dict[str, int]:
    """Label by what a table writes for it, in lower case, from the values that the user names for either class.

    Raises:
        DataError: a value is named for both.
    """
    spellings = {value.strip().lower(): 1 for value in atypical}
    for value in normal:
        if spellings.setdefault(value.strip().lower(), 0):
            raise DataError(f"'{value}' is given as --atypical and as --normal; leave one of them.")
    return spellings


def read_own_set(own: OwnSet) -> DataSet:
    """Reads the table and finds its crops.

    Raises:
        DataError: the table cannot be read, or lacks a column that is needed or named; or as `read_rows`.
    """
    table = read_csv(own.labels, "give the table of the crops as --labels")
    if not table.rows:
        raise DataError(f"{own.labels} has no rows; give the table of the crops as --labels.")
    columns = _columns(own, table)
    check_cells(table, [columns[role] for role in ("file", "label", "slide", "domain", "source") if role in columns])
    if "slide" not in columns:
        logger.warning(
            "%s: every crop is taken for a slide of its own, so crops of one slide may be on both sides of a split and "
            "figures on held-out crops better than on new slides.",
            own.labels,
        )
    return read_rows(
        table, own.images, _figures(own, table, columns), _finder([row[columns["file"]] for row in table.rows])
    )


def _columns(own: OwnSet, table: Table) -> dict[str, str]:
    """Column by role; without the experts', which may be several, and without the slide's where there is none.

    Raises:
        DataError: a column is not there, or two say what the experts thought.
    """
    columns = {role: role for role in ROLES if role in table.columns} | dict(own.columns)
    there = f"its columns are {', '.join(filter(None, table.columns))}"
    if "agreement" in own.columns and "experts" in own.columns:
        raise DataError("--columns names agreement and experts; leave the agreement, which the votes say.")
    columns.pop("experts", None)
    if "experts" in own.columns:
        columns.pop("agreement", None)
    if columns.get("slide") == NO_SLIDE:
        del columns["slide"]
    elif "slide" not in columns:
        raise DataError(
            f"{table.path} has no column slide, and crops of one slide on both sides of a split make figures too good; "
            f"name it with --columns slide=NAME, or write slide={NO_SLIDE} if each crop has a slide of its own."
        )
    for role in NEEDED[:2]:
        if role not in columns:
            raise DataError(f"{table.path} has no column {role}; name it with --columns {role}=NAME ({there}).")
    for role, column in columns.items():
        if column not in table.columns:
            raise DataError(f"{table.path} has no column {column}, which --columns names for the {role}; {there}.")
    return columns


def _expert_columns(own: OwnSet, table: Table, columns: Mapping[str, str]) -> list[str]:
    """The columns of the experts' votes: those that the user names; else, without an agreement, `expert1` and so on.

    Raises:
        DataError: a column is not there.
    """
    if "experts" not in own.columns:
        return [] if "agreement" in columns else [name for name in table.columns if VOTE_COLUMN.fullmatch(name)]
    names = [name.strip() for name in own.columns["experts"].split("+")]
    if missing := [name for name in names if name not in table.columns]:
        raise DataError(f"{table.path} has no column '{missing[0]}', which --columns names for the experts.")
    return names


def _figures(own: OwnSet, table: Table, columns: Mapping[str, str]) -> Callable[[Row], Figure]:
    """What a row of the table says."""
    experts = _expert_columns(own, table, columns)

    def label_of(cell: str, column: str) -> int:
        if not own.spellings:
            try:
                return spelled(cell, column)
            except ValueError as error:
                raise ValueError(
                    f"{error}, or say with --atypical VALUE and --normal VALUE how it is written"
                ) from error
        if cell.lower() not in own.spellings:
            raise ValueError(f"the {column} is '{cell}', which is given neither as --atypical nor as --normal; give it")
        return own.spellings[cell.lower()]

    def figure(row: Row) -> Figure:
        crop = row[columns["file"]]
        source, domain = (row[columns[role]] if role in columns else own.name for role in ("source", "domain"))
        return Figure(
            crop=crop,
            label=CLASSES[label_of(row[columns["label"]], columns["label"])],
            domain=domain,
            group=slide_group(source, row[columns["slide"]]) if "slide" in columns else f"{source}/{slashed(crop)}",
            source=source,
            votes=[label_of(cell, name) == 1 for name in experts if (cell := row.get(name, "")).lower() not in NOTHING],
            agreement=agreement_share(row.get(columns["agreement"], "")) if "agreement" in columns else None,
        )

    return figure


def _finder(names: Sequence[str]) -> Callable[[dict[str, list[Path]], str, int], Path | None]:
    """How to find a crop by its path in the table: without the folders that all paths start with where need be.

    Those may be of the computer that the table was written on. All others must be the crop's, so that no crop is taken
    for one of the same name in another folder.
    """
    folders = [PurePosixPath(slashed(name)).parts[:-1] for name in names]
    levels = zip(*folders, strict=False)
    common = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels))

    def find(crops: dict[str, list[Path]], name: str, label: int) -> Path | None:
        inside = PurePosixPath(slashed(name)).parts[common:]
        return find_exactly(crops, name, label) or find_exactly(crops, "/".join(inside), label)

    return find
