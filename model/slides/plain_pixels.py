"""A plain TIFF, such as the regions that MIDOG is made of: only the strips or tiles around a point are decoded."""

import logging
import os
from collections import OrderedDict
from pathlib import Path

import numpy as np
import tifffile

from model.errors import CropError, whole_reason
from model.images import tiff_directories as tags
from model.images.file import open_image
from model.images.rgb import MAX_PIXELS
from model.images.tiff import find_images
from model.images.tiff_segments import RGB, UNCOMPRESSED, YCBCR, check_page, check_segment, segment_size
from model.slides.pyramid import Pyramid, Square

LARGEST_FILE = 1 << 36
"""Bytes."""

DECODED = 1 << 28
"""Bytes of decoded strips and tiles that are kept, and one more: the next point may lie in them."""

logging.getLogger("tifffile").setLevel(logging.CRITICAL)


class PlainPixels:
    """A TIFF that holds one 8-bit RGB image.

    Raises:
        CropError: it holds something else, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_image(path, LARGEST_FILE)
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()
        try:
            layout = find_images(path, self._file)
            if len(layout.numbers) != 1 or layout.contiguous > 1:
                raise CropError(f"{path} holds {layout.contiguous or len(layout.numbers)} images; a slide is one.")
            page = tifffile.TiffFile(self._file, name=path.name, _multifile=False).pages[layout.numbers[0]]
            if not isinstance(page, tifffile.TiffPage):
                raise ValueError("its page is none")
            self._page = page
            self._check(layout.pages[0])
        except CropError:
            raise
        except Exception as error:  # the library raises whatever the damage makes it raise
            raise CropError(f"{path} cannot be read as TIFF ({whole_reason(error)}); export it again.") from error
        mpp = layout.mpp or 0.0
        self.pyramid = Pyramid("plain TIFF", page.imagewidth, page.imagelength, stated=(mpp, mpp))

    def _check(self, directory: tags.Directory) -> None:
        page = self._page
        check_page(self.path, 1, page)
        if page.photometric not in (RGB, YCBCR) or page.samplesperpixel != 3 or page.planarconfig != 1:
            raise CropError(f"{self.path} is no RGB image of three channels; export it as 8-bit RGB.")
        if page.dtype != np.uint8:
            raise CropError(f"{self.path} has {page.bitspersample} bits a channel; export it as 8-bit RGB.")
        if directory.number(tags.ORIENTATION, 1) != 1:
            raise CropError(f"{self.path} is to be turned (Orientation); export it upright.")
        height, width, _ = segment_size(page, 0)
        if height * width > MAX_PIXELS and page.compression != UNCOMPRESSED:
            raise CropError(
                f"{self.path} has strips of {width} x {height} pixels, too large to decode; export it tiled."
            )

    def read(self, square: Square) -> tuple[np.ndarray, np.ndarray]:
        """See `model.slides.pixels.Pixels`."""
        pixels = np.zeros((square.side, square.side, 3), dtype=np.uint8)
        there = np.zeros((square.side, square.side), dtype=bool)
        top, bottom = _inside(square.top, square.side, self.pyramid.height)
        left, right = _inside(square.left, square.side, self.pyramid.width)
        if top < bottom and left < right:
            rows, columns = slice(top - square.top, bottom - square.top), slice(left - square.left, right - square.left)
            there[rows, columns] = True
            try:
                self._fill(pixels[rows, columns], top, left)
            except Exception as error:
                raise CropError(f"{self.path} is damaged there ({whole_reason(error)}); copy it again.") from error
        return pixels, there

    def _fill(self, part: np.ndarray, top: int, left: int) -> None:
        """Copies what lies under a part of the page, (H, W, 3), into it."""
        page = self._page
        if page.compression == UNCOMPRESSED and page.predictor == 1 and not page.is_tiled:
            self._fill_from_rows(part, top, left)
            return
        height, width = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        height = min(height, page.imagelength) if not page.is_tiled else height
        across = -(-page.imagewidth // width)
        for row in range(top // height, (top + part.shape[0] - 1) // height + 1):
            for column in range(left // width, (left + part.shape[1] - 1) // width + 1):
                segment = self._segment(row * across + column)
                upper, lower = max(top, row * height), min(top + part.shape[0], row * height + segment.shape[0])
                first, last = max(left, column * width), min(left + part.shape[1], column * width + segment.shape[1])
                part[upper - top : lower - top, first - left : last - left] = segment[
                    upper - row * height : lower - row * height, first - column * width : last - column * width
                ]

    def _fill_from_rows(self, part: np.ndarray, top: int, left: int) -> None:
        """From pixels that lie in the file as they are."""
        page, rows = self._page, min(self._page.rowsperstrip, self._page.imagelength)
        count = part.shape[1] * 3
        for number, row in enumerate(range(top, top + part.shape[0])):
            start, length = page.dataoffsets[row // rows], page.databytecounts[row // rows]
            at = (row % rows * page.imagewidth + left) * 3
            content = os.pread(self._file.fileno(), count, start + at)
            if at + count > length or len(content) != count:
                raise ValueError("pixels are missing")
            part[number] = np.frombuffer(content, np.uint8).reshape(-1, 3)

    def _segment(self, index: int) -> np.ndarray:
        """A strip or tile, (H, W, 3)."""
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        page = self._page
        check_segment(self.path, page, index)
        coded = os.pread(self._file.fileno(), page.databytecounts[index], page.dataoffsets[index])
        decoded, _, _ = page.decode(coded, index, jpegtables=page.jpegtables)
        if decoded is None:
            raise ValueError("a tile is empty")
        segment = decoded.reshape(decoded.shape[-3:])
        self._kept[index] = segment
        while sum(kept.nbytes for kept in self._kept.values()) > DECODED and len(self._kept) > 1:
            self._kept.popitem(last=False)
        return segment


def _inside(start: int, side: int, whole: int) -> tuple[int, int]:
    """Where a range begins and ends that is cut to 0 ... whole."""
    return min(max(start, 0), whole), min(max(start + side, 0), whole)
