"""TIFF stacks into crops: what the directories claim is checked, then what the flavour says, then every coded segment.

tifffile decodes, with imagecodecs. Before it does, each strip or tile must decode to exactly the bytes that its page's
size asks for: tifffile fills up what is missing and cuts off what is too much. Deflate has a checksum, JPEG's codes are
read to their end; LZW, PackBits, zstd, WebP, JPEG 2000 and no compression have nothing that would show a changed bit.
"""

import io
import logging
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import numpy as np

from model.errors import CropError
from model.images import tiff_directories as tags
from model.images.file import open_image
from model.images.inflate import inflate
from model.images.jpeg import parse_jpeg
from model.images.rgb import MAX_PIXELS_PER_CROP, Stack, check_size, plausible_mpp, to_rgb, upright
from model.images.tiff_directories import Directory, read_directories
from model.images.tiff_flavours import REFUSED_TAGS, Flavour, flavour_of

logger = logging.getLogger(__name__)
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong with a file is said once, by the error

_NONE, _LZW, _JPEG, _PACKBITS = 1, 5, 7, 32773
_DEFLATE, _ZSTD, _WEBP, _JPEG_2000 = (8, 32946), (50000, 34926), (50001, 34927), (34712, 33003, 33005)
_READ = {_NONE, _LZW, _JPEG, _PACKBITS, *_DEFLATE, *_ZSTD, *_WEBP, *_JPEG_2000}
_ASSOCIATED_ALPHA = 1
_GREY, _INVERTED, _RGB, _PALETTE, _MASK, _YCBCR = 1, 0, 2, 3, 4, 6
_CHANNELS = {_GREY: (1, 2), _INVERTED: (1, 2), _RGB: (3, 4), _PALETTE: (1,), _YCBCR: (3,)}
"""How many each may have, alpha among them."""


def read_tiff(path: Path) -> Stack:
    """Reads the images of a TIFF or BigTIFF, tiled or in strips; smaller copies in a pyramid and masks are passed over.

    Raises:
        CropError: the file is damaged or too large, or a page has no obvious meaning as a crop.
    """
    with open_image(path) as file:
        try:
            return _read(path, file)
        except CropError:
            raise
        except Exception as error:  # the decoders raise whatever the damage makes them raise
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise CropError(f"{path} cannot be read as TIFF ({reason}); export it again.") from error


