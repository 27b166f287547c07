"""What of a cohort is done: part files of results, and the note whose they are.

    OUT/run.json                     weights, views and settings; a run with others does not go on here
    OUT/parts/PASS-NUMBER.parquet    rows of `cohort.rows.RESULTS`, in the order in which they were finished

A part appears whole, and is on the disk before the next is begun. A unit is done when the last pass that it was part of
has all its rows and no failure among them; anything else of it counts for nothing, and it is done again. So a run that
was killed at any moment goes on with the same command. What is found in OUT is input like any other: it is checked, and
nothing outside OUT is opened because of it.

Ray has checkpoints of its own. They are kept for each row that a run has written, whoever wrote it with whatever
weights; here a unit, a file with all its crops, is done or not, a changed one is another, and both hold without Ray.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cohort.rows import RESULTS
from model.constants import CLASSES, THRESHOLD
from model.errors import CaseError, first_line
from model.modes.writing import OwnFolder, Whole, make_folder, read_own, unwritable

RUN, PARTS = "run.json", "parts"
ROWS_A_PART = 100_000
SECONDS_A_PART, SHARE_A_PART = 1.0, 0.01
"""A part is written when it has so many rows; or when it is older than so many seconds and such a share of the run:
what a kill may cost. So even a run of weeks has some thousands of them."""
_NAME = re.compile(r"(\d{6})-(\d{6})\.parquet", re.ASCII)
_LARGEST_RUN_JSON = 1 << 16


@dataclass
class _State:
    """Of a unit: the last pass it was part of, rows found of it there, rows it has, and whether one is a failure."""

    number: int
    found: int
    rows: int
    failed: bool

    def done(self) -> bool:
        return self.found >= self.rows and not self.failed


class Parts(OwnFolder):
    """The part files of a cohort, for one process at a time; a context manager."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._states: dict[bytes, _State] = {}
        self._pass = self._serial = 0
        self._waiting: list[pa.Table] = []
        self._begun = self._since = time.monotonic()

    def start(self, settings: dict[str, Any]) -> None:
        """Begins, or goes on with what an earlier run with the same settings left.

        Raises:
            CaseError: OUT cannot be written, holds a run with other settings, or what it holds was altered.
        """
        try:
            noted = self._noted()
            if noted is not None and noted != settings:
                names = ", ".join(sorted(name for name in {*noted, *settings} if noted.get(name) != settings.get(name)))
                raise CaseError(f"{self.folder} holds a run with another {names}; give another folder.")
            make_folder(self.folder / PARTS)
            names_of_parts = self._names()
            if noted is None:
                if names_of_parts or any(self.folder.glob("predictions.*")):
                    raise CaseError(f"{self.folder} holds results, but no {RUN}; give another folder.")
                with Whole(self.folder / RUN) as file:
                    json.dump(settings, file, indent=2)
                    file.write("\n")
        except OSError as error:
            raise unwritable(self.folder, error) from error
        for name in names_of_parts:
            number = int(name[:6])
            self._count(number, self.read(name, ["key", "rows", "failure"]))
            self._pass = max(self._pass, number)

    def begin_pass(self) -> None:
        """What is added from now on replaces what earlier passes found of the same units."""
        self.flush()
        self._pass, self._serial = self._pass + 1, 0

    def done(self, key: bytes) -> bool:
        """Whether a unit is done."""
        state = self._states.get(key)
        return state is not None and state.done()

    def answered(self, key: bytes) -> bool:
        """Whether a unit is done or failed in this pass."""
        state = self._states.get(key)
        return state is not None and (state.done() or (state.number == self._pass and state.found >= state.rows))

    def rows_of(self, key: bytes) -> int:
        """How many rows a unit has; at least one, also where nothing is known of it."""
        state = self._states.get(key)
        return 1 if state is None else state.rows

    def add(self, results: pa.Table) -> None:
        """Adds rows; they are on the disk when the part is full or old enough, or after `flush`.

        Raises:
            CaseError: OUT cannot be written.
        """
        if results.num_rows:
            self._waiting.append(results)
        rows, now = sum(table.num_rows for table in self._waiting), time.monotonic()
        if rows >= ROWS_A_PART or now - self._since >= max(SECONDS_A_PART, SHARE_A_PART * (now - self._begun)):
            self.flush()

    def flush(self) -> None:
        """Writes what waits.

        Raises:
            CaseError: OUT cannot be written.
        """
        self._since = time.monotonic()
        if not self._waiting:
            return
        table = pa.concat_tables(self._waiting).combine_chunks()
        write_parquet(self.folder / PARTS / f"{self._pass:06}-{self._serial:06}.parquet", [table])
        self._count(self._pass, table)
        self._waiting, self._serial = [], self._serial + 1

    def valid(self) -> Iterator[tuple[int, pa.Table]]:
        """All rows of the parts with the number of their pass, without those that a later pass replaced."""
        for name in self._names():
            number, table = int(name[:6]), self.read(name)
            keys = table.column("key").to_pylist()
            yield number, table.filter(pa.array([self._pass_of(key) == number for key in keys], pa.bool_()))

    def _pass_of(self, key: bytes) -> int:
        """The last pass that a unit was part of; -1 for none."""
        state = self._states.get(key)
        return -1 if state is None else state.number

    def read(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """A part, checked.

        Raises:
            CaseError: it is not as this program writes it.
        """
        path = self.folder / PARTS / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file, pq.ParquetFile(file) as part:
                if not part.schema_arrow.equals(RESULTS):
                    raise CaseError(f"{path} has other columns; remove it, and run again.")
                table = part.read(columns)
        except (pa.ArrowException, OSError) as error:
            raise CaseError(f"{path} cannot be read ({first_line(error)}); remove it, and run again.") from error
        if columns is None and not _plausible(table):
            raise CaseError(f"{path} was altered: it holds what is no result; remove it, and run again.")
        return table

    def _names(self) -> list[str]:
        """Names of the parts, in the order in which they were written."""
        return sorted(path.name for path in (self.folder / PARTS).iterdir() if _NAME.fullmatch(path.name))

    def _noted(self) -> dict[str, Any] | None:
        path = self.folder / RUN
        try:
            noted = json.loads(read_own(path, _LARGEST_RUN_JSON))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise CaseError(f"{path} cannot be understood; give another folder.") from error
        if not isinstance(noted, dict):
            raise CaseError(f"{path} cannot be understood; give another folder.")
        return noted

    def _count(self, number: int, table: pa.Table) -> None:
        failed = pc.is_valid(table.column("failure"))
        grouped = (
            pa.table({"key": table.column("key"), "rows": table.column("rows"), "failed": failed})
            .group_by("key")
            .aggregate([("rows", "count"), ("rows", "max"), ("failed", "any")])
        )
        for key, found, rows, any_failed in zip(
            *(grouped.column(name).to_pylist() for name in ("key", "rows_count", "rows_max", "failed_any")), strict=True
        ):
            state = self._states.get(key)
            if state is None or state.number < number:
                self._states[key] = _State(number, found, rows or 1, any_failed)
            else:
                state.found, state.failed = state.found + found, state.failed or any_failed


def _plausible(results: pa.Table) -> bool:
    """Whether rows are such as a predictor gives."""
    confidence, label, spread = (results.column(name) for name in ("confidence", "class", "view_spread"))
    inside = pc.and_(pc.greater_equal(confidence, 0.0), pc.less_equal(confidence, 1.0))
    near = pc.and_(pc.greater_equal(spread, 0.0), pc.less_equal(spread, 0.5))
    called = pc.if_else(pc.greater_equal(confidence, THRESHOLD), *reversed(CLASSES))
    said = pc.or_(pc.is_valid(results.column("failure")), pc.is_valid(results.column("left_out")))
    checks = [
        pc.or_kleene(inside, pc.is_null(confidence)),
        pc.or_kleene(pc.equal(label, called), pc.is_null(label)),
        pc.equal(pc.is_valid(confidence), pc.is_valid(label)),
        pc.or_kleene(near, pc.is_null(spread)),
        pc.equal(pc.is_valid(spread), pc.is_valid(label)),
        pc.equal(pc.is_null(label), said),
        pc.greater(results.column("rows"), 0),
        pc.greater_equal(results.column("index"), -1),
    ]
    return results.column("key").null_count == 0 and all(pc.all(check, min_count=0).as_py() for check in checks)


def write_parquet(path: Path, tables: "Iterator[pa.Table] | list[pa.Table]") -> None:
    """Writes tables of one schema, at least one, as a file that appears when it is whole and on the disk.

    Raises:
        CaseError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(partial, flags, 0o666), "wb") as file:
            writer: pq.ParquetWriter | None = None
            for table in tables:
                writer = writer or pq.ParquetWriter(file, table.schema)
                writer.write_table(table)
            assert writer is not None, "a table at least"
            writer.close()
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise unwritable(path.parent, error) from error
