"""What of a cohort is done, and how its rows become tables."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
from cohorts import require_ray, rows_of

require_ray()

import pyarrow as pa
import pyarrow.parquet as pq

from cohort import tables as tables_module
from cohort.inputs import Inputs, Unit
from cohort.parts import Parts
from cohort.rows import RESULTS
from cohort.tables import write_tables
from model.errors import CaseError
from model.modes.listing import Listed

SETTINGS = {"weights": "a"}
COUNT = 12


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def inputs() -> Inputs:
    """Images of one to three crops."""
    units = [Unit(json.dumps(asdict(Listed(f"{number}.png"))), key(number)) for number in range(COUNT)]
    return Inputs("images", Path("/"), units)


def crops_of(number: int) -> int:
    return number % 3 + 1


def rows(number: int, indices: Sequence[int] | None = None, failure: str | None = None, confidence: float = 0.75):
    """Rows of a unit, all or some of them; or the one that says why it failed."""
    count = crops_of(number) if failure is None else 1
    indices = range(count) if indices is None else indices
    row = {"key": key(number), "rows": count, "failure": failure}
    if failure is None:
        row |= {"class": "atypical", "confidence": confidence, "view_spread": 0.125}
    said = [row | {"index": -1 if failure else index} for index in indices]
    return pa.Table.from_pylist(said, RESULTS)


def add_all(folder: Path) -> None:
    with Parts(folder) as parts:
        parts.start(SETTINGS)
        parts.begin_pass()
        for number in reversed(range(COUNT)):
            parts.add(rows(number))
            parts.flush()


def written(folder: Path) -> list[tuple[str, str, str]]:
    with Parts(folder) as parts:
        parts.start(SETTINGS)
        write_tables(parts, inputs())
    return [(row["file"], row["index"], row["confidence"]) for row in rows_of(folder / "predictions.csv")]


EXPECTED = [(f"{number}.png", str(index), "0.750000") for number in range(COUNT) for index in range(crops_of(number))]


@pytest.mark.parametrize("at_once", [1, 5, 1000])
def test_rows_come_out_in_the_order_of_the_input(tmp_path: Path, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are sorted at once, and whatever order they were finished in."""
    monkeypatch.setattr(tables_module, "ROWS_AT_ONCE", at_once)
    add_all(tmp_path)
    assert written(tmp_path) == EXPECTED
    table = pq.read_table(tmp_path / "predictions.parquet")
    assert list(zip(table["file"].to_pylist(), table["index"].to_pylist(), strict=True)) == [
        (name, int(index)) for name, index, _ in EXPECTED
    ]
    assert not (tmp_path / ".sorting").exists()


def test_only_whole_units_without_failures_are_done(tmp_path: Path) -> None:
    with Parts(tmp_path) as parts:
        parts.start(SETTINGS)
        parts.begin_pass()
        parts.add(rows(0))
        parts.add(rows(2, [0, 2]))
        parts.add(rows(3, failure="damaged"))
        parts.flush()
        assert [parts.done(key(number)) for number in range(5)] == [True, False, False, False, False]
        assert [parts.answered(key(number)) for number in range(5)] == [True, False, False, True, False]
    with Parts(tmp_path) as parts:
        parts.start(SETTINGS)
        parts.begin_pass()
        assert [parts.done(key(number)) for number in range(5)] == [True, False, False, False, False]
        parts.add(rows(2, [1]))
        parts.flush()
        assert not parts.done(key(2)), "what a killed pass left of a unit counts for nothing"


def test_the_last_pass_of_a_unit_counts(tmp_path: Path) -> None:
    """A unit that was half done, or failed, and was done again; and rows that came twice."""
    add_all(tmp_path)
    with Parts(tmp_path) as parts:
        parts.start(SETTINGS)
        parts.begin_pass()
        parts.add(rows(2, confidence=0.5))
        parts.add(rows(5, failure="damaged"))
        parts.add(rows(8, [0, 1, 1, 2]))
        parts.flush()
    expected = dict.fromkeys((row[:2] for row in EXPECTED), "0.750000")
    expected |= {("2.png", str(index)): "0.500000" for index in range(3)}
    expected |= {("5.png", ""): ""}
    found = written(tmp_path)
    assert dict((row[:2], row[2]) for row in found) == {
        name: value for name, value in expected.items() if name[0] != "5.png" or name[1] == ""
    }
    assert len(found) == len(EXPECTED) - 2


