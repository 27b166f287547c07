"""The page of predictions: what it says, what it does not let happen, and how it works in a browser."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from helpers import DEFAULT_WEIGHTS, REPOSITORY, classified_case, write_case
from pages import check_page, fits, lowest_contrast, opened

from model.constants import REPORT
from model.modes.folder import classify_folder
from model.modes.listing import Listed
from model.modes.tables import Record, RunTables
from model.predictor import Predictor
from model.report import gallery
from model.report.page import ReportError, clear_report
from model.report.predictions import report_case, report_folder
from model.slides.accuracy import read_accuracy
from process import prepare_report

HOSTILE = (
    "<script>alert(1)<.png",
    "<img src=x onerror=alert(2)>.png",
    "\" onload='alert(3).png",
    "</script>{{ 7*7 }}.png",
)


def crops_of(page) -> list[dict]:
    """The crops that the gallery's JSON holds."""
    return json.loads(page.scripts[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small_weights: Path) -> Path:
    """The tables and the page of 22 crops: hostile names, a stack, one that is rescaled, a blank and a broken image."""
    from helpers import draw_crops

    crops = draw_crops()
    root = tmp_path_factory.mktemp("report")
    source = root / "in"
    source.mkdir()
    for name, crop in zip(HOSTILE, crops, strict=False):
        (source / name).parent.mkdir(exist_ok=True)
        assert cv2.imwrite(str(source / name), crop[..., ::-1])
    random = np.random.default_rng(0)
    stack = [np.clip(crops[i % 5] + random.normal(0, 20, (128, 128, 3)), 0, 255).astype(np.uint8) for i in range(16)]
    tifffile.imwrite(source / "stack.tif", np.stack(stack), photometric="rgb")
    tifffile.imwrite(
        source / "half.tif", crops[0], photometric="rgb", resolution=(20000, 20000), resolutionunit="CENTIMETER"
    )
    cv2.imwrite(str(source / "blank.png"), np.full((128, 128, 3), 240, np.uint8))
    (source / "broken<b>.png").write_bytes(b"no picture")
    predictor = Predictor(small_weights, "cpu", "d4")
    classify_folder(predictor, source, root / "out")
    assert report_folder(source, root / "out", None, predictor) == root / "out" / REPORT
    return root / "out"


def test_the_page_says_what_the_tables_say(folder: Path) -> None:
    page = check_page(folder / REPORT)
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    shown = crops_of(page)
    assert len(shown) == len(rows) == 22
    for crop in shown:
        row = rows[crop["n"]]
        assert (crop["name"], crop["place"]) == (row["file"], f"crop {int(row['index']) + 1}")
        assert crop["spread"] == float(row["view_spread"])
        assert (crop["class"], crop["p"]) == (row["class"], float(row["confidence"]))
        assert crop["picture"].startswith("data:image/webp;base64,")
    certainty = [abs(crop["p"] - 0.5) for crop in shown]
    assert certainty == sorted(certainty)
    atypical = sum(row["class"] == "atypical" for row in rows)
    assert 0 < atypical < 22
    assert f"22 crops {atypical} atypical ({100 * atypical / 22:.1f} %) {22 - atypical} normal" in page.text
    assert "1 images could not be used" in page.text and "broken<b>.png" in page.text
    assert "small 0" in page.text


@pytest.mark.parametrize("views", ["d4", "none"])
def test_the_page_says_how_often_these_weights_err_with_these_views(
    tmp_path: Path, crops: list[np.ndarray], views: str
) -> None:
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "crop.png"), crops[0][..., ::-1])
    predictor = Predictor(DEFAULT_WEIGHTS, "cpu", views)
    classify_folder(predictor, tmp_path / "in", tmp_path / "out")
    page = check_page(report_folder(tmp_path / "in", tmp_path / "out", None, predictor))
    accuracy = read_accuracy(DEFAULT_WEIGHTS)
    assert accuracy is not None
    sentence = f"it called {100 * (1 - accuracy.specificity):.0f} % of the normal figures atypical"
    assert (sentence in page.text) == (views == "d4")


