"""What a cohort consists of: images of a folder, or slides with detections, as a folder, a CSV or a Parquet names them.

INPUT/                a folder of crops, and the folders below it, as folder mode takes it
INPUT.csv             slide,detections and, where wanted, mpp, area_mm2, as slide mode takes it
INPUT.parquet         the same columns; or `file`: crops, relative to the table
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

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
    if path.is_dir():
        found = [_unit(asdict(image)) for image in list_images(path)]
        if not found:
            raise CaseError(f"{path} holds no image ({', '.join(SUFFIXES)}); give a folder of images.")
        return Inputs("images", path.absolute(), found)
    if path.suffix.lower() == ".parquet":
        return _from_parquet(path)
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
        units.append(_unit(said))
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
    """What a Parquet names."""
    if path.exists() and not path.is_file():
        raise CaseError(f"{path} is no regular file; give a Parquet.")
    try:
        with pq.ParquetFile(path) as file:
            names = set(file.schema_arrow.names)
            count = file.metadata.num_rows
            if names == {"file"}:
                if not 0 < count <= MOST_FILES:
                    raise CaseError(f"{path} has {count} rows; give 1 to {MOST_FILES}.")
                return Inputs("images", path.parent.absolute(), _images(path, _texts(file, ["file"])))
            if not {"slide", "detections"} <= names:
                raise CaseError(
                    f"{path} must have the column file, or slide and detections; it has {', '.join(sorted(names))}."
                )
            rows = _texts(file, sorted(names))
            tasks = slide_tasks(path, list(rows), Path(), MOST_SLIDES)
    except (pa.ArrowException, OSError) as error:
        raise CaseError(f"{path} cannot be read as Parquet ({first_line(error)}); write it again.") from error
    return Inputs("slides", Path.cwd(), _slides(path, tasks))


def _texts(file: pq.ParquetFile, names: list[str]) -> Iterator[dict[str, str]]:
    """The rows with all values as texts, missing ones empty."""
    for batch in file.iter_batches(columns=names):
        for row in batch.to_pylist():
            yield {name: "" if value is None else str(value) for name, value in row.items()}


def _images(path: Path, rows: Iterator[dict[str, str]]) -> list[Unit]:
    units, taken = [], set()
    for row in rows:
        name = row["file"]
        if not name or name in taken:
            raise CaseError(f"{path} has a row without a file, or '{name}' twice; mend it.")
        taken.add(name)
        units.append(_unit(asdict(Listed(name, *_state(path.parent / name)))))
    return units
