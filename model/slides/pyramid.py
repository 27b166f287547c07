"""What a slide says of itself: its levels and its resolution; and which square of which level a crop is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from model.constants import MICROMETRES_PER_PIXEL
from model.errors import CropError
from model.images.resampling import resolution

MPP_OF_SLIDES = 0.05, 1.0
"""µm per pixel that level 0 of a slide may state: scanners have 0.1 to 0.5, and mitoses are not told apart above 1."""

MAX_SIDE = 1 << 24
"""Pixels a side; the largest scans have some 300,000."""


@dataclass(frozen=True)
class Square:
    """A part of a level.

    Attributes:
        level: 0 is the finest.
        left, top: of its first pixel, in the level's pixels; may lie outside.
        side: in the level's pixels.
    """

    level: int
    left: int
    top: int
    side: int


@dataclass(frozen=True)
class Pyramid:
    """A slide's levels.

    Attributes:
        format: who wrote it, as OpenSlide names it, or `plain TIFF`.
        width, height: of level 0, in pixels.
        downsamples: pixels of level 0 that a pixel of each level is wide, 1 for level 0.
        stated: µm per pixel of level 0, in x and y; 0 where it is not stated.
        origin: left and top of the scanned part, in pixels of level 0: where QuPath counts from.
        power: of the objective, as stated; empty where it is not.
        said: µm per pixel of level 0 that the user says it has; None: what it states.
    """

    format: str
    width: int
    height: int
    downsamples: Sequence[float] = (1.0,)
    stated: tuple[float, float] = (0.0, 0.0)
    origin: tuple[int, int] = (0, 0)
    power: str = ""
    said: float | None = None

    @property
    def mpp(self) -> float:
        """µm per pixel of level 0."""
        return sum(self.mpp_xy) / 2

    @property
    def mpp_xy(self) -> tuple[float, float]:
        """µm per pixel of level 0 in x and in y."""
        return self.stated if self.said is None else (self.said, self.said)

    def checked(self, path: Path, said: float | None) -> "Pyramid":
        """The same with what the user says.

        Raises:
            CropError: sizes that cannot be; or nothing plausible is stated, and nothing said.
        """
        sides = (self.width, self.height)
        usable = self.downsamples and all(math.isfinite(step) and 1 <= step <= MAX_SIDE for step in self.downsamples)
        if not usable or not all(0 < side <= MAX_SIDE for side in sides):
            raise CropError(f"{path} claims {self.width} x {self.height} pixels, which cannot be; export it again.")
        low, high = MPP_OF_SLIDES
        if said is None:
            hint = "say --mpp"
            if self.power in ("10", "20", "40", "60", "80"):  # magnification times µm per pixel is 10, nearly
                hint += f" (its objective of {self.power}x suggests {10 / float(self.power):.3g})"
            if not any(self.stated):
                raise CropError(f"{path} does not state its µm per pixel; {hint}.")
            if not all(low <= side <= high for side in self.stated) or max(self.stated) > 1.1 * min(self.stated):
                x, y = self.stated
                raise CropError(f"{path} states {x:.4g} x {y:.4g} µm per pixel, which is not plausible; {hint}.")
        return replace(self, said=said)

    def level(self) -> tuple[int, float]:
        """The level that crops are read at, and its µm per pixel as crops are resampled from.

        It is the coarsest one that is as fine as 0.25 µm, to a tenth, or level 0 where none is.
        """
        fine = [n for n, step in enumerate(self.downsamples) if self.mpp * step <= 1.1 * MICROMETRES_PER_PIXEL]
        level = max(fine, key=lambda n: self.downsamples[n], default=0)
        mpp = self.mpp * self.downsamples[level]
        return level, resolution(mpp if self.said is not None else None, mpp)

    def square(self, x: float, y: float, side: int) -> Square:
        """What a crop is read from.

        Args:
            x, y: of its middle, in pixels of level 0.
            side: of the crop, in pixels of 0.25 µm; the square is as large or a little larger.
        """
        level, mpp = self.level()
        step, raw = self.downsamples[level], math.ceil(side * MICROMETRES_PER_PIXEL / mpp - 1e-6)
        left, top = (math.floor(middle / step - raw / 2 + 0.5) for middle in (x, y))
        return Square(level, left, top, raw)
