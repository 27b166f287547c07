import math

import pytest
import torch
from torch.nn import functional as F

from training.losses import focal_loss


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
