"""GeoJSON for QuPath, checked by a library and against what QuPath reads."""

import io
import json
import uuid
from dataclasses import replace

import geojson

from model.slides.detections import Detection
from model.slides.output import Figure, feature, write_geojson
from model.slides.wanted import Wanted

FIGURE = Figure(4, Detection(1010.254, 520.0, "", "", "detection", "Mitotic figure"), "atypical", 0.91, 0.0213)


def test_the_library_finds_it_valid() -> None:
    file = io.StringIO()
    normal = replace(FIGURE, number=5, label="normal", confidence=0.2, posterior=0.03, remark="blank or featureless")
    write_geojson(file, [FIGURE, normal], (1000, 500))
    collection = geojson.loads(file.getvalue())
    assert isinstance(collection, geojson.FeatureCollection) and collection.is_valid, collection.errors()
    assert [feature.geometry.coordinates for feature in collection.features] == [[10.25, 20.0]] * 2
    first, second = (feature.properties for feature in collection.features)
    assert first["objectType"] == "detection"
    assert first["classification"] == {"name": "Atypical mitosis", "color": [213, 94, 0]}
    assert first["measurements"] == {"P(atypical)": 0.91, "View spread": 0.0213, "Outside slide": 0.0}
    assert second["classification"]["name"] == "Normal mitosis"
    assert second["measurements"]["P(atypical) at prevalence"] == 0.03
    assert second["metadata"] == {"Detected as": "Mitotic figure", "Remark": "blank or featureless"}
    assert "name" not in first  # QuPath takes no null for a text
    empty = io.StringIO()
    write_geojson(empty, [], (0, 0))
    assert geojson.loads(empty.getvalue()).is_valid


def test_ids_are_kept_or_are_uuids_that_stay_the_same() -> None:
    given = replace(FIGURE, detection=replace(FIGURE.detection, id="0b8f1c1e-6f5e-4f3a-9d39-5f0c9a5f0d11"))
    assert feature(given, (0, 0))["id"] == "0b8f1c1e-6f5e-4f3a-9d39-5f0c9a5f0d11"
    made = [feature(replace(FIGURE, number=number), (0, 0))["id"] for number in (1, 2, 1)]
    assert made[0] == made[2] != made[1] and uuid.UUID(made[0]).version == 5


def test_what_was_written_can_be_read_again(tmp_path) -> None:
    """And so be classified again, with other weights."""
    from model.slides.recognise import read_detections

    with (tmp_path / "a.geojson").open("w") as file:
        write_geojson(file, [FIGURE], (0, 0))
    found = read_detections(Wanted(tmp_path / "a.geojson"))
    (detection,) = found.detections
    assert (detection.x, detection.y, detection.kind, detection.classification) == (
        1010.25,
        520.0,
        "detection",
        "Atypical mitosis",
    )
    assert found.from_qupath and json.loads((tmp_path / "a.geojson").read_text())["type"] == "FeatureCollection"
