"""What QuPath opens: the figures of a slide as GeoJSON, with class, colour and measurements.

QuPath (0.4 or newer) takes the file by drag and drop. It reads, of each feature, `id` where it is a UUID, and its
properties `objectType`, `name`, `classification` with a name and a colour, `measurements` by name, and (0.5 or newer)
`metadata`, which are texts (qupath-core, `qupath.lib.io.QuPathTypeAdapters`).
"""

import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, Any

from model.slides.detections import Detection

CLASSIFICATIONS = {
    "atypical": {"name": "Atypical mitosis", "color": [213, 94, 0]},
    "normal": {"name": "Normal mitosis", "color": [0, 114, 178]},
}
"""Orange and blue that are told apart with any colour vision (Okabe and Ito 2008)."""

_OURS = uuid.UUID("6f7f2f0e-7c0b-5c1e-9d5b-2f0f6f1d7a10")
"""What the ids of detections that have none are derived from."""


@dataclass(frozen=True)
class Figure:
    """A mitotic figure that was classified.

    Attributes:
        number: of its detection, counted from 0.
        detection: itself, in pixels of level 0.
        label: `atypical` or `normal`.
        confidence: P(atypical) at equal prevalence.
        spread: standard deviation of P over the views.
        padded: share of its crop that lies outside the slide.
        remark: what is odd about its crop; empty where nothing is.
        posterior: P(atypical) at the prevalence that was asked for; None where none was.
        in_region: whether it counts.
    """

    number: int
    detection: Detection
    label: str
    confidence: float
    spread: float
    padded: float = 0.0
    remark: str = ""
    posterior: float | None = None
    in_region: bool = True


def feature(figure: Figure, origin: tuple[int, int]) -> dict[str, Any]:
    """A figure as a feature of GeoJSON.

    Args:
        figure: the figure.
        origin: subtracted from its place: the corner that QuPath counts from.
    """
    detection = figure.detection
    x, y = (round(place - corner, 2) for place, corner in zip((detection.x, detection.y), origin, strict=True))
    measurements = {"P(atypical)": figure.confidence, "View spread": figure.spread, "Outside slide": figure.padded}
    if figure.posterior is not None:
        measurements["P(atypical) at prevalence"] = figure.posterior
    properties: dict[str, Any] = {
        "objectType": detection.kind,
        "classification": CLASSIFICATIONS[figure.label],
        "measurements": measurements,
    }
    if detection.name:
        properties["name"] = detection.name
    notes = {"Detected as": detection.classification, "Remark": figure.remark}
    if any(notes.values()):
        properties["metadata"] = {key: text for key, text in notes.items() if text}
    identity = detection.id or str(uuid.uuid5(_OURS, f"{figure.number} {x} {y}"))
    geometry = {"type": "Point", "coordinates": [x, y]}
    return {"type": "Feature", "id": identity, "geometry": geometry, "properties": properties}


def write_geojson(file: IO[str], figures: Iterable[Figure], origin: tuple[int, int]) -> None:
    """Writes figures as a FeatureCollection, one feature a line."""
    write_features(file, (feature(figure, origin) for figure in figures))


def write_features(file: IO[str], features: Iterable[dict[str, Any]]) -> None:
    """Writes a FeatureCollection, one feature a line."""
    file.write('{"type": "FeatureCollection", "features": [')
    for number, described in enumerate(features):
        file.write(",\n" if number else "\n")
        json.dump(described, file, allow_nan=False)
    file.write("\n]}\n")
