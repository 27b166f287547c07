"""Crops around points on a slide, and the slide in small, read in child processes; and, run as a program, that child.

Slides are decoded by libraries in C, which believe much of what a file says: here a crash costs one crop and one
sentence. Each thread that asks has a child of its own, which keeps the slide open.
"""

import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model.errors import CropError
from model.images.child import Answer, Child, ChildDied, answer_questions, grant
from model.slides.overview import draw
from model.slides.pyramid import Pyramid

if TYPE_CHECKING:  # the libraries that decode are the child's
    from model.slides.pixels import Pixels

MEMORY = 1 << 31
"""Bytes that a slide may take to open and to decode."""

SECONDS = 60
"""Processor time that a slide may take to open, or a crop to be read."""

PATIENCE = 600
"""Seconds on the clock, after which a child is given up: a slide may lie on a slow network."""

SAVED_SIDE = 128
"""Pixels of 0.25 µm a side of a crop, or the network's field of view where that is larger."""


@dataclass(frozen=True)
class Crop:
    """The surroundings of a point.

    Attributes:
        pixels: (S, S, 3) uint8 RGB at 0.25 µm per pixel, the point in the middle; black where the slide has nothing, as
            the crops of AMi-Br and AtNorM-MD are at the edges of their images.
        padded: share of it that is black for that reason, from 0 to 1.
    """

    pixels: np.ndarray
    padded: float


class SlideReader:
    """A slide that several threads may read at once; a context manager.

    Args:
        path: of the slide.
        mpp: µm per pixel of level 0; None: what the slide states.
        field: side of what the network looks at, in pixels of 0.25 µm; crops have `SAVED_SIDE`, or this where it is
            more.

    Raises:
        CropError: it cannot be read as a slide, or its µm per pixel are unknown.
    """

    def __init__(self, path: Path, mpp: float | None, field: int = SAVED_SIDE) -> None:
        self.path, self.mpp, self.side = path, mpp, max(SAVED_SIDE, field)
        self._lock = threading.Lock()
        self._idle: list[Child] = []
        try:
            answer, _ = self._ask({})
        except CropError:
            self.close()
            raise
        self.pyramid = Pyramid(**answer)

    def __enter__(self) -> "SlideReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the children, none of which reads."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def read(self, x: float, y: float) -> Crop:
        """The crop around a point, in pixels of level 0.

        Raises:
            CropError: the slide has no pixels there, or they cannot be decoded.
        """
        answer, crops = self._ask({"x": float(x), "y": float(y), "side": self.side})
        return Crop(crops[0], answer["padded"])

    def overview(self, longest: int) -> np.ndarray:
        """The whole slide in small, (H, W, 3) uint8 RGB, with at most `longest` pixels a side.

        Raises:
            CropError: no level of the slide is small enough to be read as a whole, or it cannot be decoded.
        """
        return self._ask({"longest": longest})[1][0]

    def _ask(self, question: dict[str, Any]) -> Answer:
        with self._lock:
            child = self._idle.pop() if self._idle else None
        child = child or Child("model.slides.reader")
        try:
            return child.ask({"path": str(self.path), "mpp": self.mpp} | question, PATIENCE)
        except ChildDied as error:
            raise CropError(f"{self.path} cannot be decoded: {error}; copy or scan it again.") from error
        finally:
            if child.alive():
                with self._lock:
                    self._idle.append(child)


@lru_cache(maxsize=1)
def _opened(path: Path, mpp: float | None) -> "tuple[Pixels, Pyramid]":
    from model.slides.pixels import open_pixels

    pixels = open_pixels(path)
    return pixels, pixels.pyramid.checked(path, mpp)


def _answer(question: dict[str, Any]) -> Answer:
    grant(SECONDS, MEMORY)
    path = Path(question["path"])
    try:
        pixels, pyramid = _opened(path, question["mpp"])
        if "longest" in question:
            return {}, [draw(path, pixels, pyramid, question["longest"])]
        if "x" not in question:
            return vars(pyramid), []
        crop = cut(path, pixels, pyramid, (question["x"], question["y"], question["side"]))
    except MemoryError as error:
        raise CropError(f"{path} takes too much memory to decode; export it with tiles.") from error
    return {"padded": crop.padded}, [crop.pixels]


def cut(path: Path, pixels: "Pixels", pyramid: Pyramid, where: tuple[float, float, int]) -> Crop:
    """A crop of a slide.

    Args:
        path: for messages.
        pixels: of the slide.
        pyramid: of the slide, with what the user said.
        where: x and y of its middle, in pixels of level 0, and its side, in pixels of 0.25 µm.

    Raises:
        CropError: the slide has no pixels there, or they cannot be decoded.
    """
    from model.images.resampling import rescale

    x, y, side = where
    square = pyramid.square(x, y, side)
    found, there = pixels.read(square)
    if not there[square.side // 2, square.side // 2]:
        raise CropError(f"{path} has no pixels at {x:.0f}, {y:.0f}; scan it there, or leave the detection out.")
    found[~there] = 0
    _, mpp = pyramid.level()
    return Crop(_middle(rescale(found, mpp), side), round(1 - float(there.mean()), 4))


def _middle(crop: np.ndarray, side: int) -> np.ndarray:
    top, left = (crop.shape[0] - side) // 2, (crop.shape[1] - side) // 2
    return crop[top : top + side, left : left + side]


def serve() -> None:
    """What the child does until its standard input ends."""
    # The libraries first: what they take is not the slide's memory.
    import model.slides.openslide_pixels
    import model.slides.plain_pixels  # noqa: F401

    answer_questions(_answer)


if __name__ == "__main__":
    serve()
