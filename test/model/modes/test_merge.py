"""Shards, and what putting them together gives."""

import csv
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import REPOSITORY
from hypothesis import given
from hypothesis import strategies as st
from written_slides import paste, point, square, write_geojson, write_tiled

from model.errors import CaseError
from model.modes.folder import FolderOptions, classify_folder
from model.modes.merge import merge
from model.modes.shard import NOTE, Shard
from model.modes.slide import classify_slide
from model.modes.slide_list import classify_slides, read_slide_list
from model.modes.slide_options import SlideOptions, SlideTask
from model.predictor import Predictor
from model.slides.output import write_features

COUNT = 3
SHARD_1_OF_4 = ["000003.png", "000006.png", "000007.png", "000008.png", "000010.png", "000013.png"]
"""Of the names 000000.png to 000019.png: shards that ran yesterday and today must fit."""


@pytest.fixture(scope="module")
def predictor(small_weights: Path) -> Predictor:
    """One crop at a time: not even rounding depends on a crop's neighbours."""
    return Predictor(small_weights, "cpu", "none", batch_size=1)


def shards(count: int = COUNT) -> list[Shard]:
    return [Shard(number, count) for number in range(1, count + 1)]


def files(folder: Path) -> dict[str, bytes]:
    """The content of all files of a folder by their names, notes of slides' own paths among them."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def write_images(folder: Path, crops: list[np.ndarray]) -> Path:
    """Twelve crops and a broken one in a folder and one below it, with a name that a spreadsheet would run."""
    (folder / "sub").mkdir(parents=True)
    for number in range(12):
        name = f"{'sub/' if number % 2 else ''}{'=' if number == 3 else ''}{number}.png"
        cv2.imwrite(str(folder / name), crops[number % 5][..., ::-1])
    (folder / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def folder_shards(tmp_path: Path, crops: list[np.ndarray], predictor: Predictor) -> list[Path]:
    """Finished shards of a folder `in`; beside them `whole`, what one run makes of it."""
    source = write_images(tmp_path / "in", crops)
    classify_folder(predictor, source, tmp_path / "whole", FolderOptions(prevalence=0.2))
    for shard in shards():
        classify_folder(predictor, source, tmp_path / str(shard.number), FolderOptions(prevalence=0.2, shard=shard))
    return [tmp_path / str(shard.number) for shard in shards()]


@pytest.fixture
def slide_task(tmp_path: Path, crops: list[np.ndarray]) -> SlideTask:
    """Twelve figures, one of them outside the slide, two outside the area to count in, one at the edge."""
    image, centres = paste(crops * 2, columns=5)
    features = [point(x, y, f"id {number}", name="=1") for number, (x, y) in enumerate(centres)]
    features += [point(1, 1, "edge"), point(-5, 5, "out")]
    features.append(square(320, 128, 320, classification={"name": "hot spot"}))
    return SlideTask(
        write_tiled(tmp_path / "slide.tif", image),
        write_geojson(tmp_path / "detections.geojson", features),
        tmp_path / "whole",
    )


@given(name=st.text(), count=st.integers(1, 50))
def test_every_name_belongs_to_one_shard(name: str, count: int) -> None:
    assert sum(shard.takes(name) for shard in shards(count)) == 1


def test_shards_have_similar_sizes_and_never_change() -> None:
    names = [f"{number:06}.png" for number in range(10_000)]
    sizes = [sum(map(shard.takes, names)) for shard in shards(10)]
    assert min(sizes) > 900 and max(sizes) < 1100
    assert [name for name in names[:20] if Shard(1, 4).takes(name)] == SHARD_1_OF_4


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "-1/3", "1/3 ", "a/b", "1/99999", "\u0661/\u0663"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Shard.parse(text)
    assert Shard.parse("3/8") == Shard(3, 8)


def test_shards_of_a_folder_give_what_one_run_gives(tmp_path: Path, folder_shards: list[Path]) -> None:
    """Byte for byte; and nothing is in two shards."""
    counts = [len((folder / "files.csv").read_text().splitlines()) - 1 for folder in folder_shards]
    assert sum(counts) == 13 and max(counts) < 13
    said = merge(tmp_path / "merged", folder_shards[::-1])
    assert said.startswith("1 of 13 images could not be used; ")
    assert files(tmp_path / "merged") == files(tmp_path / "whole")


def test_more_shards_than_images(tmp_path: Path, crops: list[np.ndarray], predictor: Predictor) -> None:
    """An empty shard is a result like any other; a folder without images is refused as ever."""
    source = tmp_path / "in"
    source.mkdir()
    for shard in shards(4):
        with pytest.raises(CaseError, match="holds no image"):
            classify_folder(predictor, source, tmp_path / str(shard.number), FolderOptions(shard=shard))
    cv2.imwrite(str(source / "a.png"), crops[0])
    classify_folder(predictor, source, tmp_path / "whole")
    folders = [tmp_path / str(shard.number) for shard in shards(4)]
    for shard, folder in zip(shards(4), folders, strict=True):
        classify_folder(predictor, source, folder, FolderOptions(shard=shard))
    assert merge(tmp_path / "merged", folders) == ""
    assert files(tmp_path / "merged") == files(tmp_path / "whole")


def test_an_interrupted_shard_is_not_merged_before_it_went_on(
    tmp_path: Path, folder_shards: list[Path], predictor: Predictor
) -> None:
    """Its note is written last, and a new run removes it first."""

    class Interrupted(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    options = FolderOptions(prevalence=0.2, shard=Shard(2, COUNT), resume=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.modes.tables.RunTables.finish", interrupt)
        with pytest.raises(Interrupted):
            classify_folder(predictor, tmp_path / "in", folder_shards[1], options)
    with pytest.raises(CaseError, match="2 holds no finished shard"):
        merge(tmp_path / "merged", folder_shards)
    assert not (tmp_path / "merged").exists()
    with pytest.raises(CaseError, match="another shard"):
        classify_folder(predictor, tmp_path / "in", folder_shards[1], replace(options, shard=Shard(1, COUNT)))
    classify_folder(predictor, tmp_path / "in", folder_shards[1], options)
    merge(tmp_path / "merged", folder_shards)
    assert files(tmp_path / "merged") == files(tmp_path / "whole")


def test_missing_and_double_shards_are_refused(tmp_path: Path, folder_shards: list[Path]) -> None:
    for given_, what in [
        (folder_shards[:2], "Of 3 shards these are missing: 3;"),
        ([folder_shards[0]], "Of 3 shards these are missing: 2, 3;"),
        ([*folder_shards, folder_shards[0]], "are both shard 1/3;"),
        ([*folder_shards, tmp_path / "whole"], "whole holds no finished shard"),
        ([*folder_shards, tmp_path / "nowhere"], "nowhere holds no finished shard"),
    ]:
        with pytest.raises(CaseError, match=what):
            merge(tmp_path / "merged", given_)
    with pytest.raises(CaseError, match="is one of the shards"):
        merge(folder_shards[1], folder_shards)
    assert not (tmp_path / "merged").exists() and not (tmp_path / "nowhere").exists()


def test_shards_of_other_runs_are_refused(
    tmp_path: Path, folder_shards: list[Path], crops: list[np.ndarray], small_weights: Path, predictor: Predictor
) -> None:
    """Of other weights or settings, another number of shards, or a folder that changed in between."""
    last = Shard(3, COUNT)
    source, other = tmp_path / "in", tmp_path / "other"
    for with_, options in [
        (Predictor(small_weights, "cpu", "rot4"), FolderOptions(prevalence=0.2, shard=last)),
        (predictor, FolderOptions(prevalence=0.3, shard=last)),
        (predictor, FolderOptions(mpp=0.5, prevalence=0.2, shard=last)),
    ]:
        classify_folder(with_, source, other, options)
        with pytest.raises(CaseError, match="have other weights, views or options"):
            merge(tmp_path / "merged", [*folder_shards[:2], other])
    classify_folder(predictor, source, other, FolderOptions(prevalence=0.2, shard=Shard(3, 4)))
    with pytest.raises(CaseError, match="are not of one run"):
        merge(tmp_path / "merged", [*folder_shards[:2], other])
    cv2.imwrite(str(source / "late.png"), crops[0])
    classify_folder(predictor, source, other, FolderOptions(prevalence=0.2, shard=last))
    with pytest.raises(CaseError, match="did not have the same input"):
        merge(tmp_path / "merged", [*folder_shards[:2], other])
    assert not (tmp_path / "merged").exists()


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_features(folder: Path, change: Callable[[dict], object]) -> None:
    features = json.loads((folder / "detections.geojson").read_text())["features"]
    change(features[0])
    with (folder / "detections.geojson").open("w") as file:
        write_features(file, features)


def retell(folder: Path) -> None:
    """Lets a shard tell of an image of another shard."""
    for name in ("files.csv", "predictions.csv"):
        text = (folder / name).read_text()
        own = next(csv.reader(text.splitlines()[1:]))[0]
        (folder / name).write_text(text.replace(own, "0" * len(own)))


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: edit(folder / NOTE, lambda note: note.update(kind="slides")),
        lambda folder: edit(folder / NOTE, lambda note: note.update(kind=["folder"])),
        lambda folder: edit(folder / NOTE, lambda note: note.update(shard={"number": 1, "count": 1 << 40})),
        lambda folder: edit(folder / NOTE, lambda note: note.update(shard=7)),
        lambda folder: edit(folder / NOTE, lambda note: note.update(more=1)),
        lambda folder: edit(folder / NOTE, lambda note: note.update(slides=["../../etc"])),
        lambda folder: (folder / NOTE).write_text("[" * 100_000),
        lambda folder: (folder / NOTE).write_text("[1]"),
        lambda folder: (folder / NOTE).write_bytes(b"\xff\xfe" * 40),
        lambda folder: (folder / NOTE).unlink(),
        lambda folder: edit(folder / "run.json", lambda run: run["settings"].update(prevalence="much")),
        lambda folder: edit(folder / "run.json", lambda run: run["settings"].update(views="all")),
        lambda folder: edit(folder / "run.json", lambda run: run["settings"].update(shard={"number": 2, "count": 3})),
        lambda folder: edit(folder / "run.json", lambda run: run["settings"].update(mpp=float("nan"))),
        lambda folder: edit(folder / "run.json", lambda run: run.update(files=10**9)),
        lambda folder: (folder / "predictions.csv").write_text("file\n"),
        lambda folder: (folder / "predictions.csv").unlink(),
        retell,
    ],
)
def test_an_altered_shard_is_refused(tmp_path: Path, folder_shards: list[Path], change: Callable) -> None:
    """In one sentence that names it, and nothing is written."""
    change(folder_shards[0])
    with pytest.raises(CaseError, match=r"[/\\]1[ /]") as caught:
        merge(tmp_path / "merged", folder_shards)
    assert "again" in str(caught.value) or "to its end" in str(caught.value) or "of one run" in str(caught.value)
    assert not (tmp_path / "merged").exists()


def test_links_in_shards_are_not_followed(tmp_path: Path, folder_shards: list[Path]) -> None:
    for name in (NOTE, "run.json", "predictions.csv"):
        shutil.copy(folder_shards[0] / name, tmp_path / name)
        (folder_shards[0] / name).unlink()
        (folder_shards[0] / name).symlink_to(tmp_path / name)
        with pytest.raises(CaseError, match="1"):
            merge(tmp_path / "merged", folder_shards)
        (folder_shards[0] / name).unlink()
        shutil.copy(tmp_path / name, folder_shards[0] / name)
    merge(tmp_path / "merged", folder_shards)


def test_shards_of_a_slide_give_what_one_run_gives(tmp_path: Path, slide_task: SlideTask, predictor: Predictor) -> None:
    """Tables, GeoJSON, crops, counts and notes, byte for byte."""
    options = SlideOptions(region="hot spot", prevalence=0.2, save_crops=True)
    whole = classify_slide(predictor, slide_task, options)
    assert whole.summary["detections"]["classified"] == 11
    folders = [tmp_path / str(shard.number) for shard in shards()]
    for shard, folder in zip(shards(), folders, strict=True):
        done = classify_slide(predictor, replace(slide_task, target=folder), replace(options, shard=shard))
        assert 0 < done.summary["detections"]["classified"] < 11
    assert merge(tmp_path / "merged", folders) == ""
    found = files(tmp_path / "merged")
    assert found == files(tmp_path / "whole") and len(found) == 6 + 11


@pytest.fixture
def slide_shards(tmp_path: Path, slide_task: SlideTask, predictor: Predictor) -> list[Path]:
    """Finished shards of a slide."""
    for shard in shards():
        classify_slide(predictor, replace(slide_task, target=tmp_path / str(shard.number)), SlideOptions(shard=shard))
    return [tmp_path / str(shard.number) for shard in shards()]


def drop_a_feature(folder: Path) -> None:
    lines = (folder / "detections.geojson").read_text().splitlines(keepends=True)
    (folder / "detections.geojson").write_text("".join([lines[0], *lines[2:]]))


def set_confidence(folder: Path) -> None:
    lines = (folder / "predictions.csv").read_text().splitlines(keepends=True)
    cells = lines[1].split(",")
    cells[5] = "0.123456"
    (folder / "predictions.csv").write_text("".join([lines[0], ",".join(cells), *lines[2:]]))


@pytest.mark.parametrize(
    "change",
    [
        drop_a_feature,
        set_confidence,
        lambda folder: (folder / "detections.geojson").write_text("{"),
        lambda folder: edit_features(folder, lambda feature: feature.update(properties=[1])),
        lambda folder: edit_features(folder, lambda feature: feature["properties"].update(measurements="x")),
        lambda folder: (folder / "detections.geojson").unlink(),
        lambda folder: (folder / "left_out.csv").write_text("detection\n"),
        lambda folder: edit(folder / "summary.json", lambda said: said["detections"].update(read=12)),
        lambda folder: edit(folder / "summary.json", lambda said: said["detections"].update(left_out=[])),
        lambda folder: edit(folder / "summary.json", lambda said: said.update(accuracy={"sensitivity": "high"})),
        lambda folder: edit(folder / "summary.json", lambda said: said.update(slide="another.svs")),
        lambda folder: (folder / "summary.json").write_text("[]"),
        lambda folder: edit(folder / "run.json", lambda run: run["settings"].update(views="d4")),
        lambda folder: edit(folder / "run.json", lambda run: run["settings"]["options"].pop("shard")),
        lambda folder: edit(folder / "run.json", lambda run: run.update(done=99)),
        lambda folder: edit(folder / NOTE, lambda note: note.update(input="another")),
    ],
)
def test_an_altered_shard_of_a_slide_is_refused(
    tmp_path: Path, slide_shards: list[Path], change: Callable[[Path], object]
) -> None:
    change(slide_shards[1])
    with pytest.raises(CaseError):
        merge(tmp_path / "merged", slide_shards)
    assert not (tmp_path / "merged").exists()


def test_shards_of_a_table_of_slides_give_what_one_run_gives(
    tmp_path: Path, slide_task: SlideTask, predictor: Predictor
) -> None:
    """Whole slides a shard, one of which cannot be read; the table is in its own order."""
    names = ["b", "a", "missing", "c", "d"]
    for name in names:
        if name != "missing":
            shutil.copy(slide_task.slide, tmp_path / f"{name}.tif")
    table = tmp_path / "slides.csv"
    table.write_text("slide,detections\n" + "".join(f"{name}.tif,detections.geojson\n" for name in names))
    options = SlideOptions(save_crops=True)
    assert classify_slides(predictor, read_slide_list(table, tmp_path / "whole"), tmp_path / "whole", options) == 1
    folders = [tmp_path / str(shard.number) for shard in shards(2)]
    failed = 0
    for shard, folder in zip(shards(2), folders, strict=True):
        tasks = read_slide_list(table, folder)
        failed += classify_slides(predictor, tasks, folder, replace(options, shard=shard))
    assert failed == 1
    said = merge(tmp_path / "merged", folders)
    assert said.startswith("1 of 5 slides could not be read in full; ")
    assert files(tmp_path / "merged") == files(tmp_path / "whole")
    with pytest.raises(CaseError, match="did not have the same input"):
        table.write_text(table.read_text() + "e.tif,detections.geojson\n")
        tasks = read_slide_list(table, folders[1])
        classify_slides(predictor, tasks, folders[1], replace(options, shard=Shard(2, 2)))
        merge(tmp_path / "again", folders)


def test_a_slide_that_fails_now_leaves_nothing_of_an_earlier_merge(
    tmp_path: Path, slide_task: SlideTask, predictor: Predictor
) -> None:
    for name in "ab":
        shutil.copy(slide_task.slide, tmp_path / f"{name}.tif")
    table = tmp_path / "slides.csv"
    table.write_text("slide,detections\na.tif,detections.geojson\nb.tif,detections.geojson\n")
    folders = [tmp_path / str(shard.number) for shard in shards(2)]
    for damaged in (False, True):
        if damaged:
            (tmp_path / "b.tif").write_bytes(b"no slide")
        for shard, folder in zip(shards(2), folders, strict=True):
            options = SlideOptions(shard=shard, save_crops=True)
            classify_slides(predictor, read_slide_list(table, folder), folder, options)
        said = merge(tmp_path / "merged", folders)
    assert said.startswith("1 of 2 slides could not be read in full; ")
    left = [str(file.relative_to(tmp_path / "merged")) for file in (tmp_path / "merged").rglob("*") if file.is_file()]
    assert not [name for name in left if name.startswith("b/")]
    assert {"slides.csv", "a/summary.json", "a/detections.geojson", "a/crops/0000000.png"} <= {*left}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "summary.json").touch()
    shutil.rmtree(tmp_path / "merged" / "b")
    (tmp_path / "merged" / "b").symlink_to(elsewhere)
    with pytest.raises(CaseError, match="merged/b"):
        merge(tmp_path / "merged", folders)
    assert [file.name for file in elsewhere.iterdir()] == ["summary.json"]


def test_pages_beside_the_merged_ones_stay(tmp_path: Path, crops: list[np.ndarray], small_weights: Path) -> None:
    """Shards that lie below the folder they are merged into keep theirs, and what has nothing to do with them, too."""
    write_images(tmp_path / "in", crops)
    (tmp_path / "out" / "other").mkdir(parents=True)
    script = [sys.executable, REPOSITORY / "process.py"]
    for shard in shards(2):
        own = tmp_path / "out" / str(shard.number)
        arguments = ["folder", tmp_path / "in", own, "--weights", small_weights, "--shard", str(shard), "--report"]
        subprocess.run([*script, *arguments], check=False, capture_output=True)
    for place in (".", "other"):
        shutil.copy(tmp_path / "out" / "1" / "report.html", tmp_path / "out" / place)
    subprocess.run([*script, "merge", tmp_path / "out", tmp_path / "out/1", tmp_path / "out/2"], check=False)
    left = sorted(str(page.parent.relative_to(tmp_path / "out")) for page in tmp_path.rglob("report.html"))
    assert left == ["1", "2", "other"]


def test_more_shards_than_files_may_be_open(
    tmp_path: Path, crops: list[np.ndarray], predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_images(tmp_path / "in", crops)
    classify_folder(predictor, source, tmp_path / "whole", FolderOptions())
    folders = [tmp_path / str(shard.number) for shard in shards(40)]
    for shard, folder in zip(shards(40), folders, strict=True):
        classify_folder(predictor, source, folder, FolderOptions(shard=shard))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
        merge(tmp_path / "merged", folders)
        assert files(tmp_path / "merged") == files(tmp_path / "whole")
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
        monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 100))
        with pytest.raises(CaseError, match=r"shards need 192 open files at a time, and this system allows 100"):
            merge(tmp_path / "again", folders)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_reason_that_begins_like_a_formula_is_merged_as_it_is(
    tmp_path: Path, crops: list[np.ndarray], predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "-in", crops)
    monkeypatch.chdir(tmp_path)
    source = Path("-in")  # which the sentences begin with
    classify_folder(predictor, source, tmp_path / "whole", FolderOptions())
    for shard in shards():
        classify_folder(predictor, source, tmp_path / str(shard.number), FolderOptions(shard=shard))
    merge(tmp_path / "merged", [tmp_path / str(shard.number) for shard in shards()])
    assert files(tmp_path / "merged") == files(tmp_path / "whole")
    assert b",'-in/broken.png" in (tmp_path / "whole" / "failures.csv").read_bytes()


def test_the_command_line(tmp_path: Path, crops: list[np.ndarray], small_weights: Path) -> None:
    def run(*arguments: object, rc: int = 0) -> str:
        command = [sys.executable, str(REPOSITORY / "process.py"), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == rc and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    source = write_images(tmp_path / "in", crops)
    (source / "broken.png").unlink()
    for number in (1, 2):
        run("folder", source, tmp_path / str(number), "--shard", f"{number}/2", "--weights", small_weights)
    said = run("merge", tmp_path / "all", tmp_path / "1", tmp_path / "2")
    assert said.splitlines()[-1] == f"2 shards; wrote {tmp_path / 'all'}"
    assert len(json.loads((tmp_path / "all" / "predictions.json").read_text())) == 12
    assert "these are missing: 2;" in run("merge", tmp_path / "all", tmp_path / "1", rc=1).splitlines()[-1]
    assert "I from 1 to N" in run("folder", source, tmp_path / "3", "--shard", "3/2", rc=2)
