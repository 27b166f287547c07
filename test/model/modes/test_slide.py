"""Slide mode, as a process and as a function."""

import csv
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import geojson
import numpy as np
import pytest
import tifffile
from helpers import DEFAULT_WEIGHTS, REPOSITORY
from written_slides import (
    LOSSLESS,
    paste,
    point,
    square,
    write_every_format,
    write_geojson,
    write_json,
    write_plain,
    write_svs,
    write_tiled,
)

from model.errors import CaseError, CropError
from model.modes import slide as slide_module
from model.modes.folder import FolderOptions, classify_folder
from model.modes.slide import classify_slide
from model.modes.slide_list import classify_slides, read_slide_list
from model.modes.slide_options import SlideOptions, SlideTask
from model.modes.slide_tables import SlideTables
from model.network.calibration import posterior
from model.predictor import Predictor
from model.slides.reader import SlideReader


@pytest.fixture(scope="module")
def predictor(small_weights: Path) -> Predictor:
    return Predictor(small_weights, "cpu")


@pytest.fixture
def task(tmp_path: Path, crops: list[np.ndarray]) -> SlideTask:
    """Ten figures, five different ones, on a slide of 0.25 µm per pixel."""
    image, centres = paste(crops * 2, columns=5)
    features = [point(x, y, f"id {number}") for number, (x, y) in enumerate(centres)]
    return SlideTask(
        write_tiled(tmp_path / "slide.tif", image),
        write_geojson(tmp_path / "detections.geojson", features),
        tmp_path / "out",
    )


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def confidences(target: Path) -> list[float]:
    return [float(row["confidence"]) for row in rows_of(target / "predictions.csv")]


