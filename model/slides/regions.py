"""Areas on a slide, outlined by rings of corners."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.errors import CropError

BESIDE = 2.0
"""Pixels along the middle of a corner by which outlines may overlap, as rounded ones do that are meant to touch."""

SIDES_AT_ONCE = 1 << 20
"""Pairs of a point and a side of a ring that are looked at together."""


@dataclass(frozen=True)
class Region:
    """A part of a slide, such as a hot spot.

    Attributes:
        rings: (N, 2) float64 each, pixels: the first is the outline, the others are holes.
    """

    rings: Sequence[np.ndarray]

    def area(self) -> float:
        """In square pixels."""
        first, *holes = (abs(ring_area(ring)) for ring in self.rings)
        return first - sum(holes)

    def holds(self, x: float, y: float) -> bool:
        """Whether a point lies in it, by the even-odd rule."""
        return bool(self.hold(np.array([[x, y]]))[0])

    def hold(self, points: np.ndarray) -> np.ndarray:
        """Which of points (N, 2) lie in it: (N,) bool."""
        return np.sum([_crossings(ring, points) for ring in self.rings], axis=0) % 2 == 1

    def corners_inside(self) -> np.ndarray:
        """(N, 2): a point beside each corner of the outline, `BESIDE` pixels within; none where it is thinner."""
        corner = self.rings[0]
        before, after = corner - np.roll(corner, 1, axis=0), np.roll(corner, -1, axis=0) - corner
        along = _unit(_unit(before) + _unit(after))
        across = BESIDE * np.stack([-along[:, 1], along[:, 0]], axis=1)  # halves the corner's angle
        beside = np.concatenate([corner + across, corner - across])
        return beside[self.hold(beside)]

    def moved(self, dx: float, dy: float) -> "Region":
        """The same elsewhere."""
        return Region([ring + np.array((dx, dy)) for ring in self.rings])


def ring_area(ring: np.ndarray) -> float:
    """Signed area of a ring (N, 2), by the shoelace formula; it need not be closed."""
    x, y = (ring - ring[0]).T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def ring_centroid(ring: np.ndarray) -> tuple[float, float]:
    """Centre of gravity of the area in a ring (N, 2); of its corners where it has none."""
    x, y = (ring - ring[0]).T
    cross = x * np.roll(y, -1) - y * np.roll(x, -1)
    area = cross.sum() / 2
    if abs(area) < 1e-9:
        return float(ring[:, 0].mean()), float(ring[:, 1].mean())
    across, down = (float(((side + np.roll(side, -1)) * cross).sum() / (6 * area)) for side in (x, y))
    return float(ring[0, 0]) + across, float(ring[0, 1]) + down


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (N, 2) of length 1; those of no length as they are."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros(vectors.shape), where=length > 0)


def _crossings(ring: np.ndarray, points: np.ndarray) -> np.ndarray:
    """How many sides of a ring a ray from each of points (N, 2) to the right crosses: (N,) int."""
    x0, y0 = ring.T
    x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
    slope = np.divide(x1 - x0, y1 - y0, out=np.zeros(len(ring)), where=y1 != y0)
    counts = np.zeros(len(points), dtype=int)
    at_once = max(1, SIDES_AT_ONCE // len(ring))
    for start in range(0, len(points), at_once):
        x, y = points[start : start + at_once, 0, None], points[start : start + at_once, 1, None]
        crossed = ((y0 > y) != (y1 > y)) & (x0 + (y - y0) * slope > x)
        counts[start : start + at_once] = np.count_nonzero(crossed, axis=1)
    return counts


def check_apart(regions: Sequence[Region]) -> None:
    """Checks that regions do not overlap, as far as their corners show it; they may touch.

    Raises:
        CropError: they do, so their area is unclear.
    """
    corners = [region.corners_inside() for region in regions]
    boxes = np.array([(region.rings[0].min(axis=0), region.rings[0].max(axis=0)) for region in regions])
    for number in range(1, len(regions)):
        (low, high), others = boxes[number], boxes[:number]
        near = np.all((others[:, 0] < high) & (low < others[:, 1]), axis=1)
        for other in np.flatnonzero(near).tolist():
            if regions[other].hold(corners[number]).any() or regions[number].hold(corners[other]).any():
                raise CropError("The regions overlap, so their area is unclear; merge them, or give --area-mm2.")
