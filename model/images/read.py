"""Which reader an image file is for: every page of a TIFF or MHA stack, or a single PNG or JPEG, as 8-bit RGB arrays.

What is not 8-bit RGB but has one obvious meaning (grey, palette, an alpha channel, separate colour planes, 16 bits used
to the full) is converted and the conversion logged; anything else is refused. Sizes are taken from the header and
checked before any pixel is decoded.
"""

from pathlib import Path

import numpy as np

from model.errors import CropError
from model.images.file import open_image
from model.images.rgb import Stack

SUFFIXES = (".tif", ".tiff", ".mha", ".png", ".jpg", ".jpeg")


def read_crops(path: Path) -> list[np.ndarray]:
    """The crops alone of `read_stack`."""
    return read_stack(path).crops


def read_stack(path: Path) -> Stack:
    """Reads every crop of an image file.

    Args:
        path: a TIFF (`.tif`, `.tiff`: one crop a page), an MHA (`.mha`: one crop a slice), a PNG or a JPEG.

    Raises:
        CropError: the file cannot be read, is damaged or too large, or does not hold crops of an obvious meaning.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise CropError(f"{path} has no known image suffix; give one of {', '.join(SUFFIXES)}.")
    open_image(path).close()
    # Each reader brings libraries of its own, which take time to import.
    if suffix in (".tif", ".tiff"):
        from model.images.tiff import read_tiff

        return read_tiff(path)
    if suffix == ".mha":
        from model.images.mha import read_mha

        return read_mha(path)
    from model.images.picture import read_picture

    return read_picture(path)
