"""Which detections are used, and areas."""

import logging
import tracemalloc
from itertools import product
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
from model.slides.statistics import describe
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


def box(x: float, y: float, width: float, height: float) -> np.ndarray:
    return np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], dtype=float)


def tiles(overlap: float, turned_by: float = 0.0) -> list[Region]:
    """Sixteen squares side by side, each a little too large."""
    turn = np.array([[np.cos(turned_by), np.sin(turned_by)], [-np.sin(turned_by), np.cos(turned_by)]])
    side = 100 + overlap
    return [Region([box(100 * i, 100.5 * j, side, side + 0.5) @ turn]) for i, j in product(range(4), range(4))]


TOUCHING = {
    "an edge": (ring((0, 0), (10, 0), (10, 10), (0, 10)), ring((10, 0), (20, 0), (20, 10), (10, 10))),
    "a corner": (ring((0, 0), (10, 0), (10, 10), (0, 10)), ring((10, 10), (20, 10), (20, 20), (10, 20))),
    "a part of an edge": (ring((0, 0), (10, 0), (10, 10), (0, 10)), ring((4, 10), (7, 10), (7, 30))),
    "a notch": (ring((0, 0), (30, 0), (30, 30), (15, 10), (0, 30)), ring((0, 30), (15, 10), (30, 30), (15, 50))),
    "rounding": (ring((0, 0), (10.2, 0), (10.2, 10), (0, 10)), ring((9.9, 0), (20, 0), (20, 10), (9.9, 10))),
    "tiles": tiles(0),
    "tiles that are rounded": tiles(1),
    "tiles that are rounded and turned": tiles(1, 0.3),
    "a hole that is filled": (Region([box(0, 0, 90, 90), box(30, 30, 30, 30)]), Region([box(30, 30, 30, 30)])),
    "a hole at the edge": (Region([box(0, 0, 90, 90), box(0, 30, 30, 30), box(60, 60, 30, 30)]),),
    "itself, at a corner": (ring((0, 0), (20, 20), (40, 0), (40, 40), (20, 20), (0, 40)),),
    "itself, along a cut": (
        ring((0, 0), (90, 0), (90, 40), (30, 40), (30, 50), (30, 40), (90, 40), (90, 90), (0, 90)),
    ),
    "a knot of a pixel": (ring((0, 0), (90, 0), (91, 1), (90, 1), (91, 0), (91, 90), (0, 90)),),
}
OVERLAPPING = {
    "the same": (TOUCHING["an edge"][0], TOUCHING["an edge"][0]),
    "the same, the other way round": (TOUCHING["an edge"][0], Region([TOUCHING["an edge"][0].rings[0][::-1]])),
    "within": (ring((0, 0), (30, 0), (30, 30), (0, 30)), ring((10, 10), (20, 10), (20, 20), (10, 20))),
    "a corner": (ring((0, 0), (10, 0), (10, 10), (0, 10)), ring((5, 5), (15, 5), (15, 15), (5, 15))),
    "at a notch": (TOUCHING["a notch"][0], ring((0, 30), (15, 5), (30, 30))),
    "sides, as a plus": (Region([box(40, 0, 20, 100)]), Region([box(0, 40, 100, 20)])),
    "sides, aslant": (ring((0, 0), (10, 0), (1000, 990), (1000, 1000)), ring((0, 990), (990, 0), (1000, 0), (0, 1000))),
    "sides, and no corner within": (ring((0, 0), (90, 0), (45, 78)), ring((0, 52), (90, 52), (45, -26))),
    "three pixels": (Region([box(0, 0, 100, 100)]), Region([box(97, 0, 100, 100)])),
    "what is before a hole": (Region([box(0, 0, 90, 90), box(30, 30, 30, 30)]), Region([box(20, 40, 30, 10)])),
    "one of many tiles": [*tiles(1), Region([box(210, 120, 40, 10)])],
}
CROSSING = {
    "a bow-tie": ring((0, 0), (100, 80), (100, 0), (0, 100)),
    "a knot": ring(
        (0, 0), (100, 0), (100, 100), (60, 100), (60, 140), (40, 140), (40, 120), (80, 120), (80, 110), (0, 110)
    ),
    "an outline drawn twice": Region([np.concatenate([box(0, 0, 100, 100)] * 2)]),
    "a star of five points": ring(
        *[(50 + 50 * np.sin(2.4 * i * np.pi / 3), 50 - 50 * np.cos(2.4 * i * np.pi / 3)) for i in range(5)]
    ),
    "a hole beyond the outline": Region([box(0, 0, 100, 100), box(60, 60, 60, 20)]),
    "a hole beside the outline": Region([box(0, 0, 100, 100), box(200, 60, 20, 20)]),
    "holes that overlap": Region([box(0, 0, 100, 100), box(20, 20, 30, 30), box(40, 40, 30, 30)]),
    "a hole that crosses itself": Region([box(0, 0, 100, 100), np.array([(20, 20), (60, 60), (60, 20), (20, 50)])]),
}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("pair", TOUCHING.values(), ids=TOUCHING.keys())
def test_regions_may_touch(pair: tuple[Region, Region], turned: bool) -> None:
    """As the tiles of a grid do, or rectangles that are drawn side by side."""
    check_apart(pair[::-1] if turned else pair)


