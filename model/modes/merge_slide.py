"""Shards of a slide: its detections, in their order; what counts them is counted again."""

import heapq
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from model.checks import check_number, check_whole
from model.modes.shard import Shard, Shards, altered, different_settings
from model.modes.slide_summary import Tally
from model.modes.slide_tables import CROPS, GEOJSON, LEFT_OUT, PREDICTIONS, SUMMARY, Numbered, SlideTables
from model.modes.writing import Whole, make_folder, open_own, read_own, unwritable, write_bytes
from model.slides.output import Figure, write_features
from model.slides.statistics import Accuracy, describe

LARGEST_FILE = 1 << 29
"""Bytes of a shard's file that are read at once: a table of a million detections has 100 MB."""
LARGEST_SUMMARY, LARGEST_CROP = 1 << 20, 1 << 28
LONGEST_FEATURE = 1 << 16
FIGURES_AT_ONCE = 4096


@dataclass(frozen=True)
class _Found:
    """A detection that a shard tells of: with its feature of GeoJSON if it was classified, else why it was not."""

    number: int
    figure: Figure | None = None
    feature: dict[str, Any] | None = None
    failure: tuple[Numbered, str] | None = None


class _SlideShard:
    """One shard of a slide."""

    def __init__(self, folder: Path, shard: Shard) -> None:
        self.folder, self.shard, self.tables = folder, shard, SlideTables(folder)

    def settings(self) -> dict[str, Any]:
        """The run's settings, without its shard."""
        settings = self.tables.noted().settings
        options = settings.get("options") if isinstance(settings, dict) else None
        if not isinstance(options, dict) or options.get("shard") != asdict(self.shard):
            raise altered(self.folder, "run.json is of another shard")
        return settings | {"options": {name: value for name, value in options.items() if name != "shard"}}

    def summary(self) -> dict[str, Any]:
        """What the run said of the slide."""
        try:
            summary = json.loads(self.content(SUMMARY, LARGEST_SUMMARY))
        except (ValueError, RecursionError) as error:
            raise altered(self.folder, f"{SUMMARY} is no JSON") from error
        if not isinstance(summary, dict):
            raise altered(self.folder, f"{SUMMARY} is no summary")
        return summary

    def content(self, name: str, limit: int = LARGEST_FILE) -> bytes:
        """The bytes of one of its files."""
        try:
            return read_own(self.folder / name, limit)
        except OSError as error:
            raise altered(self.folder, f"{name} cannot be read ({error.strerror})") from error

    def found(self) -> Iterator[_Found]:
        """What it tells of its detections, in their order."""
        classified = (
            _Found(figure.number, figure, feature)
            for figure, feature in zip(self.tables.figures(None), chain(self._features(), [None]), strict=False)
        )
        failed = (_Found(item[0], failure=(item, reason)) for item, reason in self.tables.failures())
        last, count = -1, 0
        for found in heapq.merge(classified, failed, key=lambda found: found.number):
            if found.number <= last or not self.shard.takes(str(found.number)):
                raise altered(self.folder, f"it tells of detection {found.number}, which is not its own or comes twice")
            last, count = found.number, count + 1
            yield found
        if count != self.tables.noted().done:
            raise altered(self.folder, "its tables do not have the rows that run.json counts")

    def _features(self) -> Iterator[dict[str, Any]]:
        """The lines of its GeoJSON."""
        try:
            with open_own(self.folder / GEOJSON, "r") as file:
                file.readline(LONGEST_FEATURE)
                while (line := file.readline(LONGEST_FEATURE).strip()) != "]}":
                    feature = json.loads(line.removesuffix(","))
                    if not isinstance(feature, dict):
                        raise ValueError("a feature is no object")
                    yield feature
        except (OSError, ValueError, RecursionError) as error:
            raise altered(self.folder, f"{GEOJSON} cannot be read ({error})") from error


