"""An operating point fitted anew to a lab's own crops, and how far so many crops can be trusted with it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from model.errors import UserError
from model.network.calibration import Calibration, sigmoid
from training.evaluation.answers import Answers, resampled_slides
from training.evaluation.between_slides import between_slides
from training.evaluation.calibration import CalibrationError, cross_calibrate, fit_calibration
from training.evaluation.held_out import Predictions

FOLDS = 10
"""Parts of the slides, each calibrated on the others."""

LARGEST_SWING = 0.1
"""Of sensitivity and of specificity, from one end of the threshold's interval to the other; more is too uncertain."""

FEWEST_SLIDES = 10
"""With fewer, the interval itself is not to be relied on."""

REFITS = 200
"""Fits on resampled slides that the threshold's interval stands on; a fit takes a hundredth of a second."""

LARGEST_LOG_ODDS = 30.0

FIGURES = ("balanced_accuracy", "sensitivity", "specificity")


class RecalibrationError(UserError):
    """The crops do not allow an operating point."""


@dataclass(frozen=True)
class Recalibrated:
    """What a lab's crops make of a calibration.

    Attributes:
        calibration: the new one, of the network's logits.
        report: for `metrics.json` (see `recalibrate`).
        sentence: whether so many crops are enough, for the user.
    """

    calibration: Calibration
    report: dict[str, Any]
    sentence: str


def recalibrate(answers: Answers, old: Calibration) -> Recalibrated:
    """Fits the calibration, and with it the operating point, to the crops of a lab.

    Platt scaling is fitted on the log-odds of the old calibration's P(atypical), which are the logits up to scale and
    shift. How good it is shows on slides that took no part in it: each of up to `FOLDS` parts of the slides is
    calibrated on the others. How certain it is shows by fitting it again on resampled slides; the threshold is stated
    as the old P(atypical) from which a crop is now called atypical.

    Args:
        answers: N, with groups and with the old calibration's probabilities, unrounded.
        old: that calibration.

    Returns:
        report: crops, atypical, slides; threshold (value, interval_95); old and new, each balanced_accuracy,
            sensitivity and specificity with interval_95, the new ones cross-calibrated; between_slides (of the new
            rates); gain (of balanced accuracy, with interval_95); swing (of sensitivity and specificity, over the
            threshold's interval); enough; wanted (atypical crops and slides that would be).

    Raises:
        RecalibrationError: a class is missing, or on fewer than two slides.
        CalibrationError: the probabilities do not rise with the label.
    """
    check_classes(answers)
    odds = log_odds(answers.probabilities)
    change = fit_calibration(odds, answers.labels)
    calibration = Calibration(change.scale * old.scale, change.scale * old.bias + change.bias)
    held_out = cross_calibrate(_in_folds(answers, odds))

    resampled = resampled_slides(answers)
    drawn = [_rates(answers.labels[c], np.stack([answers.probabilities[c], held_out[c]])) for c in resampled]
    rates, drawn_rates = _rates(answers.labels, np.stack([answers.probabilities, held_out])), np.array(drawn)
    report: dict[str, Any] = {
        "crops": len(answers),
        "atypical": int(answers.labels.sum()),
        "slides": answers.slides,
        "threshold": _with_interval(_threshold(change), _thresholds(odds, answers.labels, resampled)),
    }
    for which, name in enumerate(("old", "new")):
        columns = zip(FIGURES, rates[which], drawn_rates[:, which].T, strict=True)
        report[name] = {figure: _with_interval(value, values) for figure, value, values in columns}
    report["between_slides"] = between_slides(answers.labels, held_out, np.asarray(answers.groups))
    report["gain"] = _with_interval(rates[1, 0] - rates[0, 0], drawn_rates[:, 1, 0] - drawn_rates[:, 0, 0])
    return Recalibrated(calibration, report, _judge(report, answers))


