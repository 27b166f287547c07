"""Figures as the challenge computes them, with confidence intervals, from a table of held-out predictions.

python -m training.evaluate runs/compact/held_out_slides.csv
"""

import argparse
import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from model.constants import CLASSES, THRESHOLD
from training.evaluation.calibration import cross_calibrate

RESAMPLES = 1000


def scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """ROC AUC, balanced accuracy, sensitivity and specificity, atypical being positive.

    Args:
        labels: (N,) 0 or 1; both must occur.
        probabilities: (N,) P(atypical).
    """
    called = probabilities >= THRESHOLD
    return {
        "roc_auc": float(roc_auc_score(labels, probabilities)),
        "balanced_accuracy": float(balanced_accuracy_score(labels, called)),
        "sensitivity": float(called[labels == 1].mean()),
        "specificity": float(1 - called[labels == 0].mean()),
    }


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> float:
    """Mean distance of P(atypical) from the frequency of atypical, at equal prevalence, over equal-width bins.

    The samples of each class share half of the weight (Guo et al. 2017, arXiv 1706.04599, eq. 3, reweighted).
    """
    weights = _equal_prevalence(labels)
    bin_of = np.minimum((probabilities * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_of, weights * (probabilities - labels), bins)
    return float(np.abs(gaps).sum())


def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> list[dict[str, float]]:
    """The reliability diagram in figures: in each bin of P(atypical), its mean and the frequency of atypical.

    Both at equal prevalence, each class's samples sharing half of the weight.

    Args:
        labels: (N,) 0 or 1.
        probabilities: (N,) P(atypical).
        bins: of equal width.

    Returns:
        For each bin that is not empty: crops, predicted, observed.
    """
    weights = _equal_prevalence(labels)
    bin_of = np.minimum((probabilities * bins).astype(int), bins - 1)
    rows = []
    for chosen in (bin_of == number for number in np.unique(bin_of)):
        predicted, observed = (np.average(of[chosen], weights=weights[chosen]) for of in (probabilities, labels))
        rows.append(
            {"crops": int(chosen.sum()), "predicted": round(float(predicted), 3), "observed": round(float(observed), 3)}
        )
    return rows


def _equal_prevalence(labels: np.ndarray) -> np.ndarray:
    return np.where(labels == 1, 0.5 / max(1, np.sum(labels == 1)), 0.5 / max(1, np.sum(labels == 0)))


def report(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, domains: np.ndarray, seed: int = 0
) -> dict:
    """All figures: overall with 95 % intervals, and for each domain.

    The intervals are percentiles over resampled slides, not crops: crops of one slide are alike.

    Args:
        labels: (N,) 0 or 1.
        probabilities: (N,) P(atypical), calibrated without the sample itself.
        groups: (N,) slide names.
        domains: (N,) domain names.
        seed: of the resampling.
    """
    overall = scores(labels, probabilities)
    random = np.random.default_rng(seed)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    resampled = []
    while len(resampled) < RESAMPLES:
        chosen = np.concatenate([members[i] for i in random.integers(len(members), size=len(members))])
        if 0 < labels[chosen].sum() < len(chosen):
            resampled.append(list(scores(labels[chosen], probabilities[chosen]).values()))
    low, high = np.percentile(resampled, [2.5, 97.5], axis=0)
    return {
        "crops": len(labels),
        "atypical": int(labels.sum()),
        "slides": len(members),
        "overall": {
            name: {"value": round(value, 4), "interval_95": [round(float(low[i]), 4), round(float(high[i]), 4)]}
            for i, (name, value) in enumerate(overall.items())
        },
        "expected_calibration_error": round(expected_calibration_error(labels, probabilities), 4),
        "reliability": reliability(labels, probabilities),
        "domains": {
            str(domain): {"crops": int(np.sum(domains == domain))}
            | {
                name: round(v, 4)
                for name, v in scores(labels[domains == domain], probabilities[domains == domain]).items()
            }
            for domain in np.unique(domains)
            if 0 < labels[domains == domain].sum() < np.sum(domains == domain)
        },
    }


@dataclass(frozen=True)
class Predictions:
    """Held-out predictions of N samples, as training writes them into `held_out_SPLIT.csv`.

    Attributes:
        labels: (N,) 0 or 1.
        logits: (N,) view-averaged.
        shifted_logits: (N,) the same under a synthetic shift (see `training.data.shift`).
        folds: (N,) in which each was held out.
        groups: (N,) slides.
        domains: (N,).
    """

    labels: np.ndarray
    logits: np.ndarray
    shifted_logits: np.ndarray
    folds: np.ndarray
    groups: np.ndarray
    domains: np.ndarray


def read_predictions(path: Path) -> Predictions:
    """Reads `held_out_SPLIT.csv`."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    def column(name: str, kind: type = str) -> np.ndarray:
        return np.array([kind(row[name]) for row in rows])

    return Predictions(
        labels=(column("label") == CLASSES[1]).astype(int),
        logits=column("logit", float),
        shifted_logits=column("shifted_logit", float),
        folds=column("fold", int),
        groups=column("group"),
        domains=column("domain"),
    )


def report_table(path: Path, seed: int = 0, further: Path | None = None) -> dict:
    """`report` of `held_out_SPLIT.csv`, and its overall figures under the synthetic shift as `shifted`.

    Calibration is fitted, for each fold, on the crops of the other folds, and never on shifted ones.

    Args:
        path: the table.
        seed: of the resampling.
        further: a table of the same crops held out in other folds, on which the calibrations are fitted, too.
    """
    held_out = read_predictions(path)
    others = read_predictions(further).logits if further else None
    as_is, moved = (
        report(
            held_out.labels, cross_calibrate(held_out.logits, held_out.labels, held_out.folds, logits, others),
            held_out.groups, held_out.domains, seed,
        )
        for logits in (held_out.logits, held_out.shifted_logits)
    )  # fmt: skip
    return as_is | {"shifted": moved["overall"]}


def main() -> None:
    """Prints the report of the table named on the command line, as JSON."""
    parser = argparse.ArgumentParser(description="Report the figures of held-out predictions as JSON.")
    parser.add_argument("table", type=Path, help="held_out_SPLIT.csv of a training run")
    arguments = parser.parse_args()
    if not arguments.table.is_file():
        sys.exit(f"There is no table {arguments.table}; a training run writes held_out_SPLIT.csv into its run folder.")
    json.dump(report_table(arguments.table), sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
