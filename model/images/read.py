"""Which reader an image file is for: every page of a TIFF or MHA stack, or a single PNG or JPEG, as 8-bit RGB arrays.

What is not 8-bit RGB but has one obvious meaning (grey, palette, an alpha channel, separate colour planes, 16 bits used
to the full) is converted and the conversion logged; anything else is refused. What a header claims is bounded before
any pixel is decoded, and what was decoded must be what was claimed.
"""

from pathlib import Path

import numpy as np

from model.errors import CropError
from model.images.decode import SUFFIXES, TIFF_SUFFIXES, decode
from model.images.file import open_image
from model.images.rgb import Stack
from model.images.tiff_directories import is_plain
from model.images.worker import read_apart


def read_crops(path: Path) -> list[np.ndarray]:
    """The crops alone of `read_stack`."""
    return read_stack(path).crops


def read_stack(path: Path) -> Stack:
    """Reads every crop of an image file.

    Formats that libraries in C decode are decoded in another process (`model.images.worker`).

    Args:
        path: a TIFF (`.tif`, `.tiff`: one crop a page), an MHA (`.mha`: one crop a slice), a PNG or a JPEG.

    Raises:
        CropError: the file cannot be read, is damaged or too large, or does not hold crops of an obvious meaning.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise CropError(f"{path} has no known image suffix; give one of {', '.join(SUFFIXES)}.")
    with open_image(path) as file:
        plain = suffix == ".mha" or (suffix in TIFF_SUFFIXES and is_plain(file))
    return decode(path) if plain else read_apart(path)
