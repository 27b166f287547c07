"""The tables of a slide, and how a run goes on where it was interrupted.

    OUT/predictions.csv       a row for each figure that was classified
    OUT/failures.csv          detections whose crop could not be read
    OUT/left_out.csv          detections that were not to be classified, and why
    OUT/detections.geojson    the figures for QuPath
    OUT/summary.json          counts, shares and what they rest on
    OUT/crops/                the crops, if asked for, by the number of their detection
    OUT/run.json              settings, and how much of each table is whole

Detections are classified in the order of their file, so how far a run is, is one number. What is found in OUT is input
like any other: it is checked, and nothing outside OUT is opened because of it.
"""

import csv
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import CaseError
from model.modes.grand_challenge import is_result
from model.modes.shard import clear_note
from model.modes.writing import OwnFolder, Whole, flushed, from_cell, open_own, to_cell, unwritable
from model.slides.detections import Detection
from model.slides.output import Figure
from model.slides.sifting import LeftOut

PREDICTIONS, FAILURES, LEFT_OUT = "predictions.csv", "failures.csv", "left_out.csv"
GEOJSON, SUMMARY, CROPS, RUN = "detections.geojson", "summary.json", "crops", "run.json"
_PLACE = ("detection", "id", "x", "y")
COLUMNS = {
    PREDICTIONS: (*_PLACE, "class", "confidence", "view_spread", "outside_slide", "remark", "in_region", "posterior"),
    FAILURES: (*_PLACE, "reason"),
}
_LARGEST_RUN_JSON = 1 << 20

Numbered = tuple[int, Detection]
"""A detection with its number in its file, counted from 0."""


OF_INPUT = ("slide", "detections", "mpp")
"""Settings of a run that tell what it is of."""


class ChangedInputError(CaseError):
    """The run that is there is of another slide or other detections, and otherwise the same."""


@dataclass
class SlideProgress:
    """The content of run.json: settings, detections done, and bytes of each table that belong to them."""

    settings: dict[str, Any]
    done: int
    sizes: dict[str, int]


