"""The page of a slide: what its figures amount to, where they are, and their crops.

It is made of what slide mode has written and of the slide, whose crops are read again.
"""

import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from model.constants import CLASSES, MICROMETRES_PER_PIXEL, REPORT, is_expected
from model.errors import CropError, one_line
from model.files import read_bounded
from model.modes.grand_challenge import is_result
from model.modes.slide_options import SlideTask
from model.modes.slide_tables import FAILURES, LEFT_OUT, PREDICTIONS, SUMMARY
from model.modes.writing import read_table
from model.report.gallery import Row, Shown, fill
from model.report.page import ReportError, data_uri, legible, render, write_page
from model.report.predictions import MOST_FAILURES, describe
from model.report.thumbnails import ATYPICAL, NORMAL, encode
from model.slides.reader import SlideReader

if TYPE_CHECKING:
    from model.predictor import Predictor
    from model.report.explain import Explainer

PICTURE = 1200
"""Pixels of the slide's picture, its longer side, at most."""

LARGEST_PICTURE = 500_000
"""Bytes of it, at most."""

READERS = 2
CROPS_AHEAD = 64

LARGEST_SUMMARY = 1 << 22
"""Bytes of a summary.json that are read."""


@dataclass(frozen=True)
class Overview:
    """The picture of a slide with its figures.

    Attributes:
        address: its content, as a `data:` address.
        width, height: in pixels.
        lacking: why the slide itself is not to be seen on it; empty where it is.
    """

    address: str
    width: int
    height: int
    lacking: str


def report_slide(task: SlideTask, predictor: "Predictor", explainer: "Explainer | None" = None) -> Path:
    """Writes the page of a slide beside its tables.

    Args:
        task: as the run was given it.
        predictor: that made the tables.
        explainer: of the same weights; None: no maps of where the network looked.

    Returns:
        Path of the page.

    Raises:
        ReportError: it cannot be written, or the tables not be read.
        CropError: the slide cannot be read any more.
    """
    target = task.target
    summary = read_summary(target)
    with SlideReader(task.slide, task.mpp, predictor.config.preprocessing.largest_side) as reader:
        content = describe(str(task.slide), predictor) | {
            "summary": summary,
            "found": summary["statistics"],
            "overview": _overview(reader, target),
            "left_out": _first(target / LEFT_OUT, "detection", "reason", "detail"),
            "failures": _first(target / FAILURES, "detection", "reason"),
        }
        content |= fill(target, _rows(target), lambda rows: _read(reader, rows), explainer)
    path = target / REPORT
    write_page(path, render("slide.html", content))
    return path


def read_summary(target: Path) -> dict[str, Any]:
    """The content of a slide's summary.json.

    Raises:
        ReportError: it cannot be read, or is not as slide mode writes it.
    """
    try:
        summary = json.loads(read_bounded(target / SUMMARY, LARGEST_SUMMARY))
        if not isinstance(summary["statistics"], dict) or not isinstance(summary["detections"]["left_out"], dict):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ReportError(f"{target / SUMMARY} cannot be read; run again.") from error
    return summary


def _rows(target: Path) -> Iterator[Row]:
    """The rows of a slide's table.

    Raises:
        ReportError: it cannot be read, or was altered.
    """
    try:
        for line in read_table(target / PREDICTIONS):
            number, x, y, padded = (
                int(line["detection"]),
                float(line["x"]),
                float(line["y"]),
                float(line["outside_slide"]),
            )
            warnings = [f"{padded:.0%} of it lies outside the slide"] if padded else []
            warnings += [line["remark"]] if line["remark"] else []
            name = f"detection {number}" + (f", {line['id']}" if line["id"] else "")
            counted = line["in_region"] == "yes"
            place = f"at {x:.0f}, {y:.0f}" + ("" if counted else ", outside the region")
            p, spread = float(line["confidence"]), float(line["view_spread"])
            if not is_result(line["class"], p, spread) or not 0 <= padded <= 1 or not math.isfinite(x + y):
                raise ValueError("no result")
            yield Row(number, name, 0, place, line["class"], p, spread, (x, y), tuple(warnings), counted)
    except (OSError, ValueError, KeyError) as error:
        raise ReportError(f"{target / PREDICTIONS} cannot be read or was altered; run again.") from error


def _read(reader: SlideReader, rows: Sequence[Row]) -> Iterator[Shown]:
    """Rows with their crops."""
    _, mpp = reader.pyramid.level()
    coarse = mpp > MICROMETRES_PER_PIXEL and not is_expected(mpp)
    of_all = [f"read at {mpp:.3g} µm per pixel, coarser than the crops the network learnt from"] if coarse else []

    def read(row: Row) -> Shown:
        try:
            crop = reader.read(*row.at).pixels
        except CropError as error:  # which was read a moment ago
            return row, None, [one_line(error)]
        return row, crop, [*row.warnings, *of_all]

    with ThreadPoolExecutor(READERS) as readers:
        for start in range(0, len(rows), CROPS_AHEAD):
            yield from readers.map(read, rows[start : start + CROPS_AHEAD])


def _overview(reader: SlideReader, target: Path) -> Overview:
    """The slide in small, with a point for each figure; the atypical ones are on top."""
    pyramid = reader.pyramid
    try:
        small, lacking = reader.overview(PICTURE), ""
    except CropError as error:
        factor = min(1.0, PICTURE / max(pyramid.width, pyramid.height))
        size = max(1, round(pyramid.height * factor)), max(1, round(pyramid.width * factor))
        small, lacking = np.full((*size, 3), 240, dtype=np.uint8), one_line(error)
    scale = small.shape[1] / pyramid.width, small.shape[0] / pyramid.height
    radius = max(3, round(max(small.shape[:2]) / 150))
    for called in CLASSES:
        for row in _rows(target):
            if row.called == called:
                middle = round(row.at[0] * scale[0]), round(row.at[1] * scale[1])
                _draw_point(small, middle, radius, row)
    side = PICTURE
    while len(content := encode(small, side)) > LARGEST_PICTURE:
        side = side * 3 // 4
    return Overview(data_uri(content, "image/webp"), small.shape[1], small.shape[0], lacking)


def _draw_point(small: np.ndarray, middle: tuple[int, int], radius: int, row: Row) -> None:
    """A dot for an atypical figure, a ring for a normal one, both thin where the figure is not counted."""
    atypical = row.called == CLASSES[1]
    colour = [int(value) for value in (ATYPICAL if atypical else NORMAL)]
    if not row.counted:
        cv2.circle(small, middle, radius, colour, 1, cv2.LINE_AA)
        return
    cv2.circle(small, middle, radius + 1, (255, 255, 255), -1, cv2.LINE_AA)
    cv2.circle(small, middle, radius, colour, -1 if atypical else max(2, radius // 2), cv2.LINE_AA)


def _first(table: Path, *columns: str) -> list[list[str]]:
    """The first rows of a table, for people.

    Raises:
        ReportError: it cannot be read.
    """
    try:
        return [[legible(row[column]) for column in columns] for row in islice(read_table(table), MOST_FAILURES)]
    except (OSError, KeyError) as error:
        raise ReportError(f"{table} cannot be read or was altered; run again.") from error
