"""CSV files as programs write them: commas, semicolons, tabs or bars between cells, any ends of lines."""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.data.sample import DataError

Row = dict[str, str]
"""The cells of a row by column; a row that is too short has no cells in the last columns."""

DELIMITERS = ",;\t|"
"""What may stand between cells: where the decimal sign is a comma, spreadsheets write semicolons."""

LINE_END = re.compile(r"\r\n|\r|\n")
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?(?:\r\n|\r|\n)', re.IGNORECASE)
"""A first line that tells a spreadsheet the delimiter."""


@dataclass(frozen=True)
class Table:
    """The cells of a file, without the white space around them.

    Attributes:
        path: the file.
        columns: their names, in order, in lower case.
        rows: R; rows of empty cells alone are left out.
        lines: R, the line of the file that each row starts in, from 1.
    """

    path: Path
    columns: tuple[str, ...]
    rows: list[Row]
    lines: list[int]

    def numbered(self) -> Iterator[tuple[int, Row]]:
        """The rows and their lines."""
        return zip(self.lines, self.rows, strict=True)


def read_csv(path: Path, advice: str) -> Table:
    """Reads a CSV file in UTF-8, with or without a byte order mark, with any of `DELIMITERS`.

    The delimiter is what a line `sep=;` before the names of the columns says, or else what parts these into most.

    Args:
        path: the file.
        advice: what to do when it cannot be read, for the sentence of the error.

    Raises:
        DataError: it is missing, no UTF-8 text or no CSV file, has two columns of a name, or has a row with more cells
            than there are columns.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); {advice}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text ({error}); save it as CSV in UTF-8.") from error
    told = SEPARATOR_LINE.match(text)
    delimiter = told[1] if told else _delimiter(text)
    records = _records(path, text[told.end() :] if told else text, delimiter, 2 if told else 1)
    _, names = next(records, (0, []))
    columns = tuple(name.lower() for name in names)
    if twice := [name for index, name in enumerate(columns) if name and name in columns[:index]]:
        raise DataError(f"{path} has two columns {twice[0]}; rename or remove one of them.")
    rows, lines = [], []
    for line, cells in records:
        if any(cells[len(columns) :]):
            raise DataError(
                f"{path}, line {line} has {len(cells)} cells for {len(columns)} columns; put a cell that has "
                f"'{delimiter}' in it between double quotes."
            )
        rows.append(dict(zip(columns, cells, strict=False)))
        lines.append(line)
    return Table(path, columns, rows, lines)


def _delimiter(text: str) -> str:
    """What parts the first line that is not empty into most cells; a comma where nothing does."""
    header = next((line for line in LINE_END.split(text) if line.strip()), "")
    return max(DELIMITERS, key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter), [])))


def _records(path: Path, text: str, delimiter: str, first: int) -> Iterator[tuple[int, list[str]]]:
    """The cells of each record that has any, and the line that it starts in.

    Args:
        path: for the sentence of an error.
        text: of the file, without the line that tells the delimiter.
        delimiter: between cells.
        first: number of the first line of the text.

    Raises:
        DataError: there is a quote that is not closed, or more after one that is.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    start = first
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield start, stripped
            start = first + reader.line_num
    except csv.Error as error:
        raise DataError(f"{path}, line {start} is no line of a CSV file ({error}); save it as CSV in UTF-8.") from error
