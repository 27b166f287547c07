"""The pictures of README and docs/slides.md show what the weights say."""

from pathlib import Path

import numpy as np
import pytest
from helpers import REPOSITORY
from PIL import Image

from docs import figure, screenshot, slide_figure
from model.images.read import read_crops
from model.network import weights


def test_the_mean_of_the_shown_logits_is_the_shown_answer() -> None:
    answer = figure.answers(read_crops(figure.STACK)[:1])[0]
    calibration = weights.read_config(figure.WEIGHTS).calibration
    assert answer.logits.shape == answer.images.shape[:2] == (2, 8)
    calibrated = calibration.scale * answer.logits.mean() + calibration.bias
    assert answer.confidence == pytest.approx(1 / (1 + np.exp(-calibrated)), abs=1e-4)


@pytest.mark.parametrize(
    ("picture", "page", "target"),
    [
        (figure.PICTURE, "README.md", "figure"),
        (slide_figure.PICTURE, "docs/slides.md", "figure"),
        (REPOSITORY / "docs/report.png", "README.md", "screenshot"),
        *((picture, "docs/report.md", "screenshot") for picture in screenshot.PICTURES),
    ],
)
def test_the_picture_is_of_the_weights_that_are_shipped(picture: Path, page: str, target: str) -> None:
    with Image.open(picture) as content:
        assert content.info["Source"] == figure.source(), f"make {target} draws it again"
    assert picture.stat().st_size < 200_000
    document = REPOSITORY / page
    assert f"({picture.relative_to(document.parent)})" in document.read_text(encoding="utf-8")


def test_the_drawn_slide_has_its_figures_apart_and_on_the_tissue() -> None:
    image, places = slide_figure.draw_slide()
    assert len(set(places)) == slide_figure.FIGURES and image.shape == (slide_figure.HEIGHT, slide_figure.WIDTH, 3)
    assert all(image[y - 64 : y + 64, x - 64 : x + 64].std() > 10 for x, y in places)
