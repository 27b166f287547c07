"""The tables that go through a cohort's steps; every row keeps the key of its unit and its index there."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

KEY_BYTES = 16
NO_INDEX = -1
"""Of the one row of a unit that has no crops."""

UNITS = pa.schema([("key", pa.binary(KEY_BYTES)), ("unit", pa.string())])
"""What is read: `cohort.inputs.Unit`."""

_PLACE = [
    ("key", pa.binary(KEY_BYTES)),
    ("rows", pa.int32()),  # of the unit, in all
    ("index", pa.int32()),  # of the crop in its image, or of the detection in its file
    ("id", pa.string()),
    ("x", pa.float64()),
    ("y", pa.float64()),
]
_SAID = [
    ("outside_slide", pa.float32()),
    ("remark", pa.string()),
    ("left_out", pa.string()),
    ("failure", pa.string()),
]
CROPS = pa.schema([*_PLACE, ("field", pa.binary()), *_SAID])
"""What was read: a row for each crop or detection; its field of view is (F, F, 3) uint8, null where there is none."""

RESULTS = pa.schema(
    [*_PLACE, ("class", pa.string()), ("confidence", pa.float64()), ("view_spread", pa.float64()), *_SAID]
)
"""What was predicted: the same rows with the answer in the place of the field of view."""


def problem_table(sentence: str) -> pa.Table:
    """In the place of results: what is wrong with the machine that was to give them.

    Of an exception that a step ends with, Ray passes on a traceback alone.
    """
    row = {"key": bytes(KEY_BYTES), "rows": 0, "index": NO_INDEX, "failure": sentence}
    return pa.Table.from_pylist([row], RESULTS)


def problem_of(results: pa.Table) -> str | None:
    """The sentence of a `problem_table` that is among results; None where there is none."""
    found = results.filter(pc.equal(results.column("rows"), 0))
    return found.column("failure")[0].as_py() if found.num_rows else None


@dataclass
class CropRows:
    """Rows of `CROPS` that are being read, of one unit after the other."""

    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in CROPS.names})

    def __len__(self) -> int:
        return len(self.columns["key"])

    def add(self, key: bytes, rows: int, index: int, **values: Any) -> None:
        """Adds a row; columns that are not given are null."""
        row = {"key": key, "rows": rows, "index": index} | values
        for name, column in self.columns.items():
            column.append(row.get(name))

    def take(self) -> pa.Table:
        """The rows so far; none are left."""
        table = pa.table(self.columns, schema=CROPS)
        self.columns = {name: [] for name in CROPS.names}
        return table


def fields_of(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """The fields of view of a table of `CROPS`.

    Returns:
        Whether each row has one, (N,) bool; and those that are there, (M, F, F, 3) uint8.
    """
    column = table.column("field")
    there = column.is_valid().to_numpy(zero_copy_only=False).astype(bool)
    contents: Sequence[bytes] = column.drop_null().to_pylist()
    if not contents:
        return there, np.zeros((0, 1, 1, 3), np.uint8)
    side = round((len(contents[0]) / 3) ** 0.5)
    return there, np.frombuffer(b"".join(contents), np.uint8).reshape(-1, side, side, 3)
