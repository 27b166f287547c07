"""How much sensitivity and specificity differ from slide to slide, beyond what chance makes of so few crops."""

import math

import numpy as np

from model.constants import THRESHOLD


def between_slides(labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Standard deviations of the slides' own sensitivity and specificity about those of all.

    The moment estimator of the variance between clusters of binary answers (Kleinman 1973, J Am Stat Assoc 68:46, with
    weights proportional to the clusters' sizes): with n_i crops of a class on slide i, of which a share p_i is called
    right, N = sum n_i, p = sum n_i p_i / N and k slides,

        variance = (sum n_i (p_i - p)² - (k - 1) p (1 - p)) / (N - sum n_i² / N - (k - 1)),

    0 where that is negative or there are too few slides to tell.

    Args:
        labels: (N,) 0 or 1.
        probabilities: (N,) P(atypical), calibrated without the sample itself.
        groups: (N,) slides.

    Returns:
        sensitivity, specificity: in [0, 1].
    """
    right = (probabilities >= THRESHOLD) == (labels == 1)
    return {name: _spread(right[labels == label], groups[labels == label]) for name, label in RATES.items()}


RATES = {"sensitivity": 1, "specificity": 0}
"""Rates, and the label of the crops that they are of."""


def _spread(right: np.ndarray, groups: np.ndarray) -> float:
    """The standard deviation between groups of how many of their samples are right."""
    _, slide = np.unique(groups, return_inverse=True)
    if not len(slide):
        return 0.0
    sizes = np.bincount(slide)
    shares, share = np.bincount(slide, right) / sizes, right.mean()
    slides, crops = len(sizes), sizes.sum()
    expected = (slides - 1) * share * (1 - share)
    independent = crops - (sizes**2).sum() / crops - (slides - 1)
    if independent <= 0:
        return 0.0
    variance = ((sizes * (shares - share) ** 2).sum() - expected) / independent
    return round(math.sqrt(max(0.0, float(variance))), 4)