def test_the_spread_of_the_views_is_shown_without_asking_the_network_again(
    tmp_path: Path, crops: list[np.ndarray], small_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, predictor = classified_case(tmp_path, crops, small_weights)
    _, expected = predictor.predict_with_spread(predictor.config.preprocessing.cut_out(crops))
    monkeypatch.setattr(Predictor, "_view_logits", None)
    shown = crops_of(check_page(report_case(tmp_path / "in", done, predictor)))
    assert [crop["spread"] for crop in sorted(shown, key=lambda crop: crop["n"])] == expected.tolist()
    assert min(expected) > 0


def test_warnings_are_beside_their_crops(folder: Path) -> None:
    warnings = {crop["name"]: crop["warnings"] for crop in crops_of(check_page(folder / REPORT))}
    assert warnings["blank.png"] == ["blank or featureless"]
    assert "rescaled from 0.5 µm per pixel" in warnings["half.tif"]


def test_names_are_text_and_nothing_else(folder: Path) -> None:
    page = check_page(folder / REPORT)
    assert [tag for tag, _ in page.elements].count("script") == len(page.scripts) == 2
    assert {"<script>alert(1)<.png", "</script>{{ 7*7 }}.png"} <= {crop["name"] for crop in crops_of(page)}
    assert "alert(" not in page.scripts[1]


def test_a_name_that_is_no_utf8_is_written_as_an_escape(
    tmp_path: Path, crops: list[np.ndarray], small_weights: Path
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), crops[0])
    (tmp_path / "in").mkdir()
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path / "in") + b"/\xff\xe2\x80\xae.png")  # noqa: PTH104 (bytes)
    predictor = Predictor(small_weights, "cpu", "none")
    classify_folder(predictor, tmp_path / "in", tmp_path / "out")
    report_folder(tmp_path / "in", tmp_path / "out", None, predictor)
    assert crops_of(check_page(tmp_path / "out" / REPORT))[0]["name"] == "\\udcff\\u202e.png"


def test_pictures_that_do_not_fit_lie_beside_the_page(
    tmp_path: Path, crops: list[np.ndarray], small_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, crop in enumerate(crops):
        (tmp_path / "in").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "in" / f"{number}.png"), crop)
    predictor = Predictor(small_weights, "cpu", "none")
    target = tmp_path / "in" / "out"  # in which a later run finds the pictures
    classify_folder(predictor, tmp_path / "in", target)
    monkeypatch.setattr("model.report.thumbnails.INLINE", 3000)
    report_folder(tmp_path / "in", target, None, predictor)
    shown = crops_of(check_page(target / REPORT))
    assert sorted(crop["picture"] for crop in shown) == [f"report_pictures/{number}.webp" for number in range(5)]
    assert all(cv2.imread(str(target / crop["picture"])).shape == (128, 128, 3) for crop in shown)
    assert classify_folder(predictor, tmp_path / "in", target).crops == 5
    monkeypatch.undo()
    report_folder(tmp_path / "in", target, None, predictor)
    assert not list((target / "report_pictures").iterdir())
    (target / "report_pictures").rmdir()
    (target / "report_pictures").symlink_to(tmp_path)
    with pytest.raises(ReportError, match="is a link"):
        report_folder(tmp_path / "in", target, None, predictor)


