"""Folder mode, as a process and as a function."""

import csv
import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import torch
from helpers import REPOSITORY

from model.errors import CaseError
from model.images.resampling import rescale
from model.images.rgb import Stack
from model.modes import folder as folder_module
from model.modes.folder import FolderOptions, classify_folder
from model.modes.listing import Listed
from model.modes.tables import Known, Record, RunTables
from model.network.calibration import Calibration
from model.predictor import Predictor

RESUME = FolderOptions(resume=True)


def write_tree(root: Path, crops: list[np.ndarray]) -> list[tuple[str, int]]:
    """A tree with every kind of image; returns (file, crops) in sorted order."""
    (root / "b" / "deep").mkdir(parents=True)
    cv2.imwrite(str(root / "a.png"), crops[0][..., ::-1])
    tifffile.imwrite(root / "b" / "stack.tif", np.stack(crops[:3]), photometric="rgb")
    sitk.WriteImage(sitk.GetImageFromArray(np.stack(crops[1:3]), isVector=True), str(root / "b" / "deep" / "stack.mha"))
    cv2.imwrite(str(root / "c.PNG"), crops[3][..., ::-1])
    cv2.imwrite(str(root / "d.jpeg"), crops[4][..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])
    (root / "notes.txt").write_text("no image")
    return [("a.png", 1), ("b/deep/stack.mha", 2), ("b/stack.tif", 3), ("c.PNG", 1), ("d.jpeg", 1)]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def run(*arguments: object, rc: int = 0) -> str:
    command = [sys.executable, str(REPOSITORY / "process.py"), "folder", *map(str, arguments), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == rc, done.stderr
    return done.stderr


def test_every_crop_of_a_tree_is_classified_in_sorted_order(
    tmp_path: Path, crops: list[np.ndarray], small_weights: Path
) -> None:
    expected = write_tree(tmp_path / "in", crops)
    run(tmp_path / "in", tmp_path / "out", "--weights", small_weights)
    rows = rows_of(tmp_path / "out" / "predictions.csv")
    assert [(row["file"], int(row["index"])) for row in rows] == [(f, i) for f, n in expected for i in range(n)]
    probabilities = Predictor(small_weights, "cpu")(crops)
    order = [0, 1, 2, 0, 1, 2, 3]
    np.testing.assert_allclose([float(row["confidence"]) for row in rows[:7]], probabilities[order], atol=1e-4)
    assert all((row["class"] == "atypical") == (float(row["confidence"]) >= 0.5) for row in rows)
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [{key: str(value) for key, value in entry.items()} for entry in entries] == [
        row | {"confidence": str(float(row["confidence"]))} for row in rows
    ]
    assert rows_of(tmp_path / "out" / "failures.csv") == []


def test_what_cannot_be_used_is_set_apart_and_the_rest_is_done(
    tmp_path: Path, crops: list[np.ndarray], small_weights: Path
) -> None:
    expected = write_tree(tmp_path / "in", crops)
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")
    cv2.imwrite(str(tmp_path / "in" / "b" / "small.png"), crops[0][:40, :40])
    errors = run(tmp_path / "in", tmp_path / "out", "--weights", small_weights, rc=1)
    last = errors.strip().splitlines()[-1]
    assert last.startswith("2 of 7 images could not be used;") and "failures.csv" in last
    failures = rows_of(tmp_path / "out" / "failures.csv")
    assert [row["file"] for row in failures] == ["b/small.png", "broken.png"]
    assert "40 x 40" in failures[0]["reason"] and "broken.png cannot be read" in failures[1]["reason"]
    assert len(rows_of(tmp_path / "out" / "predictions.csv")) == sum(n for _, n in expected)


def test_a_name_that_is_no_utf8_comes_out_as_it_is(
    tmp_path: Path, crops: list[np.ndarray], small_weights: Path
) -> None:
    (tmp_path / "in").mkdir()
    name = os.fsdecode(b'caf\xe9, "x".png')
    (tmp_path / "in" / name).write_bytes(cv2.imencode(".png", crops[0])[1].tobytes())
    done = classify_folder(Predictor(small_weights, "cpu"), tmp_path / "in", tmp_path / "out")
    assert done.crops == 1
    assert rows_of(tmp_path / "out" / "predictions.csv")[0]["file"] == name
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())[0]["file"] == name


