"""Which detections of a file can be used on a slide, and why the others cannot."""

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from model.errors import CropError
from model.slides.detections import Detection, Found
from model.slides.pyramid import Pyramid
from model.slides.regions import Region, check_apart

logger = logging.getLogger(__name__)

EMPTY, OUTSIDE, DUPLICATE = "no point", "outside the slide", "duplicate"
OTHER_CLASS, LARGE = "another class", "larger than a figure"
REASONS = (EMPTY, OTHER_CLASS, LARGE, OUTSIDE, DUPLICATE)
"""Why a detection is left out; the first that holds."""

DUPLICATE_UM = 5.0
"""Detections as near to each other, in µm, are taken for the same figure: half a metaphase plate."""

BEYOND = 0.01
"""Share of regions' area outside the slide above which that is said: outlines are often a little larger than it."""

LARGEST_FIGURE_UM = 100.0
"""Width or height, in µm, above which an outline is no mitotic figure but a part of the slide."""


@dataclass(frozen=True)
class LeftOut:
    """A detection that is not classified.

    Attributes:
        number: in its file, counted from 0.
        detection: itself.
        reason: one of `REASONS`.
        detail: more of it, for people.
    """

    number: int
    detection: Detection
    reason: str
    detail: str = ""


@dataclass
class Sifted:
    """What can be used of a file of detections, in pixels of level 0, counted from the corner of the slide.

    Attributes:
        used: number in the file, counted from 0, and detection.
        left_out: the others, in the file's order.
        regions: as asked for; what of them is on the slide.
    """

    used: list[tuple[int, Detection]] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)

    def counts_in(self, detection: Detection) -> bool:
        """Whether a detection lies in the regions; where none were asked for, all do."""
        return not self.regions or any(region.holds(detection.x, detection.y) for region in self.regions)

    def counts(self) -> dict[str, int]:
        """How many were left out for each reason."""
        counted = Counter(out.reason for out in self.left_out)
        return {reason: counted[reason] for reason in REASONS}


def sift(found: Found, pyramid: Pyramid, from_bounds: bool) -> Sifted:
    """Decides which detections can be used on a slide.

    Args:
        found: in a file.
        pyramid: of the slide.
        from_bounds: whether coordinates are counted from the corner of the scanned part.

    Raises:
        CropError: regions that were asked for are outside the slide, or overlap, so their area is unclear.
    """
    left, top = pyramid.origin if from_bounds else (0, 0)
    unit = pyramid.mpp_xy if found.unit == "um" else (1.0, 1.0)
    regions = _on_slide(found.regions, left, top, pyramid)
    check_apart(regions)  # before they are moved: what it says of a place is as in the file
    sifted = Sifted(regions=[region.moved(left, top) for region in regions])
    neighbours = _Neighbours(DUPLICATE_UM / pyramid.mpp)
    for number, detection in enumerate(found.detections):
        size = detection.size / unit[0]
        placed = replace(detection, x=detection.x / unit[0] + left, y=detection.y / unit[1] + top, size=size)
        reason, detail = _unusable(placed, pyramid)
        if not reason and (twin := neighbours.find_or_add(number, placed)) is not None:
            reason, detail = DUPLICATE, f"within {DUPLICATE_UM:.0f} µm of detection {twin}"
        if reason:
            sifted.left_out.append(LeftOut(number, placed, reason, detail))
        else:
            sifted.used.append((number, placed))
    return sifted


def _on_slide(regions: Sequence[Region], left: int, top: int, pyramid: Pyramid) -> list[Region]:
    """What of regions is on the slide, whose corner is `left` and `top` before where they are counted from."""
    clipped = [region.clipped(-left, -top, pyramid.width - left, pyramid.height - top) for region in regions]
    on_slide = [region for region in clipped if region is not None]
    if regions and not on_slide:
        raise CropError(
            f"No region lies on the slide, which has {pyramid.width} x {pyramid.height} pixels; give its own regions, "
            "or look at --origin."
        )
    whole, rest = (sum(region.area() for region in several) for several in (regions, on_slide))
    if rest < (1 - BEYOND) * whole:
        logger.warning(
            "Of the regions %.3g %% lie outside the slide; that is not counted as area.", 100 * (1 - rest / whole)
        )
    return on_slide


def _unusable(detection: Detection, pyramid: Pyramid) -> tuple[str, str]:
    """Reason and detail; empty for a detection that can be used."""
    x, y, size = detection.x, detection.y, detection.size * pyramid.mpp
    if not math.isfinite(x + y):
        return EMPTY, "it has no coordinates that are numbers"
    if not detection.wanted:
        return OTHER_CLASS, detection.classification
    if size > LARGEST_FIGURE_UM:
        return LARGE, f"{size:.0f} µm, more than {LARGEST_FIGURE_UM:.0f}"
    if not (0 <= x < pyramid.width and 0 <= y < pyramid.height):
        return OUTSIDE, f"{x:.0f}, {y:.0f} of {pyramid.width} x {pyramid.height} pixels"
    return "", ""


class _Neighbours:
    """Detections so far, by the square of a grid that they lie in, so that only those nearby are compared."""

    def __init__(self, reach: float) -> None:
        self._reach = reach
        self._squares: dict[tuple[int, int], list[tuple[int, Detection]]] = {}

    def find_or_add(self, number: int, detection: Detection) -> int | None:
        """The number of one within reach; where there is none, the detection is added."""
        column, row = int(detection.x // self._reach), int(detection.y // self._reach)
        for square in ((column + i, row + j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
            for twin, other in self._squares.get(square, ()):
                if math.dist((detection.x, detection.y), (other.x, other.y)) <= self._reach:
                    return twin
        self._squares.setdefault((column, row), []).append((number, detection))
        return None