def run(*arguments: object, rc: int = 0) -> str:
    command = [sys.executable, str(REPOSITORY / "process.py"), "slide", *map(str, arguments), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == rc, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def write_crops(folder: Path, crops: Sequence[np.ndarray]) -> Path:
    folder.mkdir()
    for number, crop in enumerate(crops):
        cv2.imwrite(str(folder / f"{number:03}.png"), crop[..., ::-1])
    return folder


def test_a_slide_gives_what_folder_mode_gives_of_its_crops(
    tmp_path: Path, real_crops: tuple[list[np.ndarray], np.ndarray]
) -> None:
    """Real crops and the default weights: without loss at 0.25 µm the same confidence, on a slide of any kind."""
    crops = real_crops[0][:12]
    image, centres = paste(crops)
    predictor = Predictor(DEFAULT_WEIGHTS, "cpu", "none")
    classify_folder(predictor, write_crops(tmp_path / "crops", crops), tmp_path / "folder")
    expected = confidences(tmp_path / "folder")
    assert len(set(expected)) == len(expected) == 12
    slides = [
        write_svs(tmp_path / "slide.svs", image, **LOSSLESS),
        write_tiled(tmp_path / "tiled.tif", image),
        write_plain(tmp_path / "plain.tif", image),
    ]
    detections = write_geojson(tmp_path / "a.geojson", [point(x, y) for x, y in centres])
    for slide in slides:
        classify_slide(predictor, SlideTask(slide, detections, tmp_path / slide.stem))
        np.testing.assert_allclose(confidences(tmp_path / slide.stem), expected, rtol=0, atol=1e-6)


def test_a_coarser_slide_gives_what_folder_mode_gives(
    tmp_path: Path, real_crops: tuple[list[np.ndarray], np.ndarray], predictor: Predictor
) -> None:
    crops = [cv2.resize(crop, (64, 64), interpolation=cv2.INTER_AREA) for crop in real_crops[0][:8]]
    image, centres = paste(crops)
    classify_folder(predictor, write_crops(tmp_path / "crops", crops), tmp_path / "folder", FolderOptions(mpp=0.5))
    detections = write_geojson(tmp_path / "a.geojson", [point(x, y) for x, y in centres])
    done = classify_slide(
        predictor, SlideTask(write_svs(tmp_path / "s.svs", image, 0.5, **LOSSLESS), detections, tmp_path / "out")
    )
    assert done.summary["read_at"] == {"level": 0, "mpp": 0.5, "resampled": True}
    np.testing.assert_allclose(confidences(tmp_path / "out"), confidences(tmp_path / "folder"), rtol=0, atol=1e-6)


def test_every_format_of_detections_gives_the_same(
    tmp_path: Path, crops: list[np.ndarray], predictor: Predictor
) -> None:
    image, centres = paste(crops, columns=5)
    slide = write_tiled(tmp_path / "slide.tif", image)
    expected = predictor(crops)
    for path in write_every_format(tmp_path, centres, slide.name, 0.25):
        classify_slide(predictor, SlideTask(slide, path, tmp_path / "out" / path.name))
        np.testing.assert_allclose(confidences(tmp_path / "out" / path.name), expected, atol=1e-6)


def test_what_is_written(task: SlideTask, predictor: Predictor, crops: list[np.ndarray]) -> None:
    done = classify_slide(predictor, task, SlideOptions(save_crops=True, prevalence=0.2))
    assert sorted(path.name for path in task.target.iterdir()) == [
        "crops",
        "detections.geojson",
        "failures.csv",
        "left_out.csv",
        "predictions.csv",
        "run.json",
        "summary.json",
    ]
    rows = rows_of(task.target / "predictions.csv")
    assert [(row["detection"], row["id"]) for row in rows] == [(str(n), f"id {n}") for n in range(10)]
    for row in rows:
        confidence = float(row["confidence"])
        assert (row["class"] == "atypical") == (confidence >= 0.5)
        assert float(row["posterior"]) == pytest.approx(posterior(confidence, 0.2), abs=1e-6)
        assert 0 < float(row["view_spread"]) < 0.5
    saved = [cv2.imread(str(path))[..., ::-1] for path in sorted((task.target / "crops").iterdir())]
    assert len(saved) == 10 and all(np.array_equal(a, b) for a, b in zip(saved, crops * 2, strict=True))
    collection = geojson.loads((task.target / "detections.geojson").read_text())
    assert collection.is_valid and len(collection.features) == 10
    for feature, row in zip(collection.features, rows, strict=True):
        assert feature.id == row["id"] and feature.geometry.coordinates == [float(row["x"]), float(row["y"])]
        assert feature.properties["measurements"]["P(atypical)"] == float(row["confidence"])
        name = {"atypical": "Atypical mitosis", "normal": "Normal mitosis"}[row["class"]]
        assert feature.properties["classification"]["name"] == name
    summary = json.loads((task.target / "summary.json").read_text())
    assert summary == done.summary
    assert summary["statistics"]["atypical"] == sum(row["class"] == "atypical" for row in rows)
    assert summary["detections"]["classified"] == summary["statistics"]["figures"] == 10
    assert (summary["mpp"], summary["mpp_from"], summary["format"]) == (0.25, "the slide", "generic-tiff")


def test_the_spread_is_that_of_the_views(predictor: Predictor, crops: list[np.ndarray]) -> None:
    fields = predictor.config.preprocessing.cut_out(crops)
    probabilities, spread = predictor.predict_with_spread(fields)
    np.testing.assert_array_equal(probabilities, predictor.predict_fields(fields))
    one = Predictor(predictor.folder, "cpu", "none")
    turned = [np.rot90(crop, turns) for turns in range(4) for crop in crops]
    mirrored = [crop[:, ::-1] for crop in turned]
    apart = one([np.ascontiguousarray(crop) for crop in turned + mirrored]).reshape(8, 5)
    np.testing.assert_allclose(spread, apart.std(axis=0), atol=1e-5)
    assert not one.predict_with_spread(fields)[1].any()


def test_figures_of_a_region_are_counted_on_its_area(task: SlideTask, predictor: Predictor) -> None:
    features = json.loads(task.detections.read_text())["features"]
    write_geojson(task.detections, [*features, square(400, 400, 400, name="hot spot")])
    done = classify_slide(predictor, task, SlideOptions(region="hot spot"))
    rows = rows_of(task.target / "predictions.csv")
    inside = [row for row in rows if max(float(row["x"]), float(row["y"])) < 800]
    assert 0 < len(inside) < len(rows) and all(row["in_region"] == "yes" for row in inside)
    statistics = done.summary["statistics"]
    assert statistics["figures"] == len(inside)
    assert statistics["area_mm2"] == pytest.approx(0.04) and statistics["figures_per_mm2"] == len(inside) / 0.04
    assert done.summary["region"] == {"name": "hot spot", "figures_outside": len(rows) - len(inside)}
    assert statistics["corrected_share"] is None  # these weights do not say how good they are


def test_the_default_weights_correct_the_share(task: SlideTask) -> None:
    done = classify_slide(Predictor(DEFAULT_WEIGHTS, "cpu"), replace(task, area_mm2=2.37))
    statistics = done.summary["statistics"]
    assert 0 <= statistics["corrected_share"] <= 1
    low, high = statistics["corrected_share_interval_95"]
    assert 0 <= low < high <= 1 and done.summary["accuracy"]["sensitivity"] > 0.5
    assert statistics["figures_per_2.37_mm2"] == 10


def test_with_other_views_than_it_was_measured_with_the_share_is_not_corrected(
    task: SlideTask, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        done = classify_slide(Predictor(DEFAULT_WEIGHTS, "cpu", "none"), task)
    assert done.summary["statistics"]["corrected_share"] is None and done.summary["accuracy"] is None
    assert "measured with --views d4, and run with none); shares are not corrected" in caplog.text


def test_what_is_left_out_is_named(task: SlideTask, predictor: Predictor, caplog: pytest.LogCaptureFixture) -> None:
    features = json.loads(task.detections.read_text())["features"]
    x, y = features[0]["geometry"]["coordinates"]
    others = [
        point(x + 5, y, "=twin"),
        point(1e6, 0, "far"),
        {"type": "Feature", "geometry": None},
        square(900, 900, 300),
    ]
    write_geojson(task.detections, [*features, *others])
    with caplog.at_level(logging.WARNING):
        done = classify_slide(predictor, task)
    assert "1 no point, 1 larger than a figure, 1 outside the slide, 1 duplicate were left out" in caplog.text
    assert [(row["detection"], row["id"], row["reason"]) for row in rows_of(task.target / "left_out.csv")] == [
        ("10", "'=twin", "duplicate"),
        ("11", "far", "outside the slide"),
        ("12", "", "no point"),
        ("13", "", "larger than a figure"),
    ]
    assert sum(done.summary["detections"]["left_out"].values()) == 4


def test_when_none_can_be_used_that_is_said(task: SlideTask, predictor: Predictor) -> None:
    write_geojson(task.detections, [point(1e6, 0), point(1e7, 0)])
    with pytest.raises(CropError, match=r"None of the 2 detections .* \(2 outside the slide\); give its own"):
        classify_slide(predictor, task)
    assert not list(task.target.glob("*.json")) and not list(task.target.glob("*.csv"))


def test_a_class_that_is_spelt_otherwise_is_refused(task: SlideTask, predictor: Predictor) -> None:
    write_geojson(task.detections, [point(900, 900, label="Mitotic figure")])
    with pytest.raises(CropError, match=r"has no detection of the class 'mitotic Figure', but of 'Mitotic figure'"):
        classify_slide(predictor, task, SlideOptions(only=("mitotic Figure",)))
    assert not list(task.target.glob("*.json"))


def test_a_class_of_hard_negatives_alone_needs_all(tmp_path: Path, task: SlideTask, predictor: Predictor) -> None:
    boxes = [{"bbox": [280, 280, 320, 320], "category_id": 2, "image_id": 1, "id": 1}]
    categories = [{"id": 1, "name": "mitotic figure"}, {"id": 2, "name": "hard negative"}]
    content = {"images": [{"id": 1, "file_name": task.slide.name}], "annotations": boxes, "categories": categories}
    task = replace(task, detections=write_json(tmp_path / "midog.json", content))
    with pytest.raises(CropError, match="as hard negatives alone; give --all, too"):
        classify_slide(predictor, task, SlideOptions(only=("hard negative",)))


def test_a_slide_with_no_figure_of_a_class_has_a_result_and_a_warning(
    task: SlideTask, predictor: Predictor, caplog: pytest.LogCaptureFixture
) -> None:
    write_geojson(task.detections, [point(900, 900, label="Apoptotic body")])
    with caplog.at_level(logging.WARNING):
        done = classify_slide(predictor, task, SlideOptions(only=("Mitotic figure",)))
    assert done.summary["statistics"]["figures"] == 0
    assert "none of its detections is of the class 'Mitotic figure'" in caplog.text


def test_a_slide_without_figures_has_a_result(task: SlideTask, predictor: Predictor) -> None:
    write_geojson(task.detections, [])
    statistics = classify_slide(predictor, task).summary["statistics"]
    assert statistics["figures"] == 0 and statistics["share_atypical"] is None
    assert geojson.loads((task.target / "detections.geojson").read_text()).features == []


def test_the_edge_is_flagged_and_a_missing_tile_a_failure(
    tmp_path: Path, crops: list[np.ndarray], small_weights: Path
) -> None:
    image = np.full((700, 900, 3), 200, dtype=np.uint8)
    image[300:428, 500:628] = crops[0]
    slide = write_svs(tmp_path / "slide.svs", image, steps=(), **LOSSLESS)
    with tifffile.TiffFile(slide, mode="r+b") as tiff:
        for tag in ("TileByteCounts", "TileOffsets"):
            values = list(tiff.pages.first.tags[tag].value)
            values[0] = 0
            tiff.pages.first.tags[tag].overwrite(values)
    detections = write_geojson(tmp_path / "a.geojson", [point(100, 100, "gone"), point(564, 364), point(880, 400)])
    said = run(slide, detections, tmp_path / "out", "--weights", small_weights, rc=1)
    assert said.splitlines()[-1].startswith(f"1 crops of {slide} could not be read;") and "failures.csv" in said
    (failure,) = rows_of(tmp_path / "out" / "failures.csv")
    assert failure["id"] == "gone" and "slide.svs has no pixels at 100, 100" in failure["reason"]
    rows = rows_of(tmp_path / "out" / "predictions.csv")
    assert [row["detection"] for row in rows] == ["1", "2"]
    assert float(rows[0]["outside_slide"]) == 0 < float(rows[1]["outside_slide"]) < 0.5
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())["detections"]
    assert (summary["classified"], summary["failed"], summary["at_the_edge"]) == (2, 1, 1)


def test_a_blank_crop_is_remarked_on(tmp_path: Path, predictor: Predictor) -> None:
    slide = write_tiled(tmp_path / "slide.tif", np.full((700, 900, 3), 235, dtype=np.uint8))
    classify_slide(predictor, SlideTask(slide, write_geojson(tmp_path / "a.json", [point(400, 400)]), tmp_path / "out"))
    assert rows_of(tmp_path / "out" / "predictions.csv")[0]["remark"] == "blank or featureless"


def test_killed_and_resumed_is_as_if_it_had_not_been(
    task: SlideTask, small_weights: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slide_module, "CROPS_PER_BLOCK", 3)
    classify_slide(predictor, replace(task, target=task.target.with_name("whole")))
    append, count = SlideTables.append, []

    def stop(self: SlideTables, *rows: object) -> None:
        append(self, *rows)
        count.append(1)
        if len(count) == 2:
            with (self.folder / "predictions.csv").open("a") as file:
                file.write("7,half a row")  # written, but not yet noted
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(SlideTables, "append", stop)
        classify_slide(predictor, task)
    assert not (task.target / "summary.json").exists()
    asked: list[int] = []
    read = SlideReader.read
    monkeypatch.setattr(SlideReader, "read", lambda self, x, y: asked.append(1) or read(self, x, y))
    classify_slide(predictor, task, SlideOptions(resume=True))
    assert len(asked) == 4
    for name in ("predictions.csv", "detections.geojson", "summary.json", "failures.csv", "run.json"):
        assert (task.target / name).read_bytes() == (task.target.with_name("whole") / name).read_bytes()


@pytest.mark.slow
def test_a_killed_process_can_be_gone_on_with(tmp_path: Path, crops: list[np.ndarray], small_weights: Path) -> None:
    image, centres = paste(crops * 40, columns=10)
    slide = write_tiled(tmp_path / "slide.tif", image)
    detections = write_geojson(tmp_path / "a.geojson", [point(x, y) for x, y in centres])
    command = [sys.executable, str(REPOSITORY / "process.py"), "slide", str(slide), str(detections)]
    options = ["--weights", str(small_weights), "--device", "cpu"]
    process = subprocess.Popen([*command, str(tmp_path / "out"), *options], stderr=subprocess.DEVNULL)
    table = tmp_path / "out" / "predictions.csv"
    while not (table.exists() and len(table.read_text().splitlines()) > 64) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run(slide, detections, tmp_path / "out", *options[:2], "--resume")
    run(slide, detections, tmp_path / "whole", *options[:2])
    assert len(rows_of(table)) == 200
    assert table.read_bytes() == (tmp_path / "whole" / "predictions.csv").read_bytes()


def test_going_on_with_something_else_is_refused_and_nothing_is_lost(task: SlideTask, predictor: Predictor) -> None:
    classify_slide(predictor, task)
    before = {path.name: path.read_bytes() for path in task.target.iterdir()}
    resume = SlideOptions(resume=True)
    other = shutil.copy(task.detections, task.detections.with_name("other.geojson"))
    write_geojson(Path(other), [point(300, 300)])
    changes = [
        (replace(task, detections=Path(other)), resume),
        (replace(task, mpp=0.25), resume),
        (task, replace(resume, prevalence=0.1)),
        (task, replace(resume, only=("Mitotic figure",))),
    ]
    for changed, options in changes:
        with pytest.raises(CaseError, match="holds a run with another slide, other detections, weights or options"):
            classify_slide(predictor, changed, options)
    assert {path.name: path.read_bytes() for path in task.target.iterdir()} == before
    classify_slide(predictor, task, resume)
    assert {path.name: path.read_bytes() for path in task.target.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("run.json", "{}", "run.json cannot be understood"),
        ("run.json", "[" * 100_000, "run.json cannot be understood"),
        ("predictions.csv", "short", "predictions.csv is shorter than run.json says"),
        ("predictions.csv", None, "predictions.csv was altered"),
    ],
)
def test_an_altered_run_is_refused(
    task: SlideTask, predictor: Predictor, name: str, content: str | None, what: str
) -> None:
    classify_slide(predictor, task)
    path = task.target / name
    path.write_bytes(path.read_bytes().replace(b"atypical,0", b"unsettled,0") if content is None else content.encode())
    with pytest.raises(CaseError, match=what):
        classify_slide(predictor, task, SlideOptions(resume=True))


