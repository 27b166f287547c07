"""From a logit to P(atypical)."""

from dataclasses import dataclass

import numpy as np

from model.checks import check_number


@dataclass(frozen=True)
class Calibration:
    """P(atypical) = sigmoid(scale * logit + bias): Platt scaling (Platt 1999).

    Fitted with both classes weighted alike on predictions for held-out slides, so P is the probability at equal
    prevalence, and P >= 0.5 is the operating point of best balanced accuracy if the classes' likelihoods are logistic.
    """

    scale: float = 1.0
    bias: float = 0.0

    def __post_init__(self) -> None:
        check_number("the calibration's scale", self.scale, 1e-4, 1e6)
        check_number("the calibration's bias", self.bias, -1e4, 1e4)


def calibrate(logits: np.ndarray, calibration: Calibration) -> np.ndarray:
    """P(atypical) of view-averaged logits, both (N,)."""
    return sigmoid(calibration.scale * logits + calibration.bias)


def sigmoid(values: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), elementwise, without overflow."""
    return np.exp(-np.logaddexp(0.0, -values))


def posterior(probability: float, prevalence: float) -> float:
    """P(atypical) where a share of figures is atypical, from P(atypical) at equal prevalence.

    By Bayes' rule the odds are those at equal prevalence times `prevalence / (1 - prevalence)` (Elkan 2001, IJCAI,
    theorem 2). It holds as far as atypical figures, and normal ones, look alike wherever they are.

    Args:
        probability: calibrated, in [0, 1].
        prevalence: in (0, 1).
    """
    atypical, normal = probability * prevalence, (1 - probability) * (1 - prevalence)
    return atypical / (atypical + normal)
