"""Pixels of other kinds than 8-bit RGB, and what a file states of its resolution."""

import logging
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from model.errors import CropError
from model.images.rgb import MAX_CROPS, MAX_PIXELS, MAX_PIXELS_PER_CROP, check_size, plausible_mpp, to_rgb, upright

PATH = Path("stack.tif")


def sixteen(crop: np.ndarray) -> np.ndarray:
    return crop.astype(np.uint16) * 257


@pytest.fixture
def bright(crops: list[np.ndarray]) -> list[np.ndarray]:
    return [crop // 2 + 100 for crop in crops]


@pytest.mark.parametrize("hot", [0, 1, 400])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 15])
def test_sixteen_bits_of_which_fewer_are_used_are_refused(bright: list[np.ndarray], bits: int, hot: int) -> None:
    page = sixteen(bright[0]) >> (16 - bits)
    page.reshape(-1)[:hot] = 65535
    with pytest.raises(CropError, match=r"Page 1 of stack\.tif has 16 bits .* its white is unknown; .*\.$"):
        to_rgb(PATH, [page])


def test_one_dark_page_among_bright_ones_is_refused_by_its_number(bright: list[np.ndarray]) -> None:
    pages = [sixteen(crop) for crop in bright]
    assert np.array_equal(np.stack(to_rgb(PATH, pages)), np.stack(bright))
    pages[3] = pages[3] >> 4
    with pytest.raises(CropError, match=r"Page 4 of stack\.tif"):
        to_rgb(PATH, pages)


def test_bright_alpha_does_not_make_a_dark_page_bright(bright: list[np.ndarray]) -> None:
    page = sixteen(bright[0]) >> 4
    for alpha in (np.full((128, 128), 65535, np.uint16), np.tri(128, dtype=np.uint16) * 65535):
        with pytest.raises(CropError, match="white is unknown"):
            to_rgb(PATH, [np.dstack([page, alpha])])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_is_laid_on_white(
    bright: list[np.ndarray], channels: int, dtype: type, caplog: pytest.LogCaptureFixture
) -> None:
    colours = bright[0][..., :channels]
    alpha = np.random.default_rng(0).integers(0, 256, (128, 128, 1), dtype=np.uint8)
    scale = np.iinfo(dtype).max // 255
    page = np.concatenate([colours, alpha], axis=2).astype(dtype) * dtype(scale)
    with caplog.at_level(logging.INFO):
        read = to_rgb(PATH, [page, page])
    weight = alpha / 255
    expected = np.broadcast_to(colours * weight + 255 * (1 - weight), (128, 128, 3))
    assert np.abs(read[0] - expected).max() <= 0.5
    if channels == 3:
        second = Image.new("RGBA", (128, 128), "white")
        second.alpha_composite(Image.fromarray((page // scale).astype(np.uint8), "RGBA"))
        assert np.abs(read[0].astype(int) - np.asarray(second)[..., :3]).max() <= 1
    assert caplog.text.count("alpha laid on white") == 1


def test_opaque_alpha_is_dropped(bright: list[np.ndarray], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        (read,) = to_rgb(PATH, [np.dstack([bright[0], np.full((128, 128), 255, np.uint8)])])
    assert np.array_equal(read, bright[0]) and "opaque alpha dropped" in caplog.text


def test_pages_are_converted_as_they_come(crops: list[np.ndarray]) -> None:
    asked = []

    def pages():
        for number, crop in enumerate(crops):
            asked.append(number)
            yield crop if number < 2 else crop.astype(float)

    with pytest.raises(CropError, match="Page 3"):
        to_rgb(PATH, pages())
    assert asked == [0, 1, 2]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7)])
def test_pages_are_turned_as_pillow_turns_them(orientation: int, shape: tuple[int, ...]) -> None:
    page = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    image = Image.fromarray(page)
    image.getexif()[0x0112] = orientation
    assert np.array_equal(upright(page, orientation), np.asarray(ImageOps.exif_transpose(image)))


@pytest.mark.parametrize("orientation", [0, 9, -1, None, "6", (6,)])
def test_an_orientation_that_is_none_turns_nothing(orientation: object) -> None:
    page = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert np.array_equal(upright(page, orientation), page)


@pytest.mark.parametrize(
    ("x", "y", "mpp"),
    [
        (0.25, 0.25, 0.25),
        (0.5, 0.5, 0.5),
        (0.25, 0.27, 0.26),
        (1.0, 1.0, 1.0),
        (0, 0, None),
        (-0.25, -0.25, None),
        (math.nan, 0.25, 0.25),
        (0.5, 0, 0.5),
        (math.inf, math.inf, None),
        (1000, 1000, None),
        (25400 / 72, 25400 / 72, None),
        (25400 / 96, 25400 / 96, None),
        (25400 / 300, 25400 / 300, None),
    ],
)
def test_only_a_microscopes_resolution_is_plausible(x: float, y: float, mpp: float | None) -> None:
    assert plausible_mpp(x, y) == (mpp if mpp is None else pytest.approx(mpp))


def test_pixels_that_are_not_square_are_no_resolution() -> None:
    with pytest.raises(ValueError, match=r"0\.25 µm wide and 0\.28 µm high, which is not square"):
        plausible_mpp(0.25, 0.28)


def test_sizes_up_to_the_bounds_are_read_and_no_more() -> None:
    check_size(PATH, MAX_CROPS, 1000)
    check_size(PATH, MAX_PIXELS // MAX_PIXELS_PER_CROP, MAX_PIXELS_PER_CROP)
    check_size(PATH, MAX_PIXELS // MAX_PIXELS_PER_CROP // 2, MAX_PIXELS_PER_CROP, bytes_per_pixel=6)
    for crops, pixels, width in (
        (MAX_CROPS + 1, 1, 3),
        (1, MAX_PIXELS_PER_CROP + 1, 1),
        (8, 1 << 24, 4),
        (9, 1 << 24, 1),
    ):
        with pytest.raises(CropError, match="too many to read"):
            check_size(PATH, crops, pixels, width)
    for crops, pixels in ((0, 1), (1, 0), (-1, -1)):
        with pytest.raises(CropError, match="holds no crops"):
            check_size(PATH, crops, pixels)
