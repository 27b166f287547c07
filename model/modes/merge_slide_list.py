"""Shards of a table of slides: each slide's folder is one shard's, and is copied."""

import csv
import os
import re
from pathlib import Path
from typing import Any

from model.errors import CaseError
from model.modes.shard import Shards, altered, clear_note
from model.modes.slide_list import COLUMNS, SLIDES
from model.modes.slide_tables import CROPS, FAILURES, GEOJSON, LEFT_OUT, PREDICTIONS, RUN, SUMMARY, SlideTables
from model.modes.writing import Whole, lock, make_folder, open_own, read_own, unwritable, write_bytes

LARGEST_TABLE = 1 << 26
LARGEST_FILE = 1 << 30
"""Bytes of a file that are read: a million figures have 300 MB as GeoJSON."""
FILES = (PREDICTIONS, FAILURES, LEFT_OUT, GEOJSON, RUN, SUMMARY)
_CROP = re.compile(r"\d{7}\.png", re.ASCII)


def merge_slide_list(target: Path, shards: Shards) -> str:
    """`model.modes.merge.merge` for shards of a table of slides."""
    rows: dict[str, list[str]] = {}
    where: dict[str, Path] = {}
    for folder, note in shards:
        own = [name for name in note.slides if note.shard.takes(name)]
        found = _rows(folder)
        if [row[1] for row in found] != own:
            raise altered(folder, f"{SLIDES} does not have the rows of its slides")
        for row in found:
            rows[row[1]], where[row[1]] = row, folder
            _check_slide(folder / row[1], row, note.settings)
    names = shards[0][1].slides
    for name in names:
        if (target / name).exists() and any((target / name).samefile(folder) for folder, _ in shards):
            raise CaseError(f"{target / name} is one of the shards, and a slide's folder; merge into another folder.")
    held = lock(target)
    try:
        clear_note(target)
        (target / SLIDES).unlink(missing_ok=True)
        for name in names:
            if (where[name] / name / SUMMARY).exists():
                _copy(where[name] / name, target / name)
            else:
                _forget(target / name)
        with Whole(target / SLIDES) as file:
            csv.writer(file).writerows([COLUMNS, *(rows[name] for name in names)])
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        os.close(held)
    failed = sum(bool(row[-1]) for row in rows.values())
    return f"{failed} of {len(rows)} slides could not be read in full; {target / SLIDES} tells why." if failed else ""


def _rows(folder: Path) -> list[list[str]]:
    """The rows of a shard's table of slides."""
    try:
        with open_own(folder / SLIDES, "r") as file:
            if os.fstat(file.fileno()).st_size > LARGEST_TABLE:
                raise altered(folder, f"{SLIDES} is too large")
            rows = list(csv.reader(file))
    except (OSError, csv.Error) as error:
        raise altered(folder, f"{SLIDES} cannot be read ({error})") from error
    if not rows or tuple(rows[0]) != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
        raise altered(folder, f"{SLIDES} has other columns")
    return rows[1:]


def _check_slide(folder: Path, row: list[str], settings: dict[str, Any]) -> None:
    """Checks that a slide is done, with the shard's settings, or failed."""
    if not (folder / SUMMARY).exists():
        if not row[-1]:
            raise altered(folder.parent, f"{folder.name} has no {SUMMARY}")
        return
    for name in FILES:
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise altered(folder.parent, f"{folder.name} has no {name}")
    noted = SlideTables(folder).noted().settings
    alike = ("weights", "views", "options")
    if not isinstance(noted, dict) or any(noted.get(name) != settings.get(name) for name in alike):
        raise altered(folder.parent, f"{folder.name} is of a run with other weights, views or options")


def _copy(source: Path, target: Path) -> None:
    """Copies what a slide's run wrote, and nothing else; the summary last."""
    make_folder(target)
    clear_note(target)
    (target / SUMMARY).unlink(missing_ok=True)
    if _is_own_folder(source / CROPS):
        make_folder(target / CROPS)
    for name in [*_crops(source), *FILES]:
        try:
            content = read_own(source / name, LARGEST_FILE)
        except OSError as error:
            raise altered(source.parent, f"{source.name}/{name} cannot be read ({error.strerror})") from error
        write_bytes(target / name, content)


def _forget(target: Path) -> None:
    """Removes what an earlier merge has written of a slide that has failed since."""
    if not target.exists():
        return
    make_folder(target)  # refuses a link
    clear_note(target)
    for name in [*FILES, *_crops(target)]:
        (target / name).unlink(missing_ok=True)


def _crops(slide: Path) -> list[str]:
    """The crops that a slide's run kept, below its folder."""
    folder = slide / CROPS
    paths = sorted(folder.iterdir()) if _is_own_folder(folder) else []
    return [f"{CROPS}/{path.name}" for path in paths if _CROP.fullmatch(path.name)]


def _is_own_folder(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink()
