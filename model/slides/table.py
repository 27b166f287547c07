"""Tables of points: CSV with commas, semicolons or tabs, such as QuPath's measurements or MIDOG's own tables."""

import csv
import io
import re

from model.errors import CropError
from model.slides.detections import Detection, Found
from model.slides.wanted import Wanted, shown, to_number

_COORDINATE = re.compile(
    r"(?:centroid|coordinate|cent(?:er|re)|position|pos)?([xy])(?:cent(?:er|re))?(px|pixels?|[uµμ]m)?"
)
_SLIDE = ("slide", "filename", "image", "imagename")
_ID = ("id", "objectid", "imageid", "detection", "detectionid", "uuid")
_CLASS = ("class", "classification", "label", "type")


def read_table(text: str, wanted: Wanted) -> Found:
    """The detections of a table with a header.

    Columns, with any capitals, spaces and underscores: `x` and `y`, also `coordinateX`, `Centroid X px`,
    `Centroid X µm` and the like; and where they are there `id` or `Object ID`; `class` or `Classification`; `slide`,
    `filename` or `Image`, by which the rows of this slide are taken.

    Raises:
        CropError: columns are missing, doubtful or contradict what the user says; no row is of this slide, or it is
            doubtful which are.
    """
    separator = separator_of(text)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        names = [re.sub(r"[\s_.^-]", "", name.lower()) for name in next(rows, [])]
        x, y, unit = _coordinates(names, wanted)
        slide, identity, label = (_first(names, known) for known in (_SLIDE, _ID, _CLASS))
        content = [row for row in rows if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise CropError(f"{wanted.path} cannot be read as a table ({error}); export it again.") from error
    if slide is not None:
        content = _of_slide(content, slide, wanted)
    comma = separator != ","  # of decimals, where it is not the separator
    detections = []
    for row in content:
        cells = [row[column].strip() if column is not None and column < len(row) else "" for column in (x, y)]
        first, second = (to_number(cell.replace(",", ".") if comma else cell) for cell in cells)
        named, kept = (shown(row[n]) if n is not None and n < len(row) else "" for n in (label, identity))
        detections.append(Detection(first, second, kept, "", "annotation", named, 0.0, wanted.takes(named)))
    from_qupath = "objectid" in names or any(name.startswith("centroid") for name in names)
    return Found("table", detections, unit=unit, from_qupath=from_qupath)


def separator_of(text: str) -> str:
    """What stands between the cells of a CSV file: what parts its first line into most."""
    return max(",;\t", key=text.partition("\n")[0].count)


def _coordinates(names: list[str], wanted: Wanted) -> tuple[int, int, str]:
    """Columns of x and y, and their unit."""
    found: dict[str, list[tuple[int, str]]] = {"x": [], "y": []}
    for column, name in enumerate(names):
        if match := _COORDINATE.fullmatch(name):
            stated = match[2] or ""
            found[match[1]].append((column, "um" if stated.endswith("m") else "px" if stated else ""))
    if not all(len(columns) == 1 for columns in found.values()):
        what = " and ".join(f"{len(columns)} for {axis}" for axis, columns in found.items())
        raise CropError(f"{wanted.path} has {what} among its columns ({', '.join(names)}); name one x and one y.")
    (x, unit), (y, other) = (columns[0] for columns in found.values())
    if unit != other or (unit and wanted.unit and unit != wanted.unit):
        raise CropError(f"{wanted.path} has coordinates in '{unit}' and '{wanted.unit or other}'; look at --unit.")
    return x, y, unit or wanted.unit or "px"


def _first(names: list[str], known: tuple[str, ...]) -> int | None:
    return next((names.index(name) for name in known if name in names), None)


def _of_slide(content: list[list[str]], column: int, wanted: Wanted) -> list[list[str]]:
    """The rows of the slide, or all of them where the column is empty."""
    names = [row[column].strip() if column < len(row) else "" for row in content]
    named = set(names) - {""}
    if not named:
        return content
    name = wanted.named_so(named)
    if name is None:
        raise CropError(
            f"{wanted.path} tells of {len(named)} slides, but not of {wanted.slide}; give the detections of this slide."
        )
    return [row for row, its in zip(content, names, strict=True) if its == name]
