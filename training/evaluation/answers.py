"""What can be said of a program's answers on labelled crops, also where a class or all slides but one are missing.

`training.evaluation.scores` is for held-out predictions of a run, which always have both classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from training.evaluation import scores

FIGURES = {
    "roc_auc": "ROC AUC",
    "balanced_accuracy": "balanced accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
}
"""Names of the figures, and what they are called in a table."""

FEW_CROPS = 20
"""Of a class; with fewer, each crop moves a share by more than 0.05."""

FEW_SLIDES = 10
"""With fewer, an interval over resampled slides is too narrow to be relied on."""

FEW_SLIDES_OF_CLASS = 5
"""The same of the slides that crops of one class are of, however many the other class has."""

EXPLANATION = (
    "Sensitivity is the share of the atypical figures that are called atypical, specificity the share of the\n"
    "normal ones that are called normal, balanced accuracy the mean of the two. ROC AUC is the chance that of an\n"
    "atypical and a normal figure the atypical one gets the higher probability."
)

NARROW = (
    "Intervals that rest on so few slides as is noted are narrower than they should be; on one slide there is none."
)


@dataclass(frozen=True)
class Answers:
    """What a program said of N labelled crops.

    Attributes:
        labels: (N,) 0 or 1, the truth.
        called: (N,) 0 or 1, the class that the program gave.
        probabilities: (N,) P(atypical) as the program gave it.
        groups: (N,) slides; None where they are not known.
    """

    labels: np.ndarray
    called: np.ndarray
    probabilities: np.ndarray
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, chosen: np.ndarray) -> "Answers":
        """Some of them: (M,) indices, or (N,) bool."""
        groups = None if self.groups is None else self.groups[chosen]
        return Answers(self.labels[chosen], self.called[chosen], self.probabilities[chosen], groups)

    @property
    def slides(self) -> int | None:
        """Number of slides, None where they are not known."""
        return None if self.groups is None else len(np.unique(self.groups))

    @property
    def slides_by_class(self) -> dict[str, int] | None:
        """Number of slides that crops of each class are of, None where they are not known."""
        return None if self.groups is None else scores.slides_by_class(self.labels, self.groups)


def figures(answers: Answers) -> dict[str, float]:
    """Those of `FIGURES` that the labels allow: sensitivity and specificity need their class, the others both."""
    atypical = answers.labels == 1
    found = {}
    if atypical.any() and not atypical.all():
        found["roc_auc"] = float(roc_auc_score(answers.labels, answers.probabilities))
    if atypical.any():
        found["sensitivity"] = float(answers.called[atypical].mean())
    if not atypical.all():
        found["specificity"] = float(1 - answers.called[~atypical].mean())
    if len(found) == 3:
        found["balanced_accuracy"] = (found["sensitivity"] + found["specificity"]) / 2
    return {name: found[name] for name in FIGURES if name in found}


def resampled_slides(answers: Answers) -> list[np.ndarray]:
    """`scores.RESAMPLES` resamplings of slides as indices of the crops, less those that lack a class that is there.

    Args:
        answers: with groups of at least two slides.
    """
    random = np.random.default_rng(0)
    slides, slide_of = np.unique(np.asarray(answers.groups), return_inverse=True)
    times = random.multinomial(len(slides), np.full(len(slides), 1 / len(slides)), scores.RESAMPLES)
    resampled = (np.repeat(np.arange(len(answers)), drawn[slide_of]) for drawn in times)
    classes = len(np.unique(answers.labels))
    return [chosen for chosen in resampled if len(np.unique(answers.labels[chosen])) == classes]


def with_intervals(answers: Answers) -> dict[str, Any]:
    """The figures of some crops, with 95 % intervals over slides where there are several, and their calibration.

    Returns:
        crops, atypical, slides, slides_by_class; of each figure that the labels allow its value and, where each class
        that it is of is on two slides at least, its interval_95 (percentiles; none if all resamplings agree); and
        expected_calibration_error where there are both classes.
    """
    report: dict[str, Any] = {"crops": len(answers), "atypical": int(answers.labels.sum()), "slides": answers.slides}
    report["slides_by_class"] = by_class = answers.slides_by_class
    told = scores.figures_with_interval(by_class) if by_class else []
    values = figures(answers)
    resampled = resampled_slides(answers) if (answers.slides or 0) > 1 else []
    drawn = [list(figures(answers.subset(chosen)).values()) for chosen in resampled]
    limits = np.percentile(drawn, [2.5, 97.5], axis=0).T.tolist() if drawn else [None] * len(values)
    for (name, value), limit in zip(values.items(), limits, strict=True):
        report[name] = {"value": round(value, 4)}
        # None of no width: too few crops look like certainty.
        if name in told and limit is not None and limit[0] < limit[1]:
            report[name]["interval_95"] = [round(end, 4) for end in limit]
    if 0 < report["atypical"] < len(answers):
        error = scores.expected_calibration_error(answers.labels, answers.probabilities)
        report["expected_calibration_error"] = round(error, 4)
    return report


def in_parts(answers: Answers, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`with_intervals` of the crops of each name, in alphabetical order.

    Args:
        answers: N.
        names: (N,) what each crop belongs to, such as its domain.
    """
    every = np.asarray(names, dtype=str)
    return {str(name): with_intervals(answers.subset(every == name)) for name in np.unique(every)}


