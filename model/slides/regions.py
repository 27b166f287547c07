"""Areas on a slide, outlined by rings of corners."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.errors import CropError


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
        return bool(sum(_crossings(ring, x, y) for ring in self.rings) % 2)

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


def _crossings(ring: np.ndarray, x: float, y: float) -> int:
    """How many sides of a ring a ray from a point to the right crosses."""
    x0, y0 = ring.T
    x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
    cut = (y0 > y) != (y1 > y)
    at = x0[cut] + (y - y0[cut]) / (y1[cut] - y0[cut]) * (x1[cut] - x0[cut])
    return int(np.count_nonzero(at > x))


def check_apart(regions: Sequence[Region]) -> None:
    """Checks that regions do not overlap, as far as their corners show it.

    Raises:
        CropError: they do, so their area is unclear.
    """
    for number, region in enumerate(regions):
        for other in regions[:number]:
            if any(b.holds(*corner) for a, b in ((region, other), (other, region)) for corner in a.rings[0]):
                raise CropError("The regions overlap, so their area is unclear; merge them, or give --area-mm2.")
