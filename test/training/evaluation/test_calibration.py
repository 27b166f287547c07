from dataclasses import replace

import numpy as np
import pytest

from model.network.calibration import calibrate, sigmoid
from training.evaluation.calibration import CalibrationError, cross_calibrate, fit_calibration
from training.evaluation.held_out import Predictions


def simulate(count: int, atypical: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits of two normal distributions of equal width: the log likelihood ratio is exactly 1.5 z - 0.6."""
    random = np.random.default_rng(seed)
    labels = (random.random(count) < atypical).astype(int)
    return random.normal(np.where(labels == 1, 1.15, -0.35), 1.0), labels


@pytest.mark.parametrize("atypical", [0.05, 0.2, 0.5])
def test_the_calibration_is_that_of_equal_prevalence_whatever_the_datas(atypical: float) -> None:
    calibration = fit_calibration(*simulate(200_000, atypical, seed=0))
    assert calibration.scale == pytest.approx(1.5, abs=0.06)
    assert calibration.bias == pytest.approx(-0.6, abs=0.05)


def test_half_is_the_operating_point_of_best_balanced_accuracy() -> None:
    logits, labels = simulate(100_000, 0.2, seed=1)
    probabilities = calibrate(logits, fit_calibration(logits, labels))

    def balanced_accuracy(threshold: float) -> float:
        called = probabilities >= threshold
        return (called[labels == 1].mean() + 1 - called[labels == 0].mean()) / 2

    best = max(balanced_accuracy(threshold) for threshold in np.linspace(0.05, 0.95, 91))
    assert balanced_accuracy(0.5) >= best - 0.002


def test_scale_of_the_logits_does_not_matter() -> None:
    logits, labels = simulate(2000, 0.2, seed=2)
    small, large = fit_calibration(logits, labels), fit_calibration(logits * 1000 + 0.5, labels)
    assert large.scale * 1000 == pytest.approx(small.scale, rel=1e-2)


def test_cross_calibration_uses_the_other_folds_only() -> None:
    logits, labels = simulate(3000, 0.2, seed=3)
    folds = np.arange(3000) % 3
    nowhere = np.full(3000, "")
    held_out = Predictions(labels, logits, logits - 1, folds, nowhere, nowhere)
    calibration = fit_calibration(logits[folds != 1], labels[folds != 1])
    for given, calibrated in ((None, logits), (held_out.shifted_logits, logits - 1)):
        expected = sigmoid(calibration.scale * calibrated[folds == 1] + calibration.bias)
        np.testing.assert_allclose(cross_calibrate(held_out, given)[folds == 1], expected)
    further = simulate(3000, 0.2, seed=4)[0] + labels
    both = fit_calibration(np.concatenate([logits[folds != 1], further[folds != 1]]), np.tile(labels[folds != 1], 2))
    expected = sigmoid(both.scale * logits[folds == 1] + both.bias)
    np.testing.assert_allclose(cross_calibrate(held_out, further=further)[folds == 1], expected)


def test_a_fold_with_predictions_of_its_training_side_is_calibrated_on_them_alone() -> None:
    """The other folds' predictions are of networks that the fold's own crops were learnt by."""
    logits, labels = simulate(3000, 0.2, seed=3)
    nowhere, folds = np.full(3000, ""), np.arange(3000) % 2
    inner, inner_labels = simulate(1000, 0.2, seed=5)
    calibrating = Predictions(inner_labels, 3 * inner, inner, np.arange(1000) % 2, nowhere[:1000], nowhere[:1000])
    held_out = Predictions(labels, logits, logits, folds, nowhere, nowhere, calibrating)
    found = cross_calibrate(held_out)
    for fold in (0, 1):
        calibration = fit_calibration(3 * inner[fold::2], inner_labels[fold::2])
        expected = sigmoid(calibration.scale * logits[folds == fold] + calibration.bias)
        np.testing.assert_allclose(found[folds == fold], expected)
    others = replace(held_out, logits=logits + 100 * (folds == 1))
    np.testing.assert_allclose(cross_calibrate(others)[folds == 0], found[folds == 0])


@pytest.mark.parametrize("count", [1, 3, 30])
def test_logits_that_a_threshold_separates_give_a_finite_calibration(count: int) -> None:
    """Platt's targets: with n crops of each class none is surer than (n + 1) / (n + 2)."""
    logits = np.concatenate([np.full(count, -1.0), np.full(count, 2.0)])
    calibration = fit_calibration(logits, np.repeat([0, 1], count))
    sure = (count + 1) / (count + 2)
    np.testing.assert_allclose(calibrate(np.array([-1.0, 2.0]), calibration), [1 - sure, sure], atol=1e-4)


@pytest.mark.parametrize(
    ("logits", "labels", "sentence"),
    [
        ([1.0, 2.0], [1, 1], "both classes"),
        ([1.0, 1.0], [0, 1], "differ"),
        ([2.0, 1.0, 2.1, 0.9], [0, 1, 0, 1], "do not rise"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(logits: list[float], labels: list[int], sentence: str) -> None:
    with pytest.raises(CalibrationError, match=sentence):
        fit_calibration(np.array(logits), np.array(labels))
