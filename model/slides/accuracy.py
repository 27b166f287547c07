"""How good the classifier is, from the figures in its weights folder."""

import json
import logging
from pathlib import Path
from typing import Any

from model.checks import check_list, check_number, check_whole
from model.constants import DEFAULT_VIEWS
from model.files import read_bounded
from model.slides.statistics import Accuracy, Z

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"
"""Written by training; people's figures, so a weights folder may be without."""

LARGEST = 1 << 22


def read_accuracy(
    weights: Path, views: str = DEFAULT_VIEWS, otherwise: str = "shares are not corrected"
) -> Accuracy | None:
    """Sensitivity and specificity on held-out slides; of recalibrated weights, on the crops that this was done with.

    The crops of a slide are alike, so their intervals, taken over slides, are wider than as many independent crops
    would give. `Accuracy` counts those that would: n = p (1 - p) / standard error², at most the crops there are.

    Args:
        weights: a weights folder.
        views: with which it runs; sensitivity and specificity are those of the views that they were measured with.
        otherwise: what comes of it where the folder does not tell.

    Returns:
        None, with a warning, where the folder does not tell.
    """
    path = weights / METRICS_FILE
    try:
        content = json.loads(read_bounded(path, LARGEST))
        of_views = DEFAULT_VIEWS
        if "recalibration" in content:  # its operating point is another than the one that `overall` is of
            content = content["recalibration"] | {"overall": content["recalibration"]["new"]}
            of_views = content.get("views", views)  # those of earlier days do not tell
        crops, atypical = content["crops"], content["atypical"]
        if views != of_views:
            raise ValueError(f"they were measured with --views {of_views}, and run with {views}")
        check_whole("crops", crops, 2, 1 << 40)
        check_whole("atypical", atypical, 1, crops - 1)
        sensitivity, positives = _read(content["overall"]["sensitivity"], atypical)
        specificity, negatives = _read(content["overall"]["specificity"], crops - atypical)
        between = content.get("between_slides", {})  # weights of earlier days do not tell
        spreads = [_share(name, between.get(name, 0.0)) for name in ("sensitivity", "specificity")]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, OSError | ValueError):
            reason = str(getattr(error, "strerror", error))
        logger.warning("%s does not tell how good these weights are (%s); %s.", path, reason, otherwise)
        return None
    return Accuracy(sensitivity, specificity, positives, negatives, *spreads)


def _read(figure: Any, crops: int) -> tuple[float, float]:
    """A figure and how many independent crops it rests on."""
    value = _share("value", figure["value"])
    low, high = (_share("interval_95", end) for end in check_list("interval_95", figure["interval_95"], 2, 2))
    error = (high - low) / (2 * Z)
    if error < 0:
        raise ValueError("interval_95 ends before it begins")
    return value, min(float(crops), value * (1 - value) / error**2) if error and 0 < value < 1 else float(crops)


def _share(name: str, value: Any) -> float:
    check_number(name, value, 0)
    if value > 1:
        raise ValueError(f"{name} is {value}, above 1")
    return float(value)
