"""The open sets of atypical and normal mitotic figures, read from the folders they are downloaded as.

    AMi-Br      a table slide,dataset,uid,expertN_label,expertN_atypical,majority_atypical and crops DATASET_UID (its
                repository); a table slide,dataset_uid,final_label and crops dataset_uid (the training split in its
                benchmark's repository); or a table file,label,dataset,slide,expertN,expertN_phase
    MIDOG25     a table image_id,filename,Tumor,Scanner,Species,expertN,majority
    OMG-Octo    a table image_id,filename,majority, or image_file,label
    AtNorM-Br   no table; folders Atypical and Normal
    AtNorM-MD   a table Filename,Expert_N,Majority; the same folders, and perhaps a table Filename,Tumor, `domains.csv`

A table is any CSV file in the folder with these columns, in any order and case, and others. Crops may be in folders in
it and have any of the suffixes that are read. Where a folder in the given one is called as the set, as in the
repository AMi-Br_Benchmark, which holds three of them, the set is that folder; its table may be beside it.

A sample's source is the data set that its slide was published in, whatever set of labels it was found in: AMi-Br's are
MIDOG21 and TUPAC16, and MIDOG25's crops of MIDOG 2021's slides are MIDOG21's too, so that holding out a source leaves
none of its slides in training. Its group is its slide. AMi-Br and MIDOG25 share the numbered slides of the MIDOG
challenges, `MIDOG/001` and so on; TUPAC16's and OMG-Octo's slides are others. The domain of MIDOG 2021's and TUPAC16's
slides is their scanner alone, as their tumour and species are one. Neither AtNorM set says which slide a crop is of,
but their files are numbered slide by slide: runs of neighbouring numbers stand in for slides (`training.data.blocks`).
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from model.constants import CLASSES
from training.data.blocks import in_blocks
from training.data.crop_files import crop_key, folder_label, images, set_folder
from training.data.csv_file import Row, read_csv
from training.data.sample import DataError, Sample
from training.data.table_set import DataSet, Figure, read_table_set
from training.data.tables import check_cells, group_name, slide_name

AMIBR_MANIFEST = ("file", "label", "dataset", "slide")
"""Columns of the table that AMi-Br comes with when its crops are sorted into folders by class."""
AMIBR_BENCHMARK = ("slide", "dataset_uid", "final_label")
"""Columns of the table of the training split in the repository of AMi-Br's benchmark."""
AMIBR_REPOSITORY = ("slide", "dataset", "uid", "majority_atypical")
"""Columns of the table in AMi-Br's repository."""
MIDOG21_SLIDES = frozenset(f"MIDOG/{number:03d}" for number in range(1, 151))
"""Groups of the MIDOG challenges' slides that are MIDOG 2021's, all of human breast cancer."""
TUMOURS = "domains.csv"
"""The file beside AtNorM-MD's crops that says which tumour each is of; the set is published without."""


def read_amibr(folder: Path) -> DataSet:
    """AMi-Br, as its repository, its benchmark's, or folders of crops with `manifest.csv`; raises as `read_table_set`.

    Of the benchmark's two splits only the training split has a table that says of which slides it is; the test split is
    left out.
    """
    return read_table_set("AMi-Br", folder, [AMIBR_MANIFEST, AMIBR_BENCHMARK, AMIBR_REPOSITORY], amibr_figure)


