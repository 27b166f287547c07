"""The spread of rates between slides, against slides whose rates are known."""

import numpy as np
import pytest

from training.evaluation.between_slides import between_slides


def simulate(random: np.random.Generator, slides: int, spread: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normal crops of slides of 5 to 59, whose specificity is 0.8, give or take; labels, probabilities, groups."""
    groups = np.repeat(np.arange(slides), random.integers(5, 60, slides))
    specificity = 0.8 + spread * random.choice([-1, 1], slides)
    right = random.random(len(groups)) < specificity[groups]
    return np.zeros(len(groups), dtype=int), np.where(right, 0.1, 0.9), groups


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.15])
def test_the_spread_of_simulated_slides_is_found(spread: float) -> None:
    random = np.random.default_rng(0)
    found = [between_slides(*simulate(random, 100, spread))["specificity"] for _ in range(100)]
    # The variance is estimated without bias, but for what is cut off below none.
    assert np.sqrt(np.mean(np.square(found))) == pytest.approx(spread, abs=0.02)


def test_each_class_has_its_own_by_hand() -> None:
    """Two slides of two atypical crops, all right and all wrong: p = 1/2, so (1 - 1/4) / (4 - 2 - 1) = 3/4."""
    labels = np.array([1, 1, 1, 1, 0, 0])
    probabilities = np.array([0.9, 0.9, 0.1, 0.1, 0.2, 0.3])
    groups = np.array(["a", "a", "b", "b", "a", "b"])
    assert between_slides(labels, probabilities, groups) == {"sensitivity": 0.866, "specificity": 0.0}


def test_too_few_slides_tell_nothing() -> None:
    labels, probabilities = np.array([1, 0]), np.array([0.9, 0.1])
    assert between_slides(labels, probabilities, np.array(["a", "b"])) == {"sensitivity": 0.0, "specificity": 0.0}