def remarks(overall: Mapping[str, Any]) -> list[str]:
    """Sentences on what the figures of all crops cannot tell, or tell of a mistake.

    Args:
        overall: of `with_intervals`.
    """
    said = []
    crops, atypical, slides = (overall[name] for name in ("crops", "atypical", "slides"))
    if atypical in (0, crops):
        there, other = ("normal", "atypical") if atypical == 0 else ("atypical", "normal")
        said.append(
            f"All crops are labelled {there}, so only the share of them that are called {there} can be told; label "
            f"{other} ones, too, for ROC AUC and balanced accuracy."
        )
    for name, count in (("atypical", atypical), ("normal", crops - atypical)):
        if 0 < count < FEW_CROPS:
            said.append(f"Only {count} crops are {name}: each of them moves the share of them by {1 / count:.2f}.")
    if slides is None:
        said.append("Which slide a crop is of is not known, so there are no intervals.")
    elif slides == 1:
        said.append("All crops are of one slide (group), so how far the figures would differ on others cannot be told.")
    elif slides < FEW_SLIDES:
        said.append(f"The intervals stand on {slides} slides only and are narrower than they should be.")
    for name, count in _classes_on_few(overall).items():
        if count == 1 < slides:
            said.append(
                f"All {name} crops are of one slide (group), so how far ROC AUC, balanced accuracy and the share of "
                f"{name} crops that are called so would differ on others cannot be told."
            )
        elif count > 1:
            said.append(f"The {name} crops are of {count} slides only; intervals are narrower than they should be.")
    auc = overall.get("roc_auc", {}).get("value", 1)
    if auc < 0.5:
        said.append(
            f"ROC AUC is {auc:.3f}, below 0.5: probabilities or labels are inverted or have nothing to do with each "
            f"other. If confidences are of the class normal, write 1 - confidence: ROC AUC would be {1 - auc:.3f}."
        )
    return said


def few_slides(entry: Mapping[str, Any]) -> str:
    """A note on the slides that figures stand on where they are so few that intervals are too narrow; else empty.

    Args:
        entry: of `with_intervals`.
    """
    slides = entry["slides"]
    few = {"": slides} if slides is not None and slides < FEW_SLIDES else {}
    few |= {f"{name} on ": count for name, count in _classes_on_few(entry).items()}
    return ", ".join(f"{what}{count} slide{'s' if count > 1 else ''} only" for what, count in few.items())


def _classes_on_few(entry: Mapping[str, Any]) -> dict[str, int]:
    """Classes that are there on few slides, and on fewer than the crops as a whole, with how many that are."""
    by_class = entry["slides_by_class"] or {}
    return {name: n for name, n in by_class.items() if 0 < n < min(FEW_SLIDES_OF_CLASS, entry["slides"])}


def table(overall: Mapping[str, Any], parts: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """The figures for a person to read: a line for all crops, and one for each domain and source.

    A line ends in a note where its figures stand on few slides.

    Args:
        overall: of `with_intervals`.
        parts: what crops are told apart by, such as `domain`, to what `in_parts` gave.
    """
    rows: list[tuple[str, Mapping[str, Any]]] = [("all crops", overall)]
    for what, entries in parts.items():
        rows += [(f"{what} {name}", entry) for name, entry in entries.items()]
    width = max(len(name) for name, _ in rows)
    lines = ["  ".join([" " * width, f"{'crops':>6}", f"{'atypical':>8}", *(f"{n:20}" for n in FIGURES.values())])]
    for name, entry in rows:
        cells = [f"{_cell(entry.get(figure)):20}" for figure in FIGURES]
        counts = f"{entry['crops']:6}", f"{entry['atypical']:8}"
        lines.append("  ".join([f"{name:{width}}", *counts, *cells, few_slides(entry)]))
    return "\n".join(line.rstrip() for line in lines)


def _cell(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "-"
    interval = entry.get("interval_95")
    return f"{entry['value']:.3f}" + (f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else "")
