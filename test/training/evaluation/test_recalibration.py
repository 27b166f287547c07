"""An operating point fitted to a lab's crops, and how certain it is."""

import numpy as np
import pytest

from model.errors import UserError
from model.network.calibration import Calibration, calibrate, sigmoid
from training.evaluation.answers import Answers
from training.evaluation.recalibration import RecalibrationError, log_odds, recalibrate

pytestmark = pytest.mark.usefixtures("few_resamples")


def draw(crops: int, slides: int, shift: float, seed: int = 0) -> Answers:
    """Crops of a lab whose logits, normal around -1 and 1 for the classes, are all shifted."""
    random = np.random.default_rng(seed)
    labels = (random.permutation(crops) % 4 == 0).astype(int)
    probabilities = sigmoid(random.normal(2.0 * labels - 1) + shift)
    groups = np.array([f"s{i % slides}" for i in range(crops)])
    return Answers(labels, (probabilities >= 0.5).astype(int), probabilities, groups)


def test_a_shifted_operating_point_is_found_again() -> None:
    """For normal logits of unit variance around -1 and 1 the best threshold is 0, before the shift by 1.5."""
    old = Calibration(2.0, 0.5)
    found = recalibrate(draw(4000, 80, 1.5), old)
    logit = -found.calibration.bias / found.calibration.scale
    assert calibrate(np.array([logit]), old) == pytest.approx(sigmoid(np.array([1.5])), abs=0.02)
    low, high = found.report["threshold"]["interval_95"]
    assert low < sigmoid(np.array(1.5)) < high
    assert found.report["gain"]["interval_95"][0] > 0.05
    assert found.report["new"]["balanced_accuracy"]["value"] == pytest.approx(0.841, abs=0.02)  # Phi(1)
    assert found.report["enough"] and "known well enough" in found.sentence


def test_few_crops_are_called_too_few_and_more_are_asked_for() -> None:
    found = recalibrate(draw(40, 4, 1.5), Calibration())
    report = found.report
    assert not report["enough"] and report["swing"] > 0.1
    assert report["wanted"]["slides"] >= 10 and report["wanted"]["atypical"] > report["atypical"]
    assert "With 40 crops (10 atypical) of 4 slides the operating point is uncertain" in found.sentence


def test_a_good_operating_point_gains_nothing() -> None:
    report = recalibrate(draw(2000, 40, 0), Calibration()).report
    low, high = report["gain"]["interval_95"]
    assert low <= 0.01 and high >= -0.01 and report["threshold"]["value"] == pytest.approx(0.5, abs=0.05)


def test_the_new_figures_are_of_slides_that_took_no_part() -> None:
    """Logits without a meaning: fitted to themselves any few crops would look better than chance."""
    random = np.random.default_rng(3)
    labels = np.arange(60) % 3 == 0
    odds = random.normal(size=60) + 0.2 * labels
    answers = Answers(
        labels.astype(int), (odds > 0).astype(int), sigmoid(odds), np.array([f"s{i % 6}" for i in range(60)])
    )
    try:
        new = recalibrate(answers, Calibration()).report["new"]["balanced_accuracy"]["value"]
    except UserError as error:
        assert "do not rise" in str(error)
    else:
        assert new < 0.62


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        (lambda a: a.labels == 0, "None of the 30 crops is labelled atypical"),
        (lambda a: (a.labels == 0) | (a.groups == "s0"), "All crops labelled atypical are of one slide"),
        (lambda a: (a.labels == 1) | (a.groups == "s1"), "All crops labelled normal are of one slide"),
    ],
)
def test_too_little_is_refused(chosen, sentence: str) -> None:
    answers = draw(40, 4, 0)
    with pytest.raises(RecalibrationError, match=sentence):
        recalibrate(answers.subset(chosen(answers)), Calibration())


def test_inverted_labels_are_refused() -> None:
    answers = draw(400, 8, 0)
    inverted = Answers(1 - answers.labels, answers.called, answers.probabilities, answers.groups)
    with pytest.raises(UserError, match="do not rise with the label"):
        recalibrate(inverted, Calibration())


def test_log_odds_are_finite() -> None:
    assert np.isfinite(log_odds(np.array([0.0, 1.0, 1e-300]))).all()
    values = np.linspace(-25, 25, 101)
    np.testing.assert_allclose(log_odds(sigmoid(values)), values, rtol=1e-4)
