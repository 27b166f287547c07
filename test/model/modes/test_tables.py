"""How a run over a folder goes on, whatever happened to the images and to its own tables in between."""

import csv
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import REPOSITORY

from model.errors import CaseError
from model.modes import folder as folder_module
from model.modes.folder import FolderOptions, classify_folder
from model.modes.tables import FILES, PREDICTIONS, PREVIOUS, RUN, RunTables
from model.predictor import Predictor

RESUME = FolderOptions(resume=True)


@pytest.fixture(scope="module")
def predictor(small_weights: Path) -> Predictor:
    return Predictor(small_weights, "cpu", "none")


@pytest.fixture
def images(tmp_path: Path, crops: list[np.ndarray]) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, crop in zip(("a", "b", "c", "d", "e"), crops, strict=True):
        write(folder / f"{name}.png", crop)
    return folder


def write(path: Path, crop: np.ndarray) -> None:
    path.write_bytes(cv2.imencode(".png", crop[..., ::-1])[1].tobytes())


def tables(folder: Path) -> dict[str, list[list[str]]]:
    found = {}
    for path in (folder / "predictions.csv", folder / "failures.csv"):
        with path.open(newline="") as file:
            found[path.name] = list(csv.reader(file))
    found["json"] = json.loads((folder / "predictions.json").read_text())
    return found


def count_predictions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counts: list[int] = []
    predict = Predictor.predict_with_spread

    def counted(self: Predictor, fields: object, *rest: object) -> tuple[np.ndarray, np.ndarray]:
        counts.append(len(fields))
        return predict(self, fields, *rest)

    monkeypatch.setattr(Predictor, "predict_with_spread", counted)
    return counts


def change(images: Path, crops: list[np.ndarray]) -> None:
    (images / "b.png").write_bytes(b"no image")
    (images / "a.png").rename(images / "a2.png")
    (images / "d.png").unlink()
    write(images / "c.png", crops[4])
    write(images / "0.png", crops[1])


def test_new_changed_mended_and_removed_images(
    images: Path, tmp_path: Path, crops: list[np.ndarray], predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    (images / "e.png").write_bytes(b"broken")
    assert classify_folder(predictor, images, tmp_path / "out").failed == 1
    change(images, crops)
    write(images / "e.png", crops[4])
    counts = count_predictions(monkeypatch)
    done = classify_folder(predictor, images, tmp_path / "out", RESUME)
    assert (done.files, done.crops, done.failed) == (5, 4, 1)
    assert sum(counts) == 4  # 0, a2, c, e; b failed
    classify_folder(predictor, images, tmp_path / "fresh")
    assert tables(tmp_path / "out") == tables(tmp_path / "fresh")
    assert [row[0] for row in tables(tmp_path / "out")["predictions.csv"][1:]] == ["0.png", "a2.png", "c.png", "e.png"]
    counts.clear()
    classify_folder(predictor, images, tmp_path / "out", RESUME)
    assert counts == [] and tables(tmp_path / "out") == tables(tmp_path / "fresh")
    assert not (tmp_path / "out" / PREVIOUS).exists()


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_interrupted_while_going_on_nothing_is_lost(
    images: Path, tmp_path: Path, crops: list[np.ndarray], predictor: Predictor, monkeypatch, blocks: int
) -> None:
    """A run goes on over changed images and is interrupted again; the next one knows what both found."""
    monkeypatch.setattr(folder_module, "FILES_PER_BLOCK", 1)
    classify_folder(predictor, images, tmp_path / "out")
    write(images / "0.png", crops[1])
    append, calls = RunTables.append, iter(range(100))

    def interrupted(self: RunTables, records: list) -> None:
        if next(calls) == blocks:
            raise KeyboardInterrupt
        append(self, records)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(RunTables, "append", interrupted)
        classify_folder(predictor, images, tmp_path / "out", RESUME)
    counts = count_predictions(monkeypatch)
    classify_folder(predictor, images, tmp_path / "out", RESUME)
    assert counts == []
    classify_folder(predictor, images, tmp_path / "fresh")
    assert tables(tmp_path / "out") == tables(tmp_path / "fresh")


def test_a_second_process_on_the_same_folder_is_refused(
    images: Path, tmp_path: Path, small_weights: Path, predictor: Predictor
) -> None:
    with RunTables(tmp_path / "out"), pytest.raises(CaseError, match="Another process writes to"):
        classify_folder(predictor, images, tmp_path / "out")
    code = "import sys, time; from pathlib import Path; from model.modes.tables import RunTables\n"
    code += "with RunTables(Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "out")], stdout=subprocess.PIPE, cwd=REPOSITORY
    )
    assert process.stdout is not None and process.stdout.readline() == b"locked\n"
    with pytest.raises(CaseError, match="Another process writes to"):
        classify_folder(predictor, images, tmp_path / "out")
    process.kill()
    process.wait()
    process.stdout.close()
    assert classify_folder(predictor, images, tmp_path / "out").crops == 5


def shorten(out: Path) -> None:
    with (out / PREDICTIONS).open("r+") as file:
        file.truncate(60)


def point_outside(out: Path) -> None:
    edit(out, lambda run: run["sizes"].update({"../victim.csv": 0}))


