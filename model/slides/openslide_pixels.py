"""Slides as scanners write them, through OpenSlide: SVS, NDPI, MRXS, SCN, BIF, DICOM, tiled TIFF and others."""

import math
from pathlib import Path

import numpy as np
from openslide import OpenSlide, OpenSlideError

from model.errors import CropError, whole_reason
from model.slides.pyramid import Pyramid, Square


class OpenSlidePixels:
    """A slide that OpenSlide opens.

    Raises:
        CropError: it does not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open()
        properties = self._slide.properties
        width, height = self._slide.dimensions
        self.pyramid = Pyramid(
            properties.get("openslide.vendor", "unknown"),
            width,
            height,
            self._slide.level_downsamples,
            (_number(properties.get("openslide.mpp-x")), _number(properties.get("openslide.mpp-y"))),
            (int(_number(properties.get("openslide.bounds-x"))), int(_number(properties.get("openslide.bounds-y")))),
            properties.get("openslide.objective-power", ""),
        )

    def _open(self) -> None:
        try:
            self._slide = OpenSlide(self.path)
        except (OpenSlideError, OSError, ValueError) as error:
            raise CropError(
                f"{self.path} cannot be opened as a slide ({whole_reason(error)}); copy it again."
            ) from error

    def read(self, square: Square) -> tuple[np.ndarray, np.ndarray]:
        """See `model.slides.pixels.Pixels`."""
        step = self.pyramid.downsamples[square.level]
        corner = round(square.left * step), round(square.top * step)
        try:
            picture = self._slide.read_region(corner, square.level, (square.side, square.side))
        except (OpenSlideError, ValueError) as error:
            self._slide.close()  # after an error OpenSlide answers nothing else
            self._open()
            raise CropError(f"{self.path} is damaged there ({whole_reason(error)}); copy or scan it again.") from error
        pixels = np.asarray(picture)  # RGBA, transparent where the slide has nothing
        return np.ascontiguousarray(pixels[..., :3]), pixels[..., 3] >= 128


def _number(text: str | None) -> float:
    """A property that is a number; 0 where it is missing or none."""
    try:
        number = float(text or 0)
    except ValueError:
        return 0.0
    return number if math.isfinite(number) else 0.0
