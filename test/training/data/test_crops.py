from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from training.config import AugmentationConfig
from training.data.crops import BalancedSampler, LabelledCrops, TrainingCrops, load_crops
from training.data.sample import DataError, Sample


def test_the_sampler_balances_the_classes_and_starts_afresh_each_epoch() -> None:
    labels = np.array([0] * 80 + [1] * 20)
    sampler = BalancedSampler(labels, balance=1.0, seed=0)
    first = list(sampler)
    assert len(first) == len(sampler) == 100
    assert sum(labels[index] for _, _, index in first) == 50
    assert [place for _, place, _ in first] == list(range(100))
    drawn = np.bincount([index for _, _, index in first], minlength=100)
    assert set(drawn[labels == 1]) == {2, 3} and set(drawn[labels == 0]) == {0, 1}
    assert list(sampler) == first
    sampler.epoch = 1
    assert {epoch for epoch, _, _ in sampler} == {1}
    assert [i for _, _, i in sampler] != [i for _, _, i in first]
    natural = [labels[index] for _, _, index in BalancedSampler(labels, balance=0.0, seed=0)]
    assert sum(natural) == 20


def test_an_item_depends_on_its_place_alone(crops: list[np.ndarray], tmp_path: Path) -> None:
    dataset = TrainingCrops(crops, [[0], [1], [0], [1], [0]], np.ones(5), AugmentationConfig(), seed=3)
    again = TrainingCrops(crops, [[0], [1], [0], [1], [0]], np.ones(5), AugmentationConfig(), seed=3)
    again[(0, 0, 0)]
    for key in ((0, 5, 1), (2, 7, 1)):
        item, item_again = dataset[key], again[key]
        assert np.array_equal(item["crop"], item_again["crop"]) and item["target"] == 1 and item["index"] == 1
        assert all(np.array_equal(item["numbers"][name], item_again["numbers"][name]) for name in item["numbers"])
    angles = [dataset[key]["numbers"]["angle"] for key in ((0, 5, 1), (0, 6, 1), (1, 6, 1))]
    assert len(set(angles)) == 3


@pytest.mark.parametrize("sides", [(8, 9), (7, 7)])
def test_crops_of_several_sizes_or_too_small_are_refused_by_name(tmp_path: Path, sides: tuple[int, int]) -> None:
    for name, side in zip("ab", sides, strict=True):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((side, side, 3), np.uint8))
    samples = [Sample(tmp_path / f"{name}.png", 0, "", "") for name in "ab"]
    with pytest.raises(DataError, match=r"[ab]\.png is \d x \d pixels; training needs crops of one size, at least 8"):
        load_crops(samples, smallest=8)


@pytest.mark.parametrize(("mpp", "refused"), [(0.5, True), (0.2, True), (0.25, False), (0.26, False), (350, False)])
def test_crops_of_another_resolution_are_refused_by_name(tmp_path: Path, mpp: float, refused: bool) -> None:
    """The container would rescale them, so the network would never see what it learnt; 350 µm is no microscope's."""
    dots = 10000 / mpp * 2.54
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", dpi=(dots, dots))
    samples = [Sample(tmp_path / "a.png", 0, "", "")]
    if refused:
        with pytest.raises(DataError, match=rf"a\.png states {mpp} µm per pixel, .* learns from crops of 0\.25"):
            load_crops(samples)
    else:
        assert len(load_crops(samples)) == 1


def test_crops_are_rgb(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "red.png"), np.full((8, 8, 3), (0, 0, 200), np.uint8))
    (crop,) = load_crops([Sample(tmp_path / "red.png", 0, "", "")]).crops
    assert crop[0, 0].tolist() == [200, 0, 0]


def test_a_crop_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"a\.png cannot be read"):
        load_crops([Sample(tmp_path / "a.png", 0, "", "")])


def test_a_subset_is_chosen_by_indices_or_by_a_mask(crops: list[np.ndarray]) -> None:
    whole = LabelledCrops([Sample(Path(f"{i}.png"), i % 2, "", f"slide {i // 2}") for i in range(5)], crops)
    assert len(whole) == 5 and whole.labels.tolist() == [0, 1, 0, 1, 0]
    part = whole.subset([3, 0])
    assert part.names == ["3.png", "0.png"] and part.groups == ["slide 1", "slide 0"]
    assert part.labels.tolist() == [1, 0]
    assert part.crops[0] is crops[3] and part.crops[1] is crops[0]
    assert whole.subset(whole.labels == 1).names == ["1.png", "3.png"]
    assert len(whole.subset(whole.labels == 2)) == 0
