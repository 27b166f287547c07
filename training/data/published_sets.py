"""The open sets of atypical and normal mitotic figures, read from the folders they are downloaded as.

    AMi-Br      a table slide,dataset,uid,expertN_label,expertN_atypical,majority_atypical and crops DATASET_UID (its
                repository), or a table file,label,dataset,slide,expertN,expertN_phase
    MIDOG25     a table image_id,filename,Tumor,Scanner,Species,expertN,majority
    OMG-Octo    a table image_id,filename,majority, or image_file,label
    AtNorM-Br   no table; folders Atypical and Normal
    AtNorM-MD   a table Filename,Expert_N,Majority

A table is any CSV file in the folder with these columns, in any order and case, and others. Crops may be in folders in
it and have any of the suffixes that are read.

A sample's group is its slide. AMi-Br and MIDOG25 share the numbered slides of the MIDOG challenges, `MIDOG/001` and so
on; TUPAC16's and OMG-Octo's slides are others. Neither AtNorM set says which slide a crop is of (AtNorM-Br's files are
merely numbered), so each of them is one group: it is never split between training and validation.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from model.constants import CLASSES
from training.data.sample import DataError, Sample
from training.data.tables import (
    NOTHING,
    Row,
    find_crop,
    find_table,
    folder_label,
    images,
    named_phases,
    normal_row,
    spelled,
    vote_share,
)

VOTE_COLUMN = re.compile(r"expert_?\d+(_atypical)?")
PHASE_COLUMN = re.compile(r"expert_?\d+_(phase|label)")
AMIBR_MANIFEST = ("file", "label", "dataset", "slide")
"""Columns of the table that AMi-Br comes with when its crops are sorted into folders by class."""
AMIBR_REPOSITORY = ("slide", "dataset", "uid", "majority_atypical")
"""Columns of the table in AMi-Br's repository."""
MIDOG21_SLIDES = frozenset(f"MIDOG/{number:03d}" for number in range(1, 151))
"""Groups of the MIDOG challenges' slides that are MIDOG 2021's, all of human breast cancer."""


@dataclass
class DataSet:
    """What a folder holds.

    Attributes:
        samples: the usable crops, in the order of the table.
        doubtful: a sentence for each row left out because its label is contradicted, by most of the experts or by the
            folder that the crop is in.
        unlisted: images that no row of the table is about.
    """

    samples: list[Sample] = field(default_factory=list)
    doubtful: list[str] = field(default_factory=list)
    unlisted: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class Figure:
    """What a row says of a mitotic figure.

    Attributes:
        crop: name of its image, with or without suffix and folders.
        label: as the table writes it.
        domain, group: as in `Sample`.
    """

    crop: str
    label: str
    domain: str
    group: str


def read_amibr(folder: Path) -> DataSet:
    """AMi-Br, in its repository's layout or as folders of crops with `manifest.csv`; raises as `read_table_set`."""

    def figure(row: Row) -> Figure:
        dataset, slide = row["dataset"], row["slide"]
        domain = breast_domain(dataset, slide)
        group = midog_slide(slide) if dataset.upper().startswith("MIDOG") else f"{dataset}/{slide}"
        if "file" in row:
            return Figure(row["file"], row["label"], domain, group)
        return Figure(f"{dataset}_{row['uid']}", row["majority_atypical"], domain, group)

    return read_table_set("AMi-Br", folder, [AMIBR_MANIFEST, AMIBR_REPOSITORY], figure)


def amibr_sample(root: Path, row: Row) -> Sample:
    """A row of AMi-Br's own table where that stands in for a manifest.

    MIDOG 2021 and TUPAC16 are then two sources, so that either can be held out whole. All is breast cancer, so a domain
    is the scanner alone.

    Args:
        root: the folder that paths in the table start in.
        row: with the columns `AMIBR_MANIFEST`; its label is one of `model.constants.CLASSES`.

    Raises:
        ValueError: a vote or a phase cannot be understood, or most of the votes are against the label.
    """
    label, experts = CLASSES.index(row["label"]), normal_row(row)
    dataset, slide = row["dataset"], row["slide"]
    domain, group, agreement = amibr_domain(dataset, slide), f"{dataset}/{slide}", vote_share(_votes(experts), label)
    return Sample(root / row["file"], label, domain, group, dataset, agreement, _phases(experts))


def read_midog25(folder: Path) -> DataSet:
    """MIDOG 2025's atypical training set; raises as `read_table_set`."""

    def figure(row: Row) -> Figure:
        group = midog_slide(row["filename"])
        tumor, species = row["tumor"].lower(), row["species"].lower()
        domain = f"{tumor if species in tumor else f'{species} {tumor}'}, {row['scanner']}"
        if group in MIDOG21_SLIDES:
            domain = breast_domain("MIDOG21", row["filename"])
        return Figure(row["image_id"], row["majority"], domain, group)

    tables = [("image_id", "filename", "tumor", "scanner", "species", "majority")]
    return read_table_set("MIDOG25", folder, tables, figure)


