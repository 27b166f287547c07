"""Which detections are used, and areas."""

from pathlib import Path

import numpy as np
import pytest
from written_slides import point, square, write_geojson

from model.errors import CropError
from model.slides.detections import Detection, Found
from model.slides.pyramid import Pyramid
from model.slides.recognise import read_detections
from model.slides.regions import Region, check_apart, ring_area, ring_centroid
from model.slides.sifting import sift
from model.slides.wanted import Wanted

SLIDE = Pyramid("any", 4000, 3000, stated=(0.25, 0.25), origin=(1000, 500))


def test_the_first_of_several_within_five_micrometres_is_used() -> None:
    """20 pixels of 0.25 µm; also across the squares of the grid that they are looked up in."""
    places = [(100, 100), (120, 100), (121, 100), (99, 81), (300, 300), (314, 314), (315, 315)]
    sifted = sift(Found("any", [Detection(x, y) for x, y in places]), SLIDE, from_bounds=False)
    assert [number for number, _ in sifted.used] == [0, 2, 4, 6]
    assert [(out.number, out.reason, out.detail) for out in sifted.left_out] == [
        (1, "duplicate", "within 5 µm of detection 0"),
        (3, "duplicate", "within 5 µm of detection 0"),
        (5, "duplicate", "within 5 µm of detection 4"),
    ]


def test_duplicates_are_those_that_comparing_all_pairs_finds() -> None:
    random = np.random.default_rng(0)
    places = random.uniform(0, 600, (400, 2))
    kept: list[int] = []
    for number, place in enumerate(places):
        if all(np.hypot(*(place - places[other])) > 20 for other in kept):
            kept.append(number)
    sifted = sift(Found("any", [Detection(x, y) for x, y in places]), SLIDE, from_bounds=False)
    assert [number for number, _ in sifted.used] == kept and 20 < len(kept) < 380


def test_outside_and_large_ones_are_left_out_with_where_and_how_large() -> None:
    found = [Detection(-1, 5), Detection(3999.9, 2999.9), Detection(4000, 5), Detection(50, 50, size=401)]
    sifted = sift(Found("any", found), SLIDE, from_bounds=False)
    assert [number for number, _ in sifted.used] == [1]
    assert [(out.reason, out.detail) for out in sifted.left_out] == [
        ("outside the slide", "-1, 5 of 4000 x 3000 pixels"),
        ("outside the slide", "4000, 5 of 4000 x 3000 pixels"),
        ("larger than a figure", "100 µm, more than 100"),
    ]


def test_qupath_counts_from_the_corner_of_the_scanned_part() -> None:
    sifted = sift(Found("any", [Detection(10, 20)], [Region([np.array([[0, 0], [9, 0], [0, 9]])])]), SLIDE, True)
    assert [(d.x, d.y) for _, d in sifted.used] == [(1010, 520)]
    assert sifted.regions[0].rings[0].min(axis=0).tolist() == [1000, 500]


def test_area_and_centre_of_rings() -> None:
    ring = np.array([[10.0, 10], [40, 10], [40, 30], [10, 30]])
    assert ring_area(ring) == 600 and ring_area(ring[::-1]) == -600
    assert ring_centroid(ring) == ring_centroid(ring[::-1]) == (25, 20)
    far = ring + 250_000
    assert abs(ring_area(far)) == pytest.approx(600, rel=1e-9) and ring_centroid(far) == (250_025, 250_020)


def test_a_region_has_holes() -> None:
    outer = np.array([[0.0, 0], [100, 0], [100, 100], [0, 100]])
    hole = np.array([[20.0, 20], [40, 20], [40, 40], [20, 40]])
    region = Region([outer, hole])
    assert region.area() == 9600
    inside = {(50, 50): True, (30, 30): False, (10, 30): True, (101, 50): False, (-1, -1): False, (90, 20): True}
    assert {place: region.holds(*place) for place in inside} == inside


