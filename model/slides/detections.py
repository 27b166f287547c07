"""Detections on a slide: what one is, and what a file of them says."""

from collections.abc import Sequence
from dataclasses import dataclass

from model.slides.regions import Region

MOST_DETECTIONS = 1 << 20

FINITE = 1e9
"""No coordinate is as large: slides have up to some 300,000 pixels a side."""


@dataclass(frozen=True)
class Detection:
    """A point that somebody, or something, took for a mitotic figure.

    Attributes:
        x, y: of its middle; NaN where it has none. Which unit and origin they have, `Found` tells.
        id: that it has in its file; empty where it has none.
        name: that a person gave it.
        kind: QuPath's type of object, `annotation` or `detection`.
        classification: of its file, such as "Mitotic figure".
        size: the larger of width and height of its outline; 0 for a point.
        wanted: whether it is of a class that was asked for.
    """

    x: float
    y: float
    id: str = ""
    name: str = ""
    kind: str = "annotation"
    classification: str = ""
    size: float = 0.0
    wanted: bool = True


@dataclass(frozen=True)
class Found:
    """What a file of detections holds.

    Attributes:
        format: what the file is.
        detections: in the file's order.
        regions: those that were asked for.
        unit: of the coordinates, `px` (of level 0) or `um`.
        from_qupath: whether QuPath wrote it, which counts from the corner of the scanned part.
    """

    format: str
    detections: Sequence[Detection]
    regions: Sequence[Region] = ()
    unit: str = "px"
    from_qupath: bool = False
