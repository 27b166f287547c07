"""Figures of an evaluation as SVG: text stays text, and colours follow the reader's light or dark mode."""

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from model.constants import THRESHOLD
from model.report.page import data_uri, legible
from training.evaluation.answers import FIGURES, Answers, resampled_slides
from training.evaluation.scores import figures_with_interval, reliability

TEXT, ATYPICAL, NORMAL = "#010101", "#020202", "#030303"
"""Stand for the colours below while a figure is drawn."""

COLOURS = {TEXT: "--text", ATYPICAL: "--atypical", NORMAL: "--normal"}

STYLE = """<style>
svg { --text: #1a202c; --atypical: #a84300; --normal: #0b5c94; }
@media (prefers-color-scheme: dark) { svg { --text: #edf2f7; --atypical: #f79f5b; --normal: #6fbbf0; } }
</style>"""

SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.size": 10,
    "text.parse_math": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), TEXT),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor"), "none"),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
}

WIDTH, HEIGHT = 4.0, 3.4
"""Inches; so wide that the text is legible on a telephone."""

MOST_ROWS = 40
"""Of the forest plot."""

LONGEST_NAME = 24
"""Characters of a domain's name in a figure."""

POSITIONS = np.linspace(0, 1, 201)
"""False positive rates and thresholds that curves are drawn at."""


@dataclass(frozen=True)
class Picture:
    """A figure in a page.

    Attributes:
        address: its content, as a `data:` address.
        alternative: what it shows, for who does not see it.
        caption: below it.
    """

    address: str
    alternative: str
    caption: str


class _Drawing:
    """A figure with one pair of axes while it is drawn; `picture` is set when it is done."""

    def __init__(self, height: float) -> None:
        self.figure = Figure(figsize=(WIDTH, height), layout="constrained")
        self.axes: Axes = self.figure.add_subplot()

    def picture(self, alternative: str, caption: str) -> Picture:
        """The figure as SVG."""
        buffer = io.StringIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a font lacks a character: the reader's has it
            self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        svg = buffer.getvalue()
        svg = svg[svg.index("<svg") :]
        for stand_in, name in COLOURS.items():
            svg = svg.replace(stand_in, f"var({name})")
        svg = re.sub(r"(<svg[^>]*>)", lambda match: match[1] + STYLE, svg, count=1)
        return Picture(data_uri(svg.encode("utf-8", "backslashreplace"), "image/svg+xml"), alternative, caption)


@contextmanager
def _settings() -> Iterator[None]:
    with matplotlib.rc_context(SETTINGS):
        yield


def roc(answers: Answers) -> Picture:
    """ROC curve, the operating point, and the band of 95 % of the curves of resampled slides.

    Args:
        answers: of both classes.
    """
    with _settings():
        drawing = _Drawing(HEIGHT)
        axes = drawing.axes
        caption = "The dot is the operating point."
        if (by_class := answers.slides_by_class) and "roc_auc" in figures_with_interval(by_class):
            curves = []
            for chosen in resampled_slides(answers):
                false, true, _ = roc_curve(answers.labels[chosen], answers.probabilities[chosen])
                curves.append(np.interp(POSITIONS, false, true))
            low, high = np.percentile(curves, [2.5, 97.5], axis=0)
            axes.fill_between(POSITIONS, low, high, color=ATYPICAL, alpha=0.2, linewidth=0)
            caption += " The band holds, at each false positive rate, 95 % of the curves of resampled slides."
        false, true, _ = roc_curve(answers.labels, answers.probabilities)
        axes.plot(false, true, color=ATYPICAL)
        axes.plot([0, 1], [0, 1], color=TEXT, linewidth=0.7, linestyle=":")
        atypical = answers.labels == 1
        point = answers.called[~atypical].mean(), answers.called[atypical].mean()
        axes.plot(*point, "o", color=TEXT)
        axes.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        where = f"at the operating point sensitivity {point[1]:.3f}, specificity {1 - point[0]:.3f}"
        return drawing.picture(f"ROC curve; {where}", caption)