def test_figures_are_counted_in_the_region_of_a_name(tmp_path: Path) -> None:
    spots = [square(500, 500, 400, name="hot spot", label="Tumor"), square(2000, 500, 400, label="hot spot")]
    path = write_geojson(tmp_path / "a.geojson", [*spots, point(450, 450), point(1300, 500), point(2100, 600)])
    plain = Pyramid("any", 4000, 3000, stated=(0.25, 0.25))
    sifted = sift(read_detections(Wanted(path, region="hot spot")), plain, from_bounds=False)
    assert [sifted.counts_in(detection) for _, detection in sifted.used] == [True, False, True]
    assert sum(region.area() for region in sifted.regions) == 2 * 800 * 800
    everything = sift(read_detections(Wanted(path)), plain, from_bounds=False)
    assert everything.counts()["larger than a figure"] == 2 and len(everything.used) == 3


def ring(*corners: tuple[float, float]) -> Region:
    return Region([np.array(corners, dtype=float)])


TOUCHING = {
    "an edge": (ring((0, 0), (10, 0), (10, 10), (0, 10)), ring((10, 0), (20, 0), (20, 10), (10, 10))),
    "a corner": (ring((0, 0), (10, 0), (10, 10), (0, 10)), ring((10, 10), (20, 10), (20, 20), (10, 20))),
    "a part of an edge": (ring((0, 0), (10, 0), (10, 10), (0, 10)), ring((4, 10), (7, 10), (7, 30))),
    "a notch": (ring((0, 0), (30, 0), (30, 30), (15, 10), (0, 30)), ring((0, 30), (15, 10), (30, 30), (15, 50))),
    "rounding": (ring((0, 0), (10.2, 0), (10.2, 10), (0, 10)), ring((9.9, 0), (20, 0), (20, 10), (9.9, 10))),
}
OVERLAPPING = {
    "the same": (TOUCHING["an edge"][0], TOUCHING["an edge"][0]),
    "the same, the other way round": (TOUCHING["an edge"][0], Region([TOUCHING["an edge"][0].rings[0][::-1]])),
    "within": (ring((0, 0), (30, 0), (30, 30), (0, 30)), ring((10, 10), (20, 10), (20, 20), (10, 20))),
    "a corner": (ring((0, 0), (10, 0), (10, 10), (0, 10)), ring((5, 5), (15, 5), (15, 15), (5, 15))),
    "at a notch": (TOUCHING["a notch"][0], ring((0, 30), (15, 5), (30, 30))),
}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("pair", TOUCHING.values(), ids=TOUCHING.keys())
def test_regions_may_touch(pair: tuple[Region, Region], turned: bool) -> None:
    """As the tiles of a grid do, or rectangles that are drawn side by side."""
    check_apart(pair[::-1] if turned else pair)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("pair", OVERLAPPING.values(), ids=OVERLAPPING.keys())
def test_regions_must_not_overlap(pair: tuple[Region, Region], turned: bool) -> None:
    with pytest.raises(CropError, match="overlap"):
        check_apart(pair[::-1] if turned else pair)


def test_many_regions_of_many_corners_are_compared_without_holding_all_at_once() -> None:
    angles = np.linspace(0, 2 * np.pi, 2000, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    check_apart([Region([49 * circle + (100 * (i % 15), 100 * (i // 15))]) for i in range(225)])
    with pytest.raises(CropError, match="overlap"):
        check_apart([Region([60 * circle + (100 * i, 0)]) for i in range(2)])


def test_regions_that_are_missing_no_area_or_overlap_are_refused(tmp_path: Path) -> None:
    a = tmp_path / "a.geojson"
    with pytest.raises(CropError, match=r"a\.geojson has no area of the name or class 'hot'"):
        read_detections(Wanted(write_geojson(a, [point(1, 2)]), region="hot"))
    with pytest.raises(CropError, match="what is no area"):
        read_detections(Wanted(write_geojson(a, [point(1, 2, name="hot")]), region="hot"))
    write_geojson(a, [square(500, 500, 400, name="hot"), square(900, 900, 400, name="hot"), point(1, 2)])
    with pytest.raises(CropError, match="overlap"):
        sift(read_detections(Wanted(a, region="hot")), SLIDE, from_bounds=False)
    write_geojson(a, [square(500, 500, 400, name="hot"), square(500, 500, 400, name="hot")])
    with pytest.raises(CropError, match="overlap"):
        sift(read_detections(Wanted(a, region="hot")), SLIDE, from_bounds=False)
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    with pytest.raises(CropError, match=r"a\.csv is no GeoJSON, so it has no region 'hot'"):
        read_detections(Wanted(tmp_path / "a.csv", region="hot"))
