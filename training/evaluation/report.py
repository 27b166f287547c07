"""The page of an evaluation: figures, what they are of, and the crops that the answers are most wrong about."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.constants import CLASSES, REPORT, THRESHOLD
from model.report.page import data_uri, legible, render, write_page
from model.report.thumbnails import encode
from training.data.crops import LabelledCrops
from training.data.csv_file import read_csv
from training.evaluation import scores
from training.evaluation.answers import FIGURES, NARROW, Answers, few_slides, with_intervals
from training.evaluation.calibration import cross_calibrate
from training.evaluation.figures import learning_curves, pictures_of
from training.evaluation.held_out import read_predictions

MOST_SHOWN = 24
"""Crops of each gallery."""

EPOCH = re.compile(r"(\S+) epoch (\d+)/\d+  (.+)$")
"""A line of `training.log` on an epoch, and what it says of it."""

LARGEST_LOG = 1 << 24
"""Characters of a log that are read."""


@dataclass(frozen=True)
class Crops:
    """What is known of N labelled crops besides the answers.

    Attributes:
        names: (N,) of their files.
        domains: (N,).
        agreement: (N,) share of the experts that gave the label, 1 where that is not known.
        picture: number of a crop -> the crop (H, W, 3), uint8 RGB, or None if it cannot be had.
    """

    names: Sequence[str]
    domains: Sequence[str]
    agreement: Sequence[float]
    picture: Callable[[int], np.ndarray | None]


@dataclass(frozen=True)
class About:
    """What a page says of an evaluation in words.

    Attributes:
        title: of the page.
        sentence: what was evaluated, on what.
        remarks: sentences on what the figures cannot tell.
        settings: as text, such as a recipe.
        log: of the training run, for its learning curves; None for no such curves.
    """

    title: str
    sentence: str
    remarks: Sequence[str] = ()
    settings: str = ""
    log: Path | None = None


def write_evaluation(
    folder: Path,
    about: About,
    answers: Answers,
    crops: Crops,
    figures: tuple[Mapping[str, Any], Mapping[str, Mapping[str, Any]]],
) -> Path:
    """Writes the page.

    Args:
        folder: where it goes.
        about: words.
        answers: of N crops.
        crops: the same.
        figures: of `training.evaluation.answers.with_intervals`, and of `in_parts` for the domains.

    Returns:
        Its path.

    Raises:
        ReportError: it cannot be written.
    """
    overall, domains = figures
    distance = np.abs(answers.probabilities - answers.labels)
    wrong = np.flatnonzero(answers.called != answers.labels)
    worst = wrong[np.argsort(-distance[wrong], kind="stable")]
    agreement = np.asarray(crops.agreement, dtype=float)
    disputed = np.flatnonzero(agreement < 1)
    disputed = disputed[np.lexsort((-distance[disputed], agreement[disputed]))]
    rows = [("all crops", overall), *((legible(name), entry) for name, entry in domains.items())]
    notes = [few_slides(entry) for _, entry in rows]
    content = {
        "title": legible(about.title),
        "sentence": legible(about.sentence),
        "remarks": about.remarks,
        "settings": about.settings,
        "names": FIGURES,
        "overall": overall,
        "rows": [(name, note, entry) for (name, entry), note in zip(rows, notes, strict=True)],
        "narrow": NARROW if any(notes) else "",
        "resamples": scores.RESAMPLES,
        "confusion": [
            [int(((answers.labels == label) & (answers.called == called)).sum()) for called in (1, 0)]
            for label in (1, 0)
        ],
        "pictures": pictures_of(answers, overall, domains),
        "curves": learning_curves(read_curves(about.log)) if about.log is not None else [],
        "galleries": [
            ("Worst errors", "called wrong", len(worst), _cards(worst, answers, crops)),
            ("Disputed crops", "on which the experts disagree", len(disputed), _cards(disputed, answers, crops)),
        ],
    }
    path = folder / REPORT
    write_page(path, render("evaluation.html", content, Path(__file__).parent))
    return path


def report_held_out(
    folder: Path, about: About, tables: Sequence[Path], metrics: Mapping[str, Any], crops: LabelledCrops | None = None
) -> Path:
    """Writes the page of a run's held-out predictions.

    Args:
        folder: where it goes.
        about: words.
        tables: what `training.evaluation.scores.report_table` made the metrics of.
        metrics: of that.
        crops: those that the tables are of, in their order; None where they are not at hand.

    Returns:
        Its path.

    Raises:
        UserError: a table cannot be read, or the page not be written.
    """
    held_out = read_predictions(tables[0])
    further = read_predictions(tables[1]).logits if len(tables) > 1 else None
    probabilities = cross_calibrate(held_out, further=further)
    answers = Answers(held_out.labels, (probabilities >= THRESHOLD).astype(int), probabilities, held_out.groups)
    counted = ("crops", "atypical", "slides", "expected_calibration_error")
    overall = dict(metrics["overall"]) | {name: metrics[name] for name in counted}
    overall["slides_by_class"] = answers.slides_by_class
    domains = held_out.domains.tolist()
    if crops is not None:
        agreement = [sample.agreement for sample in crops.samples]
        known = Crops(crops.names, domains, agreement, lambda index: crops.crops[index])
    else:
        names = [row["file"] for row in read_csv(tables[0], "give the held_out_SPLIT.csv of a run").rows]
        known = Crops(names, domains, [1.0] * len(names), lambda index: None)
    return write_evaluation(folder, about, answers, known, (overall, _by_domain(answers, domains, metrics)))


def _by_domain(answers: Answers, domains: Sequence[str], metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What `in_parts` gives, with the figures that the metrics have already: of the domains with both classes."""
    every = np.asarray(domains, dtype=str)
    found = {}
    for name in np.unique(every).tolist():
        inside = answers.subset(every == name)
        if name not in metrics["domains"]:
            found[name] = with_intervals(inside)
            continue
        entry = metrics["domains"][name]
        ends = entry.get("interval_95", {})
        slides = {"slides": inside.slides, "slides_by_class": inside.slides_by_class}
        found[name] = {"crops": len(inside), "atypical": int(inside.labels.sum())} | slides
        for figure in FIGURES:
            interval = {"interval_95": ends[figure]} if figure in ends else {}
            found[name][figure] = {"value": entry[figure]} | interval
    return found