def merge_slide(target: Path, shards: Shards) -> str:
    """`model.modes.merge.merge` for shards of a slide."""
    parts = [_SlideShard(folder, note.shard) for folder, note in shards]
    first, settings = parts[0], parts[0].settings()
    for part in parts:
        if part.settings() != settings:
            raise different_settings(part.folder, first.folder)
        if part.content(LEFT_OUT) != first.content(LEFT_OUT):
            raise altered(part.folder, f"{LEFT_OUT} is not as in {first.folder}")
    tally, failed = Tally(), 0
    for found in _in_order(parts):  # before anything is written
        failed += found.failure is not None
        _check(found, first.folder)
        if found.figure is not None:
            list(tally([found.figure]))
    summary = _summary(parts, tally, failed)
    with SlideTables(target) as tables:
        tables.start(settings, resume=False)
        try:
            with Whole(target / LEFT_OUT) as file:
                file.write(first.content(LEFT_OUT).decode("utf-8", "surrogateescape"))
            _write_tables(tables, parts)
            with Whole(target / GEOJSON) as file:
                write_features(file, (found.feature for found in _in_order(parts) if found.feature is not None))
            with Whole(target / SUMMARY) as file:
                json.dump(summary, file, indent=2, allow_nan=False)
                file.write("\n")
        except OSError as error:
            raise unwritable(target, error) from error
        if settings["options"].get("save_crops"):
            _copy_crops(target, parts)
    return f"{failed} crops of {summary.get('slide')} could not be read; failures.csv tells which." if failed else ""


def _in_order(parts: list[_SlideShard]) -> Iterator[_Found]:
    return heapq.merge(*(part.found() for part in parts), key=lambda found: found.number)


def _check(found: _Found, folder: Path) -> None:
    """Checks that table and GeoJSON tell the same of a figure."""
    if found.figure is None:
        return
    feature = found.feature or {}
    properties = feature.get("properties")
    measurements = properties.get("measurements") if isinstance(properties, dict) else None
    p = measurements.get("P(atypical)") if isinstance(measurements, dict) else None
    if feature.get("type") != "Feature" or p != found.figure.confidence:
        raise altered(folder, f"{GEOJSON} does not tell of detection {found.number} as {PREDICTIONS} does")


def _write_tables(tables: SlideTables, parts: list[_SlideShard]) -> None:
    figures: list[Figure] = []
    failures: list[tuple[Numbered, str]] = []
    for found in _in_order(parts):
        if found.figure is not None:
            figures.append(found.figure)
        if found.failure is not None:
            failures.append(found.failure)
        if len(figures) + len(failures) >= FIGURES_AT_ONCE:
            tables.append(figures, failures)
            figures, failures = [], []
    tables.append(figures, failures)


def _copy_crops(target: Path, parts: list[_SlideShard]) -> None:
    make_folder(target / CROPS)
    for part in parts:
        for found in part.found():
            if found.figure is not None:
                name = f"{CROPS}/{found.number:07}.png"
                write_bytes(target / name, part.content(name, LARGEST_CROP))


def _summary(parts: list[_SlideShard], tally: Tally, failed: int) -> dict[str, Any]:
    """The content of summary.json: what the shards say alike, and what is counted over all of them."""
    summaries = [part.summary() for part in parts]
    counted = {"classified": tally.figures, "failed": failed, "at_the_edge": tally.at_the_edge}
    counted["remarkable"] = tally.remarkable
    merged = []
    for part, summary in zip(parts, summaries, strict=True):
        try:
            detections, accuracy = summary["detections"], summary["accuracy"]
            left_out = sum(detections["left_out"].values())
            check_whole("read", detections["read"], 0, 1 << 20)
            if detections["read"] - left_out != tally.figures + failed:
                raise ValueError("not all of the detections are in the shards' tables")
            if accuracy is not None:
                for name, value in accuracy.items():
                    check_number(name, value, 0)
                accuracy = Accuracy(**accuracy)
            if (area := summary["statistics"]["area_mm2"]) is not None:
                check_number("area_mm2", area, 0)
            region = summary["region"] and summary["region"] | {"figures_outside": tally.outside_region}
            statistics = describe(tally.labels["atypical"], tally.labels.total(), accuracy, area)
            merged.append(summary | {"detections": detections | counted, "region": region, "statistics": statistics})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise altered(part.folder, f"{SUMMARY} cannot be understood ({error})") from error
        if merged[-1] != merged[0]:
            raise different_settings(part.folder, parts[0].folder)
    return merged[0]
