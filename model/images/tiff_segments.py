"""The strips and tiles of a TIFF's page: what a page must be to be read, and what each of them must hold.

tifffile decodes, with imagecodecs. Before it does, each strip or tile must decode to exactly the bytes that its page's
size asks for: tifffile fills up what is missing and cuts off what is too much. Deflate has a checksum, JPEG's codes are
read to their end; LZW, PackBits, zstd, WebP, JPEG 2000 and no compression have nothing that would show a changed bit.
"""

import io
from pathlib import Path

import numpy as np

from model.errors import CropError
from model.images.inflate import inflate
from model.images.jpeg import parse_jpeg
from model.images.rgb import ALPHA_ON_WHITE, MAX_PIXELS_PER_CROP

UNCOMPRESSED, _LZW, _JPEG, _PACKBITS = 1, 5, 7, 32773
_DEFLATE, _ZSTD, _WEBP, _JPEG_2000 = (8, 32946), (50000, 34926), (50001, 34927), (34712, 33003, 33005)
_READ = {UNCOMPRESSED, _LZW, _JPEG, _PACKBITS, *_DEFLATE, *_ZSTD, *_WEBP, *_JPEG_2000}
_ASSOCIATED_ALPHA = 1
_GREY, _INVERTED, RGB, PALETTE, MASK, YCBCR = 1, 0, 2, 3, 4, 6
_CHANNELS = {_GREY: (1, 2), _INVERTED: (1, 2), RGB: (3, 4), PALETTE: (1,), YCBCR: (3,)}
"""How many each may have, alpha among them."""


def check_page(path: Path, number: int, page) -> None:
    """Checks that a page means a crop, and that its segments are as many and as large as they must be."""
    kind = getattr(page.photometric, "name", page.photometric)
    compression = getattr(page.compression, "name", page.compression)
    if page.compression not in _READ:
        raise CropError(f"Page {number} of {path} is compressed as {compression}; export it with deflate or none.")
    if (
        page.samplesperpixel not in _CHANNELS.get(page.photometric, ())
        or (page.photometric == YCBCR and page.compression != _JPEG)
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
    if page.photometric == PALETTE and (page.colormap is None or page.colormap.shape[-1] != 1 << page.bitspersample):
        raise ValueError(f"page {number} has no palette of its size")
    if page.predictor not in (1, 2):
        raise ValueError(f"page {number} has a predictor that is not read")
    if page.is_tiled and page.tilewidth * page.tilelength > MAX_PIXELS_PER_CROP:
        raise ValueError(f"page {number} has tiles of {page.tilewidth} x {page.tilelength} pixels")
    rows, columns = grid(page)
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    if not len(page.dataoffsets) == len(page.databytecounts) == rows * columns * planes:
        raise ValueError(f"page {number} does not have the number of strips or tiles of its size")
    ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if not ends or max(ends) > page.parent.filehandle.size or min(page.databytecounts) == 0:
        raise CropError(f"{path} is truncated: pixels of page {number} are missing; export it again.")


def grid(page) -> tuple[int, int]:
    """Rows and columns of the segments of a plane."""
    if page.is_tiled:
        return -(-page.imagelength // page.tilelength), -(-page.imagewidth // page.tilewidth)
    return -(-page.imagelength // _strip_rows(page)), 1


def _strip_rows(page) -> int:
    return min(page.rowsperstrip, page.imagelength)


def segment_size(page, index: int) -> tuple[int, int, int]:
    """Height, width and channels of a strip or tile."""
    channels = 1 if page.planarconfig == 2 else page.samplesperpixel
    if page.is_tiled:
        return page.tilelength, page.tilewidth, channels
    rows = _strip_rows(page)
    return min(rows, page.imagelength - index % grid(page)[0] * rows), page.imagewidth, channels


def check_segment(path: Path, page, index: int) -> None:
    """Checks that a strip or tile holds the pixels that its size asks for, no fewer and no more.

    Raises:
        ValueError: it does not.
    """
    import imagecodecs

    height, width, channels = segment_size(page, index)
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


def meaning(page, array: np.ndarray, changes: set[str]) -> np.ndarray:
    """A page as (H, W) or (H, W, C), with palettes looked up, inverted grey turned, and planes interleaved.

    What `model.images.rgb.to_rgb` is to say of it, but cannot see any more, is added to `changes`.
    """
    if page.photometric == PALETTE:
        colours = page.colormap if page.colormap.max() < 256 else page.colormap >> 8
        return np.moveaxis(colours[:, array], 0, -1).astype(np.uint8)
    if page.photometric == _INVERTED:
        return np.iinfo(array.dtype).max - array
    if page.planarconfig == 2 and page.samplesperpixel > 1:
        array = np.moveaxis(array, 0, -1)
    if page.extrasamples[:1] == (_ASSOCIATED_ALPHA,) and page.samplesperpixel in (2, 4):
        # The colours are multiplied by it: what lies on white is their sum with what shines through.
        if array[..., -1].min() < np.iinfo(array.dtype).max:
            changes.add(ALPHA_ON_WHITE)
        through = np.iinfo(array.dtype).max - array[..., -1:]
        return array[..., :-1] + np.minimum(through, np.iinfo(array.dtype).max - array[..., :-1])
    return array