@pytest.mark.parametrize("column", ["x", "confidence", "view_spread", "outside_slide"])
def test_a_number_that_cannot_be_is_not_gone_on_with(task: SlideTask, predictor: Predictor, column: str) -> None:
    """Nor a place that is not the detection's; the table is as long as before."""
    classify_slide(predictor, task)
    path = task.target / "predictions.csv"
    head, first, *others = path.read_bytes().decode().splitlines(keepends=True)
    cells = first.split(",")
    index = head.split(",").index(column)
    cells[index] = f"9{cells[index][1:]}"
    path.write_bytes("".join([head, ",".join(cells), *others]).encode())
    with pytest.raises(CaseError, match=r"predictions\.csv was altered"):
        classify_slide(predictor, task, SlideOptions(resume=True))


def test_links_in_the_target_are_not_followed(task: SlideTask, predictor: Predictor, tmp_path: Path) -> None:
    task.target.mkdir()
    precious = tmp_path / "precious"
    precious.write_text("keep")
    (task.target / "predictions.csv").symlink_to(precious)
    with pytest.raises(CaseError, match="cannot be written"):
        classify_slide(predictor, task)
    (task.target / "predictions.csv").unlink()
    (tmp_path / "elsewhere").mkdir()
    (task.target / "crops").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CaseError, match="crops is a link"):
        classify_slide(predictor, task, SlideOptions(save_crops=True))
    assert precious.read_text() == "keep" and not list((tmp_path / "elsewhere").iterdir())


