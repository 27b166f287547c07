"""The page of a slide and that of several: what they say and show, and how they work in a browser."""

import base64
import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import REPOSITORY
from pages import check_page, fits, lowest_contrast, opened
from written_slides import paste, point, square, write_geojson, write_svs, write_tiled

from model.constants import REPORT
from model.modes.slide import classify_slide
from model.modes.slide_list import COLUMNS, SLIDES, classify_slides, read_slide_list
from model.modes.slide_options import SlideOptions, SlideTask
from model.predictor import Predictor
from model.report import slide as slide_page
from model.report.page import ReportError
from model.report.slide import report_slide
from model.report.slides import report_slides
from model.report.thumbnails import ATYPICAL, NORMAL

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def predictor(small_weights: Path) -> Predictor:
    return Predictor(small_weights, "cpu")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory, predictor: Predictor) -> SlideTask:
    """The page of twelve figures, of which one lies at the edge, one is blank, and some are outside the region."""
    from helpers import draw_crops

    root = tmp_path_factory.mktemp("slide")
    image, centres = paste([*draw_crops() * 2, np.full((128, 128, 3), 235, np.uint8)], columns=4)
    features = [point(x, y, f"{HOSTILE} {number}") for number, (x, y) in enumerate(centres)]
    features.append(point(20, 400))
    features.append(point(50_000, 50_000, "far"))
    region = square(image.shape[1] / 2, 480, 520, label="hot <b>spot")
    task = SlideTask(
        write_tiled(root / "a <slide>.tif", image), write_geojson(root / "d.geojson", [*features, region]), root / "out"
    )
    classify_slide(predictor, task, SlideOptions(region="hot <b>spot"))
    assert report_slide(task, predictor) == task.target / REPORT
    return task