def read_omg_octo(folder: Path) -> DataSet:
    """OMG-Octo's atypical figures; raises as `read_table_set`. File names start with the slide's."""

    def figure(row: Row) -> Figure:
        if "tumor" in row:
            raise ValueError("this is MIDOG25's table; give the folder of OMG-Octo")
        if "image_id" in row:
            return Figure(row["image_id"], row["majority"], "OMG-Octo", f"OMG-Octo/{row['filename']}")
        slide = row["image_file"].split("_")[0]
        return Figure(row["image_file"], row["label"], "OMG-Octo", f"OMG-Octo/{slide}")

    tables = [("image_id", "filename", "majority"), ("image_file", "label")]
    return read_table_set("OMG-Octo", folder, tables, figure)


def read_atnorm_md(folder: Path) -> DataSet:
    """AtNorM-MD; raises as `read_table_set`."""

    def figure(row: Row) -> Figure:
        return Figure(row["filename"], row["majority"], "AtNorM-MD", "AtNorM-MD")

    return read_table_set("AtNorM-MD", folder, [("filename", "expert_1", "majority")], figure)


def read_atnorm_br(folder: Path) -> DataSet:
    """AtNorM-Br, the crops in folders `Atypical` and `Normal`.

    Raises:
        DataError: one of them is missing or empty.
    """
    data = DataSet()
    for path in images(folder):
        label = folder_label(path)
        if label is None:
            data.unlisted.append(path)
        else:
            data.samples.append(Sample(path, label, "AtNorM-Br", "AtNorM-Br", "AtNorM-Br"))
    for label, name in enumerate(CLASSES):
        if not any(sample.label == label for sample in data.samples):
            raise DataError(f"{folder} has no folder {name.title()} with crops; give AtNorM-Br's folder.")
    return data


SETS: dict[str, tuple[str, Callable[[Path], DataSet]]] = {
    "amibr": ("AMi-Br", read_amibr),
    "midog25": ("MIDOG25", read_midog25),
    "omg_octo": ("OMG-Octo", read_omg_octo),
    "atnorm_br": ("AtNorM-Br", read_atnorm_br),
    "atnorm_md": ("AtNorM-MD", read_atnorm_md),
}
"""Name on the command line: name in the manifest and reader; in the order in which sets take precedence."""


def read_table_set(
    source: str, folder: Path, tables: Sequence[tuple[str, ...]], figure: Callable[[Row], Figure]
) -> DataSet:
    """Reads a set that has a table.

    Args:
        source: the set's name.
        folder: with the table and the crops.
        tables: the columns to look for, one tuple for each form of the table.
        figure: what a row says; experts' votes apart.

    Raises:
        DataError: there is no such table, or more than one; a row cannot be understood, or its crop is missing.
    """
    data = DataSet()
    used: set[Path] = set()
    missing: list[str] = []
    crops: dict[str, list[Path]] = {}
    for image in images(folder):
        crops.setdefault(image.stem, []).append(image)
    table, rows = find_table(source, folder, tables)
    for line, row in enumerate(rows, start=2):
        where = f"{table}, line {line}"
        try:
            about = figure(row)
            label = spelled(about.label, "label")
            votes, phases = _votes(row), _phases(row)
            path = find_crop(crops, about.crop, label)
        except ValueError as error:
            raise DataError(f"{where}: {error}.") from error
        if path is None:
            missing.append(f"{where}: there is no crop {about.crop} in {folder}")
            continue
        used.add(path)
        if folder_label(path) not in (None, label):
            data.doubtful.append(f"{where}: the label is {CLASSES[label]}, but {path} is in another class's folder")
            continue
        try:
            agreement = round(vote_share(votes, label), 4)
        except ValueError as error:
            data.doubtful.append(f"{where}: {error}")
            continue
        data.samples.append(Sample(path, label, about.domain, about.group, source, agreement, phases))
    if missing:
        others = f", as for {len(missing) - 1} more rows" if len(missing) > 1 else ""
        raise DataError(f"{missing[0]}{others}; download the crops again, or remove the rows.")
    data.unlisted = [path for paths in crops.values() for path in paths if path not in used]
    return data


def _votes(row: Row) -> list[bool]:
    """The experts' votes, true for atypical; those who said nothing are left out."""
    names = [name for name in row if VOTE_COLUMN.fullmatch(name) and row[name].lower() not in NOTHING]
    return [spelled(row[name], name) == 1 for name in names]


def _phases(row: Row) -> tuple[str, ...]:
    return named_phases(row[name] for name in row if PHASE_COLUMN.fullmatch(name))


def midog_slide(filename: str) -> str:
    """Group of a numbered slide of the MIDOG series: `MIDOG/002` for `002.tiff`."""
    stem = filename.split(".")[0]
    return f"MIDOG/{int(stem):03d}" if stem.isdecimal() else f"MIDOG/{filename}"


def breast_domain(dataset: str, slide: str) -> str:
    """Tumour and scanner of a slide of MIDOG 2021 or TUPAC16, such as `human breast cancer, Aperio CS2`."""
    return f"human breast cancer, {amibr_domain(dataset, slide)}"


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
