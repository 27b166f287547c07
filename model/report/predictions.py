"""The page of predictions: how many of each class, how they spread, and the crops to look at, the most uncertain first.

It is made of what a run has written and of its images, which are read again: so the run itself stays as it is, and
memory does not grow with the number of crops.
"""

import heapq
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from tqdm import tqdm

from model.constants import CLASSES, MICROMETRES_PER_PIXEL, THRESHOLD
from model.errors import CropError
from model.images.checks import remark
from model.images.read import read_stack
from model.images.resampling import rescale, resolution
from model.modes.grand_challenge import Entry, find_stack
from model.modes.tables import FAILURES, PREDICTIONS, read_table
from model.report.page import LARGEST, PICTURES, REPORT, ReportError, clear_report, legible, render, write_page
from model.report.thumbnails import Thumbnails

if TYPE_CHECKING:
    from model.predictor import Predictor

MOST_CROPS = 20_000
"""In the gallery; a browser shows no more within seconds, and a person looks at fewer."""

LARGEST_GALLERY = LARGEST - 500_000
"""Bytes of the gallery's crops in the page, with their pictures if these are in it; the rest is for all else."""

MOST_FAILURES = 100

BINS = 10
"""Of the histogram, an even number, so that the threshold lies between two of them."""


@dataclass(frozen=True)
class Row:
    """One prediction.

    Attributes:
        number: place among all of the run, from 0.
        name: of the image.
        index: of the crop in the image, from 0.
        called: class.
        probability: P(atypical).
    """

    number: int
    name: str
    index: int
    called: str
    probability: float

    @property
    def certainty(self) -> float:
        """Distance from the threshold."""
        return abs(self.probability - THRESHOLD)


@dataclass
class Summary:
    """What is said of all crops, added up while they pass."""

    crops: int = 0
    atypical: int = 0
    histogram: list[int] = field(default_factory=lambda: [0] * BINS)

    def counted(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The same rows, each counted."""
        for row in rows:
            self.crops += 1
            self.atypical += row.called == CLASSES[1]
            self.histogram[min(int(row.probability * BINS), BINS - 1)] += 1
            yield row


Read = Callable[[str], tuple[list[np.ndarray], list[str]]]
"""Name of an image -> its crops as the network got them, (H, W, 3) uint8 RGB, and warnings that hold for each."""


def report_folder(source: Path, target: Path, mpp: float | None, predictor: "Predictor") -> Path:
    """Writes the page of a run over a folder.

    Args:
        source: its images.
        target: its tables, and where the page goes.
        mpp: µm per pixel of all images, None for what they state; as the run was told.
        predictor: that made the tables.

    Returns:
        Path of the page.

    Raises:
        ReportError: it cannot be written.
    """

    def read(name: str) -> tuple[list[np.ndarray], list[str]]:
        stack = read_stack(source / name)
        scale = resolution(mpp, stack.mpp)
        if scale == MICROMETRES_PER_PIXEL:
            return stack.crops, []
        return [rescale(crop, scale) for crop in stack.crops], [f"rescaled from {scale:.3g} µm per pixel"]

    rows = (
        Row(number, row["file"], int(row["index"]), row["class"], float(row["confidence"]))
        for number, row in enumerate(read_table(target / PREDICTIONS))
    )
    try:
        failed = sum(1 for _ in read_table(target / FAILURES))
        first = islice(read_table(target / FAILURES), MOST_FAILURES)
        failures = [(legible(row["file"]), legible(row["reason"])) for row in first]
        about = _about(source, predictor) | {"failed": failed, "failures": failures}
        return _write(target, rows, read, about)
    except OSError as error:
        raise ReportError(f"The tables in {target} cannot be read ({error.strerror}); run again.") from error


def report_case(input_folder: Path, output_folder: Path, entries: Sequence[Entry], predictor: "Predictor") -> Path:
    """Writes the page of one case beside its result.

    Args:
        input_folder: what the platform mounts as `/input`.
        output_folder: where the page goes.
        entries: the case's result.
        predictor: that made it.

    Returns:
        Path of the page.

    Raises:
        ReportError: it cannot be written.
    """
    stack = find_stack(input_folder)
    rows = (Row(i, stack.name, i, entry["class"], entry["confidence"]) for i, entry in enumerate(entries))
    about = _about(stack, predictor) | {"failed": None, "failures": []}
    return _write(output_folder, rows, lambda _: (read_stack(stack).crops, []), about)


def _about(source: Path, predictor: "Predictor") -> dict[str, Any]:
    config = predictor.config
    return {
        "title": "Atypical and normal mitotic figures",
        "source": legible(str(source)),
        "weights": f"{config.name} {config.version}",
        "views": predictor.view_count,
        "device": str(predictor.device),
    }


def _write(target: Path, rows: Iterable[Row], read: Read, about: dict[str, Any]) -> Path:
    """Writes the page of some predictions; `about` has what the template needs besides."""
    summary = Summary()
    shown = heapq.nsmallest(MOST_CROPS, summary.counted(rows), key=lambda row: row.certainty)
    clear_report(target)
    pictures = Thumbnails(target / PICTURES)
    entries = _fitting(_entries(shown, read, pictures))
    content = about | {
        "crops": summary.crops,
        "atypical": summary.atypical,
        "histogram": summary.histogram,
        "tallest": max(1, *summary.histogram),
        "warned": sum(bool(entry["warnings"]) for entry in entries),
        "entries": entries,
    }
    path = target / REPORT
    write_page(path, render("predictions.html", content))
    return path


def _entries(rows: Sequence[Row], read: Read, pictures: Thumbnails) -> list[dict[str, Any]]:
    """What the gallery needs of each row, in their order; each image is read once."""
    warnings: dict[int, list[str]] = {}
    pictured = set()
    by_name = sorted(rows, key=lambda row: row.number)
    shown = sys.stderr is not None and sys.stderr.isatty()
    with _quiet(), tqdm(total=len(rows), unit="crop", desc="report", leave=False, disable=not shown) as bar:
        for name, group in groupby(by_name, key=lambda row: row.name):
            try:
                crops, of_all = read(name)
            except (CropError, OSError):  # which was read a moment ago: it was removed or changed since
                crops, of_all = [], ["the image could not be read again"]
            for row in group:
                bar.update()
                warnings[row.number] = list(of_all)
                if row.index < len(crops):
                    pictures.add(row.number, crops[row.index])
                    pictured.add(row.number)
                    if found := remark(crops[row.index]):
                        warnings[row.number].append(found)
    return [
        {
            "n": row.number,
            "name": legible(row.name),
            "index": row.index + 1,
            "class": row.called,
            "p": row.probability,
            "picture": pictures.address(row.number) if row.number in pictured else "",
            "warnings": warnings[row.number],
        }
        for row in rows
    ]


def _fitting(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As many of the first entries as the page has room for."""
    size = 0
    for count, entry in enumerate(entries):
        size += len(htmlsafe_json_dumps(entry)) + 2
        if size > LARGEST_GALLERY:
            return entries[:count]
    return entries


@contextmanager
def _quiet() -> Iterator[None]:
    """What reading an image says was said when the run read it."""
    images = logging.getLogger("model.images")
    level = images.level
    images.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        images.setLevel(level)
