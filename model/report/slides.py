"""The page of several slides: a row for each, with a link to its own page."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.constants import REPORT
from model.errors import CropError, one_line
from model.modes.slide_list import SLIDES
from model.modes.slide_options import SlideTask
from model.modes.slide_tables import SUMMARY
from model.modes.writing import read_table
from model.report.page import ReportError, legible, render, write_page
from model.report.predictions import describe
from model.report.slide import report_slide

if TYPE_CHECKING:
    from model.predictor import Predictor
    from model.report.explain import Explainer

logger = logging.getLogger(__name__)

MOST_ROWS = 1000
"""Slides on the page: with the longest names and reasons that are shown they still have fewer than 5 MB."""


def report_slides(
    tasks: Sequence[SlideTask], target: Path, predictor: "Predictor", explainer: "Explainer | None" = None
) -> Path:
    """Writes the page of each slide that has results, and that of all beside the table of slides.

    Args:
        tasks: as the run was given them.
        target: folder of the table of slides.
        predictor: that made the tables.
        explainer: of the same weights; None: no maps of where the network looked.

    Returns:
        Path of the page of all.

    Raises:
        ReportError: a page cannot be written, or a table not be read.
    """
    pages = {}
    for task in tasks:
        if (task.target / SUMMARY).exists():
            try:
                page = report_slide(task, predictor, explainer)
                pages[task.target.name] = f"{task.target.name}/{page.name}"
            except CropError as error:  # the slide is gone; its figures are in the table
                logger.warning("%s has no page: %s", task.slide, one_line(error))
    try:
        rows = [_row(row, pages) for row in read_table(target / SLIDES)]
    except (OSError, KeyError, ValueError) as error:
        raise ReportError(f"{target / SLIDES} cannot be read or was altered; run again.") from error
    path = target / REPORT
    content = {"rows": rows[:MOST_ROWS], "count": len(rows), "failed": sum(bool(row["failure"]) for row in rows)}
    write_page(path, render("slides.html", describe(str(target / SLIDES), predictor) | content))
    return path


def _row(row: dict[str, str], pages: dict[str, str]) -> dict[str, Any]:
    """A slide as the template shows it."""
    numbers = {
        name: json.loads(cell) for name, cell in row.items() if cell and name not in ("slide", "folder", "failure")
    }
    name = legible(Path(row["slide"]).name)
    return {"name": name, "page": pages.get(row["folder"], ""), "failure": legible(row["failure"]), "found": numbers}
