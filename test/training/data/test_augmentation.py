from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from model.network.preprocessing import Preprocessing
from training.config import AugmentationConfig
from training.data.augmentation import augment, change_colour, change_stain, degrade, draw, mix

PREPROCESSING = Preprocessing(78, 128, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NOTHING = AugmentationConfig(**dict.fromkeys(AugmentationConfig.__dataclass_fields__, 0))


def numbers_of(config: AugmentationConfig, count: int, seed: int = 0) -> dict[str, torch.Tensor]:
    random = np.random.default_rng(seed)
    return default_collate([draw(random, config) for _ in range(count)])


def neutral(count: int) -> dict[str, torch.Tensor]:
    """Draws that change nothing, not even by a quarter turn."""
    numbers = numbers_of(NOTHING, count)
    return numbers | {"angle": torch.zeros(count), "mirror": torch.ones(count)}


def batch(crops: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(crops))


def test_without_changes_training_sees_what_the_container_sees(crops: list[np.ndarray]) -> None:
    expected = PREPROCESSING.network_input(PREPROCESSING.cut_out(crops))
    images = augment(batch(crops), neutral(5), PREPROCESSING)
    inside = slice(1, -1)  # the outermost pixels are interpolated with what lies beyond the field of view
    assert torch.allclose(images[..., inside, inside], expected[..., inside, inside], atol=1e-3)
    assert torch.allclose(images, expected, atol=0.05)


@pytest.mark.parametrize("turns", range(4))
def test_a_quarter_turn_is_a_quarter_turn(crops: list[np.ndarray], turns: int) -> None:
    numbers = neutral(5) | {"angle": torch.full((5,), np.pi / 2 * turns)}
    turned = augment(batch(crops), numbers, PREPROCESSING)
    expected = torch.rot90(augment(batch(crops), neutral(5), PREPROCESSING), turns, (-2, -1))
    assert torch.allclose(turned, expected, atol=1e-3)


def test_a_shift_moves_the_field_of_view_by_pixels_of_the_crop(crops: list[np.ndarray]) -> None:
    numbers = neutral(5) | {"shift": torch.tensor([[4.0, -2.0]]).expand(5, 2)}
    rolled = [np.roll(crop, (2, -4), (0, 1)) for crop in crops]
    expected = augment(batch(rolled), neutral(5), PREPROCESSING)
    assert torch.allclose(augment(batch(crops), numbers, PREPROCESSING), expected, atol=1e-3)


def test_more_haematoxylin_darkens_the_nucleus_more_than_the_eosin() -> None:
    haematoxylin = torch.exp(-torch.tensor([0.65, 0.704, 0.286]))
    eosin = torch.exp(-torch.tensor([0.072, 0.99, 0.105]))
    images = torch.stack([haematoxylin, eosin], dim=1).view(1, 3, 1, 2)
    changed = change_stain(images, neutral(1) | {"stain": torch.tensor([[2.0, 1.0, 1.0]])})
    assert torch.allclose(changed[..., 0], images[..., 0] ** 2, atol=1e-5)
    assert torch.allclose(changed[..., 1], images[..., 1], atol=1e-5)


def test_gamma_brightness_contrast_and_grey_do_what_they_say() -> None:
    images = torch.rand(1, 3, 8, 8) * 0.8 + 0.1
    changed = change_stain(images, neutral(1) | {"gamma": torch.tensor([1.5]), "brightness": torch.tensor([0.7])})
    assert torch.allclose(changed, images**1.5 * 0.7, atol=1e-5)
    luma = torch.tensor([0.299, 0.587, 0.114])
    grey = change_colour(images, neutral(1) | {"saturation": torch.zeros(1)})
    assert torch.allclose(grey, torch.einsum("nchw,c->nhw", images, luma)[:, None].expand(-1, 3, -1, -1), atol=1e-3)
    flat = change_colour(images, neutral(1) | {"contrast": torch.zeros(1)})
    assert torch.allclose(flat, (images.mean((0, 2, 3)) @ luma).expand_as(flat), atol=1e-5)


def test_each_degradation_changes_the_crop_and_keeps_its_kind(crops: list[np.ndarray]) -> None:
    for name, value in {
        "downscale": 3.0,
        "blur": 3.0,
        "sharpen": 2.0,
        "noise": 20.0,
        "jpeg": 10,
        "margin": 60.0,
    }.items():
        config = replace(NOTHING, **{name: value})
        random = np.random.default_rng(0)
        degraded = [degrade(crops[0], random, config) for _ in range(40)]
        assert all(crop.shape == (128, 128, 3) and crop.dtype == np.uint8 for crop in degraded)
        altered = sum(not np.array_equal(crop, crops[0]) for crop in degraded)
        assert 4 <= altered <= 36, name
    assert np.array_equal(degrade(crops[0], np.random.default_rng(0), NOTHING), crops[0])


def test_a_margin_is_black_on_one_side_and_leaves_the_rest_and_the_crop_in_memory_alone() -> None:
    crop = np.full((128, 128, 3), 200, np.uint8)
    sides = set()
    for seed in range(200):
        degraded = degrade(crop, np.random.default_rng(seed), replace(NOTHING, margin=60.0))
        black = (degraded == 0).all(axis=2)
        assert set(np.unique(degraded)) <= {0, 200}
        assert black.sum() <= 60 * 128
        assert black.sum() in (128 * black.all(axis=0).sum(), 128 * black.all(axis=1).sum())
        if black.any():
            sides.add((bool(black[0].all()), bool(black[-1].all()), bool(black[:, 0].all()), bool(black[:, -1].all())))
    assert len(sides) == 4 and all(sum(side) == 1 for side in sides)
    assert (crop == 200).all()


def test_the_default_augmentation_stays_in_range_and_differs_from_crop_to_crop(crops: list[np.ndarray]) -> None:
    config = replace(AugmentationConfig(), elastic=2.0)
    images = augment(batch([crops[0]] * 8), numbers_of(config, 8), PREPROCESSING)
    assert images.shape == (8, 3, 128, 128) and images.dtype == torch.float32
    assert torch.isfinite(images).all() and images.min() >= -1.0001 and images.max() <= 1.0001
    assert all((images[0] - other).abs().mean() > 0.01 for other in images[1:])


def mixing(count: int, **changed: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"own_share": torch.ones(count), "rectangle": torch.zeros(count, 4)} | changed


def test_mixup_and_cutmix_mix_images_and_targets_by_the_same_shares() -> None:
    images, targets = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    weights = torch.tensor([2.0, 4.0])
    same_images, same_targets, _ = mix(images, targets, weights, {})
    assert same_images is images and same_targets is targets
    same_images, same_targets, _ = mix(images, targets, weights, mixing(2))
    assert torch.equal(same_images, images) and torch.equal(same_targets, targets)
    mixed, mixed_targets, mixed_weights = mix(images, targets, weights, mixing(2, own_share=torch.tensor([0.75, 1.0])))
    assert mixed_weights.tolist() == pytest.approx([2.5, 4.0])
    assert torch.allclose(mixed[0], torch.tensor(0.25)) and torch.allclose(mixed[1], torch.tensor(1.0))
    assert torch.allclose(mixed_targets, torch.tensor([[0.25, 0.75], [1.0, 0.0]]))
    rectangle = torch.tensor([[0.0, 0.5, 0.25, 1.0], [0.0, 0.0, 0.0, 0.0]])
    mixed, mixed_targets, _ = mix(images, targets, weights, mixing(2, rectangle=rectangle))
    expected = torch.zeros(8, 8)
    expected[4:, :2] = 1
    assert torch.equal(mixed[0, 0], expected)
    assert torch.allclose(mixed_targets, torch.tensor([[8 / 64, 56 / 64], [1.0, 0.0]]))


def test_as_many_crops_are_mixed_as_the_recipe_says() -> None:
    numbers = numbers_of(replace(NOTHING, mixup=0.4, cutmix=1.0, mixed=0.5), 400)
    by_share, by_area = numbers["own_share"] < 1, (numbers["rectangle"][:, 2] > 0)
    assert 70 < by_share.sum() < 130 and 70 < by_area.sum() < 130 and not (by_share & by_area).any()
    assert numbers["rectangle"].min() >= 0 and numbers["rectangle"].max() <= 1
    off = numbers_of(NOTHING, 20)
    assert (off["own_share"] == 1).all() and (off["rectangle"] == 0).all()
