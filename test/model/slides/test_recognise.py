"""Files of detections: every format gives the same points, and what is none of them is a sentence."""

import gzip
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from written_slides import point, square, write_every_format, write_geojson, write_json

from model.errors import CropError
from model.slides import recognise
from model.slides.detections import Found
from model.slides.pyramid import Pyramid
from model.slides.recognise import read_detections
from model.slides.sifting import sift
from model.slides.wanted import Wanted

CENTRES = [(230.0, 250.0), (1530.5, 250.0), (830.0, 1450.5)]
SLIDE = Pyramid("any", 4000, 3000, stated=(0.25, 0.25))


def read(path: Path, **what: Any) -> Found:
    return read_detections(Wanted(path, slide="slide.svs", **what))


def test_every_format_gives_the_same_points(tmp_path: Path) -> None:
    paths = write_every_format(tmp_path, CENTRES, "slide.svs", 0.25)
    assert len(paths) == 13
    for path in paths:
        sifted = sift(read(path), SLIDE, from_bounds=False)
        assert [(d.x, d.y) for _, d in sifted.used] == [pytest.approx(centre) for centre in CENTRES], path
        assert sifted.left_out == []


def test_the_format_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    paths = write_every_format(tmp_path, CENTRES, "slide.svs", 0.25)
    found = {path.name: read(path).format for path in paths}
    assert set(found.values()) == {"QuPath GeoJSON", "GeoJSON", "MIDOG JSON", "points in JSON", "table"}
    for path in paths:
        other = path.rename(tmp_path / f"{path.name}.dat")
        assert read(other).format == found[path.name]


def test_what_qupath_says_of_an_object_is_kept(tmp_path: Path) -> None:
    identity = "0b8f1c1e-6f5e-4f3a-9d39-5f0c9a5f0d11"
    cell = square(50, 60, 20) | {"nucleusGeometry": {"type": "Point", "coordinates": [51, 61]}}
    cell["properties"]["objectType"] = "cell"
    found = read(write_geojson(tmp_path / "a.geojson", [point(10, 20, identity, name="no. 1", label="Mitosis"), cell]))
    first, second = found.detections
    assert (first.id, first.name, first.kind, first.classification) == (identity, "no. 1", "annotation", "Mitosis")
    assert (second.x, second.y, second.kind) == (51, 61, "detection")
    assert found.from_qupath and found.unit == "px"


def test_an_outline_is_at_its_centre_of_gravity(tmp_path: Path) -> None:
    triangle = [[[0, 0], [30, 0], [0, 30], [0, 0]]]
    halves = [[[[0, 0], [10, 0], [10, 10], [0, 10]]], [[[20, 0], [30, 0], [30, 10], [20, 10]]]]
    line = [[[5, 5], [15, 5], [5, 5]]]
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": triangle}},
        {"type": "Feature", "geometry": {"type": "MultiPolygon", "coordinates": halves}},
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": line}},
    ]
    found = read(write_geojson(tmp_path / "a.geojson", features)).detections
    assert [(d.x, d.y) for d in found[:2]] == [pytest.approx((10, 10)), pytest.approx((15, 5))]
    assert (found[2].x, found[2].y) == (pytest.approx(25 / 3), 5)
    assert [d.size for d in found] == [30, 30, 10]


def test_what_has_no_point_is_counted(tmp_path: Path) -> None:
    geometries = [
        None,
        {},
        {"type": "Point"},
        {"type": "Point", "coordinates": []},
        {"type": "Point", "coordinates": ["x", 2]},
        {"type": "Point", "coordinates": [math.nan, 2]},
        {"type": "Point", "coordinates": [math.inf, 2]},
        {"type": "Point", "coordinates": [True, False]},
        {"type": "Point", "coordinates": [10**400, 2]},
        {"type": "LineString", "coordinates": [[1, 2], [3, 4]]},
        {"type": "Polygon", "coordinates": []},
        {"type": "Polygon", "coordinates": [[[1, 2], [3, math.nan], [5, 6]]]},
        {"type": "MultiPolygon", "coordinates": 5},
    ]
    features: list[Any] = [{"type": "Feature", "geometry": geometry} for geometry in geometries]
    path = write_geojson(tmp_path / "a.geojson", [*features, point(9, 9), "no feature"])
    sifted = sift(read(path), SLIDE, from_bounds=False)
    assert [number for number, _ in sifted.used] == [len(geometries)]
    assert sifted.counts()["no point"] == len(geometries) + 1


def test_classes_that_are_not_asked_for_are_left_out(tmp_path: Path) -> None:
    path = write_geojson(tmp_path / "a.geojson", [point(9, 9), point(90, 90, label="Tumour cell"), point(200, 9)])
    sifted = sift(read(path, only=("Mitotic figure",)), SLIDE, from_bounds=False)
    assert [number for number, _ in sifted.used] == [0, 2]
    assert [(out.number, out.reason, out.detail) for out in sifted.left_out] == [(1, "another class", "Tumour cell")]


