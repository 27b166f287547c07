import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import config_for
from torch.nn import functional as F

from training.config import LossConfig
from training.data.sample import Sample
from training.fitting.losses import (
    classification_loss,
    consistency_loss,
    domain_weights,
    focal_loss,
    targets_and_weights,
)


def test_against_a_hand_computation() -> None:
    """P(atypical) of 0.8 and 0.3 for an atypical and a normal crop, gamma 2."""
    logits = torch.tensor([math.log(0.8 / 0.2), math.log(0.3 / 0.7)])
    expected = [-(0.2**2) * math.log(0.8), -(0.3**2) * math.log(0.7)]
    assert focal_loss(logits, torch.tensor([1.0, 0.0]), gamma=2.0).tolist() == pytest.approx(expected, rel=1e-5)


def test_gamma_zero_is_cross_entropy() -> None:
    logits, labels = torch.randn(50), torch.rand(50).round()
    expected = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    assert torch.allclose(focal_loss(logits, labels, gamma=0.0), expected)


def test_smoothing_moves_the_minimum_off_the_extremes() -> None:
    logits = torch.linspace(-10, 10, 2001)
    losses = focal_loss(logits, torch.ones_like(logits), gamma=2.0, smoothing=0.2)
    assert logits[losses.argmin()].sigmoid() == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_extreme_logits_have_finite_losses_and_gradients(logit: float) -> None:
    logits = torch.tensor([logit, logit], requires_grad=True)
    losses = focal_loss(logits, torch.tensor([0.0, 1.0]), gamma=2.0)
    losses.sum().backward()
    assert torch.isfinite(losses).all() and torch.isfinite(logits.grad).all()


def test_phases_add_their_cross_entropy_where_they_are_known() -> None:
    """Two phases of equal logits cost ln 2, whatever the experts' shares are."""
    logits = torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, math.log(3)]])
    targets = torch.tensor([[1.0, 0.5, 0.5], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    class_loss = focal_loss(logits[:, 0], targets[:, 0], gamma=2.0)
    losses = classification_loss(logits, targets, LossConfig(gamma=2.0, phases=0.3))
    expected = [0.3 * math.log(2), 0, 0.3 * math.log(4)]
    assert (losses - class_loss).tolist() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(classification_loss(logits[:, :1], targets[:, :1], LossConfig()), class_loss)


def test_domain_weights_against_a_hand_computation() -> None:
    """Six crops: 3 normal and 1 atypical of domain a, 1 and 1 of b; smoothing a half, so 1/2 x 1/4 is added to each."""
    labels, domains = [0, 0, 0, 1, 0, 1], ["a", "a", "a", "a", "b", "b"]
    raw = [1 / (3 / 6 + 1 / 8)] * 3 + [1 / (1 / 6 + 1 / 8)] * 3
    expected = [weight / (sum(raw) / 6) for weight in raw]
    weights = domain_weights(labels, domains, balance=0.0, smoothing=0.5)
    assert weights.tolist() == pytest.approx(expected)
    assert weights.mean() == pytest.approx(1)
    assert weights[0] == pytest.approx(0.6364, abs=1e-4) and weights[3] == pytest.approx(1.3636, abs=1e-4)


def test_without_smoothing_every_domain_and_class_weighs_alike() -> None:
    labels, domains = np.array([0] * 90 + [1] * 10), np.array((["a"] * 60 + ["b"] * 30) + (["a"] * 9 + ["b"]))
    weights = domain_weights(labels, domains, balance=0.0, smoothing=0.0)
    sums = [weights[(labels == label) & (domains == domain)].sum() for label in (0, 1) for domain in "ab"]
    assert sums == pytest.approx([25.0] * 4)


def test_with_one_domain_and_balanced_classes_it_is_the_plain_focal_loss() -> None:
    """Balanced by the sampler, or balanced as they are."""
    torch.manual_seed(0)
    skewed, even = [0] * 30 + [1] * 10, [0] * 20 + [1] * 20
    logits = torch.randn(40)
    for labels, balance in ((skewed, 1.0), (even, 0.0)):
        plain = focal_loss(logits, torch.tensor(labels).float(), gamma=2.0)
        weights = torch.from_numpy(domain_weights(labels, ["a"] * 40, balance, smoothing=0.25))
        torch.testing.assert_close(plain * weights.float(), plain)


def test_what_the_sampler_draws_more_often_is_not_weighted_again() -> None:
    """Expected weight of a drawn crop is one, whatever the sampler's balance; the domains still weigh alike."""
    labels, domains = np.array([0] * 80 + [1] * 20), np.array(["a", "b", "b", "b"] * 25)
    weights = domain_weights(labels, domains, balance=1.0, smoothing=0.0)
    drawn = np.where(labels == 1, 0.5 / 20, 0.5 / 80)
    assert (drawn * weights).sum() == pytest.approx(1)
    for domain in "ab":
        assert (drawn * weights)[domains == domain].sum() == pytest.approx(0.5)


def test_votes_become_targets_and_rare_domains_weigh_more(tmp_path: Path) -> None:
    samples = [Sample(Path(f"{i}.png"), i % 2, "ab"[i > 5], "slide", "x", 2 / 3 if i < 2 else 1.0) for i in range(8)]
    hard = config_for(tmp_path, tmp_path, "optimisation.balance=0")
    targets, weights = targets_and_weights(hard, samples)
    assert targets[:, 0].tolist() == [0, 1] * 4 and weights.tolist() == [1] * 8
    both = config_for(
        tmp_path, tmp_path, "optimisation.balance=0", "data.soft_labels=true", "loss.domain_weighted=true"
    )
    targets, weights = targets_and_weights(both, samples)
    assert targets[:, 0].tolist() == pytest.approx([1 / 3, 2 / 3, *[0, 1] * 3])
    assert weights[7] > 1 > weights[0] and weights.mean() == pytest.approx(1)


@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.5, 0.99, 1.0, 2.0])
@pytest.mark.parametrize("label", [0.0, 0.5, 1.0])
def test_any_exponent_has_finite_gradients_where_the_prediction_meets_the_target(gamma: float, label: float) -> None:
    logits = torch.tensor([0.0, 40.0, -40.0], requires_grad=True)
    focal_loss(logits, torch.full((3,), label), gamma).sum().backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


def test_consistency_asks_two_views_for_one_answer() -> None:
    """Only the class counts, in logits: 1 and 3 are 4 apart when squared, and which is first does not matter."""
    first, second = torch.tensor([[1.0, 5.0], [0.5, 0.0]]), torch.tensor([[3.0, -5.0], [0.5, 9.0]])
    assert consistency_loss(first, second).tolist() == consistency_loss(second, first).tolist() == [4.0, 0.0]
