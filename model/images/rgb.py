"""What every reader shares: how large a file may be, and how its pages become 8-bit RGB."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.errors import CropError

logger = logging.getLogger(__name__)

MAX_BYTES = 1 << 30
MAX_CROPS = 100_000
MAX_PIXELS_PER_CROP = 1 << 24
MAX_PIXELS = 1 << 28
"""Upper bounds on what one file may be, and may ask to be decoded."""


def check_size(path: Path, crops: int, pixels: int) -> None:
    """Checks what a header claims: the number of crops and the pixels of the largest.

    Raises:
        CropError: it is nothing, or more than is read.
    """
    if crops < 1 or pixels < 1:
        raise CropError(f"{path} holds no crops; export it again.")
    if crops > MAX_CROPS or pixels > MAX_PIXELS_PER_CROP or crops * pixels > MAX_PIXELS:
        raise CropError(f"{path} claims {crops} crops of up to {pixels} pixels, too many to read; give smaller crops.")


def to_rgb(path: Path, pages: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Pages of one file as 8-bit RGB.

    Args:
        path: the file, for messages.
        pages: arrays (H, W) or (H, W, C): grey, grey and alpha, RGB, or RGB and alpha; uint8, or uint16 that uses the
            full range (its brightest value in the file is in the upper half).

    Returns:
        Arrays (H, W, 3) uint8. Alpha is dropped, grey repeated, 65535 becomes 255.

    Raises:
        CropError: other types or channels, with the number of the page.
    """
    converted, changes = [], set()
    brightest = max((int(page.max(initial=0)) for page in pages if page.dtype == np.uint16), default=0)
    for number, page in enumerate(pages, start=1):
        channels = 1 if page.ndim == 2 else page.shape[2] if page.ndim == 3 else 0
        if channels not in (1, 2, 3, 4) or page.dtype not in (np.uint8, np.uint16):
            raise CropError(
                f"Page {number} of {path} is {page.dtype} with shape {page.shape}; export it as 8-bit RGB crops."
            )
        if page.dtype == np.uint16:
            if brightest < 1 << 15:
                raise CropError(
                    f"{path} has 16 bits a channel but no value above {brightest}, so its white is unknown; export it "
                    "as 8-bit RGB crops."
                )
            changes.add("16 bits to 8")
            page = ((page.astype(np.uint32) + 128) // 257).astype(np.uint8)
        page = page.reshape(*page.shape[:2], channels)
        if channels in (2, 4):
            changes.add("alpha dropped")
            page = page[..., : channels - 1]
        if page.shape[2] == 1:
            changes.add("grey to RGB")
            page = np.repeat(page, 3, axis=2)
        converted.append(np.ascontiguousarray(page))
    if changes:
        logger.info("%s was converted: %s.", path, ", ".join(sorted(changes)))
    return converted
