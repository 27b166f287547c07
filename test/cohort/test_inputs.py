"""What a cohort consists of."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cohorts import require_ray

require_ray()

import pyarrow as pa
import pyarrow.parquet as pq

from cohort.inputs import read_inputs, to_image, to_task
from model.errors import CaseError


def parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_a_unit_is_another_when_its_file_changed(tmp_path: Path) -> None:
    """By size or time; and stays itself otherwise, whatever else is there."""
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"1")
    before = {to_image(unit.said).name: unit.key for unit in read_inputs(tmp_path).units}
    (tmp_path / "a.png").write_bytes(b"22")
    os.utime(tmp_path / "a.png", ns=(0, 5))
    (tmp_path / "aa.png").write_bytes(b"1")
    after = {to_image(unit.said).name: unit.key for unit in read_inputs(tmp_path).units}
    assert before["a.png"] != after["a.png"] and before["b.png"] == after["b.png"]
    assert list(after) == ["a.png", "aa.png", "b.png"] and {len(key) for key in after.values()} == {16}


def not_utf8(path: Path) -> None:
    """A column that is said to be text."""
    parquet(path, file=["a\u00e9.png"])
    path.write_bytes(path.read_bytes().replace("\u00e9".encode(), b"\xff\xff"))


def test_other_columns_and_parts_of_a_table_of_crops_do_no_harm(tmp_path: Path) -> None:
    """Labels beside the names, numbers of rows as pandas writes them, and a folder of parts."""
    plain = read_inputs(parquet(tmp_path / "plain.parquet", file=["a.png", "b.png"]))
    more = parquet(tmp_path / "more.parquet", file=["a.png", "b.png"], label=[0, 1], __index_level_0__=[3, 4])
    assert read_inputs(more) == plain
    (tmp_path / "parts.parquet").mkdir()
    for name in ("a", "b"):
        parquet(tmp_path / "parts.parquet" / f"part-{name}.parquet", file=[f"{name}.png"])
    assert read_inputs(tmp_path / "parts.parquet") == plain


def test_a_slide_has_one_key_however_the_table_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = parquet(tmp_path / "slides.parquet", slide=["a.svs"], detections=["a.json"], mpp=[float("nan")])
    others = path, Path("slides.parquet"), Path("..") / tmp_path.name / "slides.parquet"
    (spelled,), (relative,), (roundabout,) = (read_inputs(source).units for source in others)
    assert spelled.key == relative.key == roundabout.key and to_task(relative.said, tmp_path).mpp is None


def test_a_table_and_a_parquet_name_the_same_slides(tmp_path: Path) -> None:
    """Paths are relative to the table, µm per pixel are numbers where they are there."""
    table = tmp_path / "slides.csv"
    table.write_text("slide,detections,mpp\na/1.svs,1.json,\n/data/2.svs,2.json,0.5\n")
    columns = {"slide": ["a/1.svs", "/data/2.svs"], "detections": ["1.json", "2.json"], "mpp": [None, 0.5]}
    found = [read_inputs(path) for path in (table, parquet(tmp_path / "slides.parquet", **columns))]
    assert [unit.key for unit in found[0].units] == [unit.key for unit in found[1].units]
    first, second = (to_task(unit.said, found[0].root) for unit in found[0].units)
    assert (first.slide, first.detections, first.mpp) == (tmp_path / "a/1.svs", tmp_path / "1.json", None)
    assert (second.slide, second.mpp) == (Path("/data/2.svs"), 0.5)


def test_a_hundred_thousand_slides_of_one_name_are_read(tmp_path: Path) -> None:
    """More rows than slide mode takes, each slide in a folder of its own, as some formats have them."""
    names = [f"{number}/slide.dcm" for number in range(100_000)]
    path = parquet(tmp_path / "slides.parquet", slide=names, detections=["d.json"] * len(names))
    assert len(read_inputs(path).units) == 100_000


@pytest.mark.parametrize(
    ("write", "what"),
    [
        (lambda path: path.write_bytes(b"no parquet"), "cannot be read as Parquet"),
        (lambda path: path.mkdir(), "holds no image"),
        (lambda path: parquet(path, file=[]), "has 0 rows"),
        (lambda path: parquet(path, file=["a.png", "a.png"]), "or 'a.png' twice"),
        (lambda path: parquet(path, file=["a.png", None]), "a row without a file"),
        (lambda path: parquet(path, slide=["a"]), "must have the column file, or slide and detections; it has slide"),
        (lambda path: parquet(path, slide=["a"], detections=[None]), "names no slide or no detections"),
        (lambda path: parquet(path, slide=["a"], detections=["b"], mpp=["x"]), "has 'x' where a number above 0"),
        (lambda path: parquet(path, slide=["a"], detections=["b"], stain=["x"]), "must have the columns"),
        (lambda path: parquet(path, slide=["a"], detections=["b"], file=["c"]), "must have the column file, or slide"),
        (lambda path: parquet(path, file=["a.png"], mpp=[0.25]), "give --mpp instead of mpp"),
        (lambda path: parquet(path, file=[b"a.png"]), "The column file of .* holds binary, no texts"),
        (lambda path: parquet(path, slide=["a"], detections=[7]), "The column detections of .* holds int64, no texts"),
        (not_utf8, "cannot be read as Parquet"),
        (lambda path: parquet(path, slide=["a", "a"], detections=["b", "b"]), "the same slide .* twice"),
        (os.mkfifo, "is no regular file"),
        (lambda path: None, "cannot be read as Parquet"),
    ],
)
def test_what_is_no_cohort_is_refused(tmp_path: Path, write: Callable[[Path], object], what: str) -> None:
    write(tmp_path / "in.parquet")
    with pytest.raises(CaseError, match=what):
        read_inputs(tmp_path / "in.parquet")


def test_names_that_are_no_text_survive(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(b"1")
    (unit,) = read_inputs(tmp_path).units
    assert os.fsencode(to_image(unit.said).name) == b"\xff.png"
    assert json.loads(unit.said)["bytes"] == 1
