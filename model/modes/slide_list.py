"""Several slides, from a table of them: each gets a folder, and all together a table.

SLIDES.csv        slide,detections and, where wanted, mpp, area_mm2; paths are relative to the table
OUT/NAME/         what `model.modes.slide_tables` says of each
OUT/slides.csv    a row for each: its folder, counts and shares, or why it could not be used
"""

import csv
import hashlib
import io
import json
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from model.errors import CaseError, CropError, one_line
from model.files import read_bounded
from model.modes.shard import Shard, ShardNote, clear_note, write_note
from model.modes.slide import classify_slide
from model.modes.slide_options import SlideOptions, SlideTask
from model.modes.slide_tables import ChangedInputError, forget_result
from model.modes.writing import Whole, lock, to_cell, unwritable
from model.predictor import Predictor
from model.slides.table import separator_of

logger = logging.getLogger(__name__)

SLIDES = "slides.csv"
MOST_SLIDES = 10_000
LARGEST_ROW = 2048
"""Bytes that a row may have on average."""
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
COLUMNS = ("slide", "folder", *_FIGURES, "failure")


def read_slide_list(path: Path, target: Path, most: int = MOST_SLIDES) -> list[SlideTask]:
    """The slides of a table.

    Args:
        path: a CSV file in UTF-8, with commas, semicolons or tabs.
        target: folder for the results; each slide's own is below it, named after the slide.
        most: rows that it may have.

    Raises:
        CaseError: the table cannot be read, or a row is not understood.
    """
    try:
        text = read_bounded(path, most * LARGEST_ROW).decode("utf-8-sig")
        separator = separator_of(text)
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=separator))
        if separator != ",":  # then it may be the comma of decimals
            rows = [row | {name: row[name].replace(",", ".") for name in _OPTIONAL if row.get(name)} for row in rows]
    except OSError as error:
        raise CaseError(f"{path} cannot be read ({error.strerror}); give a CSV with slide,detections.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise CaseError(f"{path} is no CSV in UTF-8 ({error}); give one with slide,detections.") from error
    return slide_tasks(path, rows, target, most)


def slide_tasks(
    path: Path, rows: Sequence[Mapping[str, str]], target: Path, most: int = MOST_SLIDES
) -> list[SlideTask]:
    """`read_slide_list` for rows that were read; the first counts as the second line.

    Raises:
        CaseError: a row is not understood, or there are none or too many.
    """
    columns = set(rows[0]) if rows else set()
    if not set(_REQUIRED) <= columns <= {*_REQUIRED, *_OPTIONAL} or len(rows) > most:
        raise CaseError(
            f"{path} must have the columns {', '.join(_REQUIRED)} and may have {', '.join(_OPTIONAL)}, with 1 to "
            f"{most} rows; it has {len(rows)} rows and {', '.join(sorted(map(str, columns))) or 'no columns'}."
        )
    tasks: list[SlideTask] = []
    taken: dict[str, int] = {}
    for number, row in enumerate(rows, start=2):
        if None in row.values() or not row["slide"] or not row["detections"]:
            raise CaseError(f"Line {number} of {path} names no slide or no detections; complete it.")
        slide, detections = path.parent / row["slide"], path.parent / row["detections"]
        mpp, area = (_positive(path, number, row.get(name)) for name in _OPTIONAL)
        tasks.append(SlideTask(slide, detections, target / _folder_name(slide, taken), mpp, area))
    return tasks


def _identity(tasks: Sequence[SlideTask]) -> str:
    """SHA-256 of what a table of slides says."""
    said = [[str(task.slide), str(task.detections), task.mpp, task.area_mm2] for task in tasks]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


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


def _folder_name(slide: Path, taken: dict[str, int]) -> str:
    """A name that no other slide has and that is one on any file system, whatever the slide is called.

    Args:
        slide: its file.
        taken: names in small letters, with how many slides have wanted each.
    """
    name = re.sub(r"[^A-Za-z0-9_-]", "_", slide.stem)[:80] or "_"
    number = taken.get(name.lower(), 0) + 1
    unique = name if number == 1 else f"{name}-{number}"
    while unique.lower() in taken:
        number += 1
        unique = f"{name}-{number}"
    taken[name.lower()] = number
    taken.setdefault(unique.lower(), 1)
    return unique


def of_shard(tasks: Sequence[SlideTask], shard: Shard | None) -> list[SlideTask]:
    """The slides that belong to a shard; all where there is none."""
    return [task for task in tasks if shard is None or shard.takes(task.target.name)]


def classify_slides(predictor: Predictor, tasks: Sequence[SlideTask], target: Path, options: SlideOptions) -> int:
    """Classifies the detections of several slides; one that cannot be used does not stop the others.

    A run that goes on begins those again that have changed meanwhile.

    Args:
        predictor: the network.
        tasks: the slides, of all shards.
        target: folder for the table of slides.
        options: for all of them.

    Returns:
        How many slides, or some of their crops, could not be read.

    Raises:
        CaseError: results cannot be written, another process writes there, or a run to go on with has other weights,
            views or options.
    """
    shard, each = options.shard, replace(options, shard=None)
    tasks, every = of_shard(tasks, shard), tasks
    held = lock(target)
    try:
        clear_note(target)
        rows, failed = [], 0
        for number, task in enumerate(tasks, start=1):
            logger.info("Slide %d of %d: %s", number, len(tasks), task.slide)
            found, reason = {}, ""
            try:
                try:
                    done = classify_slide(predictor, task, each)
                except ChangedInputError:
                    logger.info("%s, its detections or its mpp have changed: it is begun again.", task.slide)
                    done = classify_slide(predictor, task, replace(each, resume=False))
                found = done.summary["statistics"]
                reason = f"{done.failed} crops could not be read" if done.failed else ""
            except CropError as error:
                reason = one_line(error)
                logger.warning("%s", reason)
                forget_result(task.target)
            failed += bool(reason)
            shown = [json.dumps(found[name]) if found.get(name) is not None else "" for name in _FIGURES]
            rows.append([to_cell(str(task.slide)), task.target.name, *shown, to_cell(reason)])
        with Whole(target / SLIDES) as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        if shard is not None:
            weights = {"weights": predictor.fingerprint(), "views": predictor.view_set}
            said = weights | {"options": json.loads(json.dumps(each.settings()))}
            write_note(target, ShardNote("slides", shard, _identity(every), [task.target.name for task in every], said))
        return failed
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        os.close(held)
