"""A set of crops that comes with a table: what each row says of which crop."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from model.constants import CLASSES
from training.data.crop_files import crop_key, find_crop, folder_label, images, set_folder, visible_files
from training.data.csv_file import Row, Table
from training.data.sample import DataError, Sample
from training.data.tables import NOTHING, find_table, named_phases, spelled, vote_share

VOTE_COLUMN = re.compile(r"expert_?\d+(_atypical)?")
PHASE_COLUMN = re.compile(r"expert_?\d+_(phase|label)")


@dataclass
class DataSet:
    """What a folder holds.

    Attributes:
        samples: the usable crops, in the order of the table.
        doubtful: a sentence for each row left out because its label is contradicted, by most of the experts or by the
            folder that the crop is in.
        unlisted: images that no row of the table is about.
        table: the file that the rows are of; None of a set without one.
    """

    samples: list[Sample] = field(default_factory=list)
    doubtful: list[str] = field(default_factory=list)
    unlisted: list[Path] = field(default_factory=list)
    table: Path | None = None


@dataclass(frozen=True)
class Figure:
    """What a row says of a mitotic figure.

    Attributes:
        crop: name of its image, with or without suffix and folders.
        label: as the table writes it.
        domain, group, source: as in `Sample`.
        votes: the experts', true for atypical; None where they are in the columns that `experts_votes` knows.
        agreement: as in `Sample`; None where the votes say it.
    """

    crop: str
    label: str
    domain: str
    group: str
    source: str
    votes: Sequence[bool] | None = None
    agreement: float | None = None


def read_table_set(
    name: str, folder: Path, tables: Sequence[tuple[str, ...]], figure: Callable[[Row], Figure]
) -> DataSet:
    """Reads a set that has a table.

    Args:
        name: of the set.
        folder: with the table and the crops, or with a folder called as the set that holds the crops.
        tables: the columns to look for, one tuple for each form of the table.
        figure: what a row says; experts' votes apart.

    Raises:
        DataError: there is no such table, or more than one; or as `read_rows`.
    """
    inside = set_folder(folder, name)
    beside = [] if inside == folder else [path for path in visible_files(folder, (".csv",)) if path.parent == folder]
    return read_rows(find_table(name, inside, tables, beside), inside, figure)


def read_rows(
    table: Table,
    folder: Path,
    figure: Callable[[Row], Figure],
    find: Callable[[dict[str, list[Path]], str, int], Path | None] = find_crop,
) -> DataSet:
    """Reads the crops that the rows of a table are about.

    Args:
        table: with a crop a row.
        folder: with the crops, in it or in folders in it.
        figure: what a row says; experts' votes apart.
        find: the crop of a row, as `find_crop` does.

    Raises:
        DataError: there is no such folder; a row cannot be understood, its crop is missing, or another row says
            otherwise of the crop's slide or label.
    """
    data = DataSet(table=table.path)
    used: dict[Path, tuple[int, str, int]] = {}
    missing: list[str] = []
    crops: dict[str, list[Path]] = {}
    for image in images(folder):
        crops.setdefault(crop_key(image.name), []).append(image)
    for line, row in table.numbered():
        where = f"{table.path}, line {line}"
        try:
            about = figure(row)
            label = spelled(about.label, "label")
            votes, phases = experts_votes(row) if about.votes is None else about.votes, experts_phases(row)
            path = find(crops, about.crop, label)
        except ValueError as error:
            raise DataError(f"{where}: {error}.") from error
        if path is None:
            missing.append(f"{where}: there is no crop {about.crop} in {folder}")
            continue
        first, group, known = used.setdefault(path, (line, about.group, label))
        if (group, known) != (about.group, label):
            what = "label" if group == about.group else "slide"
            raise DataError(
                f"{where}: the crop {path} is in line {first}, too, with another {what}; remove the wrong row."
            )
        if folder_label(path) not in (None, label):
            data.doubtful.append(f"{where}: the label is {CLASSES[label]}, but {path} is in another class's folder")
            continue
        try:
            agreement = vote_share(votes, label) if about.agreement is None else about.agreement
        except ValueError as error:
            data.doubtful.append(f"{where}: {error}")
            continue
        data.samples.append(Sample(path, label, about.domain, about.group, about.source, agreement, phases))
    if missing:
        others = f", as for {len(missing) - 1} more rows" if len(missing) > 1 else ""
        raise DataError(f"{missing[0]}{others}; add the crops, or remove the rows.")
    data.unlisted = [path for paths in crops.values() for path in paths if path not in used]
    return data


def experts_votes(row: Row) -> list[bool]:
    """The experts' votes, true for atypical; those who said nothing are left out.

    Raises:
        ValueError: a vote is neither.
    """
    names = [name for name in row if VOTE_COLUMN.fullmatch(name) and row[name].lower() not in NOTHING]
    return [spelled(row[name], name) == 1 for name in names]


def experts_phases(row: Row) -> tuple[str, ...]:
    """What each expert called the phase; raises as `named_phases`."""
    return named_phases(row[name] for name in row if PHASE_COLUMN.fullmatch(name))
