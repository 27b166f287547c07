"""The open sets of atypical and normal mitotic figures, read from the folders they are downloaded as.

    AMi-Br      a table slide,dataset,uid,expertN_label,expertN_atypical,majority_atypical and crops DATASET_UID (its
                repository), or a table file,label,dataset,slide,expertN,expertN_phase
    MIDOG25     a table image_id,filename,Tumor,Scanner,Species,expertN,majority
    OMG-Octo    a table image_id,filename,majority, or image_file,label
    AtNorM-Br   no table; folders Atypical and Normal
    AtNorM-MD   a table Filename,Expert_N,Majority

A table is any CSV file in the folder with these columns, in any order and case, and others. Crops may be in folders in
it and have any of the suffixes that are read.

A sample's source is the data set that its slide was published in, whatever set of labels it was found in: AMi-Br's are
MIDOG21 and TUPAC16, and MIDOG25's crops of MIDOG 2021's slides are MIDOG21's too, so that holding out a source leaves
none of its slides in training. Its group is its slide. AMi-Br and MIDOG25 share the numbered slides of the MIDOG
challenges, `MIDOG/001` and so on; TUPAC16's and OMG-Octo's slides are others. The domain of MIDOG 2021's and TUPAC16's
slides is their scanner alone, as their tumour and species are one. Neither AtNorM set says which slide a crop is of
(AtNorM-Br's files are merely numbered), so each of them is one group: it is never split between training and
validation.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from model.constants import CLASSES
from training.data.csv_file import Row
from training.data.sample import DataError, Sample
from training.data.tables import (
    NOTHING,
    crop_key,
    find_crop,
    find_table,
    folder_label,
    images,
    named_phases,
    slide_name,
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
        domain, group, source: as in `Sample`.
    """

    crop: str
    label: str
    domain: str
    group: str
    source: str


def read_amibr(folder: Path) -> DataSet:
    """AMi-Br, in its repository's layout or as folders of crops with `manifest.csv`; raises as `read_table_set`."""
    return read_table_set("AMi-Br", folder, [AMIBR_MANIFEST, AMIBR_REPOSITORY], amibr_figure)


def amibr_figure(row: Row) -> Figure:
    """What a row of AMi-Br says, in the columns `AMIBR_MANIFEST` or `AMIBR_REPOSITORY`.

    Raises:
        ValueError: the slide has no name.
    """
    dataset, slide = row["dataset"], row["slide"]
    domain = amibr_domain(dataset, slide)
    group = midog_slide(slide) if dataset.upper().startswith("MIDOG") else f"{dataset}/{slide_name(slide, 2)}"
    if "file" in row:
        return Figure(row["file"], row["label"], domain, group, dataset)
    return Figure(f"{dataset}_{row['uid']}", row["majority_atypical"], domain, group, dataset)


def read_midog25(folder: Path) -> DataSet:
    """MIDOG 2025's atypical training set; raises as `read_table_set`."""

    def figure(row: Row) -> Figure:
        group = midog_slide(row["filename"])
        tumor, species = row["tumor"].lower(), row["species"].lower()
        source, domain = "MIDOG25", f"{tumor if species in tumor else f'{species} {tumor}'}, {row['scanner']}"
        if group in MIDOG21_SLIDES:
            source, domain = "MIDOG21", amibr_domain("MIDOG21", row["filename"])
        return Figure(row["image_id"], row["majority"], domain, group, source)

    tables = [("image_id", "filename", "tumor", "scanner", "species", "majority")]
    return read_table_set("MIDOG25", folder, tables, figure)


def read_omg_octo(folder: Path) -> DataSet:
    """OMG-Octo's atypical figures; raises as `read_table_set`. File names start with the slide's."""

    def figure(row: Row) -> Figure:
        if "tumor" in row:
            raise ValueError("this is MIDOG25's table; give the folder of OMG-Octo")
        if "image_id" in row:
            crop, label, slide = row["image_id"], row["majority"], row["filename"]
        else:
            crop, label = row["image_file"], row["label"]
            slide = crop.split("_")[0]
        return Figure(crop, label, "OMG-Octo", f"OMG-Octo/{slide_name(slide)}", "OMG-Octo")

    tables = [("image_id", "filename", "majority"), ("image_file", "label")]
    return read_table_set("OMG-Octo", folder, tables, figure)


def read_atnorm_md(folder: Path) -> DataSet:
    """AtNorM-MD; raises as `read_table_set`."""

    def figure(row: Row) -> Figure:
        return Figure(row["filename"], row["majority"], "AtNorM-MD", "AtNorM-MD", "AtNorM-MD")

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
"""Name on the command line: name to the user and reader; in the order in which sets take precedence."""


def read_table_set(
    name: str, folder: Path, tables: Sequence[tuple[str, ...]], figure: Callable[[Row], Figure]
) -> DataSet:
    """Reads a set that has a table.

    Args:
        name: of the set.
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
        crops.setdefault(crop_key(image.name), []).append(image)
    table = find_table(name, folder, tables)
    for line, row in table.numbered():
        where = f"{table.path}, line {line}"
        try:
            about = figure(row)
            label = spelled(about.label, "label")
            votes, phases = experts_votes(row), experts_phases(row)
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
            agreement = vote_share(votes, label)
        except ValueError as error:
            data.doubtful.append(f"{where}: {error}")
            continue
        data.samples.append(Sample(path, label, about.domain, about.group, about.source, agreement, phases))
    if missing:
        others = f", as for {len(missing) - 1} more rows" if len(missing) > 1 else ""
        raise DataError(f"{missing[0]}{others}; download the crops again, or remove the rows.")
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


def midog_slide(filename: str) -> str:
    """Group of a slide of the MIDOG series: `MIDOG/002` for `002.tiff`; raises as `slide_name`."""
    return f"MIDOG/{slide_name(filename)}"


def amibr_domain(dataset: str, slide: str) -> str:
    """Scanner and centre of an AMi-Br slide, from the slide ranges that MIDOG 2021 and TUPAC16 publish.

    Args:
        dataset: `MIDOG21` or `TUPAC16`; any other is a domain of its own.
        slide: file name that starts with the slide's number, such as `051.tiff` or `24_stitched1.tif`.

    Raises:
        ValueError: the slide has no name.
    """
    digits = slide_name(slide).split("_")[0]
    if not digits.isdecimal():
        return dataset
    number = int(digits)
    if dataset == "MIDOG21" and 1 <= number <= 150:
        return ("Hamamatsu XR", "Hamamatsu S360", "Aperio CS2")[(number - 1) // 50]
    if dataset == "TUPAC16" and 1 <= number <= 73:
        return "Aperio XT" if number <= 23 else "Leica SCN400"
    return dataset