def test_two_processes_do_not_write_to_one_folder(task: SlideTask, predictor: Predictor) -> None:
    with SlideTables(task.target), pytest.raises(CaseError, match="Another process writes to"):
        classify_slide(predictor, task)


def test_reading_ahead_is_bounded(task: SlideTask, predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """So no more crops are held than some blocks', however many detections there are."""
    monkeypatch.setattr(slide_module, "CROPS_AHEAD", 3)
    monkeypatch.setattr(slide_module, "CROPS_PER_BLOCK", 2)
    read, append = SlideReader.read, SlideTables.append
    counts, most = {"read": 0, "written": 0}, []

    def counted(self: SlideReader, x: float, y: float):
        counts["read"] += 1
        most.append(counts["read"] - counts["written"])
        return read(self, x, y)

    def written(self: SlideTables, figures, failures) -> None:
        append(self, figures, failures)
        counts["written"] += len(figures)

    monkeypatch.setattr(SlideReader, "read", counted)
    monkeypatch.setattr(SlideTables, "append", written)
    classify_slide(predictor, task)
    assert counts == {"read": 10, "written": 10} and 2 < max(most) <= 3 + 2 + 1


def test_progress_is_logged_where_there_is_no_terminal(
    task: SlideTask, predictor: Predictor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(slide_module, "SECONDS_BETWEEN_REPORTS", 0)
    monkeypatch.setattr(slide_module, "CROPS_PER_BLOCK", 4)
    with caplog.at_level(logging.INFO):
        classify_slide(predictor, task)
    assert "slide.tif: 4 of 10 figures, 0 minutes left." in caplog.text


@pytest.mark.slow
def test_a_table_of_slides(tmp_path: Path, task: SlideTask, predictor: Predictor, small_weights: Path) -> None:
    missing = tmp_path / "sub" / "slide.tif"
    missing.parent.mkdir()
    unknown = write_plain(tmp_path / "unknown.tif", tifffile.imread(task.slide), None)
    table = tmp_path / "slides.csv"
    table.write_text(
        "slide,detections,mpp,area_mm2\n"
        "slide.tif,detections.geojson,,2.37\n"
        f"sub/slide.tif,{task.detections},,\n"
        "unknown.tif,detections.geojson,,\n"
        "unknown.tif,detections.geojson,0.25,\n"
    )
    said = run(table, tmp_path / "all", "--weights", small_weights, rc=1)
    assert said.splitlines()[-1].startswith("2 of 4 slides could not be read in full;")
    rows = rows_of(tmp_path / "all" / "slides.csv")
    assert [row["folder"] for row in rows] == ["slide", "slide-2", "unknown", "unknown-2"]
    assert [row["figures"] for row in rows] == ["10", "", "", "10"]
    assert f"{missing} cannot be opened" in rows[1]["failure"]
    assert f"{unknown} does not state its µm per pixel" in rows[2]["failure"]
    assert rows[0]["figures_per_2.37_mm2"] == "10.0" and rows[3]["area_mm2"] == ""
    classify_slide(predictor, task)
    for folder in ("slide", "unknown-2"):
        assert confidences(tmp_path / "all" / folder) == pytest.approx(confidences(task.target), abs=1e-6)
    tasks = read_slide_list(table, tmp_path / "all")
    before = (tmp_path / "all" / "slides.csv").read_bytes()
    assert classify_slides(predictor, tasks, tmp_path / "all", SlideOptions(resume=True)) == 2
    assert (tmp_path / "all" / "slides.csv").read_bytes() == before


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_of_slides_has_any_of_three_separators(tmp_path: Path, separator: str) -> None:
    rows = [["slide", "detections", "mpp"], ["a.svs", "a.geojson", "0.25" if separator == "," else "0,25"]]
    (tmp_path / "slides.csv").write_text("\n".join(separator.join(row) for row in rows))
    (task,) = read_slide_list(tmp_path / "slides.csv", tmp_path / "out")
    assert (task.slide, task.detections, task.mpp) == (tmp_path / "a.svs", tmp_path / "a.geojson", 0.25)


def test_a_thousand_with_a_comma_is_no_one(tmp_path: Path) -> None:
    (tmp_path / "slides.csv").write_text('slide,detections,area_mm2\na.svs,a.geojson,"1,000"\n')
    with pytest.raises(CaseError, match="has '1,000' where a number above 0 is wanted"):
        read_slide_list(tmp_path / "slides.csv", tmp_path / "out")


def test_a_table_goes_on_with_slides_that_have_changed(
    tmp_path: Path, task: SlideTask, predictor: Predictor, caplog: pytest.LogCaptureFixture
) -> None:
    """They are begun again; other weights or options are refused as for one slide."""
    shutil.copy(task.slide, tmp_path / "second.tif")
    table = tmp_path / "slides.csv"
    table.write_text("slide,detections\nslide.tif,detections.geojson\nsecond.tif,detections.geojson\n")
    tasks = read_slide_list(table, tmp_path / "all")
    assert classify_slides(predictor, tasks, tmp_path / "all", SlideOptions()) == 0
    before = (tmp_path / "all" / "slides.csv").read_bytes()
    kept = (tmp_path / "all" / "second" / "run.json").stat()
    shutil.copy(tmp_path / "second.tif", tmp_path / "slide.tif")  # now newer
    with caplog.at_level(logging.INFO):
        assert classify_slides(predictor, tasks, tmp_path / "all", SlideOptions(resume=True)) == 0
    assert (tmp_path / "all" / "slides.csv").read_bytes() == before
    assert caplog.text.count("have changed: it is begun again") == 1
    assert (tmp_path / "all" / "second" / "run.json").stat().st_mtime_ns == kept.st_mtime_ns
    with pytest.raises(CaseError, match="weights or options; run again without --resume"):
        classify_slides(predictor, tasks, tmp_path / "all", SlideOptions(resume=True, prevalence=0.1))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("slide\na.svs\n", "must have the columns slide, detections"),
        ("slide,detections,stain\na,b,c\n", "must have the columns"),
        ("slide,detections\n", "with 1 to 10000 rows; it has 0 rows"),
        ("slide,detections\na.svs\n", "Line 2 of .* names no slide or no detections"),
        ("slide,detections,mpp\na.svs,b.json,coarse\n", "Line 2 of .* has 'coarse' where a number above 0"),
        ("slide,detections,area_mm2\na.svs,b.json,-1\n", "has '-1' where"),
    ],
)
def test_a_table_of_slides_that_is_not_understood_is_refused(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "slides.csv").write_text(text)
    with pytest.raises(CaseError, match=what):
        read_slide_list(tmp_path / "slides.csv", tmp_path)


