"""What P(atypical) means where fewer figures are atypical."""

import numpy as np
import pytest

from model.network.calibration import posterior


def test_the_posterior_by_hand() -> None:
    assert posterior(0.5, 0.2) == pytest.approx(0.2)
    assert posterior(0.8, 0.5) == pytest.approx(0.8)
    assert posterior(0.9, 0.1) == pytest.approx(0.5)
    assert [posterior(p, 0.01) for p in (0.0, 1.0)] == [0.0, 1.0]


def test_the_posterior_is_the_share_that_is_found() -> None:
    """Scores of two normal distributions, of which one in seven is atypical, as in many tumours."""
    random = np.random.default_rng(0)
    atypical = random.random(400_000) < 1 / 7
    scores = random.normal(np.where(atypical, 1.0, -1.0))
    confidences = 1 / (1 + np.exp(-2 * scores))  # calibrated where both are equally frequent
    later = np.array([posterior(confidence, 1 / 7) for confidence in confidences])
    for low in (0.1, 0.3, 0.5, 0.7):
        within = (later >= low) & (later < low + 0.05)
        assert atypical[within].mean() == pytest.approx(later[within].mean(), abs=0.02)
        assert confidences[within].mean() > later[within].mean() + 0.05
