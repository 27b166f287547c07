"""The tables of a run over a folder, and how a run goes on where it was interrupted.

    OUT/predictions.csv     file,index,class,confidence,view_spread, posterior (for a prevalence); a row for each crop
    OUT/predictions.json    the same as a list of objects, written at the end
    OUT/failures.csv        file,reason; the images that could not be used
    OUT/files.csv           file,bytes,modified_ns,crops; every image done, so that a changed one is noticed
    OUT/run.json            weights, settings, and how much of each table is whole
    OUT/.previous.jsonl     while a run goes on with an earlier one: what that one found

All tables list images in the order of `model.modes.listing`. To go on is a new pass over the images that takes over
what is known of the unchanged ones; so images may be added, changed, mended and removed in between. What is found in
OUT is input like any other: it is checked, and nothing outside OUT is opened because of it.
"""

import csv
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, Any

from model.errors import CaseError
from model.modes.grand_challenge import DECIMALS, is_result
from model.modes.listing import Listed, order
from model.modes.shard import clear_note
from model.modes.writing import OwnFolder, Whole, flushed, from_cell, open_own, read_table, to_cell, unwritable
from model.network.calibration import posterior

logger = logging.getLogger(__name__)

PREDICTIONS, PREDICTIONS_JSON, FAILURES = "predictions.csv", "predictions.json", "failures.csv"
FILES, RUN, PREVIOUS = "files.csv", "run.json", ".previous.jsonl"
COLUMNS = {
    PREDICTIONS: ("file", "index", "class", "confidence", "view_spread"),
    FAILURES: ("file", "reason"),
    FILES: ("file", "bytes", "modified_ns", "crops"),
}
LARGEST_RUN_JSON = 1 << 20
"""Bytes of a run.json that are read; ours has a few hundred."""


@dataclass(frozen=True)
class Record:
    """What is known of one image.

    Attributes:
        image: as it was listed.
        results: (class, confidence and view spread as written) of each of its crops; empty if it could not be used.
        reason: why it could not be used; empty if it could.
    """

    image: Listed
    results: Sequence[tuple[str, str, str]] = ()
    reason: str = ""


@dataclass
class Progress:
    """How far a run is; the content of run.json.

    Attributes:
        settings: what must be the same for a run to go on: weights, views, µm per pixel, prevalence.
        files: images done, failed ones among them.
        crops: crops predicted.
        failed: images that could not be used.
        sizes: bytes of each table that belong to these images.
    """

    settings: dict[str, Any]
    files: int = 0
    crops: int = 0
    failed: int = 0
    sizes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COLUMNS, 0))


