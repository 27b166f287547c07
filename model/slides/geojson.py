"""GeoJSON, as QuPath exports objects: a FeatureCollection, a bare list of features, or one feature.

Format: RFC 7946; QuPath adds `properties.objectType`, `classification.name`, `name` and, beside `geometry`, for cells
`nucleusGeometry`. Coordinates are pixels of the whole image. Points and outlines are detections, the latter by their
centre of gravity; a MultiPoint is as many detections as it has points (QuPath's tool to count writes those).
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from model.errors import CropError
from model.slides.detections import FINITE, Detection, Found
from model.slides.regions import Region, ring_area, ring_centroid
from model.slides.wanted import Wanted, shown, to_number

MOST_CORNERS = 1 << 20
"""Of a ring."""


def is_geojson(content: Any) -> bool:
    """Whether a JSON document looks like GeoJSON."""
    if isinstance(content, dict):
        return content.get("type") in ("FeatureCollection", "Feature")
    if not isinstance(content, list):
        return False
    return not content or any(isinstance(item, dict) and "geometry" in item for item in content[:10])


def read_geojson(content: Any, wanted: Wanted) -> Found:
    """The detections, and the regions that are asked for, of a GeoJSON document.

    Raises:
        CropError: it holds no list of features, or no region of the name.
    """
    features: Any = content if isinstance(content, list) else [content]
    if isinstance(content, dict) and content["type"] == "FeatureCollection":
        features = content.get("features")
    if not isinstance(features, list):
        raise CropError(f"{wanted.path} has no list of features; export the objects again.")
    detections: list[Detection] = []
    regions: list[Region] = []
    from_qupath = False
    for feature in features:
        feature = feature if isinstance(feature, dict) else {}
        properties = feature.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        from_qupath |= "objectType" in properties or "classification" in properties
        geometry, name, label = feature.get("geometry"), shown(properties.get("name")), _label(properties)
        if wanted.region and wanted.region in (name, label):
            regions += _regions(geometry, wanted)
            continue
        kind = "detection" if properties.get("objectType") in ("detection", "cell", "tile") else "annotation"
        identity = shown(feature.get("id"))
        places = list(_places(feature.get("nucleusGeometry") or geometry)) or [(math.nan, math.nan, 0.0)]
        for x, y, size in places:
            whose = identity if len(places) == 1 else ""
            detections.append(Detection(x, y, whose, name, kind, label, size, wanted.takes(label)))
    if wanted.region and not regions:
        raise CropError(f"{wanted.path} has no area of the name or class '{wanted.region}'; look at --region.")
    return Found("QuPath GeoJSON" if from_qupath else "GeoJSON", detections, regions, from_qupath=from_qupath)


def _label(properties: dict[str, Any]) -> str:
    """The class: QuPath's, or what TIAToolbox's `to_geojson` calls `type`."""
    label = properties.get("classification", properties.get("type"))
    return shown(label.get("name") if isinstance(label, dict) else label)


def _places(geometry: Any) -> Iterator[tuple[float, float, float]]:
    """x, y and size of each detection that a geometry is."""
    kind, places = (geometry.get("type"), geometry.get("coordinates")) if isinstance(geometry, dict) else (None, None)
    if kind == "Point":
        yield (*_point(places), 0.0)
    elif kind == "MultiPoint" and isinstance(places, list):
        for place in places:
            yield (*_point(place), 0.0)
    elif kind in ("Polygon", "MultiPolygon"):
        outlines = [rings[0] for rings in _polygons(geometry)]
        if outlines:
            areas = np.array([abs(ring_area(outline)) for outline in outlines])
            weights = areas / areas.sum() if areas.sum() > 0 else np.full(len(areas), 1 / len(areas))
            x, y = weights @ np.array([ring_centroid(outline) for outline in outlines])
            whole = np.concatenate(outlines)
            yield float(x), float(y), float(np.ptp(whole, axis=0).max())


def _point(place: Any) -> tuple[float, float]:
    if not isinstance(place, list) or len(place) < 2:
        return math.nan, math.nan
    return to_number(place[0]), to_number(place[1])


def _polygons(geometry: dict[str, Any]) -> list[list[np.ndarray]]:
    """The rings of each polygon, (N, 2) with N of at least 3; without those that are damaged."""
    places = geometry.get("coordinates")
    polygons = [places] if geometry.get("type") == "Polygon" else places
    whole = []
    for polygon in polygons if isinstance(polygons, list) else []:
        rings = [_ring(ring) for ring in polygon] if isinstance(polygon, list) else []
        if rings and all(ring is not None for ring in rings):
            whole.append([ring for ring in rings if ring is not None])
    return whole


def _ring(ring: Any) -> np.ndarray | None:
    if not isinstance(ring, list) or not 3 <= len(ring) <= MOST_CORNERS:
        return None
    corners = np.array([_point(place) for place in ring])
    return corners if np.all(np.abs(corners) < FINITE) else None


def _regions(geometry: Any, wanted: Wanted) -> list[Region]:
    polygons = _polygons(geometry) if isinstance(geometry, dict) else []
    regions = [Region(rings) for rings in polygons]
    if not regions or any(region.area() <= 0 for region in regions):
        raise CropError(
            f"{wanted.path} names '{wanted.region}' what is no area; draw a polygon, or give --area-mm2 instead."
        )
    return regions
