"""TIFF stacks into crops.

The file's own tags are read first, with tifffile: what the pages claim to be decides who decodes them. SimpleITK reads
plain RGB pages, the platform's own case; tifffile with imagecodecs reads what SimpleITK cannot, or sees differently.
"""

import logging
from itertools import islice
from pathlib import Path

import numpy as np
import tifffile
from tifffile import COMPRESSION, PHOTOMETRIC, PLANARCONFIG, TiffPage

from model.errors import CropError
from model.images.mha import utf8_path
from model.images.rgb import MAX_CROPS, Stack, check_size, to_rgb

logger = logging.getLogger(__name__)
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong with a file is said once, by the error

_JPEG = (COMPRESSION.JPEG, COMPRESSION.OJPEG, COMPRESSION.ALT_JPEG)
_UNDERSTOOD = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.RGB, PHOTOMETRIC.PALETTE, PHOTOMETRIC.YCBCR)


def read_tiff(path: Path) -> Stack:
    """Reads the pages of a TIFF or BigTIFF, tiled or in strips; the reduced copies in a pyramid are passed over.

    Raises:
        CropError: the file is damaged or too large, or a page has no obvious meaning as a crop.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            pages = [page for page in islice(tiff.pages, MAX_CROPS + 1) if isinstance(page, TiffPage)]
            full = [page for page in pages if not page.is_reduced]
            if len(full) < len(pages):
                logger.info("%s: %d reduced pages of a pyramid were passed over.", path, len(pages) - len(full))
            check_size(path, len(full), max((page.imagewidth * page.imagelength for page in full), default=0))
            if tiff.is_ome and full[0].samplesperpixel == 1 and any("C" in series.axes for series in tiff.series):
                raise CropError(f"{path} is an OME-TIFF with colours on separate pages; export it as 8-bit RGB crops.")
            for number, page in enumerate(full, start=1):
                _check_page(path, number, page, tiff.filehandle.size)
            crops = _decode_with_simpleitk(path, full) if len(full) == len(pages) else None
            return Stack(crops or to_rgb(path, [_decode(page) for page in full]))
    except CropError:
        raise
    except Exception as error:  # the decoders raise whatever the damage makes them raise
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise CropError(f"{path} cannot be read as TIFF ({reason}); export it again.") from error


def _check_page(path: Path, number: int, page: TiffPage, file_size: int) -> None:
    ycbcr_without_jpeg = page.photometric == PHOTOMETRIC.YCBCR and page.compression not in _JPEG
    if (
        page.photometric not in _UNDERSTOOD
        or ycbcr_without_jpeg
        or page.dtype not in (np.uint8, np.uint16)
        or page.samplesperpixel > 4
    ):
        kind = getattr(page.photometric, "name", page.photometric)
        raise CropError(
            f"Page {number} of {path} is {kind} with {page.samplesperpixel} channels of {page.bitspersample} bits "
            f"({page.dtype}); export it as 8-bit RGB crops."
        )
    ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if not ends or max(ends) > file_size or 0 in page.databytecounts:
        raise CropError(f"{path} is truncated: pixels of page {number} are missing; export it again.")


def _is_plain(page: TiffPage) -> bool:
    colour = page.photometric in (PHOTOMETRIC.RGB, PHOTOMETRIC.YCBCR) and page.planarconfig == PLANARCONFIG.CONTIG
    return colour and page.dtype == np.uint8 and page.samplesperpixel == 3


def _decode_with_simpleitk(path: Path, pages: list[TiffPage]) -> list[np.ndarray] | None:
    """The stack as SimpleITK reads it; None where it cannot, or sees other crops than the file's own tags tell."""
    shapes = {page.shape for page in pages}
    if len(shapes) != 1 or not all(_is_plain(page) for page in pages):
        return None
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        with utf8_path(path) as name:
            array = sitk.GetArrayFromImage(sitk.ReadImage(name, imageIO="TIFFImageIO"))
    except RuntimeError as error:
        logger.debug("SimpleITK cannot read %s: %s", path, error)
        return None
    if array.ndim == 3:
        array = array[None]
    return list(array) if array.shape == (len(pages), *shapes.pop()) and array.dtype == np.uint8 else None


def _decode(page: TiffPage) -> np.ndarray:
    """A page as (H, W) or (H, W, C), with palettes looked up, inverted grey turned, and planes interleaved."""
    array = page.asarray()
    if page.photometric == PHOTOMETRIC.PALETTE:
        colours = page.colormap if page.colormap.max() < 256 else page.colormap >> 8
        return np.moveaxis(colours[:, array], 0, -1).astype(np.uint8)
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        return np.iinfo(array.dtype).max - array
    if page.planarconfig == PLANARCONFIG.SEPARATE and page.samplesperpixel > 1:
        return np.moveaxis(array, 0, -1)
    return array