def _read(path: Path, file: BinaryIO) -> Stack:
    directories = read_directories(file)
    for directory in directories:
        for tag, program in REFUSED_TAGS.items():
            if tag in directory.entries:
                raise CropError(f"{path} is a {program} file, whose pages are no crops; export it as 8-bit RGB crops.")
    full = [number for number, directory in enumerate(directories) if not _is_passed_over(directory)]
    _check_passed_over(directories, full)
    if not full:
        raise CropError(f"{path} holds no crops; export it again.")
    flavour, numbers, contiguous = _pages(path, directories, full)
    if len(numbers) < len(directories):
        passed = len(directories) - len(numbers)
        logger.info("%s: %d reduced pages, masks or overviews were passed over.", path, passed)
    pages = [directories[number] for number in numbers]
    pixels = max(page.number(tags.WIDTH, 0) * page.number(tags.LENGTH, 0) for page in pages)
    bytes_a_pixel = max(page.number(tags.SAMPLES, 1) * -(-page.number(tags.BITS, 8) // 8) for page in pages)
    check_size(path, contiguous or len(pages), pixels, bytes_a_pixel)
    if contiguous or len(pages) > 1:
        _check_no_colours_apart(path, contiguous or len(pages), pages)
    resolutions = {_mpp(page, flavour) for page in pages}
    if len(resolutions) > 1:
        raise CropError(f"{path} has pages of several resolutions; export crops of one.")
    crops = _decode_contiguous(path, file, contiguous) if contiguous else _decode_pages(path, file, numbers)
    orientations = [page.number(tags.ORIENTATION, 1) for page in pages] * (contiguous or 1)
    turned = (upright(page, orientation) for page, orientation in zip(crops, orientations, strict=True))
    return Stack(to_rgb(path, turned), resolutions.pop())


def _is_passed_over(directory: Directory) -> bool:
    """Whether it is a smaller copy of another page, or a mask."""
    return bool(
        directory.number(tags.SUBFILE, 0) & 5
        or directory.number(tags.OLD_SUBFILE, 1) == 2
        or directory.number(tags.PHOTOMETRIC, _RGB) == _MASK
    )


def _check_passed_over(directories: list[Directory], full: list[int]) -> None:
    """Checks that what is passed over is what it is said to be, so that no crop is lost by a changed bit."""
    sides = [(directory.number(tags.WIDTH, 0), directory.number(tags.LENGTH, 0)) for directory in directories]
    widths, highest = _highest_from_width([sides[number] for number in full])
    for number in {*range(len(directories))} - {*full}:
        is_mask = directories[number].number(tags.PHOTOMETRIC, _RGB) == _MASK
        if directories[number].number(tags.SUBFILE, 0) & 4 and not is_mask:
            raise ValueError(f"page {number + 1} is called a mask, but holds colours")
        width, height = sides[number]
        wider = bisect_right(widths, width)
        if not is_mask and (wider == len(widths) or height >= highest[wider]):
            raise ValueError(f"page {number + 1} is called a reduced copy, but is as large as the others")


def _highest_from_width(sides: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Widths in rising order, and beside each the greatest height of the pages at least as wide.

    So that a page is compared with all others at once: a file may have a hundred thousand.
    """
    rising = sorted(sides)
    heights = accumulate((height for _, height in reversed(rising)), max)
    return [width for width, _ in rising], [*heights][::-1]


def _pages(path: Path, directories: list[Directory], full: list[int]) -> tuple[Flavour, list[int], int]:
    """What the flavour says of the pages: itself, which of them are crops, and how many crops follow each other in the
    one page's place (0: a page is a crop)."""
    flavours = [
        flavour_of(
            directories[number].text(tags.DESCRIPTION),
            (
                directories[number].number(tags.LENGTH, 0),
                directories[number].number(tags.WIDTH, 0),
                directories[number].number(tags.SAMPLES, 1),
            ),
        )
        for number in full
    ]
    first = flavours[0]
    if any(flavour.colours_apart for flavour in flavours):
        raise CropError(f"{path} is an {first.name} with colours on separate pages; export it as 8-bit RGB crops.")
    if first.first_page_only:
        return first, full[:1], 0
    images = first.images
    if first.name == "tifffile":  # which notes the shape of each array that was written, at its first page
        images = sum(flavour.images or 0 for flavour in flavours if flavour.name == first.name)
    if images is None or images == len(full):
        return first, full, 0
    if len(full) == 1 and len(directories) == 1 and images > 1:
        return first, full, images
    raise CropError(
        f"{path} has {len(full)} pages, but its {first.name} description tells of {images} images; export it again, "
        "one page a crop."
    )


def _check_no_colours_apart(path: Path, crops: int, pages: list[Directory]) -> None:
    grey = all(page.number(tags.SAMPLES, 1) == 1 and page.number(tags.PHOTOMETRIC, _RGB) != _PALETTE for page in pages)
    if grey and (crops % 3 == 0 or crops % 4 == 0):
        raise CropError(
            f"{path} has {crops} pages of one channel, which may be grey crops or the colours of fewer crops; export "
            "it as RGB, one page a crop."
        )


def _mpp(directory: Directory, flavour: Flavour) -> float | None:
    """µm per pixel that a page states; None where it states none that is plausible."""
    if flavour.mpp is not None:
        return flavour.mpp
    unit = flavour.per_unit or {2: 25_400.0, 3: 10_000.0}.get(directory.number(tags.RESOLUTION_UNIT, 2))
    x, y = directory.ratio(tags.X_RESOLUTION), directory.ratio(tags.Y_RESOLUTION)
    return plausible_mpp(unit / x, unit / y) if unit and x and y else None


def _decode_pages(path: Path, file: BinaryIO, numbers: list[int]) -> Iterator[np.ndarray]:
    """Pages as (H, W) or (H, W, C), one after the other."""
    import tifffile

    wanted = set(numbers)
    used, starts = 0, set[int]()
    with tifffile.TiffFile(file, name=path.name, _multifile=False) as tiff:
        for number, page in enumerate(tiff.pages):
            if number not in wanted:
                continue
            if not isinstance(page, tifffile.TiffPage):
                raise ValueError(f"page {number + 1} is no page")
            _check_page(path, number + 1, page)
            used += sum(page.databytecounts)
            if used > tiff.filehandle.size or not starts.isdisjoint(page.dataoffsets):
                raise ValueError("its pages share their pixels")
            starts.update(page.dataoffsets)
            for index in range(len(page.dataoffsets)):
                _check_segment(path, page, index)
            yield _meaning(page, page.asarray())


def _decode_contiguous(path: Path, file: BinaryIO, images: int) -> Iterator[np.ndarray]:
    """Images that follow each other in the file, of which the one directory describes the first."""
    import tifffile

    with tifffile.TiffFile(file, name=path.name, _multifile=False) as tiff:
        page = tiff.pages.first
        _check_page(path, 1, page)
        separate = page.planarconfig == 2 and page.samplesperpixel > 1
        if page.compression != _NONE or page.predictor != 1 or page.is_tiled or separate or not page.is_contiguous:
            raise CropError(f"{path} has one page for {images} images, compressed; export it again, one page a crop.")
        shape = (page.imagelength, page.imagewidth, page.samplesperpixel)
        dtype = np.dtype(page.dtype).newbyteorder(tiff.byteorder)
        count = shape[0] * shape[1] * shape[2] * dtype.itemsize
        for number in range(images):
            tiff.filehandle.seek(page.dataoffsets[0] + number * count)
            content = tiff.filehandle.read(count)
            if len(content) != count:
                raise CropError(f"{path} is truncated: pixels of image {number + 1} are missing; export it again.")
            pixels = np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))
            yield _meaning(page, pixels if shape[2] > 1 else pixels[..., 0])


def _check_page(path: Path, number: int, page) -> None:
    """Checks that a page means a crop, and that its segments are as many and as large as they must be."""
    kind = getattr(page.photometric, "name", page.photometric)
    compression = getattr(page.compression, "name", page.compression)
    if page.compression not in _READ:
        raise CropError(f"Page {number} of {path} is compressed as {compression}; export it with deflate or none.")
    if (
        page.samplesperpixel not in _CHANNELS.get(page.photometric, ())
        or (page.photometric == _YCBCR and page.compression != _JPEG)
        or page.dtype not in (np.uint8, np.uint16)
        or page.bitspersample not in (8, 16)
        or page.fillorder != 1
    ):
        raise CropError(
            f"Page {number} of {path} is {kind} with {page.samplesperpixel} channels of {page.bitspersample} bits "
            f"({page.dtype}); export it as 8-bit RGB crops."
        )
    if page.imagedepth != 1 or page.tiledepth not in (0, 1):
        raise ValueError(f"page {number} is several images deep")
    if page.photometric == _PALETTE and (page.colormap is None or page.colormap.shape[-1] != 1 << page.bitspersample):
        raise ValueError(f"page {number} has no palette of its size")
    if page.predictor not in (1, 2):
        raise ValueError(f"page {number} has a predictor that is not read")
    if page.is_tiled and page.tilewidth * page.tilelength > MAX_PIXELS_PER_CROP:
        raise ValueError(f"page {number} has tiles of {page.tilewidth} x {page.tilelength} pixels")
    rows, columns = _grid(page)
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    if not len(page.dataoffsets) == len(page.databytecounts) == rows * columns * planes:
        raise ValueError(f"page {number} does not have the number of strips or tiles of its size")
    ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if not ends or max(ends) > page.parent.filehandle.size or min(page.databytecounts) == 0:
        raise CropError(f"{path} is truncated: pixels of page {number} are missing; export it again.")


def _grid(page) -> tuple[int, int]:
    """Rows and columns of the segments of a plane."""
    if page.is_tiled:
        return -(-page.imagelength // page.tilelength), -(-page.imagewidth // page.tilewidth)
    return -(-page.imagelength // _strip_rows(page)), 1


def _strip_rows(page) -> int:
    return min(page.rowsperstrip, page.imagelength)


def _segment_size(page, index: int) -> tuple[int, int, int]:
    """Height, width and channels of a strip or tile."""
    channels = 1 if page.planarconfig == 2 else page.samplesperpixel
    if page.is_tiled:
        return page.tilelength, page.tilewidth, channels
    rows = _strip_rows(page)
    return min(rows, page.imagelength - index % _grid(page)[0] * rows), page.imagewidth, channels


def _check_segment(path: Path, page, index: int) -> None:
    """Checks that a strip or tile holds the pixels that its size asks for, no fewer and no more.

    Raises:
        ValueError: it does not.
    """
    import imagecodecs

    height, width, channels = _segment_size(page, index)
    expected = height * width * channels * page.dtype.itemsize
    handle = page.parent.filehandle
    handle.seek(page.dataoffsets[index])
    coded = handle.read(page.databytecounts[index])
    if page.compression == _JPEG:
        tables = page.jpegtables or b""
        if tables:
            coded = tables.removesuffix(b"\xff\xd9") + coded.removeprefix(b"\xff\xd8")
        if parse_jpeg(path, coded).size != (width, height):
            raise ValueError("a JPEG in it is of another size than its page says")
    elif page.compression in _DEFLATE:
        parts = iter([coded])
        for _ in inflate(lambda: next(parts, b""), expected):
            pass
    elif page.compression in (*_WEBP, *_JPEG_2000):
        from PIL import Image

        kind = "WEBP" if page.compression in _WEBP else "JPEG2000"
        with Image.open(io.BytesIO(coded), formats=[kind]) as picture:  # reads its header alone
            if picture.size != (width, height) or len(picture.getbands()) != channels:
                raise ValueError(f"a {kind} in it is of another size than its page says")
    else:
        decode = {_LZW: imagecodecs.lzw_decode, _PACKBITS: imagecodecs.packbits_decode}.get(page.compression)
        if page.compression in _ZSTD:
            decode = imagecodecs.zstd_decode
        found = len(coded) if decode is None else len(decode(coded, out=expected + 1))
        if found != expected:
            raise ValueError("its pixels are not as many as their page says")


def _meaning(page, array: np.ndarray) -> np.ndarray:
    """A page as (H, W) or (H, W, C), with palettes looked up, inverted grey turned, and planes interleaved."""
    if page.photometric == _PALETTE:
        colours = page.colormap if page.colormap.max() < 256 else page.colormap >> 8
        return np.moveaxis(colours[:, array], 0, -1).astype(np.uint8)
    if page.photometric == _INVERTED:
        return np.iinfo(array.dtype).max - array
    if page.planarconfig == 2 and page.samplesperpixel > 1:
        array = np.moveaxis(array, 0, -1)
    if page.extrasamples[:1] == (_ASSOCIATED_ALPHA,) and page.samplesperpixel in (2, 4):
        # The colours are multiplied by it: what lies on white is their sum with what shines through.
        through = np.iinfo(array.dtype).max - array[..., -1:]
        return array[..., :-1] + np.minimum(through, np.iinfo(array.dtype).max - array[..., :-1])
    return array
