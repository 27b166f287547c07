"""The pixels of a slide, square by square: formats of scanners through OpenSlide, plain TIFFs through tifffile.

Imported by the child process of `model.slides.reader` alone: a decoder that crashes costs a sentence there.
"""

from pathlib import Path
from typing import Protocol

import numpy as np
from openslide import OpenSlide

from model.errors import CropError
from model.files import open_regular
from model.slides.openslide_pixels import OpenSlidePixels
from model.slides.plain_pixels import PlainPixels
from model.slides.pyramid import Pyramid, Square


class Pixels(Protocol):
    """What each kind of file offers."""

    pyramid: Pyramid

    def read(self, square: Square) -> tuple[np.ndarray, np.ndarray]:
        """The pixels of a square.

        Returns:
            (S, S, 3) uint8 RGB, and (S, S) bool, where the file has pixels; elsewhere they are anything.

        Raises:
            CropError: they are damaged or missing.
        """


def open_pixels(path: Path) -> Pixels:
    """Opens a slide; what it is, is recognised by its content.

    Raises:
        CropError: it is no slide that can be read.
    """
    try:
        with open_regular(path) as file:  # OpenSlide opens by name, and would wait for a pipe
            start = file.read(4)
    except OSError as error:
        raise CropError(f"{path} cannot be opened: {error.strerror}; give a readable slide.") from error
    vendor = OpenSlide.detect_format(path)
    if vendor == "generic-tiff":  # tiles in a TIFF that no scanner wrote
        try:
            return OpenSlidePixels(path)
        except CropError:
            return PlainPixels(path)
    if vendor is not None:
        return OpenSlidePixels(path)
    if start[:2] in (b"II", b"MM"):
        return PlainPixels(path)
    raise CropError(f"{path} is no slide that OpenSlide knows, and no TIFF; export it as SVS or tiled TIFF.")
