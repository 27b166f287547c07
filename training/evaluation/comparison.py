"""What a change did: two trials on the same crops, compared slide by slide."""

import numpy as np

from model.errors import UserError
from model.network.calibration import sigmoid
from training.evaluation.calibration import cross_calibrate
from training.evaluation.held_out import Predictions
from training.evaluation.scores import domain_roc_auc, resamplings, scores

FIGURES = ("roc_auc", "domain_roc_auc", "balanced_accuracy", "shifted_roc_auc", "shifted_balanced_accuracy")


def compare(first: Predictions, second: Predictions, seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """Differences second - first of two trials on the same crops, whose slides are resampled together.

    Returns:
        For each of `FIGURES` the difference and its 95 % interval; of one fold alone, whose operating point is not
        known, for those that need none.

    Raises:
        UserError: the trials are of other crops, or held them out in other folds.
    """
    if not first.of_same_crops(second):
        raise UserError("The two trials are of other crops; compare trials on the same data.")
    if not np.array_equal(first.folds, second.folds):
        raise UserError(
            "The two trials held the crops out in other folds, so they differ in what they were trained on; compare "
            "trials of the same data.split and data.folds and, by slides, the same seed."
        )
    one_fold = _of_one_fold(first)
    calibrated = [trial_probabilities(trial) for trial in (first, second)]
    chosen = [np.arange(len(first)), *resamplings(first, seed)]
    figures = np.array([[_figures(first, *trial, indices) for trial in calibrated] for indices in chosen])
    differences = figures[:, 1] - figures[:, 0]
    low, high = np.percentile(differences[1:], [2.5, 97.5], axis=0)
    found = {name: (differences[0, i], low[i], high[i]) for i, name in enumerate(FIGURES)}
    return {name: found[name] for name in FIGURES if not one_fold or "accuracy" not in name}


def trial_probabilities(trial: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """P(atypical) of a trial's N crops, as they are and under the shift, (N,) each; of one fold alone uncalibrated."""
    if _of_one_fold(trial):
        return sigmoid(trial.logits), sigmoid(trial.shifted_logits)
    return cross_calibrate(trial), cross_calibrate(trial, trial.shifted_logits)


def _of_one_fold(trial: Predictions) -> bool:
    return len(np.unique(trial.folds)) == 1


def _figures(samples: Predictions, as_is: np.ndarray, shifted: np.ndarray, chosen: np.ndarray) -> list[float]:
    """`FIGURES` of some of a trial's crops, from its P(atypical) as they are and under the shift."""
    labels, domains, as_is = samples.labels[chosen], samples.domains[chosen], as_is[chosen]
    plain, moved = scores(labels, as_is), scores(labels, shifted[chosen])
    return [
        plain["roc_auc"],
        domain_roc_auc(labels, domains, as_is),
        plain["balanced_accuracy"],
        moved["roc_auc"],
        moved["balanced_accuracy"],
    ]