class RunTables(OwnFolder):
    """The tables of a folder's images."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.progress = Progress({})

    def start(self, settings: dict[str, Any], resume: bool) -> "Known":
        """Begins a pass over the images with empty tables.

        Args:
            settings: of this run.
            resume: keep what an earlier run with the same settings found.

        Returns:
            What is known already.

        Raises:
            CaseError: the tables cannot be written; or an earlier run to go on with has other settings, or left tables
                that do not agree with each other.
        """
        try:
            previous = self.folder / PREVIOUS
            if resume:
                self._keep(settings)
            else:
                previous.unlink(missing_ok=True)
            clear_note(self.folder)
            (self.folder / PREDICTIONS_JSON).unlink(missing_ok=True)
            self.progress = Progress(settings)
            self._note()  # before the tables are emptied, so that it never claims more than there is
            for name in COLUMNS:
                with open_own(self.folder / name, "w") as file:
                    csv.writer(file).writerow(_columns(name, settings))
                    self.progress.sizes[name] = flushed(file)
            self._note()
            return Known(_read_previous(previous, settings) if resume else iter(()))
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def append(self, records: Sequence[Record]) -> None:
        """Writes the rows of some images; they are on the disk before run.json says so.

        Raises:
            CaseError: the tables cannot be written.
        """
        rows: dict[str, list[tuple[object, ...]]] = {name: [] for name in COLUMNS}
        prevalence = self.progress.settings.get("prevalence")
        for record in records:
            image, name = record.image, to_cell(record.image.name)
            rows[FILES].append((name, image.bytes, image.modified, "" if record.reason else len(record.results)))
            if record.reason:
                rows[FAILURES].append((name, to_cell(record.reason)))
            for index, (label, confidence, spread) in enumerate(record.results):
                later = () if prevalence is None else (round(posterior(float(confidence), prevalence), DECIMALS),)
                rows[PREDICTIONS].append((name, index, label, confidence, spread, *later))
        try:
            self.progress.sizes |= self.append_rows(rows)
            self.progress.files += len(records)
            self.progress.crops += len(rows[PREDICTIONS])
            self.progress.failed += len(rows[FAILURES])
            self._note()
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def finish(self) -> None:
        """Writes predictions.json and forgets the earlier run.

        Raises:
            CaseError: it cannot be written.
        """
        try:
            with Whole(self.folder / PREDICTIONS_JSON) as file:
                separator = "[\n"
                for row in read_table(self.folder / PREDICTIONS):
                    entry = {"file": row["file"], "index": int(row["index"]), "class": row["class"]}
                    entry |= {key: float(row[key]) for key in ("confidence", "view_spread", "posterior") if key in row}
                    file.write(f"{separator}  {json.dumps(entry)}")
                    separator = ",\n"
                file.write("\n]\n" if separator != "[\n" else "[]\n")
            (self.folder / PREVIOUS).unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def _note(self) -> None:
        with Whole(self.folder / RUN) as file:
            json.dump(asdict(self.progress), file, indent=2)

    def _keep(self, settings: dict[str, Any]) -> None:
        """Writes what the tables here know, and after their last image what the run before them knew, into one file."""
        if not (self.folder / RUN).exists():
            (self.folder / PREVIOUS).unlink(missing_ok=True)  # whose it is cannot be told
            return
        progress = read_progress(self.folder / RUN)
        if progress.settings != settings:
            raise CaseError(
                f"{self.folder} holds a run with other weights, views or µm per pixel, another shard or another "
                "prevalence; run again without --resume."
            )
        last: tuple[str, ...] = ()

        def done() -> Iterator[Record]:
            nonlocal last
            for record in read_records(self.folder, progress):
                last = order(record.image.name)
                yield record

        earlier = _read_previous(self.folder / PREVIOUS, settings)
        with Whole(self.folder / PREVIOUS) as file:
            print(json.dumps(settings), file=file)
            for record in chain(done(), (record for record in earlier if order(record.image.name) > last)):
                if not record.reason:  # what failed is tried again
                    image = record.image
                    print(json.dumps([image.name, image.bytes, image.modified, record.results]), file=file)


class Known:
    """What an earlier run found, asked for in order.

    Args:
        records: in the order of their images.
    """

    def __init__(self, records: Iterator[Record]) -> None:
        self._records = records
        self._next = next(records, None)

    def take(self, image: Listed) -> Record | None:
        """The record of an image if it is unchanged since; images must be asked for in order."""
        while self._next is not None and order(self._next.image.name) < order(image.name):
            self._next = next(self._records, None)
        return self._next if self._next is not None and self._next.image == image else None


def _columns(table: str, settings: dict[str, Any]) -> tuple[str, ...]:
    extra = ("posterior",) if table == PREDICTIONS and settings.get("prevalence") is not None else ()
    return COLUMNS[table] + extra


def _contradiction(folder: Path, what: str) -> CaseError:
    return CaseError(f"{folder} holds a run that cannot go on: {what}; run again without --resume.")


def read_progress(path: Path) -> Progress:
    """Reads and checks run.json.

    Raises:
        CaseError: it is not as this program writes it.
    """
    try:
        with open_own(path, "r") as file:
            text = file.read(LARGEST_RUN_JSON + 1)
        content = json.loads(text) if len(text) <= LARGEST_RUN_JSON else None
        progress = Progress(**content) if isinstance(content, dict) else None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CaseError(f"{path} cannot be understood; run again without --resume.") from error
    numbers = () if progress is None else (progress.files, progress.crops, progress.failed)
    if (
        progress is None
        or not isinstance(progress.settings, dict)
        or not isinstance(progress.sizes, dict)
        or set(progress.sizes) != set(COLUMNS)
        or not all(type(number) is int and number >= 0 for number in (*numbers, *progress.sizes.values()))
    ):
        raise CaseError(f"{path} cannot be understood; run again without --resume.")
    return progress


def read_records(folder: Path, progress: Progress) -> Iterator[Record]:
    """What the tables say of every image that run.json counts.

    Raises:
        CaseError: they are shorter than run.json says, or do not agree with each other.
    """
    predictions, failures, files = (_rows(folder, name, progress) for name in COLUMNS)
    last: tuple[str, ...] = ()
    count = 0
    try:
        for cell, size, modified, crops in files:
            image = Listed(from_cell(cell), int(size), int(modified))
            if order(image.name) <= last:
                raise _contradiction(folder, f"{FILES} is not sorted")
            last, count = order(image.name), count + 1
            if crops == "":
                failed, reason = next(failures)
                if failed != cell:
                    raise _contradiction(folder, f"{FAILURES} does not tell of {image.name}")
                yield Record(image, reason=from_cell(reason) or "unknown")
                continue
            results = []
            for index in range(int(crops)):
                file, number, name, confidence, spread, *_ = next(predictions)
                if (file, number) != (cell, str(index)):
                    raise _contradiction(folder, f"{PREDICTIONS} does not tell of {image.name}")
                results.append((name, confidence, spread))
            yield _checked(image, results)
    except (ValueError, StopIteration, csv.Error) as error:
        raise _contradiction(folder, "its tables do not agree with each other") from error
    if count != progress.files or next(predictions, None) or next(failures, None):
        raise _contradiction(folder, f"its tables do not have the rows that {RUN} counts")


def _checked(image: Listed, results: Iterable[tuple[str, str, str]]) -> Record:
    """A record of an image whose crops were predicted.

    Raises:
        ValueError: the results are none.
    """
    checked = [(str(name), str(confidence), str(spread)) for name, confidence, spread in results]
    if not checked or not all(is_result(name, *map(float, numbers)) for name, *numbers in checked):
        raise ValueError("no result")
    return Record(image, checked)


def _rows(folder: Path, name: str, progress: Progress) -> Iterator[list[str]]:
    """The rows of a table, without its header, from the bytes of it that run.json counts.

    Raises:
        CaseError: it is missing or shorter, or has other columns.
    """
    size = progress.sizes[name]
    if not size:
        return
    try:
        with open_own(folder / name, "r") as file:
            if os.fstat(file.fileno()).st_size < size:
                raise _contradiction(folder, f"{name} is shorter than {RUN} says")
            rows = csv.reader(_lines(file, size))
            if tuple(next(rows, [])) != _columns(name, progress.settings):
                raise _contradiction(folder, f"{name} has other columns")
            yield from rows
    except OSError as error:
        raise _contradiction(folder, f"{name} cannot be read ({error.strerror})") from error


def _lines(file: IO[str], size: int) -> Iterator[str]:
    left = size
    for line in file:
        left -= len(line.encode("utf-8", "surrogateescape"))
        if left < 0:
            return  # written after run.json was
        yield line


def _read_previous(path: Path, settings: dict[str, Any]) -> Iterator[Record]:
    """What `.previous.jsonl` holds; nothing where it is missing or of other settings.

    Raises:
        CaseError: a line is not as this program writes it.
    """
    if not path.exists():
        return
    with open_own(path, "r") as file:
        try:
            if json.loads(next(file, "null")) != settings:
                return
            for line in file:
                name, size, modified, results = json.loads(line)
                yield _checked(Listed(str(name), int(size), int(modified)), results)
        except (ValueError, TypeError, RecursionError) as error:
            raise _contradiction(path.parent, f"{path.name} cannot be understood") from error
