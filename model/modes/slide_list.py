"""Several slides, from a table of them: each gets a folder, and all together a table.

SLIDES.csv        slide,detections and, where wanted, mpp, area_mm2; paths are relative to the table
OUT/NAME/         what `model.modes.slide_tables` says of each
OUT/slides.csv    a row for each: its folder, counts and shares, or why it could not be used
"""

import csv
import io
import json
import logging
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

from model.errors import CaseError, CropError, one_line
from model.files import read_bounded
from model.modes.slide import classify_slide
from model.modes.slide_options import SlideOptions, SlideTask
from model.modes.slide_tables import SUMMARY
from model.modes.writing import Whole, lock, to_cell, unwritable
from model.predictor import Predictor

logger = logging.getLogger(__name__)

SLIDES = "slides.csv"
LARGEST_TABLE = 1 << 24
MOST_SLIDES = 10_000
_REQUIRED, _OPTIONAL = ("slide", "detections"), ("mpp", "area_mm2")
_FIGURES = (
    "figures",
    "atypical",
    "share_atypical",
    "share_interval_95",
    "ratio_atypical_to_normal",
    "corrected_share",
    "corrected_share_interval_95",
    "area_mm2",
    "figures_per_2.37_mm2",
    "atypical_per_2.37_mm2",
)
"""Of a slide's statistics, those in the table of slides."""


def read_slide_list(path: Path, target: Path) -> list[SlideTask]:
    """The slides of a table.

    Args:
        path: a CSV file in UTF-8.
        target: folder for the results; each slide's own is below it, named after the slide.

    Raises:
        CaseError: the table cannot be read, or a row is not understood.
    """
    try:
        text = read_bounded(path, LARGEST_TABLE).decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except OSError as error:
        raise CaseError(f"{path} cannot be read ({error.strerror}); give a CSV with slide,detections.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise CaseError(f"{path} is no CSV in UTF-8 ({error}); give one with slide,detections.") from error
    columns = set(rows[0]) if rows else set()
    if not set(_REQUIRED) <= columns <= {*_REQUIRED, *_OPTIONAL} or len(rows) > MOST_SLIDES:
        raise CaseError(
            f"{path} must have the columns {', '.join(_REQUIRED)} and may have {', '.join(_OPTIONAL)}, with 1 to "
            f"{MOST_SLIDES} rows; it has {len(rows)} rows and {', '.join(sorted(map(str, columns))) or 'no columns'}."
        )
    tasks: list[SlideTask] = []
    taken: set[str] = set()
    for number, row in enumerate(rows, start=2):
        if None in row.values() or not row["slide"] or not row["detections"]:
            raise CaseError(f"Line {number} of {path} names no slide or no detections; complete it.")
        slide, detections = path.parent / row["slide"], path.parent / row["detections"]
        mpp, area = (_positive(path, number, row.get(name)) for name in _OPTIONAL)
        tasks.append(SlideTask(slide, detections, target / _folder_name(slide, taken), mpp, area))
    return tasks


def _positive(path: Path, line: int, cell: str | None) -> float | None:
    """A number of a cell; None where it is empty."""
    if not cell or not cell.strip():
        return None
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not 0 < number < 1e6:
        raise CaseError(f"Line {line} of {path} has '{cell}' where a number above 0 is wanted; mend it.")
    return number


def _folder_name(slide: Path, taken: set[str]) -> str:
    """A name that no other slide has and that is one on any file system, whatever the slide is called."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", slide.stem)[:80] or "_"
    number, unique = 1, name
    while unique.lower() in taken:
        number += 1
        unique = f"{name}-{number}"
    taken.add(unique.lower())
    return unique


def classify_slides(predictor: Predictor, tasks: Sequence[SlideTask], target: Path, options: SlideOptions) -> int:
    """Classifies the detections of several slides; one that cannot be used does not stop the others.

    Args:
        predictor: the network.
        tasks: the slides.
        target: folder for the table of slides.
        options: for all of them.

    Returns:
        How many slides, or some of their crops, could not be read.

    Raises:
        CaseError: results cannot be written, or another process writes there.
    """
    held = lock(target)
    try:
        rows, failed = [], 0
        for number, task in enumerate(tasks, start=1):
            logger.info("Slide %d of %d: %s", number, len(tasks), task.slide)
            found, reason = {}, ""
            try:
                done = classify_slide(predictor, task, options)
                found = done.summary["statistics"]
                reason = f"{done.failed} crops could not be read" if done.failed else ""
            except CropError as error:
                reason = one_line(error)
                logger.warning("%s", reason)
                (task.target / SUMMARY).unlink(missing_ok=True)  # of an earlier run
            failed += bool(reason)
            shown = [json.dumps(found[name]) if found.get(name) is not None else "" for name in _FIGURES]
            rows.append([to_cell(str(task.slide)), task.target.name, *shown, to_cell(reason)])
        with Whole(target / SLIDES) as file:
            csv.writer(file).writerows([("slide", "folder", *_FIGURES, "failure"), *rows])
        return failed
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        os.close(held)