def rows_of(task: SlideTask) -> dict[int, dict[str, str]]:
    with (task.target / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return {int(row["detection"]): row for row in csv.DictReader(file)}


def overview_of(path: Path) -> np.ndarray:
    """The picture of the slide in a page, RGB."""
    page = check_page(path)
    address = next(attributes["src"] or "" for _, attributes in page.elements if attributes.get("id") == "slide")
    content = base64.b64decode(address.removeprefix("data:image/webp;base64,"))
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_the_page_says_what_summary_and_tables_say(task: SlideTask) -> None:
    page, rows = check_page(task.target / REPORT), rows_of(task)
    crops = json.loads(page.scripts[0])
    assert len(crops) == len(rows) == 12
    for crop in crops:
        row = rows[crop["n"]]
        assert (crop["class"], crop["p"], crop["spread"]) == (
            row["class"],
            float(row["confidence"]),
            float(row["view_spread"]),
        )
        assert crop["at"] == [float(row["x"]), float(row["y"])]
        outside = "" if row["in_region"] == "yes" else ", outside the region"
        assert crop["place"] == f"at {float(row['x']):.0f}, {float(row['y']):.0f}{outside}" and crop["picture"]
    certainty = [abs(crop["p"] - 0.5) for crop in crops]
    assert certainty == sorted(certainty) and max(crop["spread"] for crop in crops) > 0
    found = json.loads((task.target / "summary.json").read_text())["statistics"]
    low, high = found["share_interval_95"]
    assert (
        f"{found['figures']} figures {found['atypical']} atypical ({100 * found['share_atypical']:.1f} %)" in page.text
    )
    assert f"({100 * low:.1f} to {100 * high:.1f} %)" in page.text
    assert f"figures per mm² {found['figures_per_mm2']:.2f}" in page.text
    assert f"{found['atypical_per_2.37_mm2']:.1f} atypical per 2.37 mm²" in page.text
    assert "Counted in the region hot <b>spot" in page.text and "left out: outside the slide 1" in page.text


def test_the_page_says_how_often_the_classifier_errs(task: SlideTask, tmp_path: Path, predictor: Predictor) -> None:
    target = Path(shutil.copytree(task.target, tmp_path / "out"))
    assert "as the classifier calls" not in check_page(target / REPORT).text  # these weights do not tell
    summary = json.loads((target / "summary.json").read_text())
    summary["accuracy"] = {"sensitivity": 0.9, "specificity": 0.839, "positives": 100, "negatives": 300}
    (target / "summary.json").write_text(json.dumps(summary))
    report_slide(replace(task, target=target), predictor)
    assert (
        "it called 16 % of the normal figures atypical, and 10 % of the atypical ones"
        in check_page(target / REPORT).text
    )


def test_warnings_are_beside_their_crops(task: SlideTask) -> None:
    warnings = {crop["n"]: crop["warnings"] for crop in json.loads(check_page(task.target / REPORT).scripts[0])}
    assert warnings[10] == ["blank or featureless"]
    assert warnings[11][0].endswith("% of it lies outside the slide")
    assert any(row["in_region"] == "no" for row in rows_of(task).values())


def test_ids_and_names_are_text_and_nothing_else(task: SlideTask) -> None:
    page = check_page(task.target / REPORT)
    assert [tag for tag, _ in page.elements].count("script") == len(page.scripts) == 2
    assert any(crop["name"].endswith(f"{HOSTILE} 3") for crop in json.loads(page.scripts[0]))
    assert not {"b", "i"} & {tag for tag, _ in page.elements} and "a <slide>.tif" in page.text


def test_each_figure_is_a_point_of_its_class_on_the_picture(task: SlideTask) -> None:
    picture = overview_of(task.target / REPORT).astype(int)
    summary = json.loads((task.target / "summary.json").read_text())
    scale = picture.shape[1] / summary["size"][0]
    assert max(picture.shape) <= slide_page.PICTURE
    for row in rows_of(task).values():
        if row["in_region"] == "yes":
            x, y = round(float(row["x"]) * scale), round(float(row["y"]) * scale)
            around = picture[max(0, y - 9) : y + 10, max(0, x - 9) : x + 10].reshape(-1, 3)
            near = {
                name: int((np.abs(around - colour).max(axis=1) < 60).sum())
                for name, colour in (("atypical", ATYPICAL), ("normal", NORMAL))
            }
            assert max(near, key=lambda name: near[name]) == row["class"] and near[row["class"]] > 20


def test_a_slide_that_is_too_large_for_a_picture_shows_where_the_figures_are(
    tmp_path: Path, crops: list[np.ndarray], predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, centres = paste(crops)
    task = SlideTask(
        write_tiled(tmp_path / "s.tif", image),
        write_geojson(tmp_path / "d.geojson", [point(x, y) for x, y in centres]),
        tmp_path / "out",
    )
    classify_slide(predictor, task)

    def refuse(self: object, longest: int) -> np.ndarray:
        raise slide_page.CropError("s.tif has no level that is small enough")

    monkeypatch.setattr(slide_page.SlideReader, "overview", refuse)
    report_slide(task, predictor)
    assert "The slide itself is not shown: s.tif has no level" in check_page(task.target / REPORT).text
    assert len(np.unique(overview_of(task.target / REPORT).reshape(-1, 3), axis=0)) > 10


def test_a_slide_that_does_not_compress_has_a_picture_that_fits(
    tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1400, 1500, 3)).astype(np.uint8)
    detections = write_geojson(tmp_path / "d.geojson", [point(500, 500)])
    task = SlideTask(write_tiled(tmp_path / "s.tif", noise), detections, tmp_path / "out")
    classify_slide(predictor, task)
    monkeypatch.setattr(slide_page, "LARGEST_PICTURE", 100_000)
    report_slide(task, predictor)
    assert 100 < overview_of(task.target / REPORT).shape[1] < slide_page.PICTURE // 2
    assert (task.target / REPORT).stat().st_size < 200_000


def test_a_coarse_slide_is_a_warning_at_each_figure(
    tmp_path: Path, crops: list[np.ndarray], predictor: Predictor
) -> None:
    image, centres = paste([cv2.resize(crop, (64, 64)) for crop in crops])
    task = SlideTask(
        write_svs(tmp_path / "s.svs", image, 0.5),
        write_geojson(tmp_path / "d.geojson", [point(x, y) for x, y in centres]),
        tmp_path / "out",
    )
    classify_slide(predictor, task)
    report_slide(task, predictor)
    page = check_page(task.target / REPORT)
    for crop in json.loads(page.scripts[0]):
        assert any(said.startswith("read at 0.5 µm per pixel") for said in crop["warnings"])
    assert "0.5 µm per pixel, then rescaled to 0.25" in page.text


def test_a_slide_without_figures_has_a_page(tmp_path: Path, crops: list[np.ndarray], predictor: Predictor) -> None:
    image, _ = paste(crops)
    task = SlideTask(
        write_tiled(tmp_path / "s.tif", image), write_geojson(tmp_path / "d.geojson", []), tmp_path / "out"
    )
    classify_slide(predictor, task)
    report_slide(task, predictor)
    assert "0 figures" in check_page(task.target / REPORT).text


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("summary.json", "statistics", "else"),
        ("summary.json", "{", "[" * 100_000),
        ("predictions.csv", "detection", "something"),
        ("predictions.csv", r"(?m)^0,,[^,]*,", "0,,nan,"),
        ("predictions.csv", r"(?m)^((?:[^,]*,){6})[^,]*,", r"\1nan,"),
        ("predictions.csv", r"(?m)^((?:[^,]*,){7})[^,]*,", r"\1-1,"),
        ("predictions.csv", "normal,", "atypical,"),
        ("predictions.csv", "\n0,", "\nzero,"),
        ("predictions.csv", "\n0,", "\n0,1,2,3,4,5,6,7,8,9,10,11,12,13"),
        ("predictions.csv", "\n0,", "\n" + "x" * 200_000),
        ("left_out.csv", "detection", "something"),
    ],
)
def test_tables_that_were_altered_are_one_sentence(
    tmp_path: Path, crops: list[np.ndarray], predictor: Predictor, name: str, old: str, new: str
) -> None:
    image, centres = paste(crops)
    detections = write_geojson(tmp_path / "d.geojson", [point(*centres[0]), point(-5, -5)])
    task = SlideTask(write_tiled(tmp_path / "s.tif", image), detections, tmp_path / "out")
    classify_slide(predictor, task)
    text = (task.target / name).read_text()
    altered = re.sub(old if old.startswith("(?m)") else re.escape(old), new, text)
    assert altered != text
    (task.target / name).write_text(altered)
    with pytest.raises(ReportError, match=rf"{name} cannot be read"):
        report_slide(task, predictor)
    assert not (task.target / REPORT).exists()


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory, predictor: Predictor) -> Path:
    """The pages of two slides and of one that is none."""
    from helpers import draw_crops

    root = tmp_path_factory.mktemp("slides")
    image, centres = paste(draw_crops())
    for name in ("a", "b"):
        write_tiled(root / f"{name}.tif", image)
        write_geojson(root / f"{name}.geojson", [point(x, y) for x, y in centres])
    (root / "<c>.tif").write_bytes(b"no slide")
    lines = ["slide,detections,area_mm2", "a.tif,a.geojson,2.5", "b.tif,b.geojson,", "<c>.tif,a.geojson,"]
    (root / "slides.csv").write_text("\n".join(lines))
    tasks = read_slide_list(root / "slides.csv", root / "out")
    assert classify_slides(predictor, tasks, root / "out", SlideOptions()) == 1
    assert report_slides(tasks, root / "out", predictor) == root / "out" / REPORT
    return root / "out"