def read_curves(log: Path) -> dict[str, dict[str, dict[int, float]]]:
    """What a training log says of each epoch: fit -> figure -> epoch -> value; the last counts where one was redone."""
    curves: dict[str, dict[str, dict[int, float]]] = {}
    try:
        with log.open(encoding="utf-8", errors="replace") as file:
            lines = file.read(LARGEST_LOG).splitlines()
    except OSError:
        return {}
    for line in lines:
        if match := EPOCH.search(line):
            words = match[3].split()
            for name, value in zip(words[::2], words[1::2], strict=False):
                try:
                    curves.setdefault(match[1], {}).setdefault(name, {})[int(match[2])] = float(value)
                except ValueError:
                    break  # a line that only looks like ours
    return curves


def _cards(chosen: np.ndarray, answers: Answers, crops: Crops) -> list[dict[str, Any]]:
    """What a gallery shows of the first of some crops, (M,) indices."""
    cards = []
    for index in chosen[:MOST_SHOWN].tolist():
        picture = crops.picture(index)
        agreement = float(crops.agreement[index])
        cards.append(
            {
                "name": legible(crops.names[index]),
                "domain": legible(crops.domains[index]),
                "label": CLASSES[answers.labels[index]],
                "called": CLASSES[answers.called[index]],
                "p": float(answers.probabilities[index]),
                "agreement": agreement if agreement < 1 else None,
                "picture": data_uri(encode(picture), "image/webp") if picture is not None else "",
            }
        )
    return cards