@pytest.mark.parametrize("far", [0, 250_000])
@pytest.mark.parametrize("region", CROSSING.values(), ids=CROSSING.keys())
def test_outlines_must_not_cross_themselves_or_holes(region: Region, far: float) -> None:
    across = Region([ring[::-1, ::-1] for ring in region.rings])
    for each in (region, across):
        with pytest.raises(CropError, match=r"crosses or covers itself, or a hole, near x \d+, y \d+, so its area is"):
            check_apart([each.moved(far, far)])


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


def test_regions_overlap_where_a_fine_grid_finds_places_in_two() -> None:
    """Turned rectangles at random."""
    random = np.random.default_rng(0)
    places = np.stack(np.meshgrid(np.arange(0, 200, 0.5), np.arange(0, 200, 0.5)), axis=-1)
    counted = {True: 0, False: 0}
    for _ in range(60):
        pair = []
        for x, y, width, height, angle in random.uniform((50, 50, 10, 10, 0), (150, 150, 90, 90, 3), (2, 5)):
            turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            pair.append(Region([box(-width / 2, -height / 2, width, height) @ turn + (x, y)]))
        both = np.logical_and(*(region.hold(places.reshape(-1, 2)).reshape(400, 400) for region in pair))
        deep = all(both.sum(axis=axis).max(initial=0) > 8 for axis in (0, 1))
        if both.any() and not deep:
            continue  # by a pixel or two: either is right
        counted[deep] += 1
        try:
            check_apart(pair)
            assert not deep
        except CropError:
            assert deep
    assert min(counted.values()) > 10


def test_twenty_thousand_corners_are_compared_in_little_memory() -> None:
    """Also where every line meets every side, and where they cross some ten million times."""
    random = np.random.default_rng(0)
    count = np.arange(20_000)
    angles = 2 * np.pi * count / len(count)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    wavy = circle * (15_000 + 3_000 * np.sin(50 * angles) + 300 * random.random(len(count)))[:, None]
    comb = np.stack([2 * count, np.where(count % 2, 40_000, 100)], axis=1)
    comb = np.concatenate([comb + random.random(comb.shape), [(40_000, 0), (0, 0)]])
    tracemalloc.start()
    for outline in (wavy, comb @ np.array([[0.6, 0.8], [-0.8, 0.6]])):
        check_apart([Region([outline])])
    with pytest.raises(CropError, match="crosses or covers itself"):
        check_apart([Region([random.uniform(0, 40_000, (20_000, 2))])])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300e6


def geojson_area(geometry: list, **properties: object) -> dict:
    return square(0, 0, 1, **properties) | {"geometry": {"type": "MultiPolygon", "coordinates": geometry}}


def per_mm2(path: Path, polygons: list[list[np.ndarray]]) -> tuple[float, float, float]:
    """Figures, area, and figures per mm² of regions where each 200th pixel across and down is one: 400 per mm²."""
    rings = [[ring.tolist() for ring in polygon] for polygon in polygons]
    spots = [point(x, y) for x, y in product(range(100, 4000, 200), range(100, 3000, 200))]
    found = read_detections(Wanted(write_geojson(path, [geojson_area(rings, name="hot"), *spots]), region="hot"))
    slide = Pyramid("any", 4000, 3000, stated=(0.25, 0.25))
    sifted = sift(found, slide, from_bounds=False)
    area = sum(region.area() for region in sifted.regions) * 0.25**2 / 1e6
    counted = sum(sifted.counts_in(detection) for _, detection in sifted.used)
    described = describe(0, counted, None, area)
    return described["figures"], described["area_mm2"], described["figures_per_mm2"]


