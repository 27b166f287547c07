"""What an epoch does with a batch before the network sees it, and with what the network says."""

import torch

from model.network.views import expand
from training.config import LossConfig
from training.fitting.epoch import _losses, _with_another_view
from training.fitting.losses import classification_loss


def test_the_other_view_is_one_of_the_seven_and_each_comes() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 5, 5)
    symmetries = expand(images, "d4").unflatten(0, (2, 8))
    seen = set()
    for _ in range(100):
        both = _with_another_view(images)
        assert torch.equal(both[:2], images)
        seen.add(next(i for i in range(8) if torch.equal(both[2:], symmetries[:, i])))
    assert seen == set(range(1, 8))


def test_two_views_cost_their_mean_and_what_sets_them_apart() -> None:
    config = LossConfig(gamma=0.0, phases=0.3, consistency=0.5)
    first, second = torch.tensor([[1.0, 0.2, 0.1]]), torch.tensor([[-1.0, 0.0, 0.5]])
    targets = torch.tensor([[1.0, 0.5, 0.5]])
    mean = (classification_loss(first, targets, config) + classification_loss(second, targets, config)) / 2
    found = _losses(torch.cat([first, second]), targets, config)
    torch.testing.assert_close(found, mean + 0.5 * 4)
    assert torch.equal(_losses(first, targets, config), classification_loss(first, targets, config))