def test_a_page_has_an_end(folder: Path, small_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more crops than fit, the most uncertain are there, and the page says so."""
    before = (folder / REPORT).read_text(encoding="utf-8")
    every = crops_of(check_page(folder / REPORT))
    predictor = Predictor(small_weights, "cpu", "none")
    try:
        monkeypatch.setattr(gallery, "LARGEST_GALLERY", 12_000)
        report_folder(folder.parent / "in", folder, None, predictor)
        page = check_page(folder / REPORT)
        shown = crops_of(page)
        assert 0 < len(shown) < 22 and shown == every[: len(shown)]
        assert f"The {len(shown)} most uncertain of 22 crops" in page.text
    finally:
        (folder / REPORT).write_text(before, encoding="utf-8")


def test_an_image_that_is_gone_is_a_warning(tmp_path: Path, crops: list[np.ndarray], small_weights: Path) -> None:
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "a.png"), crops[0])
    predictor = Predictor(small_weights, "cpu", "none")
    classify_folder(predictor, tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "a.png").unlink()
    report_folder(tmp_path / "in", tmp_path / "out", None, predictor)
    crop = crops_of(check_page(tmp_path / "out" / REPORT))[0]
    assert crop["picture"] == "" and crop["warnings"] == ["the image could not be read again"]


@pytest.mark.slow
def test_the_earlier_page_is_gone_before_a_run_that_fails(tmp_path: Path, small_weights: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / REPORT).write_text("old")
    common = ["--report", "--weights", str(small_weights), "--device", "cpu"]
    for arguments in (
        ["folder", str(tmp_path / "no"), str(tmp_path / "out"), *common],
        ["--input", str(tmp_path / "no"), "--output", str(tmp_path / "out"), *common],
    ):
        (tmp_path / "out" / REPORT).write_text("old")
        done = subprocess.run(
            [sys.executable, str(REPOSITORY / "process.py"), *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert not (tmp_path / "out" / REPORT).exists()


def test_a_run_without_a_page_removes_that_of_an_earlier_run(
    tmp_path: Path, crops: list[np.ndarray], small_weights: Path
) -> None:
    """But no file of that name that is somebody else's."""
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "a.png"), crops[0])
    predictor = Predictor(small_weights, "cpu", "none")
    classify_folder(predictor, tmp_path / "in", tmp_path / "out")
    page = report_folder(tmp_path / "in", tmp_path / "out", None, predictor)
    prepare_report(False, [tmp_path / "out"])
    assert not page.exists()
    page.write_text("<!doctype html><title>Mine</title>")
    prepare_report(False, [tmp_path / "out", tmp_path / "none"])
    assert page.exists()
    prepare_report(True, [tmp_path / "out"])
    assert not page.exists()
    os.mkfifo(page)
    prepare_report(False, [tmp_path / "out"])


def test_a_page_that_cannot_be_removed_is_said(tmp_path: Path) -> None:
    (tmp_path / REPORT).mkdir()
    with pytest.raises(ReportError, match="cannot be removed"):
        clear_report(tmp_path)