def test_what_is_no_longer_in_the_input_is_left_out(tmp_path: Path) -> None:
    add_all(tmp_path)
    with Parts(tmp_path) as parts:
        parts.start(SETTINGS)
        whole = inputs()
        write_tables(parts, Inputs(whole.kind, whole.root, whole.units[::2]))
    assert [row["file"] for row in rows_of(tmp_path / "predictions.csv")] == [
        name for name, _, _ in EXPECTED if int(name.removesuffix(".png")) % 2 == 0
    ]


def first_part(folder: Path) -> Path:
    return min((folder / "parts").iterdir())


def change(path: Path, **columns: object) -> None:
    """Sets columns of a part."""
    table = pq.read_table(path)
    for name, value in columns.items():
        number = table.schema.get_field_index(name)
        table = table.set_column(number, RESULTS.field(name), pa.array([value] * len(table), RESULTS.field(name).type))
    pq.write_table(table, path)


def link(path: Path) -> None:
    shutil.move(path, path.parent.parent.parent / "elsewhere.parquet")
    path.symlink_to(path.parent.parent.parent / "elsewhere.parquet")


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "alter",
    [
        shorten,
        link,
        pipe,
        lambda path: path.write_bytes(b"PAR1"),
        lambda path: pq.write_table(pa.table({"key": [b"a"]}), path),
        lambda path: change(path, confidence=1.5),
        lambda path: change(path, confidence=float("nan")),
        lambda path: change(path, confidence=None),
        lambda path: change(path, confidence=0.9, **{"class": "normal"}),
        lambda path: change(path, view_spread=0.6),
        lambda path: change(path, view_spread=None),
        lambda path: change(path, **{"class": "Atypical"}),
        lambda path: change(path, index=-2),
        lambda path: change(path, index=7, rows=1) or change(path, rows=3),
        lambda path: change(path, rows=0),
        lambda path: change(path, key=None),
    ],
)
def test_an_altered_part_is_refused(tmp_path: Path, alter: Callable[[Path], object]) -> None:
    """In one sentence that names it, and no table is written."""
    folder = tmp_path / "out"
    add_all(folder)
    alter(first_part(folder))
    with pytest.raises(CaseError, match=r"parts.*; remove it, and run again|parts.* it was altered; remove it"):
        written(folder)
    assert not any(folder.glob("predictions.*"))


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, json.dumps({"weights": "x" * (1 << 17)})])
def test_a_note_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    add_all(tmp_path)
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(CaseError, match=r"run\.json cannot be understood; give another folder"):
        written(tmp_path)


def test_a_run_of_others_is_refused(tmp_path: Path) -> None:
    add_all(tmp_path)
    with Parts(tmp_path) as parts:
        with pytest.raises(CaseError, match="holds a run with another weights; give another folder"):
            parts.start({"weights": "b"})
        with pytest.raises(CaseError, match="Another process writes"), Parts(tmp_path):
            pass
    (tmp_path / "run.json").unlink()
    with Parts(tmp_path) as parts, pytest.raises(CaseError, match=r"holds results, but no run\.json"):
        parts.start(SETTINGS)


def test_killed_while_a_part_or_a_table_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not whole has another name, and is no part."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    add_all(tmp_path)
    for method in ("pyarrow.parquet.ParquetWriter.close", "os.fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(method, killed)
            with pytest.raises(KeyboardInterrupt):
                written(tmp_path)
        assert not any(tmp_path.glob("predictions.*"))
    assert written(tmp_path) == EXPECTED