def reliability_diagram(answers: Answers) -> Picture:
    """Frequency of atypical against P(atypical), at equal prevalence, in bins that are not empty."""
    rows = reliability(answers.labels, answers.probabilities)
    with _settings():
        drawing = _Drawing(HEIGHT)
        axes = drawing.axes
        axes.plot([0, 1], [0, 1], color=TEXT, linewidth=0.7, linestyle=":")
        predicted, observed = ([row[name] for row in rows] for name in ("predicted", "observed"))
        axes.plot(predicted, observed, color=ATYPICAL, linewidth=1)
        sizes = 12 + 160 * np.array([row["crops"] for row in rows]) / len(answers)
        axes.scatter(predicted, observed, s=sizes, color=ATYPICAL)
        axes.set(xlabel="mean P(atypical)", ylabel="frequency of atypical", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        pairs = ", ".join(f"{row['predicted']:.2f}: {row['observed']:.2f}" for row in rows)
        caption = "At equal prevalence of the classes; the larger a dot, the more crops."
        return drawing.picture(f"Reliability diagram, P(atypical) and frequency of atypical: {pairs}", caption)


def over_thresholds(answers: Answers) -> Picture:
    """Sensitivity, specificity and balanced accuracy, were the threshold another one."""
    atypical = np.sort(answers.probabilities[answers.labels == 1])
    normal = np.sort(answers.probabilities[answers.labels == 0])
    sensitivity = 1 - np.searchsorted(atypical, POSITIONS) / len(atypical)
    specificity = np.searchsorted(normal, POSITIONS) / len(normal)
    balanced = (sensitivity + specificity) / 2
    with _settings():
        drawing = _Drawing(HEIGHT)
        axes = drawing.axes
        axes.plot(POSITIONS, sensitivity, color=ATYPICAL, label="sensitivity")
        axes.plot(POSITIONS, specificity, color=NORMAL, label="specificity", linestyle="--")
        axes.plot(POSITIONS, balanced, color=TEXT, label="balanced accuracy", linewidth=1, linestyle="-.")
        axes.axvline(THRESHOLD, color=TEXT, linewidth=0.7, linestyle=":")
        axes.set(xlabel="threshold of P(atypical)", xlim=(0, 1), ylim=(-0.02, 1.02))
        axes.legend(loc="lower center")
        best = POSITIONS[balanced.argmax()]
        caption = f"Balanced accuracy is highest, {balanced.max():.3f}, at {best:.2f}; chosen on the same crops."
        return drawing.picture("Sensitivity, specificity and balanced accuracy over the threshold", caption)


def forest(overall: Mapping[str, Any], domains: Mapping[str, Mapping[str, Any]]) -> Picture:
    """ROC AUC and balanced accuracy of all crops and of each domain, with their intervals.

    Args:
        overall: of `training.evaluation.answers.with_intervals`.
        domains: the same of each domain.
    """
    rows = [("all crops", overall), *list(domains.items())[:MOST_ROWS]]
    with _settings():
        drawing = _Drawing(1.1 + 0.42 * len(rows))
        axes = drawing.axes
        for name, colour, marker, shift in (
            ("roc_auc", ATYPICAL, "o", -0.13),
            ("balanced_accuracy", NORMAL, "s", 0.13),
        ):
            found = [(place + shift, entry[name]) for place, (_, entry) in enumerate(rows) if name in entry]
            axes.plot([e["value"] for _, e in found], [y for y, _ in found], marker, color=colour, label=FIGURES[name])
            for y, entry in found:
                if "interval_95" in entry:
                    axes.plot(entry["interval_95"], [y, y], color=colour, linewidth=1.5)
        axes.set_yticks(range(len(rows)), [_short(name) for name, _ in rows])
        axes.set(ylim=(len(rows) - 0.5, -0.5), xlim=(None, 1.005))
        axes.axhline(0.5, color=TEXT, linewidth=0.5)
        axes.grid(axis="x", color=TEXT, alpha=0.15)
        drawing.figure.legend(loc="outside lower center", ncols=2)
        left = f" The first {MOST_ROWS} of {len(domains)} domains." if len(domains) > MOST_ROWS else ""
        caption = f"Lines are 95 % intervals over resampled slides.{left}"
        return drawing.picture("ROC AUC and balanced accuracy by domain; the table has the numbers", caption)


def learning_curves(fits: Mapping[str, Mapping[str, Mapping[int, float]]]) -> list[Picture]:
    """A figure of the losses, and one of ROC AUC, over the epochs.

    Args:
        fits: name of a fit -> name of a figure, as it is logged -> epoch -> value.
    """
    pictures = []
    shown = (
        (
            "loss",
            {"loss/train": "-", "loss/validation": "--"},
            "Loss on training crops (line) and held-out ones (dashes)",
        ),
        ("ROC AUC of held-out crops", {"roc_auc/validation": "-"}, "ROC AUC of held-out crops, one view, uncalibrated"),
    )
    for label, styles, caption in shown:
        with _settings():
            drawing = _Drawing(HEIGHT)
            drawn = 0
            colours = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
            for number, (fit, figures) in enumerate(fits.items()):
                for name, style in styles.items():
                    if points := figures.get(name):
                        epochs = sorted(points)
                        values = [points[epoch] for epoch in epochs]
                        first = _short(fit) if name == next(iter(styles)) else None
                        colour = colours[number % len(colours)]
                        drawing.axes.plot(epochs, values, style, color=colour, label=first, marker=".", markersize=3)
                        drawn += 1
            if drawn:
                drawing.axes.set(xlabel="epoch", ylabel=label)
                drawing.figure.legend(loc="outside lower center", ncols=3)
                names = ", ".join(fits)
                pictures.append(drawing.picture(f"{label} over the epochs of {legible(names)}", f"{caption}."))
    return pictures


def _short(name: str) -> str:
    name = legible(name)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def pictures_of(
    answers: Answers, overall: Mapping[str, Any], domains: Mapping[str, Mapping[str, Any]]
) -> Sequence[Picture]:
    """The figures that the labels allow."""
    if not 0 < overall["atypical"] < overall["crops"]:
        return []
    return [roc(answers), reliability_diagram(answers), over_thresholds(answers), forest(overall, domains)]