@pytest.mark.slow
def test_the_command_lines_write_it(tmp_path: Path, crops: list[np.ndarray], small_weights: Path) -> None:
    write_case(tmp_path / "case", crops)
    common = ["--report", "--weights", str(small_weights), "--device", "cpu"]
    for arguments, out in (
        (["--input", str(tmp_path / "case"), "--output", str(tmp_path / "out")], tmp_path / "out"),
        (["folder", str(tmp_path / "case"), str(tmp_path / "tables")], tmp_path / "tables"),
    ):
        done = subprocess.run(
            [sys.executable, str(REPOSITORY / "process.py"), *arguments, *common],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines()[-1] == f"wrote {out / REPORT}"
        assert len(crops_of(check_page(out / REPORT))) == 5


def test_in_a_browser_the_gallery_sorts_and_filters(folder: Path) -> None:
    with opened(folder / REPORT) as page:
        assert page.locator("#crops li").count() == 22
        assert page.locator("#status").inner_text() == "22 of 22 crops, page 1 of 1"

        def shown() -> list[float]:
            texts = page.locator("#crops li p:first-of-type").all_inner_texts()
            return [float(text.split("P\u00a0")[1].split("\u00a0±")[0]) for text in texts]

        first = shown()
        assert first == sorted(first, key=lambda p: round(abs(p - 0.5), 3)) and first != sorted(first)
        page.select_option("#order", "spread")
        spreads = [
            float(text.split("±\u00a0")[1]) for text in page.locator("#crops li p:first-of-type").all_inner_texts()
        ]
        assert spreads == sorted(spreads, reverse=True) and spreads[0] > spreads[-1]
        page.select_option("#order", "lowest")
        assert shown() == sorted(first)
        page.select_option("#order", "highest")
        assert shown() == sorted(first, reverse=True)
        page.select_option("#class", "normal")
        assert shown() and max(shown()) < 0.5
        page.select_option("#class", "")
        page.fill("#least", "0.5")
        assert shown() == sorted((p for p in first if p >= 0.5), reverse=True)
        page.fill("#least", "")
        page.fill("#text", "BLANK")
        assert page.locator("#crops li").count() == 1
        assert page.locator("#crops .warning").first.inner_text() == "⚠ blank or featureless"
        page.fill("#text", "<script>alert")
        assert page.locator("#crops .name").all_inner_texts() == ["<script>alert(1)<.png"]
        page.fill("#text", "")
        page.check("#warned")
        assert page.locator("#crops li").count() == page.locator("#crops li:has(.warning)").count() > 0
        page.uncheck("#warned")
        widths = page.locator("#crops img").evaluate_all("all => all.map((one) => one.complete && one.naturalWidth)")
        assert widths and min(widths) > 0
        assert all(page.locator("#crops img").evaluate_all("all => all.map((one) => one.alt)"))


def test_in_a_browser_a_p_next_to_one_half_tells_its_side(folder: Path, tmp_path: Path, small_weights: Path) -> None:
    """'normal P 0.500' would be wrong: from 0.5 on a crop is called atypical."""
    out = Path(shutil.copytree(folder, tmp_path / "out"))
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    rows[0][2:4] = "normal", "0.499900"
    rows[1][2:4] = "atypical", "0.500000"
    with (out / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    report_folder(folder.parent / "in", out, None, Predictor(small_weights, "cpu", "d4"))
    with opened(out / REPORT) as page:
        said = page.locator("#crops li p:first-of-type").all_inner_texts()[:2]
    assert sorted(text.split("\u00a0±")[0] for text in said) == ["atypical P\u00a00.500000", "normal P\u00a00.499900"]


def test_in_a_browser_the_keyboard_reaches_every_control(folder: Path) -> None:
    with opened(folder / REPORT) as page:
        reached = []
        for _ in range(12):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
            shown = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert shown == "solid" or reached[-1] == ""
        assert reached[:7] == ["skip", "order", "class", "least", "most", "text", "warned"]
        page.focus("#class")
        page.keyboard.press("n")
        assert page.locator("#crops li.is-atypical").count() == 0 < page.locator("#crops li").count()


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (400, "dark"),
        *(pytest.param(*other, marks=pytest.mark.slow) for other in ((400, "light"), (1600, "dark"), (1600, "light"))),
    ],
)
def test_in_a_browser_it_is_legible(folder: Path, width: int, scheme: str) -> None:
    with opened(folder / REPORT, width, scheme) as page:
        assert fits(page)
        assert lowest_contrast(page) >= 4.5
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert dark == (scheme == "dark")


@pytest.mark.slow
def test_ten_thousand_crops_open_in_three_seconds(tmp_path: Path, crops: list[np.ndarray], small_weights: Path) -> None:
    random = np.random.default_rng(0)
    source = tmp_path / "in"
    source.mkdir()
    with RunTables(tmp_path / "out") as tables:
        tables.start({}, False)
        for number in range(100):
            name = f"slide_{number:03}.tif"
            stack = np.stack([crops[i % 5][i : i + 64, :64] for i in range(50)] * 2)
            tifffile.imwrite(source / name, stack, photometric="rgb")
            ps = random.random(100)
            results = [("atypical" if p >= 0.5 else "normal", f"{p:.6f}", "0.0100") for p in ps.round(6)]
            tables.append([Record(Listed(name, 1, 1), results)])
        tables.finish()
    report_folder(source, tmp_path / "out", None, Predictor(small_weights, "cpu", "none"))
    page = check_page(tmp_path / "out" / REPORT)
    assert len(crops_of(page)) == 10_000 and crops_of(page)[0]["picture"].startswith("report_pictures/")
    begun = time.perf_counter()
    with opened(tmp_path / "out" / REPORT) as browser:
        started = browser.evaluate("performance.timing.loadEventEnd - performance.timing.navigationStart")
        assert 0 < started < 3000, f"{started} ms, and {time.perf_counter() - begun:.1f} s with the browser's start"
        browser.click("#next")
        assert browser.locator("#status").inner_text() == "10000 of 10000 crops, page 2 of 167"
        assert browser.locator("#crops li").count() == 60
        browser.wait_for_function("[...document.images].every((one) => one.complete)")
        assert browser.evaluate("Math.min(...[...document.images].map((one) => one.naturalWidth))") == 64
