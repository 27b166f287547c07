import pytest
import torch

from model.network import views


@pytest.mark.parametrize(("name", "number"), [("none", 1), ("rot4", 4), ("d4", 8)])
def test_views_are_distinct_and_start_with_the_image_itself(name: str, number: int) -> None:
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).view(2, 3, 4, 4)
    expanded = views.expand(images, name)
    assert expanded.shape == (2 * number, 3, 4, 4)
    assert torch.equal(expanded[0], images[0])
    assert torch.equal(expanded[number], images[1])
    assert len({tuple(view.flatten().tolist()) for view in expanded}) == 2 * number
    assert all(torch.equal(view.flatten().sort()[0], images[0].flatten()) for view in expanded[:number])


@pytest.mark.parametrize("name", ["rot4", "d4"])
def test_views_are_a_group(name: str) -> None:
    """The views of a turned image are the views of the image in another order, so that their mean is the same."""
    image = torch.rand(1, 3, 6, 6)
    turned = views.expand(torch.rot90(image, 1, (-2, -1)), name)
    original = views.expand(image, name)
    matches = (turned[:, None] == original[None]).flatten(2).all(2)
    assert matches.sum(0).tolist() == matches.sum(1).tolist() == [1] * views.count(name)


def test_each_images_views_stay_together() -> None:
    logits = torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0])
    assert views.apart(logits, "rot4").tolist() == [[1, 2, 3, 4], [10, 20, 30, 40]]


def test_unknown_views_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'d5'.*none, rot4, d4"):
        views.count("d5")
