"""Image files into crops: every page of a TIFF or MHA stack, or a single PNG or JPEG, as 8-bit RGB arrays.

What is not 8-bit RGB but has one obvious meaning (grey, palette, an alpha channel, separate colour planes, 16 bits used
to the full) is converted and the conversion logged; anything else is refused. Sizes are taken from the header and
checked before any pixel is decoded.
"""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from model.errors import CropError

logger = logging.getLogger(__name__)

SUFFIXES = (".tif", ".tiff", ".mha", ".png", ".jpg", ".jpeg")

MAX_BYTES = 1 << 30
MAX_CROPS = 100_000
MAX_PIXELS_PER_CROP = 1 << 24
MAX_PIXELS = 1 << 28
"""Upper bounds on what one file may be, and may ask to be decoded."""


def read_crops(path: Path) -> list[np.ndarray]:
    """Reads every crop of an image file.

    Args:
        path: a TIFF (`.tif`, `.tiff`: one crop a page), an MHA (`.mha`: one crop a slice), a PNG or a JPEG.

    Returns:
        Arrays (H, W, 3), uint8 RGB, in the file's order; at least one.

    Raises:
        CropError: the file cannot be read, is damaged or too large, or does not hold crops of an obvious meaning.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise CropError(f"{path} has no known image suffix; give one of {', '.join(SUFFIXES)}.")
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise CropError(f"{path} is empty; export it again.")
        size = path.stat().st_size
    except OSError as error:
        raise CropError(f"{path} cannot be opened: {error.strerror}; give a readable image file.") from error
    if size > MAX_BYTES:
        raise CropError(f"{path} is {size} bytes large, more than the {MAX_BYTES} that are read; split it.")
    if suffix in (".tif", ".tiff"):
        from model.tiff import read_tiff

        return read_tiff(path)
    return _read_mha(path) if suffix == ".mha" else [_read_picture(path)]


def check_size(path: Path, crops: int, pixels: int) -> None:
    """Checks what a header claims: the number of crops and the pixels of the largest.

    Raises:
        CropError: it is nothing, or more than is read.
    """
    if crops < 1 or pixels < 1:
        raise CropError(f"{path} holds no crops; export it again.")
    if crops > MAX_CROPS or pixels > MAX_PIXELS_PER_CROP or crops * pixels > MAX_PIXELS:
        raise CropError(f"{path} claims {crops} crops of up to {pixels} pixels, too many to read; give smaller crops.")


def to_rgb(path: Path, pages: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Pages of one file as 8-bit RGB.

    Args:
        path: the file, for messages.
        pages: arrays (H, W) or (H, W, C): grey, grey and alpha, RGB, or RGB and alpha; uint8, or uint16 that uses the
            full range (its brightest value in the file is in the upper half).

    Returns:
        Arrays (H, W, 3) uint8. Alpha is dropped, grey repeated, 65535 becomes 255.

    Raises:
        CropError: other types or channels, with the number of the page.
    """
    converted, changes = [], set()
    brightest = max((int(page.max(initial=0)) for page in pages if page.dtype == np.uint16), default=0)
    for number, page in enumerate(pages, start=1):
        channels = 1 if page.ndim == 2 else page.shape[2] if page.ndim == 3 else 0
        if channels not in (1, 2, 3, 4) or page.dtype not in (np.uint8, np.uint16):
            raise CropError(
                f"Page {number} of {path} is {page.dtype} with shape {page.shape}; export it as 8-bit RGB crops."
            )
        if page.dtype == np.uint16:
            if brightest < 1 << 15:
                raise CropError(
                    f"{path} has 16 bits a channel but no value above {brightest}, so its white is unknown; export it "
                    "as 8-bit RGB crops."
                )
            changes.add("16 bits to 8")
            page = ((page.astype(np.uint32) + 128) // 257).astype(np.uint8)
        page = page.reshape(*page.shape[:2], channels)
        if channels in (2, 4):
            changes.add("alpha dropped")
            page = page[..., : channels - 1]
        if page.shape[2] == 1:
            changes.add("grey to RGB")
            page = np.repeat(page, 3, axis=2)
        converted.append(np.ascontiguousarray(page))
    if changes:
        logger.info("%s was converted: %s.", path, ", ".join(sorted(changes)))
    return converted


@contextmanager
def utf8_path(path: Path) -> Iterator[str]:
    """A name of the file that is UTF-8, by a temporary link if need be: SimpleITK aborts the process on any other."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / f"image{path.suffix}"
            link.symlink_to(path.absolute())
            yield str(link)
    else:
        yield str(path)


def _read_mha(path: Path) -> list[np.ndarray]:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    _check_mha_header(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("MetaImageIO")
    try:
        with utf8_path(path) as name:
            reader.SetFileName(name)
            reader.ReadImageInformation()
            size = reader.GetSize()
            channels = reader.GetNumberOfComponents()
            if len(size) not in (2, 3) or channels > 4:
                raise CropError(
                    f"{path} has {len(size)} dimensions and {channels} channels; give a 3-D stack (x, y, crop) of RGB "
                    "crops."
                )
            check_size(path, size[2] if len(size) == 3 else 1, size[0] * size[1])
            image = reader.Execute()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].rstrip(".")
        raise CropError(f"{path} cannot be read as MHA ({reason}); export it again.") from error
    array = sitk.GetArrayFromImage(image)
    spatial = array.ndim - (image.GetNumberOfComponentsPerPixel() > 1)
    return to_rgb(path, list(array) if spatial == 3 else [array])


def _check_mha_header(path: Path) -> None:
    """Refuses what the reader would take silently: pixels in another file, or more of them than the header says."""
    with path.open("rb") as file:
        header = {}
        for _ in range(100):
            key, separator, value = file.readline(4096).partition(b"=")
            if not separator:
                break
            header[key.strip().lower()] = value.strip()
            if key.strip().lower() == b"elementdatafile":
                break
        start = file.tell()
    if header.get(b"elementdatafile", b"").upper() != b"LOCAL":
        raise CropError(f"{path} is no MHA with its pixels inside; export it again as one .mha file.")
    widths = {b"MET_UCHAR": 1, b"MET_CHAR": 1, b"MET_USHORT": 2, b"MET_SHORT": 2, b"MET_FLOAT": 4, b"MET_DOUBLE": 8}
    width = widths.get(header.get(b"elementtype", b"").upper())
    if header.get(b"compresseddata", b"False").lower() == b"true" or width is None:
        return
    try:
        count = int(header.get(b"elementnumberofchannels", b"1"))
        for side in header.get(b"dimsize", b"").split():
            count *= int(side)
    except ValueError as error:
        raise CropError(f"{path} has a damaged header; export it again.") from error
    if path.stat().st_size - start != count * width:
        raise CropError(f"{path} does not have the number of pixels its header says; export it again.")


def _read_picture(path: Path) -> np.ndarray:
    import cv2
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None  # the size is checked here
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as header:
            size, mode = header.size, header.mode
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise CropError(f"{path} cannot be read as a PNG or JPEG; export it again.") from error
    check_size(path, 1, size[0] * size[1])
    if mode in ("1", "CMYK", "YCCK", "F"):
        raise CropError(f"{path} is a picture of mode {mode}; export it as an 8-bit RGB crop.")
    image = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.shape[:2] != size[::-1]:
        raise CropError(f"{path} is damaged; export it again.")
    if image.ndim == 3:
        image = image[..., [2, 1, 0, 3][: image.shape[2]]]
    return to_rgb(path, [image])[0]