def midog(**changes: Any) -> dict[str, Any]:
    box = {"id": 1, "image_id": 3, "category_id": 1, "bbox": [100, 100, 150, 150]}
    other = {"id": 2, "image_id": 3, "category_id": 2, "bbox": [300, 100, 350, 150]}
    content = {"images": [{"id": 3, "file_name": "slide.tiff"}], "annotations": [box, other], "categories": []}
    return content | changes


def test_of_midog_the_figures_are_taken_or_all(tmp_path: Path) -> None:
    path = write_json(tmp_path / "midog.json", midog())
    assert [d.wanted for d in read(path).detections] == [True, False]
    assert [d.wanted for d in read(path, everything=True).detections] == [True, True]
    assert [(d.x, d.y, d.id) for d in read(path).detections] == [(125, 125, "1"), (325, 125, "2")]


def test_boxes_of_another_kind_and_other_slides_are_refused(tmp_path: Path) -> None:
    coco = {"id": 1, "image_id": 3, "category_id": 1, "bbox": [100, 100, 50, 50]}
    with pytest.raises(CropError, match=r"a\.json has a box .* which is not x1, y1, x2, y2"):
        read(write_json(tmp_path / "a.json", midog(annotations=[coco])))
    other = [{"id": 3, "file_name": "another.tiff"}]
    with pytest.raises(CropError, match=r"tells of 1 images, and of 0 that are called slide\.svs"):
        read(write_json(tmp_path / "a.json", midog(images=other)))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("x;z\n1;2\n", "has 1 for x and 0 for y among its columns"),
        ("x,centroid_x,y\n1,2,3\n", "has 2 for x and 1 for y"),
        ("x_um,y_px\n1,2\n", "has coordinates in 'um' and 'px'"),
        ("1,2\n3,4\n", "has 0 for x and 0 for y among its columns"),
        ("slide,x,y\nother.svs,1,2\n", r"tells of 1 slides, but not of slide\.svs"),
        ("{not json", "is not valid JSON"),
        ('{"a": 1}', "is JSON of an unknown kind"),
        ("[1, 2]", "is JSON of an unknown kind"),
        ('{"type": "FeatureCollection"}', "has no list of features"),
        ('{"x": [1, 2], "y": [1]}', "has 2 x, 1 y and 2 classes"),
        ('{"x": [1, 2]}', "is JSON of an unknown kind"),
        ('{"cell": {"centroid": [1, 2]}, "x": [1, 2]}', "has a list x, but no list y"),
        ("[" * 100_000, "is not valid JSON"),
        ('[{"geometry": ' + "9" * 5000 + "}]", "is not valid JSON"),
        ("x,y\n" + "1" * 200_000 + ",2\n", "cannot be read as a table"),
        (" \n", "is empty"),
        ("SQLite format 3\0", "is a database; export it as GeoJSON"),
    ],
)
def test_what_is_not_understood_is_a_sentence(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(CropError, match=rf"a\.txt {what}"):
        read(tmp_path / "a.txt")


def test_rows_of_other_slides_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("filename,x,y\nslide.tiff,1,2\nother.tiff,3,4\nC:\\scans\\slide.svs,5,6\n,7,8\n")
    assert [(d.x, d.y) for d in read(tmp_path / "a.csv").detections] == [(5, 6)]


@pytest.mark.parametrize(
    ("slide", "names", "taken"),
    [
        ("12.svs", ["12", "12.1", "12.2"], "12"),
        ("12.svs", ["12.1", "12.tif", "12.2"], "12.tif"),
        ("12.1.svs", ["12", "12.1", "12.2.svs"], "12.1"),
        ("12.1", ["12", "12.1.svs", "12.2"], "12.1.svs"),
        ("a.ptif", ["a", "b"], "a"),
        ("a.czi", ["a.czi - Scene #1", "b.czi - Scene #1"], "a.czi - Scene #1"),
        ("A.svs", ["A.svs", "A.tiff", "A"], "A.svs"),
        ("A.svs", ["A.tiff", "A", "B.svs"], "A"),
        ("A.svs", ["B.svs", "/scans/A.SVS"], "/scans/A.SVS"),
        ("A.svs", ["C:\\scans\\A.svs", "A.tiff"], "C:\\scans\\A.svs"),
        ("A.ome.tif", ["A.ndpi", "B.ome.tif"], "A.ndpi"),
        ("A.ome.tif", ["A.ome", "B.ome"], "A.ome"),
        ("A.svs", ["A.ome.tif", "A.1.ome.tif"], "A.ome.tif"),
        ("A.svs", ["A.1", "A.b", "A.txt", "a.svs", "AA.svs"], None),
        ("A.svs", ["A.tiff", "A.ndpi", "B.svs"], "A.ndpi, A.tiff"),
        ("A.svs", ["2023/A.svs", "2024/A.svs"], "2023/A.svs, 2024/A.svs"),
    ],
)
def test_a_name_is_the_slides_but_for_the_suffix_of_a_slide(
    tmp_path: Path, slide: str, names: list[str], taken: str | None
) -> None:
    """In tables and in MIDOG's files: figures of another slide are not taken, nor those of one that is doubtful."""
    table, images = tmp_path / "a.csv", [{"id": number, "file_name": name} for number, name in enumerate(names)]
    table.write_text(
        "slide,x,y\n" + "".join(f"{name},{number},1\n{name},{number},2\n" for number, name in enumerate(names))
    )
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [n, 1, n + 2, 3]} for n in range(len(names))]
    midog_file = write_json(tmp_path / "a.json", midog(images=images, annotations=boxes))
    for path in (table, midog_file):
        if taken in names:
            number = names.index(taken)
            expected = {(number, 1), (number, 2)} if path == table else {(number + 1, 2)}
            assert {(d.x, d.y) for d in read_detections(Wanted(path, slide=slide)).detections} == expected
        else:
            what = f"tells of {taken}, and each may be {slide}; give" if taken else f"tells of 5 .*{slide}; give"
            with pytest.raises(CropError, match=rf"{path.name} {what} the detections of this slide"):
                read_detections(Wanted(path, slide=slide))


