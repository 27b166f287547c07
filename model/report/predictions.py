"""The page of predictions: how many of each class, how they spread, and the crops to look at, the most uncertain first.

It is made of what a run has written and of its images, which are read again: so the run itself stays as it is, and
memory does not grow with the number of crops.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model.constants import MICROMETRES_PER_PIXEL, REPORT
from model.errors import CropError
from model.images.checks import remark
from model.images.read import read_stack
from model.images.resampling import rescale, resolution
from model.modes.case import CaseDone
from model.modes.grand_challenge import find_stack
from model.modes.tables import FAILURES, PREDICTIONS
from model.modes.writing import read_table
from model.report.gallery import Read, Row, Shown, fill
from model.report.page import ReportError, legible, render, write_page
from model.slides.accuracy import read_accuracy

if TYPE_CHECKING:
    from model.predictor import Predictor
    from model.report.explain import Explainer

MOST_FAILURES = 100
"""In the page."""


def report_folder(
    source: Path, target: Path, mpp: float | None, predictor: "Predictor", explainer: "Explainer | None" = None
) -> Path:
    """Writes the page of a run over a folder.

    Args:
        source: its images.
        target: its tables, and where the page goes.
        mpp: µm per pixel of all images, None for what they state; as the run was told.
        predictor: that made the tables.
        explainer: of the same weights; None: no maps of where the network looked.

    Returns:
        Path of the page.

    Raises:
        ReportError: it cannot be written.
    """

    def crops_of(name: str) -> tuple[list[np.ndarray], list[str]]:
        stack = read_stack(source / name)
        scale = resolution(mpp, stack.mpp)
        if scale == MICROMETRES_PER_PIXEL:
            return stack.crops, []
        return [rescale(crop, scale) for crop in stack.crops], [f"rescaled from {scale:.3g} µm per pixel"]

    def read(rows: Sequence[Row]) -> Iterator[Shown]:
        for name, group in groupby(rows, key=lambda row: row.name):
            try:
                with _quiet():
                    crops, of_all = crops_of(name)
            except (CropError, OSError):  # which was read a moment ago: it was removed or changed since
                crops, of_all = [], ["the image could not be read again"]
            yield from _with_remarks(group, crops, of_all)

    try:
        failed = sum(1 for _ in read_table(target / FAILURES))
        first = islice(read_table(target / FAILURES), MOST_FAILURES)
        failures = [(legible(row["file"]), legible(row["reason"])) for row in first]
        about = describe(str(source), predictor) | {"failed": failed, "failures": failures} | _errors(predictor)
        return _write(target, _rows(target), read, about, explainer)
    except OSError as error:
        raise ReportError(f"The tables in {target} cannot be read ({error.strerror}); run again.") from error


def report_case(
    input_folder: Path, done: CaseDone, predictor: "Predictor", explainer: "Explainer | None" = None
) -> Path:
    """Writes the page of one case beside its result.

    Args:
        input_folder: what the platform mounts as `/input`.
        done: what became of it.
        predictor: that did it.
        explainer: of the same weights; None: no maps of where the network looked.

    Returns:
        Path of the page.

    Raises:
        ReportError: it cannot be written.
    """
    stack = find_stack(input_folder)

    def read(rows: Sequence[Row]) -> Iterator[Shown]:
        with _quiet():
            crops = read_stack(stack).crops
        yield from _with_remarks(rows, crops, [])

    rows = (
        Row(number, stack.name, number, f"crop {number + 1}", entry["class"], entry["confidence"], spread)
        for number, (entry, spread) in enumerate(zip(done.entries, done.spreads, strict=True))
    )
    about = describe(str(stack), predictor) | {"failed": None, "failures": []} | _errors(predictor)
    return _write(done.path.parent, rows, read, about, explainer)


def describe(source: str, predictor: "Predictor") -> dict[str, Any]:
    """What a page says of where its predictions come from."""
    config = predictor.config
    return {
        "title": "Atypical and normal mitotic figures",
        "source": legible(source),
        "weights": f"{config.name} {config.version}",
        "views": predictor.view_count,
        "device": "the CPU" if predictor.device.type == "cpu" else "the GPU",
    }


def _errors(predictor: "Predictor") -> dict[str, Any]:
    """How often the classifier errs, where its weights tell."""
    return {"accuracy": read_accuracy(predictor.folder, predictor.view_set, "the page does without")}


def _rows(target: Path) -> Iterator[Row]:
    """The rows of a folder's table."""
    for number, row in enumerate(read_table(target / PREDICTIONS)):
        index, confidence, spread = int(row["index"]), float(row["confidence"]), float(row["view_spread"])
        yield Row(number, row["file"], index, f"crop {index + 1}", row["class"], confidence, spread)


def _with_remarks(rows: Iterable[Row], crops: Sequence[np.ndarray], of_all: Sequence[str]) -> Iterator[Shown]:
    """Rows with those of an image's crops that they are of, and warnings: what holds for all, and what is odd."""
    for row in rows:
        crop = crops[row.index] if row.index < len(crops) else None
        found = None if crop is None else remark(crop)
        yield row, crop, [*of_all, found] if found else list(of_all)


def _write(target: Path, rows: Iterable[Row], read: Read, about: dict[str, Any], explainer: "Explainer | None") -> Path:
    """Writes the page of some predictions; `about` has what the template needs besides."""
    content = about | fill(target, rows, read, explainer)
    path = target / REPORT
    write_page(path, render("predictions.html", content))
    return path


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
