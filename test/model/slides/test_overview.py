"""The picture of a whole slide."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from written_slides import LOSSLESS, write_plain, write_svs, write_tiled

from model.errors import CropError
from model.slides import overview
from model.slides.overview import draw, level_of
from model.slides.pixels import open_pixels
from model.slides.pyramid import Pyramid
from model.slides.reader import SlideReader


@pytest.fixture
def image() -> np.ndarray:
    """Smooth, with a dark corner at the right bottom; no side is a whole number of anything."""
    random = np.random.default_rng(0)
    small = random.integers(60, 230, (9, 13, 3)).astype(np.uint8)
    large = cv2.resize(small, (1913, 1307), interpolation=cv2.INTER_CUBIC)
    large[-130:, -190:] = 10
    return large


@pytest.mark.parametrize("kind", ["svs", "tiled", "plain"])
def test_it_is_the_slide_in_small(
    tmp_path: Path, image: np.ndarray, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers = {
        "svs": lambda: write_svs(tmp_path / "s.svs", image, **LOSSLESS),
        "tiled": lambda: write_tiled(tmp_path / "s.tif", image),
        "plain": lambda: write_plain(tmp_path / "s.tif", image),
    }
    with SlideReader(writers[kind](), None) as reader:
        small = reader.overview(200)
    assert max(small.shape) <= 200 and small.shape[1] >= 150
    expected = cv2.resize(image, (small.shape[1], small.shape[0]), interpolation=cv2.INTER_AREA)
    inside = np.abs(small[:-1, :-1].astype(int) - expected[:-1, :-1])
    assert inside.mean() < 4 and np.abs(small[-10:-2, -10:-2].astype(int) - 10).max() < 30


def test_squares_leave_no_seams(tmp_path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiled(tmp_path / "s.tif", image)
    pixels = open_pixels(path)
    at_once = draw(path, pixels, pixels.pyramid, 300)
    monkeypatch.setattr(overview, "SQUARE", 100)
    np.testing.assert_array_equal(draw(path, pixels, pixels.pyramid, 300), at_once)


def test_a_level_is_chosen_that_can_be_read_and_is_fine_enough() -> None:
    pyramid = Pyramid("any", 100_000, 80_000, (1.0, 4.0, 16.0, 64.0))
    assert level_of(pyramid, 1200) == 3 and level_of(pyramid, 2000) == 2
    assert level_of(Pyramid("any", 100_000, 80_000, (1.0, 16.0)), 20_000) == 1
    assert level_of(Pyramid("any", 900, 800), 1200) == 0
    assert level_of(Pyramid("any", 100_000, 80_000, (1.0, 4.0)), 1200) is None


def test_a_slide_without_a_small_level_has_none(
    tmp_path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiled(tmp_path / "s.tif", image)
    monkeypatch.setattr(overview, "MOST_PIXELS", 1_000_000)
    pixels = open_pixels(path)
    with pytest.raises(CropError, match="has no level that is small enough"):
        draw(path, pixels, pixels.pyramid, 300)
