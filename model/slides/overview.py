"""A small picture of a whole slide, put together from squares of one of its levels, each made smaller."""

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from model.errors import CropError
from model.slides.pyramid import Pyramid, Square

if TYPE_CHECKING:  # the libraries that decode are the child's
    from model.slides.pixels import Pixels

MOST_PIXELS = 100_000_000
"""Of the level that is read: seconds of decoding."""

SQUARE = 1024
"""Pixels a side that are held at once, of the level that is read."""

EMPTY = 255
"""Where the slide has nothing: as bright as glass."""


def level_of(pyramid: Pyramid, longest: int) -> int | None:
    """The coarsest level whose longer side is at least `longest` pixels, or else the finest that is small enough.

    None where all levels that are not too coarse have more than `MOST_PIXELS`, and no coarser one is there.
    """
    sizes = {level: (pyramid.width / step, pyramid.height / step) for level, step in enumerate(pyramid.downsamples)}
    readable = {level: size for level, size in sizes.items() if size[0] * size[1] <= MOST_PIXELS}
    fine = [level for level, size in readable.items() if max(size) >= longest]
    if fine:
        return min(fine, key=lambda level: sizes[level][0])
    return max(readable, key=lambda level: sizes[level][0], default=None)


def draw(path: Path, pixels: "Pixels", pyramid: Pyramid, longest: int) -> np.ndarray:
    """The slide in small.

    Args:
        path: for messages.
        pixels: of the slide.
        pyramid: of the slide.
        longest: pixels of the picture's longer side, at most.

    Returns:
        (H, W, 3) uint8 RGB: a pixel is a whole number of pixels of a level wide.

    Raises:
        CropError: no level is small enough to be read as a whole, or it cannot be decoded.
    """
    level = level_of(pyramid, longest)
    if level is None:
        raise CropError(f"{path} has no level that is small enough for a picture of the whole slide.")
    step = pyramid.downsamples[level]
    width, height = (max(1, round(side / step)) for side in (pyramid.width, pyramid.height))
    factor = -(-max(width, height) // longest)
    side = max(1, SQUARE // factor) * factor
    small = np.full((-(-height // factor), -(-width // factor), 3), EMPTY, dtype=np.uint8)
    for top in range(0, height, side):
        for left in range(0, width, side):
            found, there = pixels.read(Square(level, left, top, side))
            found[~there] = EMPTY
            reduced = cv2.resize(found, (side // factor, side // factor), interpolation=cv2.INTER_AREA)
            part = small[top // factor : (top + side) // factor, left // factor : (left + side) // factor]
            part[:] = reduced[: part.shape[0], : part.shape[1]]
    return small