def edit(out: Path, change: Callable[[dict], object]) -> None:
    run = json.loads((out / RUN).read_text())
    change(run)
    (out / RUN).write_text(json.dumps(run))


def contradict(out: Path) -> None:
    """A confidence that is not that of the class beside it."""
    text = (out / PREDICTIONS).read_text()
    other = re.sub(r"(normal),0\.\d", r"\1,0.9", re.sub(r"(atypical),[01]\.\d", r"\1,0.1", text, count=1), count=1)
    assert other != text
    (out / PREDICTIONS).write_text(other)


def spread_too_far(out: Path) -> None:
    """Views of a probability cannot differ by more."""
    text = (out / PREDICTIONS).read_text()
    (out / PREDICTIONS).write_text(re.sub(r"0\.\d(\d{3}\r?\n)", r"0.9\1", text, count=1))


@pytest.mark.parametrize(
    "damage",
    [
        shorten,
        contradict,
        spread_too_far,
        point_outside,
        lambda out: edit(out, lambda run: run["sizes"].pop(FILES)),
        lambda out: edit(out, lambda run: run["sizes"].update({PREDICTIONS: -1})),
        lambda out: edit(out, lambda run: run["sizes"].update({PREDICTIONS: 1e400})),
        lambda out: edit(out, lambda run: run["sizes"].update({PREDICTIONS: "12"})),
        lambda out: edit(out, lambda run: run["sizes"].update({PREDICTIONS: run["sizes"][PREDICTIONS] - 30})),
        lambda out: edit(out, lambda run: run.update(files=4)),
        lambda out: edit(out, lambda run: run.update(files=True)),
        lambda out: edit(out, lambda run: run.update(extra=1)),
        lambda out: edit(out, lambda run: run.pop("settings")),
        lambda out: (out / RUN).write_text("[]"),
        lambda out: (out / RUN).write_text("[" * 100_000),
        lambda out: (out / RUN).write_text(" " * (2 << 20)),
        lambda out: (out / RUN).write_bytes(b"\xff\xfe"),
        lambda out: (out / FILES).write_text((out / FILES).read_text().replace("b.png", "z.png")),
        lambda out: (out / FILES).write_text((out / FILES).read_text().replace(",1\r", ",9\r")),
        lambda out: (out / PREDICTIONS).write_text((out / PREDICTIONS).read_text().replace("b.png,0", "b.png,7")),
        lambda out: (out / PREDICTIONS).unlink(),
        lambda out: [(out / RUN).unlink(), os.mkfifo(out / RUN)],
    ],
)
def test_what_a_run_noted_is_not_believed(
    images: Path, tmp_path: Path, predictor: Predictor, damage: Callable[[Path], object]
) -> None:
    classify_folder(predictor, images, tmp_path / "out")
    (tmp_path / "victim.csv").write_text("precious")
    damage(tmp_path / "out")
    start = time.monotonic()
    with pytest.raises(CaseError, match="run again without --resume"):
        classify_folder(predictor, images, tmp_path / "out", RESUME)
    assert time.monotonic() - start < 20
    assert (tmp_path / "victim.csv").read_text() == "precious"
    if not (tmp_path / "out" / RUN).is_fifo():
        assert classify_folder(predictor, images, tmp_path / "out").crops == 5


@pytest.mark.parametrize("name", [PREDICTIONS, RUN, FILES])
def test_a_table_that_is_a_link_is_not_followed(images: Path, tmp_path: Path, predictor: Predictor, name: str) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "victim")
    try:
        classify_folder(predictor, images, tmp_path / "out")
        assert name == RUN  # which is replaced, not written to
    except CaseError as error:
        assert "cannot be written" in str(error) and name != RUN
    assert (tmp_path / "victim").read_text() == "precious"


def test_names_that_a_spreadsheet_would_run_are_quoted(
    tmp_path: Path, crops: list[np.ndarray], predictor: Predictor
) -> None:
    names = ["'quoted.png", "+1.png", "-2.png", "=cmd.png", "@a.png", "a=b.png"]
    (tmp_path / "in").mkdir()
    for name in names:
        write(tmp_path / "in" / name, crops[0])
    for options in (FolderOptions(), RESUME):
        classify_folder(predictor, tmp_path / "in", tmp_path / "out", options)
        found = tables(tmp_path / "out")
        cells = [row[0] for row in found["predictions.csv"][1:]]
        assert cells == [f"'{name}" for name in names[:-1]] + ["a=b.png"]
        assert [entry["file"] for entry in found["json"]] == names


def test_a_read_error_is_the_images_failure(
    images: Path, tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = folder_module.read_stack

    def failing(path: Path) -> object:
        if path.name == "b.png":
            raise OSError(5, "Input/output error")
        return read(path)

    monkeypatch.setattr(folder_module, "read_stack", failing)
    done = classify_folder(predictor, images, tmp_path / "out")
    assert (done.crops, done.failed) == (4, 1)
    assert "Input/output error" in tables(tmp_path / "out")["failures.csv"][1][1]


def test_an_output_that_is_full_is_found_out_before_the_first_crop(
    images: Path, tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    counts = count_predictions(monkeypatch)
    with pytest.raises(CaseError, match=r"cannot be written \(No space left on device\)"):
        classify_folder(predictor, images, tmp_path / "out")
    assert counts == []
