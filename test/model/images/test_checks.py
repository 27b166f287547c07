"""Crops that no answer means anything for are warned of, and real ones are not."""

import logging
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import shared

from model.images.checks import BLANK, FOREIGN, remark, remarks, warn_of
from model.images.read import read_stack

STRUCTURE = cv2.GaussianBlur(np.random.default_rng(0).normal(0, 1, (128, 128)), (0, 0), 4)
STRUCTURE = (STRUCTURE - STRUCTURE.min()) / np.ptp(STRUCTURE)
"""128 x 128, 0 to 1: how much dye there is."""


def stained(absorbance: tuple[float, float, float], amount: float = 1.5) -> np.ndarray:
    """A crop of one dye that absorbs red, green and blue so much (Beer and Lambert)."""
    return (255 * np.exp(-amount * STRUCTURE[..., None] * np.array(absorbance))).astype(np.uint8)


HAEMATOXYLIN, EOSIN, DAB = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78)
"""Absorbances of Ruifrok and Johnston."""
H_AND_E = (stained(HAEMATOXYLIN) / 255 * stained(EOSIN)).astype(np.uint8)


def test_a_drawn_stain_is_not_remarked_on() -> None:
    assert remark(H_AND_E) is None and remark(cv2.resize(H_AND_E, (701, 500))) is None


@pytest.mark.parametrize("name", ["amibr", "atnorm_md"])
def test_fewer_than_one_in_a_thousand_real_crops_is_remarked_on(name: str) -> None:
    files = sorted(shared(name).rglob("*.png"))
    start, spent = time.process_time(), 0.0
    found = []
    for file in files:
        crop = cv2.imread(str(file))[..., ::-1]
        start = time.process_time()
        found.append(remark(crop))
        spent += time.process_time() - start
    assert len(files) > 1000 and sum(map(bool, found)) * 1000 < len(files)
    assert spent / len(files) < 1e-3


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (128, 128, 128), (190, 120, 180), (0, 255, 0)])
def test_a_blank_crop_is_remarked_on(colour: tuple[int, int, int]) -> None:
    crop = np.full((128, 128, 3), colour, np.uint8)
    noise = np.random.default_rng(0).normal(0, 8, crop.shape)
    gradient = np.linspace(-15, 15, 128)[None, :, None]
    for added in (0, noise, gradient):
        assert remark(np.clip(crop + added, 0, 255).astype(np.uint8)) == BLANK


FOREIGNERS = {
    "grey": np.repeat(H_AND_E[..., 1:2], 3, axis=2),
    "inverted": 255 - H_AND_E,
    "DAB": stained(DAB, 2.5),
    "green": H_AND_E[..., [1, 0, 2]],
    "red and green swapped": H_AND_E[..., [1, 0, 2]],
    "green and blue swapped": H_AND_E[..., [0, 2, 1]],
    "noise": np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8),
    "fluorescence": (np.maximum(STRUCTURE - 0.7, 0)[..., None] * [850, 340, 850]).clip(0, 255).astype(np.uint8),
}


@pytest.mark.parametrize("kind", FOREIGNERS)
def test_what_is_no_stain_of_h_and_e_is_remarked_on(kind: str) -> None:
    assert remark(FOREIGNERS[kind]) == FOREIGN


def test_numbers_are_named_up_to_ten() -> None:
    blank = np.zeros((8, 8, 3), np.uint8)
    assert remarks([H_AND_E, H_AND_E]) == []
    assert remarks([blank, H_AND_E, FOREIGNERS["grey"], blank]) == [f"crops 1, 4 are {BLANK}", f"crop 3 is {FOREIGN}"]
    assert remarks([blank] * 12) == [f"crops 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 2 more are {BLANK}"]


def test_a_file_and_its_crop_are_named_in_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cv2.imwrite(str(tmp_path / "blank.png"), np.full((128, 128, 3), 255, np.uint8))
    cv2.imwrite(str(tmp_path / "fine.png"), H_AND_E[..., ::-1])
    with caplog.at_level(logging.WARNING):
        for name in ("blank.png", "fine.png"):
            warn_of(tmp_path / name, read_stack(tmp_path / name).crops)
    assert "blank.png: crop 1 is blank" in caplog.text and "fine.png" not in caplog.text
