"""Crops of any resolution at 0.25 µm per pixel."""

import numpy as np
import pytest

from model.images.resampling import rescale, resolution


@pytest.mark.parametrize(("mpp", "side"), [(0.5, 256), (0.25, 128), (0.125, 64), (0.2, 102)])
def test_rescaled_sides(crops: list[np.ndarray], mpp: float, side: int) -> None:
    assert rescale(crops[0], mpp).shape == (side, side, 3)


def test_what_is_near_a_quarter_is_a_quarter_unless_the_user_says_so() -> None:
    assert [resolution(None, stated) for stated in (None, 0.23, 0.2738, 0.22, 0.5)] == [0.25, 0.25, 0.25, 0.22, 0.5]
    assert [resolution(0.23, stated) for stated in (None, 0.5)] == [0.23, 0.23]
