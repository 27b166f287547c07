"""Small pictures of crops: in the page while they fit, in files beside it where there are too many.

They are WebP: small, read by every browser, and, other than JPEG and PNG, never taken for crops by a later run.
"""

from pathlib import Path

import cv2
import numpy as np

from model.report.page import ReportError, data_uri

SIDE = 96
"""Pixels of the longer side, at most."""

QUALITY = 75

INLINE = 2_500_000
"""Bytes of all pictures, encoded, up to which they are in the page."""


def encode(crop: np.ndarray) -> bytes:
    """A crop (H, W, 3), uint8 RGB, as a small WebP."""
    height, width = crop.shape[:2]
    factor = min(1, SIDE / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = cv2.resize(crop, size, interpolation=cv2.INTER_AREA) if factor < 1 else crop
    done, content = cv2.imencode(".webp", np.ascontiguousarray(small[..., ::-1]), [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    assert done, "OpenCV has an encoder of WebP, and every size here is one that it takes"
    return content.tobytes()


class Thumbnails:
    """The pictures of one page, added one by one.

    Args:
        folder: where the files go if there must be any; made then. It is beside the page.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: dict[int, bytes] | None = {}
        self._size = 0

    def add(self, number: int, crop: np.ndarray) -> None:
        """Adds the picture of a crop (H, W, 3), uint8 RGB, under a number of its own.

        Raises:
            ReportError: a file cannot be written.
        """
        content = encode(crop)
        if self._held is None:
            self._write(number, content)
            return
        self._held[number] = content
        self._size += len(content) * 4 // 3
        if self._size > INLINE:
            held, self._held = self._held, None
            for earlier, picture in held.items():
                self._write(earlier, picture)

    def address(self, number: int) -> str:
        """What the page names a picture that was added, once all were: its content, or its file."""
        if self._held is None:
            return f"{self.folder.name}/{number}.webp"
        return data_uri(self._held[number], "image/webp")

    def _write(self, number: int, content: bytes) -> None:
        path = self.folder / f"{number}.webp"
        try:
            self.folder.mkdir(exist_ok=True)
            path.write_bytes(content)
        except OSError as error:
            raise ReportError(
                f"{path} cannot be written ({error.strerror}); give a writable folder with space."
            ) from error
