"""Small pictures of crops: in the page while they fit, in files beside it where there are too many.

They are WebP: small, read by every browser, and, other than JPEG and PNG, never taken for crops by a later run.
"""

from pathlib import Path

import cv2
import numpy as np

from model.report.page import ReportError, data_uri
from model.slides.output import CLASSIFICATIONS

SIDE = 128
"""Pixels of the longer side, at most."""

QUALITY = 75

INLINE = 2_500_000
"""Bytes of all pictures, encoded, up to which they are in the page."""

ATYPICAL, NORMAL = (np.array(CLASSIFICATIONS[name]["color"], dtype=np.float32) for name in ("atypical", "normal"))
"""RGB, as QuPath shows the classes."""

OPACITY = 0.75
"""Of the colour where a map is strongest."""


def encode(picture: np.ndarray, side: int = SIDE) -> bytes:
    """A picture (H, W, 3), uint8 RGB, as WebP of at most `side` pixels a side."""
    height, width = picture.shape[:2]
    factor = min(1, side / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA) if factor < 1 else picture
    done, content = cv2.imencode(".webp", np.ascontiguousarray(small[..., ::-1]), [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    assert done, "OpenCV has an encoder of WebP, and every size here is one that it takes"
    return content.tobytes()


def overlay(crop: np.ndarray, attribution: np.ndarray) -> np.ndarray:
    """A crop in light grey with a map over it: where it speaks for atypical, and where for normal.

    Args:
        crop: (H, W, 3) uint8 RGB.
        attribution: (H, W), above 0 for atypical; its largest value, either way, gets the full colour.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None].repeat(3, axis=2) * 0.6 + 255 * 0.4
    strength = attribution / max(float(np.abs(attribution).max()), 1e-12)
    share = OPACITY * np.abs(strength)[..., None]
    colour = np.where(strength[..., None] > 0, ATYPICAL, NORMAL)
    return np.rint(grey * (1 - share) + colour * share).astype(np.uint8)


class Thumbnails:
    """The pictures of one page, added one by one.

    Args:
        folder: where the files go if there must be any; made then. It is beside the page.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: set[str] = set()
        self._held: dict[str, bytes] | None = {}
        self._size = 0

    def add(self, name: str, picture: np.ndarray) -> None:
        """Adds a picture (H, W, 3), uint8 RGB, under a name of its own: a number, and what else it shows of it.

        Raises:
            ReportError: a file cannot be written.
        """
        content = encode(picture)
        self._names.add(name)
        if self._held is None:
            self._write(name, content)
            return
        self._held[name] = content
        self._size += len(content) * 4 // 3
        if self._size > INLINE:
            held, self._held = self._held, None
            for earlier, other in held.items():
                self._write(earlier, other)

    def address(self, name: str) -> str:
        """What the page calls a picture, once all were added: its content, or its file; empty where there is none."""
        if name not in self._names:
            return ""
        if self._held is None:
            return f"{self.folder.name}/{name}.webp"
        return data_uri(self._held[name], "image/webp")

    def _write(self, name: str, content: bytes) -> None:
        path = self.folder / f"{name}.webp"
        try:
            self.folder.mkdir(exist_ok=True)
            path.write_bytes(content)
        except OSError as error:
            raise ReportError(
                f"{path} cannot be written ({error.strerror}); give a writable folder with space."
            ) from error