def test_mpp_rescales_to_a_quarter_micrometre(tmp_path: Path, crops: list[np.ndarray], small_weights: Path) -> None:
    (tmp_path / "in").mkdir()
    large = cv2.resize(crops[0], (256, 256), interpolation=cv2.INTER_LINEAR)
    cv2.imwrite(str(tmp_path / "in" / "a.png"), large[..., ::-1])
    assert "taken to have 0.25 µm per pixel" in run(tmp_path / "in", tmp_path / "assumed", "--weights", small_weights)
    said = run(tmp_path / "in", tmp_path / "said", "--weights", small_weights, "--mpp", 0.125)
    assert "taken to have" not in said
    confidences = [float(rows_of(tmp_path / name / "predictions.csv")[0]["confidence"]) for name in ("assumed", "said")]
    expected = Predictor(small_weights, "cpu")([crops[0]])[0]
    assert confidences[1] == pytest.approx(expected, abs=0.005)
    assert abs(confidences[0] - expected) > 0.01


def test_a_resolution_that_a_file_states_rescales_it(
    tmp_path: Path, crops: list[np.ndarray], small_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "in").mkdir()
    large = cv2.resize(crops[0], (256, 256), interpolation=cv2.INTER_LINEAR)
    for name, pixels in (("a", 80_000), ("b", 40_000), ("c", 42_000)):  # 0.125, 0.25 and 0.238 µm per pixel
        tifffile.imwrite(
            tmp_path / "in" / f"{name}.tif", large, photometric="rgb", resolution=(pixels, pixels), resolutionunit=3
        )
    predictor = Predictor(small_weights, "cpu")
    with caplog.at_level(logging.INFO):
        classify_folder(predictor, tmp_path / "in", tmp_path / "out")
    assert "a.tif states 0.125 µm per pixel" in caplog.text and "b.tif states" not in caplog.text
    found = [float(row["confidence"]) for row in rows_of(tmp_path / "out" / "predictions.csv")]
    expected = predictor([rescale(large, 0.125), large, large])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    classify_folder(predictor, tmp_path / "in", tmp_path / "said", FolderOptions(mpp=0.25))
    said = [float(row["confidence"]) for row in rows_of(tmp_path / "said" / "predictions.csv")]
    np.testing.assert_allclose(said, [expected[1]] * 3, atol=1e-5)


@pytest.mark.parametrize("mpp", ["0", "-1", "nan", "inf", "x"])
def test_a_senseless_mpp_is_refused(tmp_path: Path, mpp: str) -> None:
    assert "--mpp" in run(tmp_path, tmp_path / "out", f"--mpp={mpp}", rc=2)


def test_an_mpp_that_would_fill_the_memory_is_a_failure_of_the_file(
    tmp_path: Path, crops: list[np.ndarray], small_weights: Path
) -> None:
    write_tree(tmp_path / "in", crops)
    done = classify_folder(Predictor(small_weights, "cpu"), tmp_path / "in", tmp_path / "out", FolderOptions(mpp=1e4))
    assert done.failed == done.files == 5 and done.crops == 0