def test_several_slides_have_a_page_each_and_one_that_links_them(slides: Path) -> None:
    page = check_page(slides / REPORT)
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert links == ["#content", "a/report.html", "b/report.html"]
    assert "5 mitotic figures on" in check_page(slides / "a" / REPORT).text
    assert "<c>.tif" in page.text and "no slide that OpenSlide knows" in page.text and "2.500" in page.text
    assert "1 of 3 slides could not be used" in page.text


def test_of_ten_thousand_slides_the_first_are_listed(tmp_path: Path, predictor: Predictor) -> None:
    """However long their names and reasons are, the page stays below 5 MB."""
    with (tmp_path / SLIDES).open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for number in range(10_000):
            table.writerow({"slide": f"{number}{'<' * 250}.svs", "folder": "", "failure": '"' * 1000})
    page = report_slides([], tmp_path, predictor)
    assert page.stat().st_size < 5_000_000
    text = check_page(page).text
    assert "Of the 10000 slides the first 1000 are listed" in text and "10000 of 10000 slides could not be used" in text


@pytest.mark.slow
def test_the_command_line_writes_them_and_removes_those_of_an_earlier_run(
    tmp_path: Path, crops: list[np.ndarray], small_weights: Path
) -> None:
    image, centres = paste(crops)
    slide = write_tiled(tmp_path / "s.tif", image)
    detections = write_geojson(tmp_path / "d.geojson", [point(x, y) for x, y in centres])
    (tmp_path / "slides.csv").write_text("slide,detections\ns.tif,d.geojson\nnone.tif,d.geojson\n")

    def run(*arguments: object, rc: int = 0) -> str:
        command = [sys.executable, str(REPOSITORY / "process.py"), "slide", *map(str, arguments)]
        options = ["--weights", str(small_weights), "--device", "cpu", "--report"]
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == rc and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    assert f"wrote {tmp_path / 'one' / REPORT}" in run(slide, detections, tmp_path / "one")
    check_page(tmp_path / "one" / REPORT)
    run(tmp_path / "no.svs", detections, tmp_path / "one", rc=1)
    assert not (tmp_path / "one" / REPORT).exists()
    (tmp_path / "all" / "none").mkdir(parents=True)
    (tmp_path / "all" / "none" / REPORT).write_text("old")
    run(tmp_path / "slides.csv", tmp_path / "all", rc=1)
    assert sorted(path.parent.name for path in (tmp_path / "all").rglob(REPORT)) == ["all", "s"]


