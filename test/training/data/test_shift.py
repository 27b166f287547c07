import numpy as np

from training.data.shift import shifted


def test_a_slide_gets_one_colour_and_another_slide_another(crops: list[np.ndarray]) -> None:
    same = [crops[0]] * 3
    a, b, other = shifted(same, ["slide 1", "slide 1", "slide 2"], seed=0)
    assert a.shape == (128, 128, 3) and a.dtype == np.uint8
    colours = [crop.reshape(-1, 3).mean(0) for crop in (crops[0], a, b, other)]
    assert np.abs(colours[1] - colours[2]).max() < 3, "sharpness and noise differ, the colour does not"
    assert np.abs(colours[1] - colours[3]).max() > 6
    assert np.abs(colours[1] - colours[0]).max() > 6


def test_the_shift_is_the_same_each_time(crops: list[np.ndarray]) -> None:
    groups = [f"slide {i}" for i in range(5)]
    first, again, otherwise = (shifted(crops, groups, seed) for seed in (0, 0, 1))
    assert all(np.array_equal(x, y) for x, y in zip(first, again, strict=True))
    assert not any(np.array_equal(x, y) for x, y in zip(first, otherwise, strict=True))
