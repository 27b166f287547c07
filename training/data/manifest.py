"""The manifest: which crops there are, what experts called them, and where they come from.

`manifest.csv` has the columns path, label, domain, group, source, agreement and phases, as `training.prepare` writes
it. The table that AMi-Br's crops come with (file, label, dataset, slide, the experts' votes and phases) is understood
as it is.
"""

import csv
import logging
import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from model.constants import CLASSES
from training.data.crop_files import find_path
from training.data.csv_file import Row, read_csv
from training.data.published_sets import AMIBR_MANIFEST, amibr_figure
from training.data.sample import DataError, Sample
from training.data.table_set import experts_phases, experts_votes
from training.data.tables import agreement_share, group_name, named_phases, vote_share
from training.data.text import listing

logger = logging.getLogger(__name__)

MANIFEST = "manifest.csv"
COLUMNS = ("path", "label", "domain", "group", "source", "agreement")
PHASES = "phases"
"""A further column, which may be missing: names with semicolons between them."""


def read_manifest(root: Path) -> list[Sample]:
    """Reads `manifest.csv` of a folder of crops.

    A crop that several rows say the same of is there once. Groups that differ in the spelling of a slide alone, such as
    `002.tiff` and `2`, are one, called as the first of them; folders are part of the name.

    Args:
        root: the folder; relative paths in the manifest start there.

    Raises:
        DataError: the manifest or a crop it names is missing, a row cannot be understood, or two rows contradict each
            other.
    """
    path = root / MANIFEST
    table = read_csv(path, f"give a folder of crops and their {MANIFEST} as data.root=DIR (training/prepare.py)")
    columns, sample_of = (AMIBR_MANIFEST, _amibr_sample) if "file" in table.columns else (COLUMNS, _sample)
    missing = [column for column in columns if not table.rows or column not in table.columns]
    if missing:
        raise DataError(f"{path} has no rows with a column {missing[0]}; it needs {', '.join(columns)}.")
    found: dict[Path, tuple[int, Sample]] = {}
    groups: dict[str, str] = {}
    again: list[str] = []
    for line, row in table.numbered():
        if any(column not in row for column in columns):
            raise DataError(f"{path}, line {line} has too few columns; it needs {', '.join(columns)}.")
        if row["label"] not in CLASSES:
            raise DataError(f"{path}, line {line}: the label is '{row['label']}'; write normal or atypical.")
        try:
            sample = sample_of(root, row)
            sample = replace(sample, group=groups.setdefault(group_name(sample.group), sample.group))
        except ValueError as error:
            raise DataError(f"{path}, line {line}: {error}.") from error
        if not sample.path.is_file():
            raise DataError(f"{path}, line {line}: there is no file {sample.path}.")
        first, known = found.setdefault(sample.path, (line, sample))
        other = [field.name for field in fields(Sample) if getattr(known, field.name) != getattr(sample, field.name)]
        if other:
            raise DataError(
                f"{path}, line {line}: the crop {sample.path} is in line {first}, too, with another {other[0]}; remove "
                "the wrong row."
            )
        if first != line:
            again.append(f"line {line} is line {first}")
    if again:
        logger.warning("%s", listing(f"rows of {path} say again what another says, and count once", again))
    return [sample for _, sample in found.values()]


def _sample(root: Path, row: Row) -> Sample:
    agreement = agreement_share(row["agreement"])
    label, phases = CLASSES.index(row["label"]), named_phases(row.get(PHASES, "").split(";"))
    return Sample(find_path(root, row["path"]), label, row["domain"], row["group"], row["source"], agreement, phases)


def _amibr_sample(root: Path, row: Row) -> Sample:
    """A row of AMi-Br's own table, read as `training.prepare` reads it."""
    about, label = amibr_figure(row), CLASSES.index(row["label"])
    agreement, phases = vote_share(experts_votes(row), label), experts_phases(row)
    return Sample(find_path(root, about.crop), label, about.domain, about.group, about.source, agreement, phases)


def write_manifest(root: Path, samples: Sequence[Sample]) -> Path:
    """Writes `manifest.csv` into a folder, paths inside it relative to it; returns the file's path.

    The file is there whole or not at all; one that is there already is replaced.

    Raises:
        DataError: the folder cannot be written to, or a path is no text.
    """
    path = root / MANIFEST
    partial = path.with_name(f".{MANIFEST}.{os.getpid()}")
    try:
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*COLUMNS, PHASES])
            for sample in samples:
                inside = sample.path.is_relative_to(root)
                name = (sample.path.relative_to(root) if inside else sample.path.resolve()).as_posix()
                label = CLASSES[sample.label]
                about = (sample.domain, sample.group, sample.source, repr(sample.agreement).removesuffix(".0"))
                writer.writerow([name, label, *about, ";".join(sample.phases)])
        os.replace(partial, path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}; give a writable folder with space.") from error
    except UnicodeEncodeError as error:
        raise DataError(f"{path} cannot be written: {name!a} is no UTF-8 text; rename the file.") from error
    finally:
        partial.unlink(missing_ok=True)
    return path
