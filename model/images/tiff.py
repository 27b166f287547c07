"""TIFF stacks into crops: what the directories claim is checked, then what the flavour says, then every segment."""

import logging
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import numpy as np

from model.errors import CropError, whole_reason
from model.images import tiff_directories as tags
from model.images.file import open_image
from model.images.rgb import Stack, check_size, plausible_mpp, to_rgb, upright
from model.images.tiff_directories import Directory, check_apart, read_directories
from model.images.tiff_flavours import REFUSED_TAGS, Flavour, flavour_of
from model.images.tiff_segments import MASK, PALETTE, RGB, UNCOMPRESSED, check_page, check_segment, meaning

logger = logging.getLogger(__name__)
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong with a file is said once, by the error


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
            raise CropError(f"{path} cannot be read as TIFF ({whole_reason(error)}); export it again.") from error


@dataclass(frozen=True)
class Layout:
    """Where the images of a TIFF are.

    Attributes:
        directories: all of the file.
        pages: those of the images.
        numbers: which pages of the file these are, counted from 0.
        contiguous: how many images follow each other in the one page's place; 0: a page is an image.
        mpp: µm per pixel that the pages state; None where they state none that is plausible.
    """

    directories: list[Directory]
    pages: list[Directory]
    numbers: list[int]
    contiguous: int
    mpp: float | None


def find_images(path: Path, file: BinaryIO) -> Layout:
    """Finds the pages of a TIFF that are images, from its directories alone.

    Raises:
        CropError: it holds none, or pages of another meaning.
        ValueError: a directory is damaged.
    """
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
    resolutions = {_mpp(page, flavour) for page in pages}
    if len(resolutions) > 1:
        raise CropError(f"{path} has pages of several resolutions; export crops of one.")
    return Layout(directories, pages, numbers, contiguous, resolutions.pop())


def _read(path: Path, file: BinaryIO) -> Stack:
    layout = find_images(path, file)
    pages, count = layout.pages, layout.contiguous or len(layout.pages)
    pixels = max(page.number(tags.WIDTH, 0) * page.number(tags.LENGTH, 0) for page in pages)
    bytes_a_pixel = max(page.number(tags.SAMPLES, 1) * -(-page.number(tags.BITS, 8) // 8) for page in pages)
    check_size(path, count, pixels, bytes_a_pixel)
    if count > 1:
        _check_no_colours_apart(path, count, pages)
        _check_alike(path, pages)
    changes: set[str] = set()
    if layout.contiguous:
        crops = _decode_contiguous(path, file, layout.directories, layout.contiguous, changes)
    else:
        crops = _decode_pages(path, file, layout.directories, layout.numbers, changes)
    orientations = [page.number(tags.ORIENTATION, 1) for page in pages] * (layout.contiguous or 1)
    turned = (upright(page, orientation) for page, orientation in zip(crops, orientations, strict=True))
    return Stack(to_rgb(path, turned, changes), layout.mpp)


def _is_passed_over(directory: Directory) -> bool:
    """Whether it is a smaller copy of another page, or a mask."""
    return bool(
        directory.number(tags.SUBFILE, 0) & 5
        or directory.number(tags.OLD_SUBFILE, 1) == 2
        or directory.number(tags.PHOTOMETRIC, RGB) == MASK
    )


def _check_passed_over(directories: list[Directory], full: list[int]) -> None:
    """Checks that what is passed over is what it is said to be, so that no crop is lost by a changed bit."""
    sides = [(directory.number(tags.WIDTH, 0), directory.number(tags.LENGTH, 0)) for directory in directories]
    widths, highest = _highest_from_width([sides[number] for number in full])
    for number in {*range(len(directories))} - {*full}:
        is_mask = directories[number].number(tags.PHOTOMETRIC, RGB) == MASK
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
        raise CropError(f"{path}, of {first.name}, has colours on separate pages; export it as 8-bit RGB crops.")
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
    grey = all(page.number(tags.SAMPLES, 1) == 1 and page.number(tags.PHOTOMETRIC, RGB) != PALETTE for page in pages)
    if grey and (crops % 3 == 0 or crops % 4 == 0):
        raise CropError(
            f"{path} has {crops} pages of one channel, which may be grey crops or the colours of fewer crops; export "
            "it as RGB, one page a crop."
        )


def _check_alike(path: Path, pages: list[Directory]) -> None:
    """A page of one channel among coloured ones may be a mask that is not marked as one."""
    coloured = [page.number(tags.SAMPLES, 1) >= 3 or page.number(tags.PHOTOMETRIC, RGB) == PALETTE for page in pages]
    if any(coloured) and not all(coloured):
        raise CropError(
            f"{path} has pages in colour and page {coloured.index(False) + 1} of one channel, which may be a mask; "
            "export crops alone, all of them in colour."
        )


def _mpp(directory: Directory, flavour: Flavour) -> float | None:
    """µm per pixel that a page states; None where it states none that is plausible."""
    if flavour.mpp is not None:
        return flavour.mpp
    unit = flavour.per_unit or {2: 25_400.0, 3: 10_000.0}.get(directory.number(tags.RESOLUTION_UNIT, 2))
    x, y = directory.ratio(tags.X_RESOLUTION), directory.ratio(tags.Y_RESOLUTION)
    return plausible_mpp(unit / x if x else 0, unit / y if y else 0) if unit else None


def _decode_pages(
    path: Path, file: BinaryIO, directories: list[Directory], numbers: list[int], changes: set[str]
) -> Iterator[np.ndarray]:
    """Pages as (H, W) or (H, W, C), one after the other."""
    import tifffile

    wanted = set(numbers)
    spans: list[tuple[int, int]] = []
    used, starts = 0, set[int]()
    with tifffile.TiffFile(file, name=path.name, _multifile=False) as tiff:
        for number, page in enumerate(tiff.pages):
            if number not in wanted:
                continue
            if not isinstance(page, tifffile.TiffPage):
                raise ValueError(f"page {number + 1} is no page")
            check_page(path, number + 1, page)
            used += sum(page.databytecounts)
            if used > tiff.filehandle.size or not starts.isdisjoint(page.dataoffsets):
                raise ValueError("its pages share their pixels")
            starts.update(page.dataoffsets)
            spans += [(at, at + count) for at, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
            for index in range(len(page.dataoffsets)):
                check_segment(path, page, index)
            yield meaning(page, page.asarray(), changes)
    check_apart(directories, spans)  # nothing is answered before the last page is decoded


def _decode_contiguous(
    path: Path, file: BinaryIO, directories: list[Directory], images: int, changes: set[str]
) -> Iterator[np.ndarray]:
    """Images that follow each other in the file, of which the one directory describes the first."""
    import tifffile

    with tifffile.TiffFile(file, name=path.name, _multifile=False) as tiff:
        page = tiff.pages.first
        check_page(path, 1, page)
        separate = page.planarconfig == 2 and page.samplesperpixel > 1
        if (
            page.compression != UNCOMPRESSED
            or page.predictor != 1
            or page.is_tiled
            or separate
            or not page.is_contiguous
        ):
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
            yield meaning(page, pixels if shape[2] > 1 else pixels[..., 0], changes)
    check_apart(directories, [(page.dataoffsets[0], page.dataoffsets[0] + images * count)])
