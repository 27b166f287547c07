"""What a cohort amounts to: one table in the order of its input, as Parquet and as CSV.

    OUT/predictions.parquet    a row for each crop, or detection, and for what could not be used
    OUT/predictions.csv        the same; appears last, so what has none is not finished

A table may be larger than the memory: the parts' rows are first distributed over files of neighbouring units, each of
which is then sorted by itself. So the cost is linear in the rows.
"""

import contextlib
import csv
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cohort.inputs import Inputs
from cohort.parts import PARTS, Parts, write_parquet
from cohort.rows import NO_INDEX, RESULTS
from model.errors import CaseError
from model.modes.writing import Whole, make_folder, to_cell, unwritable

PREDICTIONS_PARQUET, PREDICTIONS_CSV = "predictions.parquet", "predictions.csv"
SORTING = ".sorting"
ROWS_AT_ONCE, MOST_BUCKETS = 1_000_000, 500
"""Rows that are sorted in memory, some 300 MB, unless there are more than so many times as many."""

_ANSWER = ("class", "confidence", "view_spread")
_OF_IMAGES = ("index", *_ANSWER, "remark", "failure")
_OF_SLIDES = ("index", "id", "x", "y", *_ANSWER, "outside_slide", "remark", "left_out", "failure")
COLUMNS = {
    "images": ("file", *_OF_IMAGES),
    "slides": ("slide", "detections", *_OF_SLIDES),
}
_PLACED = pa.schema([("place", pa.int64()), ("pass", pa.int32()), *RESULTS])
_DECIMALS = {"confidence": 6, "view_spread": 4, "outside_slide": 4, "x": 2, "y": 2}


@dataclass
class Totals:
    """What is in the tables.

    Attributes:
        units: images or slides.
        crops: classified ones.
        failures: rows that say why something could not be used.
    """

    units: int
    crops: int = 0
    failures: int = 0


def write_tables(parts: Parts, inputs: Inputs) -> Totals:
    """Writes the tables of units that are all answered.

    Raises:
        CaseError: they cannot be written, or the parts lack rows.
    """
    folder, totals = parts.folder, Totals(len(inputs.units))
    try:
        clear_tables(folder)
        make_folder(folder / SORTING)
        with Whole(folder / PREDICTIONS_CSV) as file:
            table = csv.writer(file)
            table.writerow(COLUMNS[inputs.kind])

            def written() -> Iterator[pa.Table]:
                for rows in _in_order(parts, inputs, folder / SORTING):
                    totals.crops += pc.count(rows.column("class")).as_py()
                    totals.failures += pc.count(rows.column("failure")).as_py()
                    names = _names(rows.column("place").to_pylist(), inputs)
                    own = rows.select(COLUMNS[inputs.kind][len(names) :])
                    cells = [*([to_cell(name) for name in column] for column in names), *_cells(own)]
                    table.writerows(zip(*cells, strict=True))
                    yield _as_parquet(names, own, COLUMNS[inputs.kind])

            write_parquet(folder / PREDICTIONS_PARQUET, written())
        shutil.rmtree(folder / SORTING)
    except OSError as error:
        raise unwritable(folder, error) from error
    return totals


def clear_tables(folder: Path) -> None:
    """Removes the tables of an earlier run: from now on the folder holds no finished one.

    Raises:
        OSError: they cannot be removed.
    """
    for name in (PREDICTIONS_CSV, PREDICTIONS_PARQUET):
        (folder / name).unlink(missing_ok=True)
    if (folder / SORTING).exists() and not (folder / SORTING).is_symlink():
        shutil.rmtree(folder / SORTING)


def _in_order(parts: Parts, inputs: Inputs, sorting: Path) -> Iterator[pa.Table]:
    """The rows in the order of the input, some at a time, with the place of their unit there."""
    counts = np.array([parts.rows_of(unit.key) for unit in inputs.units], np.int64)
    bucket_of = np.minimum((np.cumsum(counts) - counts) // ROWS_AT_ONCE, MOST_BUCKETS - 1)
    _distribute(parts, inputs, bucket_of, sorting)
    for bucket in range(int(bucket_of[-1]) + 1):
        places = np.flatnonzero(bucket_of == bucket)
        path = sorting / f"{bucket}.parquet"
        rows = pq.read_table(path) if path.exists() else _PLACED.empty_table()
        rows = rows.sort_by([("place", "ascending"), ("index", "ascending"), ("pass", "ascending")])
        place, index = (rows.column(name).to_numpy() for name in ("place", "index"))
        last = np.ones(len(place), bool)
        last[:-1] = (np.diff(place) != 0) | (np.diff(index) != 0)
        rows = rows.filter(pa.array(last))
        found = np.bincount(place[last], minlength=len(counts))[places] if len(place) else np.zeros(len(places))
        if len(lacking := places[found != counts[places]]):
            name = _names([int(lacking[0])], inputs)[0][0]
            raise CaseError(
                f"{parts.folder / PARTS} lacks rows of {name}, so it was altered; remove it, and run again."
            )
        path.unlink(missing_ok=True)
        yield rows


def _distribute(parts: Parts, inputs: Inputs, bucket_of: np.ndarray, sorting: Path) -> None:
    """Writes the parts' rows into a file for each bucket of neighbouring units."""
    place_of = {unit.key: place for place, unit in enumerate(inputs.units)}
    with contextlib.ExitStack() as closing:
        writers: dict[int, pq.ParquetWriter] = {}
        for number, table in parts.valid():
            places = np.array([place_of.get(key, -1) for key in table.column("key").to_pylist()], np.int64)
            passes = pa.array(np.full(len(places), number, np.int32))
            placed = pa.table([pa.array(places), passes, *table.columns], schema=_PLACED)
            buckets = np.where(places < 0, -1, bucket_of[places])  # what is no longer in the input is left out
            for bucket in np.unique(buckets[buckets >= 0]).tolist():
                if bucket not in writers:
                    writers[bucket] = closing.enter_context(pq.ParquetWriter(sorting / f"{bucket}.parquet", _PLACED))
                writers[bucket].write_table(placed.filter(pa.array(buckets == bucket)))


def _names(places: Sequence[int], inputs: Inputs) -> list[list[str]]:
    """What the units in some places are called, a list for each column of names."""
    said = {place: json.loads(inputs.units[place].said) for place in set(places)}
    keys = ("name",) if inputs.kind == "images" else ("slide", "detections")
    return [[said[place][key] for place in places] for key in keys]


def _as_parquet(names: list[list[str]], rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Names and rows as one table: bytes of names that are no UTF-8 as escapes, an index that is none as null."""
    texts = [[name.encode("utf-8", "backslashreplace").decode() for name in column] for column in names]
    index = rows.column("index")
    numbers = pc.if_else(pc.equal(index, NO_INDEX), pa.scalar(None, index.type), index)
    rows = rows.set_column(rows.schema.get_field_index("index"), "index", numbers)
    return pa.table([*(pa.array(column, pa.string()) for column in texts), *rows.columns], names=list(columns))


def _cells(rows: pa.Table) -> Iterator[list[str]]:
    """The columns as texts, as folder and slide mode write them."""
    for name in rows.schema.names:
        values = rows.column(name).to_pylist()
        if name in _DECIMALS:
            yield ["" if value is None or math.isnan(value) else f"{value:.{_DECIMALS[name]}f}" for value in values]
        elif name == "index":
            yield ["" if value == NO_INDEX else str(value) for value in values]
        else:
            yield ["" if value is None else to_cell(value) for value in values]