def check_classes(answers: Answers) -> None:
    """Refuses crops of which no operating point can be fitted and checked on other slides.

    Raises:
        RecalibrationError: a class is missing, or on fewer than two slides.
    """
    for label, name in enumerate(("normal", "atypical")):
        inside = answers.labels == label
        slides = np.unique(np.asarray(answers.groups)[inside])
        if not inside.any():
            raise RecalibrationError(
                f"None of the {len(answers)} crops is labelled {name}; an operating point needs crops of both classes."
            )
        if len(slides) < 2:
            raise RecalibrationError(
                f"All crops labelled {name} are of one slide (group), '{slides[0]}'; whether the operating point holds "
                f"on another cannot be told: label {name} crops of at least two."
            )


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    """log(P / (1 - P)), at most `LARGEST_LOG_ODDS` either way."""
    with np.errstate(divide="ignore"):
        odds = np.log(probabilities) - np.log1p(-probabilities)
    return np.clip(odds, -LARGEST_LOG_ODDS, LARGEST_LOG_ODDS)


def _in_folds(answers: Answers, odds: np.ndarray) -> Predictions:
    groups, folds = np.asarray(answers.groups), np.empty(len(answers), dtype=int)
    slides = [len(np.unique(groups[answers.labels == label])) for label in (0, 1)]
    splitter = StratifiedGroupKFold(min(FOLDS, *slides), shuffle=True, random_state=0)
    for fold, (_, held_out) in enumerate(splitter.split(odds, answers.labels, groups)):
        folds[held_out] = fold
    return Predictions(answers.labels, odds, odds, folds, groups, groups)


def _rates(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """`FIGURES` (K, 3) of K times N probabilities."""
    called = probabilities >= 0.5
    sensitivity, specificity = called[:, labels == 1].mean(axis=1), 1 - called[:, labels == 0].mean(axis=1)
    return np.stack([(sensitivity + specificity) / 2, sensitivity, specificity], axis=1)


def _threshold(change: Calibration) -> float:
    """The old P(atypical) at which the new one is one half."""
    return float(sigmoid(np.array(-change.bias / change.scale)))


def _thresholds(odds: np.ndarray, labels: np.ndarray, resampled: list[np.ndarray]) -> np.ndarray:
    """Of fits on resampled slides; those that cannot be fitted count as both ends, half of them as each."""
    found: list[float] = []
    failed = 0
    for chosen in resampled[:REFITS]:
        try:
            found.append(_threshold(fit_calibration(odds[chosen], labels[chosen])))
        except CalibrationError:
            failed += 1
    return np.array([*found, *[0.0] * (failed // 2), *[1.0] * (failed - failed // 2)])


def _with_interval(value: float, drawn: np.ndarray) -> dict[str, Any]:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"value": round(float(value), 4), "interval_95": [round(float(low), 4), round(float(high), 4)]}


def _judge(report: dict[str, Any], answers: Answers) -> str:
    """Adds swing, enough and wanted to the report; returns the sentence on them.

    An interval's width falls with the root of the number of slides, by which the wanted number is told.
    """
    low, high = report["threshold"]["interval_95"]
    ends = np.stack([answers.probabilities - end + 0.5 for end in (low, high)])  # as if the threshold were one half
    swings = np.abs(np.diff(_rates(answers.labels, ends)[:, 1:], axis=0))[0]
    swing, slides = float(swings.max()), int(answers.slides or 0)
    times = max(1.0, (swing / LARGEST_SWING) ** 2, FEWEST_SLIDES / slides)
    wanted = {"atypical": math.ceil(report["atypical"] * times), "slides": math.ceil(slides * times)}
    enough = times == 1
    report |= {"swing": round(swing, 4), "enough": enough, "wanted": wanted}
    counted = f"With {report['crops']} crops ({report['atypical']} atypical) of {slides} slides the operating point"
    if enough:
        return f"{counted} is known well enough: within its interval no rate moves by more than {swing:.2f}."
    have = f"Have about {wanted['atypical']} atypical crops of {wanted['slides']} slides."
    if swing <= LARGEST_SWING:
        return f"{counted} looks certain, but fewer than {FEWEST_SLIDES} slides do not show how slides differ. {have}"
    return (
        f"{counted} is uncertain: anywhere from {low:.2f} to {high:.2f} of the old P(atypical), between which "
        f"sensitivity moves by {swings[0]:.2f} and specificity by {swings[1]:.2f}. {have}"
    )
