"""Shards of a folder of images: their tables, image by image in the order of listing."""

import heapq
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from model.checks import check_number, check_text
from model.constants import VIEW_SETS
from model.modes.listing import order
from model.modes.shard import Shard, Shards, altered, different_settings
from model.modes.tables import FAILURES, RUN, Record, RunTables, read_progress, read_records

RECORDS_AT_ONCE = 4096


def merge_folder(target: Path, shards: Shards) -> str:
    """`model.modes.merge.merge` for shards of a folder."""
    settings = _settings(shards)
    for _ in _records(shards):  # before anything is written
        pass
    with RunTables(target) as tables:
        tables.start(settings, resume=False)
        records = _records(shards)
        while some := list(islice(records, RECORDS_AT_ONCE)):
            tables.append(some)
        tables.finish()
        done = tables.progress
    if not done.failed:
        return ""
    return f"{done.failed} of {done.files} images could not be used; {target / FAILURES} tells which and why."


def _settings(shards: Shards) -> dict[str, Any]:
    """The settings that the runs share, without their shard."""
    shared: dict[str, Any] | None = None
    for folder, note in shards:
        settings = dict(read_progress(folder / RUN).settings)
        if settings.pop("shard", None) != asdict(note.shard):
            raise altered(folder, f"{RUN} is of another shard")
        try:
            _check(settings)
        except (KeyError, ValueError) as error:
            raise altered(folder, f"the settings in {RUN} cannot be ({error})") from error
        if shared is not None and settings != shared:
            raise different_settings(folder, shards[0][0])
        shared = settings
    assert shared is not None
    return shared


def _check(settings: dict[str, Any]) -> None:
    """Checks the settings of a run.

    Raises:
        KeyError: one is missing.
        ValueError: one is of another type, out of range, or unknown.
    """
    check_text("weights", settings["weights"])
    if settings["views"] not in VIEW_SETS or set(settings) - {"weights", "views", "mpp", "prevalence"}:
        raise ValueError("no settings of this program")
    if settings["mpp"] is not None:
        check_number("mpp", settings["mpp"], above=0)
    if "prevalence" in settings:
        check_number("prevalence", settings["prevalence"], above=0)
        if settings["prevalence"] >= 1:
            raise ValueError("prevalence must be below 1")


def _records(shards: Shards) -> Iterator[Record]:
    """What the shards tell of every image, in order.

    Raises:
        CaseError: a shard tells of an image that is another's, or its tables do not agree.
    """
    tables = [_own(folder, note.shard) for folder, note in shards]
    return heapq.merge(*tables, key=lambda record: order(record.image.name))


def _own(folder: Path, shard: Shard) -> Iterator[Record]:
    for record in read_records(folder, read_progress(folder / RUN)):
        if not shard.takes(record.image.name):
            raise altered(folder, f"it tells of {record.image.name}, which is not of shard {shard}")
        yield record