@pytest.fixture(scope="module")
def pages(task: SlideTask, slides: Path) -> Iterator[dict[str, Path]]:
    yield {"slide": task.target / REPORT, "slides": slides / REPORT}


def test_in_a_browser_a_figure_is_shown_on_the_slide(task: SlideTask) -> None:
    with opened(task.target / REPORT) as page:
        assert page.locator("#crops li").count() == 12
        page.fill("#text", f"{HOSTILE} 7")
        assert page.locator("#crops li").count() == 1
        page.locator("#crops button").focus()
        page.keyboard.press("Enter")
        row = rows_of(task)[7]
        marker, slide = (page.locator(name).bounding_box() for name in ("#marker", "#slide"))
        across, down = (
            (marker[start] + marker[size] / 2 - slide[start]) / slide[size]
            for start, size in (("x", "width"), ("y", "height"))
        )
        size = json.loads((task.target / "summary.json").read_text())["size"]
        assert across == pytest.approx(float(row["x"]) / size[0], abs=0.01)
        assert down == pytest.approx(float(row["y"]) / size[1], abs=0.01)
        assert page.locator("#marked").inner_text() == f"detection 7, {HOSTILE} 7 is marked."
        assert page.evaluate("document.getElementById('slide').getBoundingClientRect().top < window.innerHeight")
        page.fill("#text", "")
        page.check("#warned")
        assert page.locator("#crops li").count() == page.locator("#crops li:has(.warning)").count() > 1
        page.select_option("#order", "spread")
        spreads = [
            float(text.split("±\u00a0")[1]) for text in page.locator("#crops li p:first-of-type").all_inner_texts()
        ]
        assert spreads == sorted(spreads, reverse=True)


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [
        ("slide", 400, "dark"),
        pytest.param("slide", 1600, "light", marks=pytest.mark.slow),
        pytest.param("slides", 400, "dark", marks=pytest.mark.slow),
        pytest.param("slides", 1600, "light", marks=pytest.mark.slow),
    ],
)
def test_in_a_browser_they_are_legible(pages: dict[str, Path], name: str, width: int, scheme: str) -> None:
    with opened(pages[name], width, scheme) as page:
        assert fits(page)
        assert lowest_contrast(page) >= 4.5
        sizes = page.locator("img").evaluate_all("all => all.map((one) => one.complete && one.naturalWidth)")
        assert all(sizes) and len(sizes) == (13 if name == "slide" else 0)
        assert all(page.locator("img").evaluate_all("all => all.map((one) => one.alt)"))


@pytest.mark.slow
def test_in_a_browser_the_keyboard_goes_from_the_slides_to_one_of_them(slides: Path) -> None:
    with opened(slides / REPORT) as page:
        page.keyboard.press("Tab")
        for _ in range(3):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.tagName") == "A":
                break
        page.keyboard.press("Enter")
        page.wait_for_selector("#crops li")
        assert page.url.endswith("/a/report.html")
