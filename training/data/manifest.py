"""The manifest: which crops there are, what experts called them, and where they come from.

`manifest.csv` has the columns path, label, domain, group, source, agreement and phases, as `training.prepare` writes
it. The table that AMi-Br's crops come with (file, label, dataset, slide, the experts' votes and phases) is understood
as it is.
"""

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.constants import CLASSES
from model.errors import UserError

MANIFEST = "manifest.csv"
COLUMNS = ("path", "label", "domain", "group", "source", "agreement")
PHASES = "phases"
"""A further column, which may be missing: names with semicolons between them."""
AMIBR_COLUMNS = ("file", "label", "dataset", "slide")
NOTHING = ("", "nan", "none")
"""Cells that say nothing, in lower case."""


class DataError(UserError):
    """The training data cannot be used."""


@dataclass(frozen=True)
class Sample:
    """One labelled crop.

    Attributes:
        path: image file.
        label: 1 for atypical, 0 for normal, by the majority of the experts.
        domain: what may look different: scanner and centre, tumour and species, as far as known.
        group: slide; crops of one slide are never split between training and validation.
        source: the data set it was published in.
        agreement: share of the experts that gave the label, 1/2 to 1; 1 where their votes are not known.
        phases: what each expert called its phase or, where it is atypical, its form, such as `NMF metaphase` and `AMF
            multipolar`; empty where that is not known.
    """

    path: Path
    label: int
    domain: str
    group: str
    source: str = ""
    agreement: float = 1.0
    phases: tuple[str, ...] = ()

    @property
    def soft_label(self) -> float:
        """Share of the experts that called it atypical, 0 to 1."""
        return self.agreement if self.label else 1 - self.agreement


_LABELS = {name: label for label, name in enumerate(CLASSES)}


def read_manifest(root: Path) -> list[Sample]:
    """Reads `manifest.csv` of a folder of crops.

    Args:
        root: the folder; relative paths in the manifest start there.

    Raises:
        DataError: the manifest or a crop it names is missing, or a row cannot be understood.
    """
    path = root / MANIFEST
    rows = read_table(path, f"give a folder of crops and their {MANIFEST} as data.root=DIR (training/prepare.py)")
    columns = AMIBR_COLUMNS if rows and "file" in rows[0] else COLUMNS
    missing = [column for column in columns if not rows or column not in rows[0]]
    if missing:
        raise DataError(f"{path} has no rows with a column {missing[0]}; it needs {', '.join(columns)}.")
    samples = []
    for line, row in enumerate(rows, start=2):
        if None in (row[column] for column in columns):
            raise DataError(f"{path}, line {line} has too few columns; it needs {', '.join(columns)}.")
        if row["label"] not in _LABELS:
            raise DataError(f"{path}, line {line}: the label is '{row['label']}'; write normal or atypical.")
        try:
            sample = _amibr_sample(root, row) if columns is AMIBR_COLUMNS else _sample(root, row)
        except ValueError as error:
            raise DataError(f"{path}, line {line}: {error}.") from error
        if not sample.path.is_file():
            raise DataError(f"{path}, line {line}: there is no file {sample.path}.")
        samples.append(sample)
    return samples


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
                about = (sample.domain, sample.group, sample.source, f"{sample.agreement:.4g}")
                writer.writerow([name, label, *about, ";".join(sample.phases)])
        os.replace(partial, path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}; give a writable folder with space.") from error
    except UnicodeEncodeError as error:
        raise DataError(f"{path} cannot be written: {name!a} is no UTF-8 text; rename the file.") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def read_table(path: Path, advice: str) -> list[dict[str, str]]:
    """The rows of a CSV file in UTF-8, with or without a byte order mark.

    Args:
        path: the file.
        advice: what to do when it cannot be read, for the sentence of the error.

    Raises:
        DataError: it is missing, or no UTF-8 text.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); {advice}.") from error
    except ValueError as error:
        raise DataError(f"{path} is no UTF-8 text ({error}); save it as CSV in UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"{path} is no CSV file ({error}); save it as CSV in UTF-8.") from error


def vote_share(votes: Sequence[bool], label: int) -> float:
    """Share of the experts' votes (true for atypical) that agree with the label; 1 without votes.

    Raises:
        ValueError: most of the votes are against the label.
    """
    agreement = sum(vote == bool(label) for vote in votes) / len(votes) if votes else 1.0
    if agreement < 0.5:
        raise ValueError(f"most of the experts' votes are against the label {CLASSES[label]}; correct one of them")
    return agreement


def named_phases(cells: Iterable[str]) -> tuple[str, ...]:
    """The names in a row's cells, a cell an expert; empty cells are left out.

    Raises:
        ValueError: a name has a semicolon in it, which separates names in a manifest.
    """
    names = tuple(cell.strip() for cell in cells if cell.strip().lower() not in NOTHING)
    for name in names:
        if ";" in name:
            raise ValueError(f"the phase '{name}' has a semicolon in it; write a comma")
    return names


def amibr_domain(dataset: str, slide: str) -> str:
    """Scanner and centre of an AMi-Br slide, from the slide ranges that MIDOG 2021 and TUPAC16 publish.

    Args:
        dataset: `MIDOG21` or `TUPAC16`; any other is a domain of its own.
        slide: file name that starts with the slide's number, such as `051.tiff` or `24_stitched1.tif`.
    """
    digits = slide.split(".")[0].split("_")[0]
    if not digits.isdigit():
        return dataset
    number = int(digits)
    if dataset == "MIDOG21" and 1 <= number <= 150:
        return ("Hamamatsu XR", "Hamamatsu S360", "Aperio CS2")[(number - 1) // 50]
    if dataset == "TUPAC16" and 1 <= number <= 73:
        return "Aperio XT" if number <= 23 else "Leica SCN400"
    return dataset


def _sample(root: Path, row: dict[str, str]) -> Sample:
    agreement = float(row["agreement"] or 1)
    if not 0.5 <= agreement <= 1:
        raise ValueError(f"the agreement is {row['agreement']}; write the share of experts who gave the label")
    label, phases = _LABELS[row["label"]], named_phases((row.get(PHASES) or "").split(";"))
    return Sample(root / row["path"], label, row["domain"], row["group"], row["source"], agreement, phases)


def _amibr_sample(root: Path, row: dict[str, str]) -> Sample:
    label = _LABELS[row["label"]]
    votes = [
        row[column].strip().lower() in ("true", "1") for column in ("expert1", "expert2", "expert3") if row.get(column)
    ]
    dataset, slide = row["dataset"], row["slide"]
    domain, group = amibr_domain(dataset, slide), f"{dataset}/{slide}"
    phases = named_phases(row.get(column) or "" for column in ("expert1_phase", "expert2_phase"))
    return Sample(root / row["file"], label, domain, group, dataset, vote_share(votes, label), phases)