def amibr_figure(row: Row) -> Figure:
    """What a row of AMi-Br says, in the columns `AMIBR_MANIFEST`, `AMIBR_BENCHMARK` or `AMIBR_REPOSITORY`.

    Raises:
        ValueError: the slide has no name.
    """
    benchmark, slide = row.get("dataset_uid", ""), row["slide"]
    dataset = row.get("dataset") or benchmark.split("_")[0]
    domain = amibr_domain(dataset, slide)
    group = midog_slide(slide) if is_midog(dataset) else f"{dataset}/{slide_name(slide, 2)}"
    if "file" in row:
        return Figure(row["file"], row["label"], domain, group, dataset)
    if "final_label" in row:
        return Figure(benchmark, row["final_label"], domain, group, dataset)
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
    """AtNorM-MD, in blocks of numbers, with the tumours of `domains.csv` as domains where that is; raises as
    `read_table_set`."""
    tumours = read_tumours(set_folder(folder, "AtNorM-MD") / TUMOURS)

    def figure(row: Row) -> Figure:
        domain = "AtNorM-MD"
        if tumours:
            domain = tumours.get(crop_key(row["filename"]), "")
            if not domain:
                raise ValueError(f"the table {TUMOURS} beside the crops has no row for {row['filename']}; add it")
        return Figure(row["filename"], row["majority"], domain, "AtNorM-MD", "AtNorM-MD")

    data = read_table_set("AtNorM-MD", folder, [("filename", "expert_1", "majority")], figure)
    return replace(data, samples=in_blocks(data.samples))


def read_tumours(path: Path) -> dict[str, str]:
    """Tumour by `crop_key` from a table Filename,Tumor; empty where there is no such file.

    Raises:
        DataError: it lacks these columns or one of their cells, or a crop has two tumours.
    """
    if not path.is_file():
        return {}
    table = read_csv(path, "give a table that can be read, or remove it")
    columns = ("filename", "tumor")
    if missing := [column for column in columns if column not in table.columns]:
        raise DataError(f"{path} has no column {missing[0]}; it needs {','.join(columns)}.")
    check_cells(table, columns)
    tumours: dict[str, str] = {}
    for line, row in table.numbered():
        if tumours.setdefault(crop_key(row["filename"]), row["tumor"]) != row["tumor"]:
            raise DataError(f"{path}, line {line}: {row['filename']} has another tumour further up; remove one row.")
    return tumours


def read_atnorm_br(folder: Path) -> DataSet:
    """AtNorM-Br, the crops in folders `Atypical` and `Normal`, in blocks of numbers.

    Raises:
        DataError: one of them is missing or empty, or there are two of them.
    """
    folder = set_folder(folder, "AtNorM-Br")
    data = DataSet()
    folders: dict[str, Path] = {}
    for path in images(folder):
        label = folder_label(path)
        if label is None:
            data.unlisted.append(path)
            continue
        first = folders.setdefault(CLASSES[label], path.parent)
        if first != path.parent:
            raise DataError(
                f"Both {first} and {path.parent} have crops; give AtNorM-Br's folder, and nothing else in it."
            )
        data.samples.append(Sample(path, label, "AtNorM-Br", "AtNorM-Br", "AtNorM-Br"))
    for name in CLASSES:
        if name not in folders:
            raise DataError(f"{folder} has no folder {name.title()} with crops; give AtNorM-Br's folder.")
    return replace(data, samples=in_blocks(data.samples))


SETS: dict[str, tuple[str, Callable[[Path], DataSet]]] = {
    "amibr": ("AMi-Br", read_amibr),
    "midog25": ("MIDOG25", read_midog25),
    "omg_octo": ("OMG-Octo", read_omg_octo),
    "atnorm_br": ("AtNorM-Br", read_atnorm_br),
    "atnorm_md": ("AtNorM-MD", read_atnorm_md),
}
"""Name on the command line: name to the user and reader; in the order in which sets take precedence."""


def is_midog(source: str) -> bool:
    """Whether a source is one of the MIDOG challenges, whose slides have numbers in common."""
    return re.fullmatch(r"MIDOG\d*|MIDOG\+\+", source.upper()) is not None


def slide_group(source: str, slide: str) -> str:
    """Group of a slide of any source: that of `midog_slide`, or source and slide, folders being part of its name.

    Raises:
        ValueError: the slide has no name.
    """
    return midog_slide(slide) if is_midog(source) else f"{source}/{group_name(slide)}"


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
