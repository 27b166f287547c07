"""What every reader shares: what it returns, how much a file may claim, and how its pages become 8-bit RGB."""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.errors import CropError

logger = logging.getLogger(__name__)

MAX_CROPS = 100_000
MAX_PIXELS_PER_CROP = 1 << 24
MAX_PIXELS = 1 << 27
"""Upper bounds on what one file may ask to be decoded; the last one for pixels of 3 bytes, as 8-bit RGB has them."""

MPP_RANGE = 0.05, 10
"""µm per pixel that a picture of cells may have; 72 to 1200 dots per inch, which programs set unasked, lie above."""

ALPHA_ON_WHITE = "alpha laid on white"


@dataclass(frozen=True)
class Stack:
    """What an image file holds.

    Attributes:
        crops: arrays (H, W, 3), uint8 RGB, in the file's order; at least one.
        mpp: µm per pixel that the file states, where it is plausible; None: unknown.
    """

    crops: list[np.ndarray]
    mpp: float | None = None


def plausible_mpp(x: float, y: float) -> float | None:
    """µm per pixel, from what a file states for x and y; None where neither is a microscope's.

    A format's "unknown" or default (0, 1 of its unit, 72 or 96 dots per inch) is for its reader to convert like any
    other value: in µm, all of them lie outside `MPP_RANGE`. Where one alone is plausible, it is taken for both.

    Raises:
        ValueError: both are plausible, but pixels would not be square.
    """
    sides = [side for side in (x, y) if math.isfinite(side) and MPP_RANGE[0] <= side <= MPP_RANGE[1]]
    if sides and max(sides) > 1.1 * min(sides):
        raise ValueError(f"its pixels are stated to be {x:.4g} µm wide and {y:.4g} µm high, which is not square")
    return sum(sides) / len(sides) if sides else None


def check_size(path: Path, crops: int, pixels: int, bytes_per_pixel: int = 3) -> None:
    """Checks what a header claims: the number of crops, the pixels of the largest, and how much they decode to.

    Raises:
        CropError: it is nothing, or more than is read.
    """
    if crops < 1 or pixels < 1:
        raise CropError(f"{path} holds no crops; export it again.")
    total = crops * pixels * max(3, bytes_per_pixel)
    if crops > MAX_CROPS or pixels > MAX_PIXELS_PER_CROP or total > 3 * MAX_PIXELS:
        raise CropError(f"{path} claims {crops} crops of up to {pixels} pixels, too many to read; give smaller crops.")


def upright(page: np.ndarray, orientation: int) -> np.ndarray:
    """A page (H, W) or (H, W, C) as it is to be seen.

    Args:
        orientation: the tag Orientation of TIFF and Exif: where row 0 and column 0 are, 1 to 8; any other value
            means nothing, as 1 does.
    """
    if orientation in (5, 6, 7, 8):
        page = page.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        page = page[::-1]
    if orientation in (2, 3, 6, 7):
        page = page[:, ::-1]
    return page


def to_rgb(path: Path, pages: Iterable[np.ndarray], changes: set[str] | None = None) -> list[np.ndarray]:
    """Pages of one file as 8-bit RGB, converted one after the other: they may be decoded as they are asked for.

    Args:
        path: the file, for messages.
        pages: arrays (H, W) or (H, W, C): grey, grey and alpha, RGB, or RGB and alpha (not multiplied into the
            colours); uint8, or uint16 that uses the full range: 1 % of the page's values are in the upper half.
        changes: what their reader did to them as it gave them, which is said once with what is done here.

    Returns:
        Arrays (H, W, 3) uint8. Grey is repeated, 65535 becomes 255; what is transparent is laid on white, the colour
        of the slide behind the tissue.

    Raises:
        CropError: other types or channels, or 16 bits of an unknown range, with the number of the page.
    """
    converted = []
    changes = set() if changes is None else changes
    for number, page in enumerate(pages, start=1):
        channels = 1 if page.ndim == 2 else page.shape[2] if page.ndim == 3 else 0
        if channels not in (1, 2, 3, 4) or page.dtype not in (np.uint8, np.uint16):
            raise CropError(
                f"Page {number} of {path} is {page.dtype} with shape {page.shape}; export it as 8-bit RGB crops."
            )
        page = page.reshape(*page.shape[:2], channels)
        colours, alpha = (page[..., :-1], page[..., -1:]) if channels in (2, 4) else (page, None)
        if alpha is not None and alpha.min() == np.iinfo(page.dtype).max:
            changes.add("opaque alpha dropped")
            alpha = None
        if page.dtype == np.uint16:
            seen = colours if alpha is None else colours[alpha[..., 0] > 0]
            if np.count_nonzero(seen >= 1 << 15) * 100 < seen.size:
                raise CropError(
                    f"Page {number} of {path} has 16 bits a channel, but fewer than 1 % of its values are in the upper "
                    "half, so its white is unknown; export it as 8-bit RGB crops."
                )
            changes.add("16 bits to 8")
            colours, alpha = _to_8_bits(colours), None if alpha is None else _to_8_bits(alpha)
        if alpha is not None:
            changes.add(ALPHA_ON_WHITE)
            # 255 - (255 - colour) * alpha / 255, rounded
            colours = 255 - ((255 - colours).astype(np.uint16) * alpha + 127) // 255
            colours = colours.astype(np.uint8)
        if colours.shape[2] == 1:
            changes.add("grey to RGB")
            colours = np.repeat(colours, 3, axis=2)
        converted.append(np.ascontiguousarray(colours))
    if changes:
        logger.info("%s was converted: %s.", path, ", ".join(sorted(changes)))
    return converted


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """uint16 to uint8, rounded: 65535 becomes 255."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