def test_where_figures_are_evenly_spread_any_region_has_as_many_per_mm2(tmp_path: Path) -> None:
    a = tmp_path / "a.geojson"
    plus = [(800, 0), (1600, 0), (1600, 800), (2400, 800), (2400, 1600), (1600, 1600), (1600, 2400), (800, 2400)]
    plus = [*plus, (800, 1600), (0, 1600), (0, 800), (800, 800)]
    assert per_mm2(a, [[np.array(plus)]]) == (80, pytest.approx(0.2), pytest.approx(400))
    assert per_mm2(a, [[box(0, 0, 2000, 2000), box(400, 400, 800, 800)]])[2] == pytest.approx(400)
    assert per_mm2(a, [[box(0, 0, 1000, 1000)], [box(1000, 0, 1000, 1000)]])[2] == pytest.approx(400)
    with pytest.raises(CropError, match=r"The regions overlap near x \d+, y \d+, so their area is unclear; merge them"):
        per_mm2(a, [[box(800, 0, 800, 2400)], [box(0, 800, 2400, 800)]])
    for ring in (np.concatenate([box(0, 0, 2000, 2000)] * 2), np.array([(0, 0), (2000, 1600), (2000, 0), (0, 2000)])):
        with pytest.raises(CropError, match="The outline of a region crosses or covers itself"):
            per_mm2(a, [[ring]])
    with pytest.raises(CropError, match="The outline of a region crosses or covers itself, or a hole"):
        per_mm2(a, [[box(0, 0, 2000, 2000), np.array([(400, 400), (800, 800), (800, 400), (400, 800)])]])


def test_of_a_region_beyond_the_slide_what_is_on_it_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    a = tmp_path / "a.geojson"
    with caplog.at_level(logging.WARNING):
        assert per_mm2(a, [[box(-1.5, -1, 4003, 3002)]]) == (300, pytest.approx(0.75), pytest.approx(400))
        assert not caplog.text
        assert per_mm2(a, [[box(3000, 1000, 2000, 1000)]]) == (25, pytest.approx(0.0625), pytest.approx(400))
        assert "Of the regions 50 % lie outside the slide; that is not counted as area." in caplog.text
    with_hole = [box(-2000, -2000, 8000, 8000), box(-1000, 1000, 3000, 1000)]
    assert per_mm2(a, [with_hole]) == (250, pytest.approx(0.625), pytest.approx(400))
    beside = [[box(4000, 0, 500, 500)], [box(-600, -600, 600, 600)], [box(0, 0, 400, 400)]]
    assert per_mm2(a, beside) == (4, pytest.approx(0.01), pytest.approx(400))
    with pytest.raises(CropError, match="No region lies on the slide, which has 4000 x 3000 pixels; give its own"):
        per_mm2(a, beside[:2])


def test_regions_are_cut_at_the_slide_wherever_they_are_counted_from() -> None:
    found = Found("any", [Detection(3500, 100)], [Region([box(2000, 0, 2000, 1000)])])
    assert sift(found, SLIDE, from_bounds=True).regions[0].area() == 1000 * 1000
    assert sift(found, SLIDE, from_bounds=False).regions[0].area() == 2000 * 1000


def test_what_is_cut_off_changes_nothing_of_the_rest() -> None:
    random = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, 500, endpoint=False)
    star = np.stack([np.cos(angles), np.sin(angles)], axis=1) * random.uniform(300, 1500, (500, 1)) + (700, 200)
    region = Region([star, box(650, 150, 100, 100)])
    clipped = region.clipped(0, 0, 1000, 800)
    places = np.stack(np.meshgrid(np.arange(0, 1000, 2), np.arange(0, 800, 2)), axis=-1).reshape(-1, 2)
    assert clipped is not None and np.array_equal(clipped.hold(places), region.hold(places))
    assert clipped.area() == pytest.approx(4 * clipped.hold(places).sum(), rel=0.01)
    check_apart([clipped])


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
