"""Areas on a slide, outlined by rings of corners."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from model.errors import CropError

BESIDE = 2.0
"""Pixels by which outlines may overlap across and down, as rounded ones do that are meant to touch."""

SIDES_AT_ONCE = 1 << 20
"""Pairs of a point, or a line, and a side of a ring that are looked at together."""

MOST_MEETINGS = 1 << 21
"""Points in which lines meet sides when regions are compared, about: with very many sides lines are further apart."""


@dataclass(frozen=True)
class Region:
    """A part of a slide, such as a hot spot; `check_apart` says whether its area is clear.

    Attributes:
        rings: (N, 2) float64 each, pixels: the first is the outline, the others are holes.
    """

    rings: Sequence[np.ndarray]

    def area(self) -> float:
        """In square pixels; of outlines that cross themselves it is another than that in which `holds` is true."""
        first, *holes = (abs(ring_area(ring)) for ring in self.rings)
        return first - sum(holes)

    def holds(self, x: float, y: float) -> bool:
        """Whether a point lies in it, by the even-odd rule."""
        return bool(self.hold(np.array([[x, y]]))[0])

    def hold(self, points: np.ndarray) -> np.ndarray:
        """Which of points (N, 2) lie in it: (N,) bool."""
        return np.sum([_crossings(ring, points) for ring in self.rings], axis=0) % 2 == 1

    def moved(self, dx: float, dy: float) -> "Region":
        """The same elsewhere."""
        return Region([ring + np.array((dx, dy)) for ring in self.rings])

    def clipped(self, left: float, top: float, right: float, bottom: float) -> "Region | None":
        """The part within bounds; None where there is none. It holds the same points there, and has their area.

        Sutherland and Hodgman 1974 (Commun ACM 17:32): parts of a ring stay joined by sides along the bounds.
        """
        rings = [_clip(ring, (left, top), (right, bottom)) for ring in self.rings]
        kept = [ring for ring in rings if len(ring)]
        return Region(kept) if len(rings[0]) and ring_area(rings[0]) else None


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


def _clip(ring: np.ndarray, low: Sequence[float], high: Sequence[float]) -> np.ndarray:
    """The part of a ring (N, 2) between two corners of a rectangle: (M, 2), M of 0 where there is none."""
    for axis, bound, sign in ((0, low[0], 1), (1, low[1], 1), (0, high[0], -1), (1, high[1], -1)):
        beyond = (ring[:, axis] - bound) * sign
        inside, to = beyond >= 0, np.roll(ring, -1, axis=0)
        leaves = inside != np.roll(inside, -1)
        share = np.divide(beyond, beyond - np.roll(beyond, -1), out=np.zeros(len(ring)), where=leaves)
        met = ring + share[:, None] * (to - ring)
        met[:, axis] = bound
        ring = np.stack([ring, met], axis=1)[np.stack([inside, leaves], axis=1)]
    return ring


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
    """Checks that every place lies in one region or in none, and that rings go round it once; regions may touch.

    How often rings go round a place, outlines one way and holes the other, is counted along lines a pixel apart. It
    changes at sides alone, so along a line it is exact. Where it is neither 0 nor 1 over more than `BESIDE` pixels, the
    same is looked for down from there. So regions of any shape are told apart but for what rounding does.

    Raises:
        CropError: an outline crosses itself or a hole, or regions overlap, so that their area is unclear.
    """
    if place := _unclear([[region] for region in regions]):
        raise CropError(
            f"The outline of a region crosses or covers itself, or a hole, near x {place[0]:.0f}, y {place[1]:.0f}, so "
            "its area is unclear; draw it again, or give --area-mm2 instead of --region."
        )
    if len(regions) > 1 and (place := _unclear([regions])):
        raise CropError(
            f"The regions overlap near x {place[0]:.0f}, y {place[1]:.0f}, so their area is unclear; merge them, or "
            "give --area-mm2 instead of --region."
        )


@dataclass(frozen=True)
class _Sides:
    """Sides of rings, from their upper end down, without level ones: (N,) each.

    Attributes:
        x, y, end, slope: of the upper end; y of the lower one; pixels to the right for each down.
        turn: by how much crossing it to the right changes how often rings go round, 1 or -1.
        group: those of different groups have nothing to do with each other.
    """

    x: np.ndarray
    y: np.ndarray
    end: np.ndarray
    slope: np.ndarray
    turn: np.ndarray
    group: np.ndarray

    def lines(self) -> int:
        """How many lines, from the first side to the last, meet sides in `MOST_MEETINGS` points; at least one."""
        extent = float(self.end.max() - self.y.min())
        return max(1, int(MOST_MEETINGS * min(1.0, extent / float(np.sum(self.end - self.y)))))


def _sides(groups: Sequence[Sequence[Region]], down: int) -> _Sides:
    """The sides of regions, where axis `down` of corners is taken for y."""
    parts = []
    for number, regions in enumerate(groups):
        for region in regions:
            for nth, ring in enumerate(region.rings):
                rightwards = (ring_area(ring) > 0) == (nth == 0)
                way = -1 if rightwards == (down == 1) else 1  # the other where axes are swapped
                ring = ring[:, [1 - down, down]]
                start, end = ring, np.roll(ring, -1, axis=0)
                falls = (start[:, 1] < end[:, 1])[:, None]
                upper, lower = np.where(falls, start, end), np.where(falls, end, start)
                turn = np.where(falls, way, -way)
                part = np.concatenate([upper, lower, turn, np.full(turn.shape, number)], axis=1)
                parts.append(part[upper[:, 1] < lower[:, 1]])
    x, y, x_end, end, turn, group = np.concatenate(parts).T
    return _Sides(x, y, end, (x_end - x) / (end - y), turn, group)


def _unclear(groups: Sequence[Sequence[Region]]) -> tuple[float, float] | None:
    """A place that rings of a group go round more than once, or backwards, `BESIDE` pixels across and down."""
    if not any(groups):
        return None
    across, down = _sides(groups, down=1), _sides(groups, down=0)
    top, bottom = across.y.min(), across.end.max()
    step = max(BESIDE / 2, (bottom - top) / across.lines())
    rows = np.arange(top + step / 2, bottom, step)
    number, left, right, x = _stretches(across, rows)
    wide = right - left > BESIDE
    x, y = x[wide], rows[number[wide]]
    x, y = (values[:: -(-len(x) // down.lines()) or 1] for values in (x, y))  # of many unclear places some will do
    order = np.argsort(x)
    x, y = x[order], y[order]
    number, above, below, _ = _stretches(down, x)
    found = number[(below - above > BESIDE) & (above <= y[number]) & (y[number] <= below)]
    return (float(x[found[0]]), float(y[found[0]])) if len(found) else None


def _stretches(sides: _Sides, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where, along level lines, rings of a group go round more than once, or backwards.

    Args:
        sides: of the rings.
        rows: y of the lines, ascending.

    Returns:
        For each stretch the number of its line, its left and right end, and the middle of the widest part of it that no
        side crosses: (N,) each. Another part may be where it meets a thin one that lies across, as between four tiles.
    """
    first, last = np.searchsorted(rows, sides.y), np.searchsorted(rows, sides.end)
    steps = np.bincount(first, minlength=len(rows) + 1) - np.bincount(last, minlength=len(rows) + 1)
    met = np.cumsum(np.cumsum(steps))  # points on the lines up to each
    found = [(np.zeros(0, dtype=int), *np.zeros((3, 0)))]
    blocks = np.searchsorted(met, np.arange(0, met[-1], SIDES_AT_ONCE), side="right")
    for begin, stop in pairwise([*blocks.tolist(), len(rows)]):
        start = np.clip(first, begin, stop)
        count = np.clip(last, begin, stop) - start
        side = np.repeat(np.arange(len(count)), count)
        row = np.arange(len(side)) - np.repeat(np.cumsum(count) - count - start, count)
        x = sides.x[side] + (rows[row] - sides.y[side]) * sides.slope[side]
        order = np.lexsort((x, sides.group[side], row))
        x, row, rounds = x[order], row[order], np.cumsum(sides.turn[side[order]])  # 0 where a line, or a group, ends
        unclear = (rounds < 0) | (rounds > 1)
        ends = np.flatnonzero(np.diff(unclear, prepend=False))
        parts = np.flatnonzero(unclear)
        stretch = np.searchsorted(ends, parts, side="right")
        by_width = parts[np.lexsort((x[parts + 1] - x[parts], stretch))]
        widest = by_width[np.flatnonzero(np.diff(stretch, append=-1))]
        found.append((row[ends[::2]], x[ends[::2]], x[ends[1::2]], (x[widest] + x[widest + 1]) / 2))
    number, left, right, middle = (np.concatenate(part) for part in zip(*found, strict=True))
    return number, left, right, middle
