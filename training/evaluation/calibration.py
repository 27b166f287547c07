"""The calibration and with it the operating point, from predictions for slides that were held out."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from model.errors import UserError
from model.network.calibration import Calibration, calibrate
from training.evaluation.held_out import Predictions


class CalibrationError(UserError):
    """Held-out predictions cannot be calibrated."""


def fit_calibration(logits: np.ndarray, labels: np.ndarray) -> Calibration:
    """Platt scaling with both classes weighted alike.

    Maximum likelihood of P(atypical) = sigmoid(scale * logit + bias), each class's samples weighted by the inverse of
    its frequency. The targets are Platt's, (n + 1) / (n + 2) and 1 / (n + 2) for a class of n samples instead of 1 and
    0 (Platt 1999, Advances in Large Margin Classifiers, section 2.2): where a threshold tells all samples apart, the
    scale stays finite, and a handful of samples cannot make P certain. Equal weights make P the probability at equal
    prevalence, so it does not depend on how many atypical figures the data happened to hold, and P = 0.5 is where
    sensitivity and specificity weigh alike: the operating point for balanced accuracy.

    Args:
        logits: (N,) view-averaged logits of held-out samples.
        labels: (N,) 0 or 1, both present.

    Raises:
        CalibrationError: a class is absent, or the logits do not rise with the label: there is no operating point.
    """
    if len(set(labels.tolist())) != 2:
        raise CalibrationError("A calibration needs held-out samples of both classes.")
    spread = logits.std()
    if not (np.isfinite(spread) and spread > 0):
        raise CalibrationError("A calibration needs logits that differ.")
    counts = np.bincount(labels, minlength=2)[labels]
    confidence, weights = (counts + 1) / (counts + 2), 1 / counts
    # Each sample is of its class with a probability, of the other with the rest: it is there twice.
    regression = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
    regression.fit(
        np.tile(logits, 2)[:, None] / spread,
        np.concatenate([labels, 1 - labels]),
        np.concatenate([weights * confidence, weights * (1 - confidence)]) * len(labels) / 2,
    )
    scale = float(regression.coef_[0, 0] / spread)
    if scale <= 0:
        raise CalibrationError(
            "The held-out logits do not rise with the label: the network has learnt nothing to calibrate."
        )
    return Calibration(scale=scale, bias=float(regression.intercept_[0]))


def cross_calibrate(
    held_out: Predictions, logits: np.ndarray | None = None, further: np.ndarray | None = None
) -> np.ndarray:
    """P(atypical) in which no sample had a part in its own calibration.

    Args:
        held_out: N predictions; the calibration of a fold's samples is fitted on what `held_out.calibrating` has for
            the fold or, without that, on the predictions of all other folds.
        logits: (N,) to calibrate, when they are others than those that the calibrations are fitted on.
        further: (N,) other held-out logits of the same samples, on which calibrations of the second kind are fitted,
            too.

    Returns:
        (N,).

    Raises:
        CalibrationError: a fold cannot be calibrated.
    """
    logits = held_out.logits if logits is None else logits
    fitted_on = [held_out.logits] if further is None else [held_out.logits, further]
    probabilities = np.empty(len(held_out))
    for fold in np.unique(held_out.folds):
        inside = held_out.folds == fold
        if (own := held_out.calibrating) is not None:
            calibration = fit_calibration(own.logits[own.folds == fold], own.labels[own.folds == fold])
        else:
            outside = np.concatenate([part[~inside] for part in fitted_on])
            calibration = fit_calibration(outside, np.tile(held_out.labels[~inside], len(fitted_on)))
        probabilities[inside] = calibrate(logits[inside], calibration)
    return probabilities
