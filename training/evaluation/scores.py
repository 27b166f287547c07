"""Figures as the challenge computes them, with confidence intervals."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from model.constants import CLASSES, THRESHOLD
from model.errors import UserError
from model.network.calibration import sigmoid
from training.evaluation.between_slides import between_slides
from training.evaluation.calibration import cross_calibrate
from training.evaluation.held_out import Predictions, read_predictions

RESAMPLES = 1000
"""Resamplings of slides that an interval stands on."""

BINS = 10
"""Of P(atypical), of equal width, in which it is compared with the frequency of atypical."""

STANDS_ON = {
    "roc_auc": CLASSES,
    "balanced_accuracy": CLASSES,
    "sensitivity": ("atypical",),
    "specificity": ("normal",),
}
"""Figures and the classes that they are of."""


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


def slides_by_class(labels: np.ndarray, groups: np.ndarray) -> dict[str, int]:
    """On how many slides each class is; 0 for a class that is not there.

    Args:
        labels: (N,) 0 or 1.
        groups: (N,) slides.
    """
    return {name: len(np.unique(groups[labels == label])) for label, name in enumerate(CLASSES)}


def figures_with_interval(slides: Mapping[str, int]) -> list[str]:
    """The figures whose interval tells something: those of which every class is on two slides at least.

    Where all crops of a class are of one slide, resampling takes this slide or leaves it, so the interval is of the
    other class alone: it looks the narrower, the less is known.

    Args:
        slides: of `slides_by_class`.
    """
    return [figure for figure, classes in STANDS_ON.items() if all(slides[name] > 1 for name in classes)]


def domain_roc_auc(labels: np.ndarray, domains: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean of the ROC AUC within each domain that has both classes, unrounded.

    Args:
        labels: (N,) 0 or 1.
        domains: (N,).
        probabilities: (N,) P(atypical), or what rises with it.
    """
    insides = [domains == domain for domain in np.unique(domains)]
    return float(np.mean([roc_auc_score(labels[i], probabilities[i]) for i in insides if len({*labels[i]}) == 2]))


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean distance of P(atypical) from the frequency of atypical, at equal prevalence, over `BINS` of equal width.

    The samples of each class share half of the weight (Guo et al. 2017, arXiv 1706.04599, eq. 3, reweighted).
    """
    weights = _equal_prevalence(labels)
    bin_of = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bin_of, weights * (probabilities - labels), BINS)
    return float(np.abs(gaps).sum())


def reliability(labels: np.ndarray, probabilities: np.ndarray) -> list[dict[str, float]]:
    """The reliability diagram in figures: in each bin of P(atypical), its mean and the frequency of atypical.

    Both at equal prevalence, each class's samples sharing half of the weight.

    Args:
        labels: (N,) 0 or 1.
        probabilities: (N,) P(atypical).

    Returns:
        For each bin that is not empty: crops, predicted, observed.
    """
    weights = _equal_prevalence(labels)
    bin_of = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    rows = []
    for chosen in (bin_of == number for number in np.unique(bin_of)):
        predicted, observed = (
            round(float(np.average(values[chosen], weights=weights[chosen])), 3) for values in (probabilities, labels)
        )
        rows.append({"crops": int(chosen.sum()), "predicted": predicted, "observed": observed})
    return rows


def _equal_prevalence(labels: np.ndarray) -> np.ndarray:
    return np.where(labels == 1, 0.5 / max(1, np.sum(labels == 1)), 0.5 / max(1, np.sum(labels == 0)))


def resamplings(samples: Predictions, seed: int) -> Iterator[np.ndarray]:
    """`RESAMPLES` resamplings of slides, as indices of the crops: crops of one slide are alike.

    Resamplings without both classes are left out, so both must occur.

    Args:
        samples: whose slides and labels.
        seed: of the resampling.

    Raises:
        UserError: all samples are of one class.
    """
    if len({*samples.labels.tolist()}) < 2:
        raise UserError("Crops of one class alone have no ROC AUC; give crops of both.")
    random = np.random.default_rng(seed)
    members = [np.flatnonzero(samples.groups == group) for group in np.unique(samples.groups)]
    count = 0
    while count < RESAMPLES:
        chosen = np.concatenate([members[i] for i in random.integers(len(members), size=len(members))])
        if 0 < samples.labels[chosen].sum() < len(chosen):
            count += 1
            yield chosen


def report(samples: Predictions, probabilities: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """All figures, overall and for each domain, with 95 % intervals.

    The intervals are percentiles over resampled slides, those of a domain over its own; a domain of one slide has none,
    and of a domain with a class on one slide the figures of this class have none.

    Args:
        samples: N; their logits do not count.
        probabilities: (N,) P(atypical), calibrated without the sample itself.
        seed: of the resampling.
    """
    labels, domains = samples.labels, samples.domains
    values, intervals = scores(labels, probabilities), _intervals(samples, probabilities, seed)
    by_domain: dict[str, dict[str, Any]] = {}
    for domain in np.unique(domains):
        inside = domains == domain
        if 0 < labels[inside].sum() < inside.sum():
            figures = {name: round(value, 4) for name, value in scores(labels[inside], probabilities[inside]).items()}
            slides = len({*samples.groups[inside].tolist()})
            by_domain[str(domain)] = {"crops": int(inside.sum()), "slides": slides} | figures
            if told := figures_with_interval(slides_by_class(labels[inside], samples.groups[inside])):
                own = _intervals(samples.subset(inside), probabilities[inside], seed)
                by_domain[str(domain)]["interval_95"] = {name: own[name] for name in told}
    return {
        "crops": len(labels),
        "atypical": int(labels.sum()),
        "slides": len(np.unique(samples.groups)),
        "overall": {name: {"value": round(value, 4), "interval_95": intervals[name]} for name, value in values.items()},
        "between_slides": between_slides(labels, probabilities, samples.groups),
        "roc_auc_within_folds": _within_folds(samples, probabilities),
        "expected_calibration_error": round(expected_calibration_error(labels, probabilities), 4),
        "reliability": reliability(labels, probabilities),
        "domains": by_domain,
    }


def report_ranking(held_out: Predictions, seed: int = 0) -> dict[str, Any]:
    """`report` of predictions without a calibration, as those of a single fold are, and the shifted ones likewise.

    Their order alone counts: of the figures, those at an operating point mean nothing.
    """
    as_is, moved = (report(held_out, sigmoid(logits), seed) for logits in (held_out.logits, held_out.shifted_logits))
    return as_is | {"shifted": moved["overall"]}


def _intervals(samples: Predictions, probabilities: np.ndarray, seed: int) -> dict[str, list[float]]:
    """95 % intervals of `scores` over resampled slides: name to lower and upper end."""
    drawn = [scores(samples.labels[chosen], probabilities[chosen]) for chosen in resamplings(samples, seed)]
    ends = {name: np.percentile([values[name] for values in drawn], [2.5, 97.5]) for name in drawn[0]}
    return {name: [round(float(low), 4), round(float(high), 4)] for name, (low, high) in ends.items()}


def _within_folds(samples: Predictions, probabilities: np.ndarray) -> list[float | None]:
    """ROC AUC of each fold's samples; None for a fold of one class.

    That of all folds together compares samples that different networks have predicted; these do not.
    """
    insides = [samples.folds == fold for fold in np.unique(samples.folds)]
    return [
        round(float(roc_auc_score(samples.labels[inside], probabilities[inside])), 4)
        if len({*samples.labels[inside].tolist()}) == 2
        else None
        for inside in insides
    ]


def report_table(path: Path, seed: int = 0, further: Path | None = None) -> dict[str, Any]:
    """`report` of `held_out_SPLIT.csv`, and its overall figures under the synthetic shift as `shifted`.

    Calibration is fitted, for each fold, on the crops of the other folds or, where the table has predictions for that
    beside it, on crops of the fold's training side by networks that did not see the fold (`calibrated_on` tells which);
    never on shifted ones.

    Args:
        path: the table.
        seed: of the resampling.
        further: a table of the same crops held out in other folds, on which the calibrations are fitted, too.

    Raises:
        UserError: a table cannot be read or calibrated, or the two are of other crops.
    """
    held_out = read_predictions(path)
    others = _further(path, held_out, further) if further else None
    as_is = report(held_out, cross_calibrate(held_out, further=others), seed)
    moved = report(held_out, cross_calibrate(held_out, held_out.shifted_logits, others), seed)
    calibrated_on = "other folds" if held_out.calibrating is None else "training side"
    return as_is | {"shifted": moved["overall"], "calibrated_on": calibrated_on}


def _further(path: Path, held_out: Predictions, further: Path) -> np.ndarray:
    """(N,) logits of a further table, whose rows must be of the same crops as those of the first."""
    others = read_predictions(further)
    if not held_out.of_same_crops(others):
        raise UserError(f"{further} is of other crops than {path.name} beside it; give tables of one run.")
    return others.logits


def report_run(tables: Sequence[Path], seed: int = 0) -> dict[str, Any]:
    """The figures of a run's model card, from the tables of all its splits.

    Args:
        tables: that of `data.split` and, where the recipe has one, that of `data.shift_split`.
        seed: the recipe's.

    Returns:
        `report_table` of the first, calibrated on the second, too, and of the second by its name, such as
        `held_out_sources`.

    Raises:
        UserError: as `report_table`.
    """
    metrics = report_table(tables[0], seed, *tables[1:])
    return metrics | {table.stem: report_table(table, seed) for table in tables[1:]}
