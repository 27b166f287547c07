"""Points as TIAToolbox and others write them in JSON: lists of x and y, a list of points, or nuclei with a centroid.

TIAToolbox's detectors give `{"x": [...], "y": [...], "classes": [...], "probabilities": [...]}`; its segmenters of
nuclei, as HoVer-Net does, `{"nuc": {"1": {"centroid": [x, y], "type": 1}}}` or the inner part alone. Pixels of level 0.
"""

from dataclasses import replace
from typing import Any

from model.errors import CropError
from model.slides.detections import Detection, Found
from model.slides.wanted import Wanted, shown, to_number


def is_points(content: Any) -> bool:
    """Whether a JSON document looks like one of them."""
    if isinstance(content, dict):
        inner = content.get("nuc", content)
        if isinstance(content.get("x"), list) and isinstance(content.get("y"), list):
            return True
        first = next(iter(inner.values()), None) if isinstance(inner, dict) else None
        return isinstance(first, dict) and "centroid" in first
    return isinstance(content, list) and any(isinstance(item, dict) and "x" in item for item in content[:10])


def read_points(content: Any, wanted: Wanted) -> Found:
    """The detections of such a document.

    Raises:
        CropError: one of its lists is missing, or they do not have the same length.
    """
    if isinstance(content, list):
        items = [item if isinstance(item, dict) else {} for item in content]
        found = [_detection(item.get("x"), item.get("y"), item.get("type"), item.get("id")) for item in items]
    elif isinstance(content.get("x"), list):
        xs, ys = content["x"], content.get("y")
        if not isinstance(ys, list):
            raise CropError(f"{wanted.path} has a list x, but no list y; export it again.")
        classes = content.get("classes", content.get("types"))
        classes = classes if isinstance(classes, list) else [None] * len(xs)
        if not len(xs) == len(ys) == len(classes):
            raise CropError(f"{wanted.path} has {len(xs)} x, {len(ys)} y and {len(classes)} classes; export it again.")
        found = [_detection(x, y, label, None) for x, y, label in zip(xs, ys, classes, strict=True)]
    else:
        found = []
        for identity, nucleus in content.get("nuc", content).items():
            nucleus = nucleus if isinstance(nucleus, dict) else {}
            middle = nucleus.get("centroid")
            x, y = middle if isinstance(middle, list) and len(middle) == 2 else (None, None)
            found.append(_detection(x, y, nucleus.get("type"), identity))
    asked = [replace(point, wanted=wanted.takes(point.classification)) for point in found]
    return Found("points in JSON", asked, unit=wanted.unit or "px")


def _detection(x: Any, y: Any, label: Any, identity: Any) -> Detection:
    return Detection(to_number(x), to_number(y), shown(identity), "", "detection", shown(label))