class SlideTables(OwnFolder):
    """The tables of a slide."""

    def start(self, settings: dict[str, Any], resume: bool) -> int:
        """Begins, or goes on.

        Args:
            settings: of this run.
            resume: go on with an earlier run of the same settings, if there is one.

        Returns:
            How many detections are done.

        Raises:
            CaseError: the tables cannot be written, or the earlier run has other settings or was altered.
        """
        try:
            go_on = resume and (self.folder / RUN).exists()
            progress = self._progress_of(settings) if go_on else SlideProgress(settings, 0, dict.fromkeys(COLUMNS, 0))
            clear_note(self.folder)
            forget_result(self.folder)
            self._progress = progress
            if go_on:
                for name, size in self._progress.sizes.items():
                    with open_own(self.folder / name, "a") as file:
                        if os.fstat(file.fileno()).st_size < size:
                            raise self.contradiction(f"{name} is shorter than {RUN} says")
                        os.ftruncate(file.fileno(), size)  # what was written after run.json was
                return self._progress.done
            (self.folder / RUN).unlink(missing_ok=True)
            for name, columns in COLUMNS.items():
                with open_own(self.folder / name, "w") as file:
                    csv.writer(file).writerow(columns)
                    self._progress.sizes[name] = flushed(file)
            self._note()
            return 0
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def append(self, figures: Sequence[Figure], failures: Sequence[tuple[Numbered, str]]) -> None:
        """Writes what became of the next detections; it is on the disk before run.json says so.

        Raises:
            CaseError: the tables cannot be written.
        """
        rows = {
            PREDICTIONS: [_row(figure) for figure in figures],
            FAILURES: [(*_place(*item), to_cell(reason)) for item, reason in failures],
        }
        try:
            self._progress.sizes |= self.append_rows(rows)
            self._progress.done += len(figures) + len(failures)
            self._note()
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def write_left_out(self, left_out: Sequence[LeftOut]) -> None:
        """Writes the table of detections that are not classified.

        Raises:
            CaseError: it cannot be written.
        """
        try:
            with Whole(self.folder / LEFT_OUT) as file:
                table = csv.writer(file)
                table.writerow((*_PLACE, "reason", "detail"))
                for out in left_out:
                    table.writerow((*_place(out.number, out.detection), out.reason, to_cell(out.detail)))
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def failed(self) -> int:
        """How many crops could not be read."""
        return sum(1 for _ in self._rows(FAILURES))

    def figures(self, used: Sequence[Numbered] | None) -> Iterator[Figure]:
        """The figures that were classified, from the table.

        Args:
            used: the detections that were to be classified; None to take number, id and place from the table, too.

        Raises:
            CaseError: the table is not as this program writes it.
        """
        detections = None if used is None else dict(used)
        for row in self._rows(PREDICTIONS):
            try:
                number, _, _, _, label, *numbers, remark, in_region, posterior = row
                confidence, spread, padded = (float(text) for text in numbers)
                later = float(posterior) if posterior else None
                detection = _placed(row) if detections is None else detections.pop(int(number))
                in_range = all(0 <= value <= 1 for value in (padded, later or 0))
                if not in_range or not is_result(label, confidence, spread) or not _is_at(row, detection):
                    raise ValueError("no result")
            except (ValueError, KeyError) as error:
                raise self.contradiction(f"{PREDICTIONS} was altered") from error
            yield Figure(
                int(number), detection, label, confidence, spread, padded, remark, later, in_region=in_region == "yes"
            )

    def failures(self) -> Iterator[tuple[Numbered, str]]:
        """The detections whose crop could not be read, and why, from the table.

        Raises:
            CaseError: the table is not as this program writes it.
        """
        for row in self._rows(FAILURES):
            try:
                number, _, _, _, reason = row
                yield (int(number), _placed(row)), from_cell(reason)
            except ValueError as error:
                raise self.contradiction(f"{FAILURES} was altered") from error

    def _rows(self, name: str) -> Iterator[list[str]]:
        try:
            with open_own(self.folder / name, "r") as file:
                rows = csv.reader(file)
                if tuple(next(rows, ())) != COLUMNS[name]:
                    raise self.contradiction(f"{name} has other columns")
                yield from rows
        except (OSError, csv.Error) as error:
            raise self.contradiction(f"{name} cannot be read ({error})") from error

    def _note(self) -> None:
        with Whole(self.folder / RUN) as file:
            json.dump(vars(self._progress), file, indent=2)

    def noted(self) -> SlideProgress:
        """How far the run here is.

        Raises:
            CaseError: run.json is missing, or not as this program writes it.
        """
        try:
            with open_own(self.folder / RUN, "r") as file:
                text = file.read(_LARGEST_RUN_JSON + 1)
            progress = SlideProgress(**json.loads(text)) if len(text) <= _LARGEST_RUN_JSON else None
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise self.contradiction(f"{RUN} cannot be understood") from error
        if progress is None or not isinstance(progress.sizes, dict) or set(progress.sizes) != set(COLUMNS):
            raise self.contradiction(f"{RUN} cannot be understood")
        if not all(type(number) is int and number >= 0 for number in (progress.done, *progress.sizes.values())):
            raise self.contradiction(f"{RUN} cannot be understood")
        return progress

    def _progress_of(self, settings: dict[str, Any]) -> SlideProgress:
        progress = self.noted()
        noted = progress.settings if isinstance(progress.settings, dict) else {}
        if noted != settings:
            of_input = {name: settings[name] for name in OF_INPUT}
            kind = ChangedInputError if noted | of_input == settings else CaseError
            raise kind(
                f"{self.folder} holds a run with another slide, other detections, weights or options; run again "
                "without --resume."
            )
        return progress

    def contradiction(self, what: str) -> CaseError:
        """The error that what is found here cannot be gone on with."""
        return CaseError(f"{self.folder} holds a run that cannot go on: {what}; run again without --resume.")


def forget_result(folder: Path) -> None:
    """Removes what an earlier run has found: the slide's numbers, and the points for QuPath.

    Raises:
        OSError: they cannot be removed.
    """
    for name in (GEOJSON, SUMMARY):
        (folder / name).unlink(missing_ok=True)


def _place(number: int, detection: Detection) -> tuple[object, ...]:
    return number, to_cell(detection.id), f"{detection.x:.2f}", f"{detection.y:.2f}"


def _placed(row: Sequence[str]) -> Detection:
    """The detection of a row, as far as the row tells."""
    return Detection(float(row[2]), float(row[3]), from_cell(row[1]))


def _is_at(row: Sequence[str], detection: Detection) -> bool:
    """Whether a row is of a place that there is, and of this detection's."""
    return (
        math.isfinite(detection.x)
        and math.isfinite(detection.y)
        and row[:4] == [str(cell) for cell in _place(int(row[0]), detection)]
    )


def _row(figure: Figure) -> tuple[object, ...]:
    posterior = "" if figure.posterior is None else f"{figure.posterior:.6f}"
    in_region = "yes" if figure.in_region else "no"
    values = (f"{figure.confidence:.6f}", f"{figure.spread:.4f}", f"{figure.padded:.4f}")
    return *_place(figure.number, figure.detection), figure.label, *values, figure.remark, in_region, posterior
