"""What a cohort consists of: images of a folder, or slides with detections, as a folder, a CSV or a Parquet names them.

INPUT/                a folder of crops, and the folders below it, as folder mode takes it
INPUT.csv             slide,detections and, where wanted, mpp, as slide mode takes it; area_mm2 is for its counts alone
INPUT.parquet         the same columns; or `file`, beside others that do not count: crops, relative to the table; it may
                      be a folder of parts, as Spark writes
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pyarrow import dataset

from model.errors import CaseError, first_line
from model.images.read import SUFFIXES
from model.modes.listing import Listed, list_images
from model.modes.slide_list import read_slide_list, slide_tasks
from model.modes.slide_options import SlideTask

MOST_SLIDES = 10_000_000
MOST_FILES = 100_000_000

Kind = Literal["images", "slides"]


@dataclass(frozen=True)
class Unit:
    """What is read by one task: an image with its crops, or a slide with its detections.

    Attributes:
        said: what it is, as JSON: a `Listed` or what `SlideTask` needs.
        key: 16 bytes that stand for it; another for a file that was changed.
    """

    said: str
    key: bytes


@dataclass(frozen=True)
class Inputs:
    """A cohort.

    Attributes:
        kind: of its units.
        root: folder that the names of files are relative to.
        units: in the order of the results.
    """

    kind: Kind
    root: Path
    units: Sequence[Unit]


def read_inputs(path: Path) -> Inputs:
    """What INPUT names.

    Raises:
        CaseError: it cannot be read, names nothing, or names something twice.
    """
    if path.suffix.lower() == ".parquet" and (not path.is_dir() or _has_parts(path)):
        return _from_parquet(path)
    if path.is_dir():
        found = [_unit(asdict(image)) for image in list_images(path)]
        if not found:
            raise CaseError(f"{path} holds no image ({', '.join(SUFFIXES)}); give a folder of images.")
        return Inputs("images", path.absolute(), found)
    return Inputs("slides", Path.cwd(), _slides(path, read_slide_list(path, Path(), MOST_SLIDES)))


def to_image(unit: str) -> Listed:
    """The image of a unit."""
    return Listed(**json.loads(unit))


def to_task(unit: str, root: Path) -> SlideTask:
    """The slide of a unit; nothing is written for it."""
    said = json.loads(unit)
    return SlideTask(root / said["slide"], root / said["detections"], Path(), said["mpp"])


def _unit(said: dict[str, Any]) -> Unit:
    text = json.dumps(said)
    return Unit(text, hashlib.blake2b(text.encode(), digest_size=16).digest())


def _slides(path: Path, tasks: Sequence[SlideTask]) -> list[Unit]:
    """Units of slides; what cannot be looked at yet is found out when it is read."""
    units = []
    for task in tasks:
        files = [[str(file), *_state(file)] for file in (task.slide, task.detections)]
        said = {"slide": files[0][0], "detections": files[1][0], "mpp": task.mpp, "state": [files[0][1:], files[1][1:]]}
        whole = {"slide": task.slide, "detections": task.detections}
        key = _unit(said | {name: os.path.normpath(file.absolute()) for name, file in whole.items()}).key
        units.append(replace(_unit(said), key=key))  # the same however INPUT is spelled
    if len({unit.key for unit in units}) < len(units):
        raise CaseError(f"{path} names the same slide with the same detections twice; remove one of the rows.")
    return units


def _state(file: Path) -> tuple[int, int]:
    """Bytes and time of change of a file; zeros where there is none."""
    try:
        found = file.stat()
    except (OSError, ValueError):
        return 0, 0
    return found.st_size, found.st_mtime_ns


def _from_parquet(path: Path) -> Inputs:
    """What a Parquet names, or a folder of parts of one."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise CaseError(f"{path} is no regular file; give a Parquet.")
    try:
        table = dataset.dataset(path, format="parquet")
        names = [name for name in table.schema.names if not _INDEX_OF_PANDAS.fullmatch(name)]
        of_slides = {"slide", "detections"} <= {*names}
        if of_slides == ("file" in names):
            raise CaseError(
                f"{path} must have the column file, or slide and detections; it has {', '.join(sorted(names))}."
            )
        if of_slides:
            tasks = slide_tasks(path, list(_texts(path, table, names)), Path(), MOST_SLIDES)
            return Inputs("slides", Path.cwd(), _slides(path, tasks))
        if "mpp" in names:
            raise CaseError(
                f"{path} names crops, whose resolution is not taken from a table; give --mpp instead of mpp."
            )
        if not 0 < (count := table.count_rows()) <= MOST_FILES:
            raise CaseError(f"{path} has {count} rows; give 1 to {MOST_FILES}.")
        return Inputs("images", path.parent.absolute(), _images(path, _texts(path, table, ["file"])))
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise CaseError(f"{path} cannot be read as Parquet ({first_line(error)}); write it again.") from error


def _has_parts(folder: Path) -> bool:
    return any(file.suffix.lower() == ".parquet" for file in folder.glob("*"))  # nothing, if it cannot be listed


_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)

_INDEX_OF_PANDAS = re.compile(r"__index_level_\d+__")
"""What pandas calls the numbers of the rows, where it writes them."""


def _texts(path: Path, table: dataset.Dataset, names: list[str]) -> Iterator[dict[str, str]]:
    """The rows of some columns with all values as texts, missing ones empty.

    Raises:
        CaseError: a column of names is of something else.
    """
    for name in {*names} & {"file", "slide", "detections"}:
        kind = table.schema.field(name).type
        text = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not any(fits(text) for fits in _TEXTS):
            raise CaseError(f"The column {name} of {path} holds {kind}, no texts; write names of files there.")
    for batch in table.to_batches(columns=names):
        for row in batch.to_pylist():
            yield {name: "" if value is None or value != value else str(value) for name, value in row.items()}


def _images(path: Path, rows: Iterator[dict[str, str]]) -> list[Unit]:
    units, taken = [], set()
    for row in rows:
        name = row["file"]
        if not name or name in taken:
            raise CaseError(f"{path} has a row without a file, or '{name}' twice; mend it.")
        taken.add(name)
        units.append(_unit(asdict(Listed(name, *_state(path.parent / name)))))
    return units
