import numpy as np
import pytest
import torch

from model.errors import CropError
from model.network import views
from model.network.preprocessing import Preprocessing

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_field_is_the_centre_of_crops_of_any_size() -> None:
    preprocessing = Preprocessing(8, 8, *IMAGENET)
    crops = []
    for height, width in ((12, 12), (8, 8), (10, 14)):
        crop = np.zeros((height, width, 3), np.uint8)
        crop[height // 2 - 4 : height // 2 + 4, width // 2 - 4 : width // 2 + 4] = 255
        crops.append(crop)
    fields = preprocessing.cut_out(crops)
    assert fields.shape == (3, 8, 8, 3) and fields.dtype == torch.uint8
    assert (fields == 255).all()


def test_network_input_is_normalised_per_channel_in_rgb_order() -> None:
    colour = np.array([10, 120, 250], np.uint8)
    preprocessing = Preprocessing(8, 9, *IMAGENET)
    images = preprocessing.network_input(preprocessing.cut_out([np.broadcast_to(colour, (8, 8, 3))]))
    expected = (colour / 255 - np.array(IMAGENET[0])) / np.array(IMAGENET[1])
    assert images.shape == (1, 3, 9, 9)
    assert torch.allclose(images.mean((0, 2, 3)).double(), torch.tensor(expected), atol=1e-5)


def test_preprocessing_commutes_with_the_views(crops: list[np.ndarray]) -> None:
    """Views are taken of the network's input; turning the crop first must give the same."""
    preprocessing = Preprocessing(78, 160, *IMAGENET)
    first = preprocessing.network_input(preprocessing.cut_out([np.rot90(crop).copy() for crop in crops]))
    after = views.expand(preprocessing.network_input(preprocessing.cut_out(crops)), "rot4")[1::4]
    assert torch.allclose(first, after, atol=1e-5)


def test_too_small_crop_is_refused_by_number(crops: list[np.ndarray]) -> None:
    with pytest.raises(CropError, match=r"Crop 2 is 70 x 128 pixels, but .* 78 x 78"):
        Preprocessing(78, 64, *IMAGENET).cut_out([crops[0], crops[1][:, :70]])


@pytest.mark.parametrize(
    "bad", [(0, 64, (0, 0, 0), (1, 1, 1)), (64, 64, (0, 0), (1, 1, 1)), (64, 64, (0,) * 3, (0,) * 3)]
)
def test_senseless_settings_are_refused(bad: tuple) -> None:
    with pytest.raises(ValueError, match="must be a"):
        Preprocessing(*bad)


def test_each_scale_takes_the_middle_of_the_largest_field(crops: list[np.ndarray]) -> None:
    several = Preprocessing(78, 64, (0.5,) * 3, (0.5,) * 3, (1.0, 0.82, 1.23))
    fields = several.cut_out(crops)
    assert fields.shape == (5, 96, 96, 3)
    images = several.network_input(fields)
    assert images.shape == (5, 9, 64, 64)
    for part, side in zip(images.split(3, dim=1), (78, 64, 96), strict=True):
        alone = Preprocessing(side, 64, (0.5,) * 3, (0.5,) * 3)
        assert torch.equal(part, alone.network_input(alone.cut_out(crops)))
    with pytest.raises(ValueError, match="scales must be a list"):
        Preprocessing(78, 64, (0.5,) * 3, (0.5,) * 3, ())