def test_an_interrupted_run_goes_on_and_gives_the_same(
    tmp_path: Path, crops: list[np.ndarray], small_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path / "in", crops)
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")
    predictor = Predictor(small_weights, "cpu")
    monkeypatch.setattr(folder_module, "CROPS_PER_BLOCK", 2)
    classify_folder(predictor, tmp_path / "in", tmp_path / "whole")
    predict, calls = Predictor.predict_with_spread, iter(range(100))

    def stop_in_the_third_block(self: Predictor, *arguments: object) -> np.ndarray:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return predict(self, *arguments)

    monkeypatch.setattr(Predictor, "predict_with_spread", stop_in_the_third_block)
    with pytest.raises(KeyboardInterrupt):
        classify_folder(predictor, tmp_path / "in", tmp_path / "out")
    before = len(rows_of(tmp_path / "out" / "predictions.csv"))
    assert 0 < before < 8 and not (tmp_path / "out" / "predictions.json").exists()
    with (tmp_path / "out" / "predictions.csv").open("a") as file:
        file.write("c.PNG,0,norm")  # killed while writing a block
    done = classify_folder(predictor, tmp_path / "in", tmp_path / "out", RESUME)
    assert (done.files, done.crops, done.failed) == (6, 8, 1)
    for name in ("predictions.csv", "failures.csv", "predictions.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert next(calls) < 10


@pytest.mark.slow
def test_a_killed_process_goes_on(tmp_path: Path, crops: list[np.ndarray], small_weights: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(1500):
        cv2.imwrite(str(tmp_path / "in" / f"{number:04}.png"), crops[number % 5][..., ::-1])
    command = [
        sys.executable,
        str(REPOSITORY / "process.py"),
        "folder",
        str(tmp_path / "in"),
        str(tmp_path / "out"),
        "--weights",
        str(small_weights),
        "--device",
        "cpu",
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    state = tmp_path / "out" / "run.json"
    end = time.monotonic() + 60
    while time.monotonic() < end and (not state.exists() or json.loads(state.read_text())["files"] == 0):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < json.loads(state.read_text())["files"] < 1500
    run(tmp_path / "in", tmp_path / "out", "--weights", small_weights, "--resume")
    rows = rows_of(tmp_path / "out" / "predictions.csv")
    assert [row["file"] for row in rows] == [f"{number:04}.png" for number in range(1500)]


def test_going_on_with_something_else_is_refused(tmp_path: Path, crops: list[np.ndarray], small_weights: Path) -> None:
    write_tree(tmp_path / "in", crops)
    predictor = Predictor(small_weights, "cpu")
    classify_folder(predictor, tmp_path / "in", tmp_path / "out")
    with pytest.raises(CaseError, match="other weights, views or µm"):
        classify_folder(Predictor(small_weights, "cpu", "none"), tmp_path / "in", tmp_path / "out", RESUME)
    other = Predictor(small_weights, "cpu")  # the same tensors
    other.config = replace(other.config, calibration=Calibration(2.0, 0.0))
    with pytest.raises(CaseError, match="other weights, views or µm"):
        classify_folder(other, tmp_path / "in", tmp_path / "out", RESUME)
    (tmp_path / "out" / "run.json").write_text("{")
    with pytest.raises(CaseError, match="cannot be understood"):
        classify_folder(predictor, tmp_path / "in", tmp_path / "out", RESUME)


def test_folders_without_images_are_refused(tmp_path: Path, small_weights: Path) -> None:
    predictor = Predictor(small_weights, "cpu")
    with pytest.raises(CaseError, match="is no folder"):
        classify_folder(predictor, tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(CaseError, match="holds no image"):
        classify_folder(predictor, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_target_that_cannot_be_written_is_refused(
    tmp_path: Path, crops: list[np.ndarray], small_weights: Path
) -> None:
    write_tree(tmp_path / "in", crops)
    (tmp_path / "out").write_text("a file")
    with pytest.raises(CaseError, match=r"out cannot be written"):
        classify_folder(Predictor(small_weights, "cpu"), tmp_path / "in", tmp_path / "out")


def test_reading_is_bounded(tmp_path: Path, crops: list[np.ndarray], small_weights: Path, monkeypatch) -> None:
    """However many files there are, no more than two blocks and `FILES_AHEAD` are read before they are written."""
    (tmp_path / "in").mkdir()
    for number in range(40):
        cv2.imwrite(str(tmp_path / "in" / f"{number}.png"), crops[0])
    monkeypatch.setattr(folder_module, "FILES_AHEAD", 4)
    monkeypatch.setattr(folder_module, "FILES_PER_BLOCK", 3)
    read, written, most = [], [0], [0]
    read_stack, append = folder_module.read_stack, RunTables.append

    def count(path: Path) -> Stack:
        read.append(path)
        most[0] = max(most[0], len(read) - written[0])
        return read_stack(path)

    def write(self: RunTables, records: list) -> None:
        append(self, records)
        written[0] += len(records)

    monkeypatch.setattr(folder_module, "read_stack", count)
    monkeypatch.setattr(RunTables, "append", write)
    classify_folder(Predictor(small_weights, "cpu", "none"), tmp_path / "in", tmp_path / "out")
    assert len(read) == 40 and 3 < most[0] <= 2 * 3 + 4


def test_large_files_are_not_read_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "BYTES_AHEAD", 20)
    read, done = [], []

    def note(image: Listed) -> Record:
        read.append(image)
        return Record(image, reason="none")

    images = [Listed(f"{number:02}", bytes=10) for number in range(60)]
    for image, _ in folder_module._read_ahead(images, Known(iter(())), note):
        done.append(image)
        time.sleep(0.002)  # for the readers to get as far as they may
        assert len(read) - len(done) <= 2
    assert done == images == read


def test_small_files_of_many_crops_are_not_read_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a file decodes to counts, not what it has compressed; the first to be wanted is read in any case."""
    monkeypatch.setattr(folder_module, "BYTES_AHEAD", 1000)
    read, done = [], []

    def decode(image: Listed) -> torch.Tensor:
        time.sleep(0.002 * (len(read) % 3))
        read.append(image)
        return torch.zeros(int(image.name) % 7 * 200, dtype=torch.uint8)

    images = [Listed(f"{number:02}", bytes=1) for number in range(60)]
    for image, content in folder_module._read_ahead(images, Known(iter(())), decode):
        done.append(image)
        assert len(content) == int(image.name) % 7 * 200
        time.sleep(0.004)
        waiting = sum(int(other.name) % 7 * 200 for other in {*read} - {*done})
        assert waiting < 1000 + 2 * 1200
    assert done == images and {*read} == {*images}


@pytest.mark.slow
def test_a_posterior_at_a_prevalence_is_added(tmp_path: Path, crops: list[np.ndarray], small_weights: Path) -> None:
    write_tree(tmp_path / "in", crops)
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")
    run(tmp_path / "in", tmp_path / "plain", "--weights", small_weights, rc=1)
    run(tmp_path / "in", tmp_path / "out", "--weights", small_weights, "--prevalence", 0.15, rc=1)
    plain, rows = (rows_of(tmp_path / name / "predictions.csv") for name in ("plain", "out"))
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(rows) == 8
    for row, entry, before in zip(rows, entries, plain, strict=True):
        p = float(row["confidence"])
        assert float(row["posterior"]) == pytest.approx(p * 0.15 / (p * 0.15 + (1 - p) * 0.85), abs=1e-6)
        assert entry["posterior"] == float(row["posterior"])
        assert before == {key: value for key, value in row.items() if key != "posterior"}
    before = (tmp_path / "out" / "predictions.csv").read_bytes()
    run(tmp_path / "in", tmp_path / "out", "--weights", small_weights, "--prevalence", 0.15, "--resume", rc=1)
    assert (tmp_path / "out" / "predictions.csv").read_bytes() == before
    for others in (["--prevalence", 0.2], []):
        said = run(tmp_path / "in", tmp_path / "out", "--weights", small_weights, *others, "--resume", rc=1)
        assert "or another prevalence; run again without --resume" in said
    assert "not between 0 and 1" in run(tmp_path / "in", tmp_path / "out", "--prevalence", 0, rc=2)
