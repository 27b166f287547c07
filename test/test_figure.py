"""The README's picture shows what the weights say."""

import numpy as np
import pytest
from helpers import REPOSITORY
from PIL import Image

from docs import figure
from model.images.read import read_crops
from model.network import weights


def test_the_mean_of_the_shown_logits_is_the_shown_answer() -> None:
    answer = figure.answers(read_crops(figure.STACK)[:1])[0]
    calibration = weights.read_config(figure.WEIGHTS).calibration
    assert answer.logits.shape == answer.images.shape[:2] == (2, 8)
    calibrated = calibration.scale * answer.logits.mean() + calibration.bias
    assert answer.confidence == pytest.approx(1 / (1 + np.exp(-calibrated)), abs=1e-4)


def test_the_picture_is_of_the_weights_that_are_shipped() -> None:
    with Image.open(figure.PICTURE) as picture:
        assert picture.info["Source"] == figure.source(), "make figure draws it again"
    assert figure.PICTURE.stat().st_size < 200_000
    assert f"({figure.PICTURE.relative_to(REPOSITORY)})" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
