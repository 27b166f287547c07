"""Crops with the same pixels, before training sees them."""

import logging
from pathlib import Path

import numpy as np
import pytest
from helpers import config_for
from published_layouts import write_crop, write_table

from training.data.crops import LabelledCrops, without_duplicates
from training.data.sample import Sample
from training.run_folder import open_run


@pytest.mark.parametrize(
    ("labels", "kept"),
    [
        ([0, 0, 0], [0]),
        ([0, 1, 1], [1]),
        ([1, 0, 1], [0]),
        ([0, 1], []),
        ([1, 0, 0, 1], []),
        ([1], [0]),
    ],
)
def test_one_crop_of_a_picture_stays_with_the_label_that_most_have(labels: list[int], kept: list[int]) -> None:
    """The picture is in several slides; another, which differs in one value, is no copy of it."""
    picture = np.full((4, 4, 3), 100, np.uint8)
    another = picture.copy()
    another[3, 3, 2] += 1
    samples = [Sample(Path(f"{i}.png"), label, "d", f"slide {i}") for i, label in enumerate([*labels, 1])]
    crops = LabelledCrops(samples, [*(picture.copy() for _ in labels), another])
    left = without_duplicates(crops)
    assert list(left.samples) == [*(samples[i] for i in kept), samples[-1]]
    assert len(left.crops) == len(left.samples) and left.crops[-1] is another


def test_a_run_uses_no_crop_twice_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = []
    for i, (seed, label) in enumerate([(1, 0), (1, 1), (2, 0), (2, 0), *((3 + i, i % 2) for i in range(8))]):
        write_crop(tmp_path / f"{i}.png", seed)
        rows.append(f"{i}.png,{('normal', 'atypical')[label]},d,slide {i},s,1")
    write_table(tmp_path / "manifest.csv", "path,label,domain,group,source,agreement", *rows)
    with caplog.at_level(logging.WARNING), open_run(config_for(tmp_path, tmp_path)) as run:
        assert run.crops.names == ["2.png", *(f"{i}.png" for i in range(4, 12))]
    assert "3 crops are left out" in caplog.text and "0.png (normal) is " in caplog.text
    assert "1.png (atypical)" in (tmp_path / "run" / "training.log").read_text()