def test_units(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n100,50\nbad,1\n")
    sifted = sift(read(tmp_path / "a.csv", unit="um"), SLIDE, from_bounds=False)
    assert [(d.x, d.y) for _, d in sifted.used] == [(400, 200)] and sifted.counts()["no point"] == 1
    (tmp_path / "b.csv").write_text("Object ID,Centroid X µm,Centroid Y µm\nabc,100,50\n")
    found = read(tmp_path / "b.csv")
    assert found.unit == "um" and found.from_qupath and found.detections[0].id == "abc"
    with pytest.raises(CropError, match="look at --unit"):
        read(tmp_path / "b.csv", unit="px")


def test_units_of_json(tmp_path: Path) -> None:
    """Points may be µm where the user says so; what is always in pixels is not taken for µm, nor µm for pixels."""
    points = write_json(tmp_path / "points.json", {"x": [100], "y": [50]})
    assert [(d.x, d.y) for _, d in sift(read(points, unit="um"), SLIDE, from_bounds=False).used] == [(400, 200)]
    assert [(d.x, d.y) for _, d in sift(read(points), SLIDE, from_bounds=False).used] == [(100, 50)]
    for pixels in (write_geojson(tmp_path / "a.geojson", [point(1, 2)]), write_json(tmp_path / "m.json", midog())):
        assert read(pixels, unit="px").unit == "px"
        with pytest.raises(CropError, match="is of a kind that is always in pixels; leave out --unit um"):
            read(pixels, unit="um")


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compressed file that unpacks to more than is read, more points than are read, and what is no file."""
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"[" + b" " * 5_000_000))
    monkeypatch.setattr(recognise, "LARGEST", 1_000_000)
    with pytest.raises(CropError, match=r"bomb\.gz has more than the 1000000 bytes"):
        read(tmp_path / "bomb.gz")
    monkeypatch.setattr(recognise, "MOST_DETECTIONS", 2)
    with pytest.raises(CropError, match=r"a\.geojson holds 3 detections, too many"):
        read(write_geojson(tmp_path / "a.geojson", [point(1, 2)] * 3))
    (tmp_path / "half.gz").write_bytes(gzip.compress(b"x,y\n1,2\n" * 1000)[:40])
    (tmp_path / "latin.csv").write_bytes(b"x,y,caf\xe9\n1,2,3\n")
    os.mkfifo(tmp_path / "pipe")
    for name, what in {
        "half.gz": "is damaged",
        "latin.csv": "is no text in UTF-8",
        "pipe": "cannot be opened: it is a pipe",
        "missing": "cannot be opened: No such file",
    }.items():
        with pytest.raises(CropError, match=f"{name} {what}"):
            read(tmp_path / name)


@pytest.mark.parametrize("text", ["[]", '{"type": "FeatureCollection", "features": []}', "x,y\n"])
def test_a_slide_without_figures_has_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "a").write_text(text)
    assert not read(tmp_path / "a").detections


GEOJSON = ["type", "features", "geometry", "coordinates", "properties", "objectType", "nucleusGeometry", "id"]
OTHERS = ["images", "annotations", "categories", "bbox", "image_id", "category_id", "file_name", "x", "y", "classes"]
KEYS = [*GEOJSON, *OTHERS, "classification", "name", "nuc", "centroid"]
TYPES = ["FeatureCollection", "Feature", "Point", "Polygon", "MultiPolygon", "slide.svs"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner | st.sampled_from(TYPES), max_size=4)
    ),
    max_leaves=25,
)


@pytest.mark.slow
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=JSON, region=st.sampled_from(["", "Point"]))
def test_any_json_is_detections_or_a_sentence(tmp_path: Path, document: Any, region: str) -> None:
    (tmp_path / "any.json").write_text(json.dumps(document))
    try:
        found = read(tmp_path / "any.json", region=region)
        sift(found, SLIDE, from_bounds=True)
    except CropError as error:
        assert str(error)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet="xyid,;\t\n\"'1234.-eµ ", max_size=60))
def test_any_table_is_detections_or_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "any.csv").write_text(text)
    try:
        sift(read(tmp_path / "any.csv"), SLIDE, from_bounds=False)
    except CropError as error:
        assert "any.csv" in str(error)