def test_folders_of_slides_stay_below_the_target(tmp_path: Path) -> None:
    (tmp_path / "slides.csv").write_text("slide,detections\n../../a b/..svs,d\n/etc/x.svs,d\nX.tif,d\n=1+1.svs,d\n")
    tasks = read_slide_list(tmp_path / "slides.csv", tmp_path / "out")
    assert [task.target.name for task in tasks] == ["_", "x", "X-2", "_1_1"]
    assert all(task.target.parent == tmp_path / "out" for task in tasks)


def test_another_resolution_than_the_slides_is_believed_and_said(
    task: SlideTask, predictor: Predictor, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        done = classify_slide(predictor, replace(task, mpp=0.5))
    assert "slide.tif states 0.25 µm per pixel, but --mpp says 0.5." in caplog.text
    assert "slide.tif is read at 0.5 µm per pixel; its crops are rescaled to 0.25." in caplog.text
    assert (done.summary["mpp"], done.summary["mpp_from"]) == (0.5, "the user")
    caplog.clear()
    classify_slide(predictor, replace(task, mpp=0.25))
    assert "--mpp says" not in caplog.text


def test_the_command_line(task: SlideTask, small_weights: Path) -> None:
    said = run(task.slide, task.detections, task.target, "--weights", small_weights, "--prevalence", 0.2)
    last = said.splitlines()[-1]
    assert last.startswith("10 figures, ") and "%, 95 % interval " in last
    assert last.endswith(f"wrote {task.target}")
    for wrong, what in {
        ("--prevalence", "1"): "not between 0 and 1",
        ("--area-mm2", "0"): "not between 0 and 5000",
        ("--region", "a", "--area-mm2", "1"): "a region has its own area",
        ("--mpp", "0"): "not between",
    }.items():
        assert what in run(task.slide, task.detections, task.target, *wrong, rc=2)
    assert "give a slide, its detections and a folder" in run(task.slide, rc=2)
    assert "as columns of the table" in run(task.slide, task.target, "--mpp", "0.25", rc=2)
    missing = task.slide.with_name("missing.svs")
    said = run(missing, task.detections, task.target, "--weights", small_weights, rc=1)
    assert said.splitlines()[-1] == f"{missing} cannot be opened: No such file or directory; give a readable slide."


def test_a_target_that_cannot_be_written_is_said(task: SlideTask, predictor: Predictor) -> None:
    task.target.write_text("a file")
    with pytest.raises(CaseError, match="out cannot be written"):
        classify_slide(predictor, task)


@pytest.mark.slow
def test_other_modes_import_no_slide_library(tmp_path: Path) -> None:
    code = (
        "import sys, process, model.modes.folder, model.modes.server, model.predictor\n"
        "assert not {'openslide', 'model.slides.reader', 'tifffile'} & set(sys.modules)\n"
        "import model.modes.slide\n"
        "assert not {'openslide', 'tifffile'} & set(sys.modules)  # they are the child's\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, timeout=120, env=os.environ)
