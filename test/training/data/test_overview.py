"""What a look before the first epoch shows."""

from pathlib import Path

import cv2
import numpy as np
from helpers import config_for

from training.data.crops import LabelledCrops
from training.data.folds import make_split
from training.data.overview import draw_augmented, fold_table
from training.data.sample import Sample
from training.network.classifier import preprocessing_of


def test_every_crop_is_counted_in_the_fold_that_holds_it_out() -> None:
    samples = [Sample(Path(f"{i}.png"), i % 2, "scanner " + "ab"[i // 20], f"slide {i // 4}") for i in range(40)]
    split = make_split(samples, "domains", 2, seed=0)
    assert fold_table(split, samples).splitlines() == [
        "domain     class     fold 0  fold 1",
        "scanner a  normal        10       0",
        "scanner a  atypical      10       0",
        "scanner b  normal         0      10",
        "scanner b  atypical       0      10",
    ]


def test_the_page_has_crops_beside_what_training_makes_of_them(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    shades = [random.integers(100, 156, (128, 128, 3)).astype(np.uint8) for _ in range(12)]
    samples = [Sample(Path(f"{i}.png"), i % 2, "", f"slide {i}") for i in range(12)]
    config = config_for(tmp_path, tmp_path, "network.field_of_view=32")
    draw_augmented(tmp_path / "page.png", LabelledCrops(samples, shades), config, preprocessing_of(config))
    page = cv2.imread(str(tmp_path / "page.png"))[..., ::-1]
    assert page.shape == (8 * 32, 8 * 32, 3)
    first_column = {page[32 * row : 32 * row + 32, :32].tobytes() for row in range(8)}
    fields = {shade[48:80, 48:80].tobytes() for shade in shades}
    assert len(first_column) == 8 and first_column <= fields, "the crop's own pixels"
    for row in range(8):
        altered = [page[32 * row : 32 * row + 32, 32 * column : 32 * column + 32].tobytes() for column in range(8)]
        assert len({*altered}) == 8
