"""The gallery of a page: its rows, what is counted of all of them, and the pictures of those that are shown."""

import heapq
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from tqdm import tqdm

from model.constants import CLASSES, THRESHOLD
from model.report.page import LARGEST, PICTURES, clear_report, legible
from model.report.thumbnails import Thumbnails, overlay

if TYPE_CHECKING:
    from model.report.explain import Explainer

MOST_CROPS = 20_000
"""In the gallery; a browser shows no more within seconds, and a person looks at fewer."""

MOST_EXPLAINED = 60
"""Crops with a map of where the network looked: a page of the gallery. Each takes as long as several answers."""

LARGEST_GALLERY = LARGEST - 1_000_000
"""Bytes of the gallery's crops in the page, with their pictures if these are in it; the rest is for all else."""

BINS = 10
"""Of the histogram, an even number, so that the threshold lies between two of them."""


@dataclass(frozen=True)
class Row:
    """One prediction.

    Attributes:
        number: place among all of the run, from 0.
        name: of the image, or of the detection.
        index: of the crop in the image, from 0.
        place: where the crop is, for people: which of the image, or at which point of the slide.
        called: class.
        probability: P(atypical).
        spread: standard deviation of P(atypical) over the views, in [0, 0.5].
        at: x and y of a figure on a slide, in pixels of level 0.
        warnings: what the run has noted of it.
        counted: whether it is among the figures that are counted.
    """

    number: int
    name: str
    index: int
    place: str
    called: str
    probability: float
    spread: float
    at: tuple[float, float] = (0.0, 0.0)
    warnings: tuple[str, ...] = ()
    counted: bool = True

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


Shown = tuple[Row, np.ndarray | None, list[str]]
"""A row, its crop as the network got it, (H, W, 3) uint8 RGB, or None if it cannot be had, and warnings."""

Read = Callable[[Sequence[Row]], Iterable[Shown]]
"""Reads the crops of rows, which are in the order of their numbers."""


def fill(target: Path, rows: Iterable[Row], read: Read, explainer: "Explainer | None" = None) -> dict[str, Any]:
    """What the templates of histogram and gallery need; an earlier report in the folder is removed.

    Args:
        target: folder of the page.
        rows: all of the run.
        read: is given those that are shown, the most uncertain.
        explainer: None: no maps.

    Raises:
        ReportError: pictures cannot be written.
    """
    summary = Summary()
    shown = heapq.nsmallest(MOST_CROPS, summary.counted(rows), key=lambda row: row.certainty)
    clear_report(target)
    entries = _fitting(_entries(shown, read, Thumbnails(target / PICTURES), explainer))
    return {
        "crops": summary.crops,
        "atypical": summary.atypical,
        "histogram": summary.histogram,
        "tallest": max(1, *summary.histogram),
        "warned": sum(bool(entry["warnings"]) for entry in entries),
        "entries": entries,
        "mapped": sum(bool(entry["map"]) for entry in entries),
        "explained": explainer is not None,
    }


def _entries(
    rows: Sequence[Row], read: Read, pictures: Thumbnails, explainer: "Explainer | None"
) -> list[dict[str, Any]]:
    """What the gallery needs of each row, in their order."""
    warnings: dict[int, list[str]] = {}
    explained = {row.number for row in rows[:MOST_EXPLAINED]} if explainer else set()
    seen = sys.stderr is not None and sys.stderr.isatty()
    with tqdm(total=len(rows), unit="crop", desc="report", leave=False, disable=not seen) as bar:
        for row, crop, said in read(sorted(rows, key=lambda row: row.number)):
            warnings[row.number] = said
            if crop is not None:
                pictures.add(f"{row.number}", crop)
                if explainer is not None and row.number in explained:
                    pictures.add(f"{row.number}-map", overlay(crop, explainer(crop)))
            bar.update()
    return [
        {
            "n": row.number,
            "name": legible(row.name),
            "place": row.place,
            "at": row.at,
            "class": row.called,
            "p": row.probability,
            "spread": row.spread,
            "picture": pictures.address(f"{row.number}"),
            "map": pictures.address(f"{row.number}-map"),
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
