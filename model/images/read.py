"""Which reader an image file is for: every page of a TIFF or MHA stack, or a single PNG or JPEG, as 8-bit RGB arrays.

What is not 8-bit RGB but has one obvious meaning (grey, palette, an alpha channel, separate colour planes, 16 bits used
to the full) is converted and the conversion logged; anything else is refused. What a header claims is bounded before
any pixel is decoded, and what was decoded must be what was claimed. Crops that are blank, or no H&E, are warned of.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from model.errors import CropError
from model.images.checks import remarks
from model.images.file import open_image
from model.images.rgb import Stack

logger = logging.getLogger(__name__)

SUFFIXES = (".tif", ".tiff", ".mha", ".png", ".jpg", ".jpeg")


def read_crops(path: Path) -> list[np.ndarray]:
    """The crops alone of `read_stack`."""
    return read_stack(path).crops


def read_stack(path: Path) -> Stack:
    """Reads every crop of an image file, and warns of those that no answer means anything for.

    Args:
        path: a TIFF (`.tif`, `.tiff`: one crop a page), an MHA (`.mha`: one crop a slice), a PNG or a JPEG.

    Raises:
        CropError: the file cannot be read, is damaged or too large, or does not hold crops of an obvious meaning.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise CropError(f"{path} has no known image suffix; give one of {', '.join(SUFFIXES)}.")
    open_image(path).close()
    stack = _reader(suffix)(path)
    for remark in remarks(stack.crops):
        logger.warning("%s: %s; the confidence says nothing there.", path, remark)
    return stack


def _reader(suffix: str) -> Callable[[Path], Stack]:
    """Each reader brings libraries of its own, which take time to import."""
    if suffix in (".tif", ".tiff"):
        from model.images.tiff import read_tiff

        return read_tiff
    if suffix == ".mha":
        from model.images.mha import read_mha

        return read_mha
    from model.images.picture import read_picture

    return read_picture
