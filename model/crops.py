"""Image files into crops: every page of a TIFF or MHA stack, or a single PNG or JPEG, as RGB arrays."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from model.errors import CropError

logger = logging.getLogger(__name__)

MAX_CROPS = 100_000
MAX_PIXELS_PER_CROP = 4096 * 4096
MAX_PIXELS = 1 << 28
"""Upper bounds on what one file may ask to be decoded; checked on its header, before any pixel is read."""


def read_crops(path: Path) -> list[np.ndarray]:
    """Reads every crop of an image file.

    Args:
        path: a TIFF (`.tif`, `.tiff`: one crop a page), an MHA (`.mha`: one crop a slice), a PNG or a JPEG.

    Returns:
        Arrays (H, W, 3), uint8 RGB, in the file's order; at least one.

    Raises:
        CropError: the file cannot be read, has an unknown suffix, or does not hold 8-bit RGB crops.
    """
    readers: dict[str, Callable[[Path], list[np.ndarray]]] = {
        ".tif": _read_tiff,
        ".tiff": _read_tiff,
        ".mha": _read_mha,
        ".png": _read_picture,
        ".jpg": _read_picture,
        ".jpeg": _read_picture,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise CropError(f"{path} has no known image suffix; give one of {', '.join(readers)}.")
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise CropError(f"{path} is empty; export it again.")
    except OSError as error:
        raise CropError(f"{path} cannot be opened: {error.strerror}.") from error
    return reader(path)


def _read_tiff(path: Path) -> list[np.ndarray]:
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            pages = list(tiff.pages)
            _check_pages(path, pages, tiff.filehandle.size)
            shapes = [page.shape for page in pages]
            if len(set(shapes)) == 1:
                crops = _decode_with_simpleitk(path, (len(pages), *shapes[0]))
                if crops is not None:
                    return crops
            return [np.ascontiguousarray(page.asarray()) for page in pages]
    except CropError:
        raise
    except Exception as error:  # the decoders raise whatever the damage makes them raise
        raise CropError(f"{path} cannot be read as TIFF ({error}); export it again.") from error


def _check_pages(path: Path, pages: list, file_size: int) -> None:
    if not pages:
        raise CropError(f"{path} has no pages; export it again.")
    _check_size(path, len(pages), max(page.imagewidth * page.imagelength for page in pages))
    for number, page in enumerate(pages, start=1):
        shape, dtype = page.shape, page.dtype
        if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or page.photometric.name not in ("RGB", "YCBCR"):
            raise CropError(
                f"Page {number} of {path} is {page.photometric.name} {dtype} of shape {shape}; give 8-bit RGB crops."
            )
        ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
        if not ends or max(ends) > file_size:
            raise CropError(f"{path} is truncated: the pixels of page {number} are missing; export it again.")


def _check_size(path: Path, crops: int, pixels: int) -> None:
    if crops > MAX_CROPS or pixels > MAX_PIXELS_PER_CROP or crops * pixels > MAX_PIXELS:
        raise CropError(f"{path} claims {crops} crops of up to {pixels} pixels, too many to read; give smaller crops.")


def _decode_with_simpleitk(path: Path, shape: tuple[int, ...]) -> list[np.ndarray] | None:
    """The stack as SimpleITK reads it; None where it cannot, or sees other crops than the file's own tags tell."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    except RuntimeError as error:
        logger.debug("SimpleITK cannot read %s: %s", path, error)
        return None
    if array.ndim == 3:
        array = array[None]
    return list(array) if array.shape == shape and array.dtype == np.uint8 else None


def _read_mha(path: Path) -> list[np.ndarray]:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        size, channels = reader.GetSize(), reader.GetNumberOfComponents()
        pixel_type = sitk.GetPixelIDValueAsString(reader.GetPixelID())
        if len(size) not in (2, 3) or channels != 3 or reader.GetPixelID() != sitk.sitkVectorUInt8:
            raise CropError(
                f"{path} is a {len(size)}-D image of {channels} channels ({pixel_type}); give 8-bit RGB crops."
            )
        _check_size(path, size[2] if len(size) == 3 else 1, size[0] * size[1])
        array = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise CropError(f"{path} cannot be read as MHA ({reason}); export it again.") from error
    crops = list(array) if array.ndim == 4 else [array]
    if not crops:
        raise CropError(f"{path} has no crops; export it again.")
    return crops


def _read_picture(path: Path) -> list[np.ndarray]:
    import cv2

    image = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise CropError(f"{path} cannot be read as an image; export it again.")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise CropError(f"{path} is {image.dtype} of shape {image.shape}; give an 8-bit RGB crop.")
    return [cv2.cvtColor(image, cv2.COLOR_BGR2RGB)]
