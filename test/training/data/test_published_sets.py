"""The readers of the published sets, on small folders in their layouts."""

import shutil
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from helpers import shared
from published_layouts import (
    MIDOG25,
    facts,
    write_amibr,
    write_atnorm_br,
    write_atnorm_md,
    write_benchmark_repository,
    write_crop,
    write_midog25,
    write_omg_octo,
    write_table,
)

from training.data.manifest import read_manifest
from training.data.published_sets import (
    amibr_domain,
    read_amibr,
    read_atnorm_br,
    read_atnorm_md,
    read_midog25,
    read_omg_octo,
)
from training.data.sample import DataError, Sample


def phases(samples: list[Sample]) -> list[tuple[str, ...]]:
    return [sample.phases for sample in samples]


@pytest.mark.parametrize(
    ("dataset", "slide", "domain"),
    [
        ("MIDOG21", "050.tiff", "Hamamatsu XR"),
        ("MIDOG21", "051.tiff", "Hamamatsu S360"),
        ("MIDOG21", "101.tiff", "Aperio CS2"),
        ("MIDOG21", "151.tiff", "MIDOG21"),
        ("TUPAC16", "23_stitched1.tif", "Aperio XT"),
        ("TUPAC16", "24_stitched1.tif", "Leica SCN400"),
        ("elsewhere", "7.tiff", "elsewhere"),
        ("MIDOG21", "unnumbered.tiff", "MIDOG21"),
    ],
)
def test_domains(dataset: str, slide: str, domain: str) -> None:
    assert amibr_domain(dataset, slide) == domain


def test_amibr_is_read_in_both_layouts(tmp_path: Path) -> None:
    expected = [
        ("MIDOG21_6.png", 0, "Hamamatsu XR", "MIDOG/002", 1),
        ("MIDOG21_7.png", 1, "Hamamatsu XR", "MIDOG/002", 0.6667),
        ("MIDOG21_6000.png", 0, "Aperio CS2", "MIDOG/101", 1),
        ("TUPAC16_6.png", 1, "Aperio XT", "TUPAC16/04_stitched1", 1),
    ]
    repository = write_amibr(tmp_path / "repository")
    assert facts(read_amibr(repository).samples) == expected
    assert [s.source for s in read_amibr(repository).samples] == ["MIDOG21", "MIDOG21", "MIDOG21", "TUPAC16"]
    named = [("NMF metaphase",) * 2, ("AMF other", "NMF metaphase"), ("NMF metaphase",) * 2, ("AMF other",) * 2]
    assert phases(read_amibr(repository).samples) == named
    sorted_ = tmp_path / "sorted"
    for name, label in (("MIDOG21_6", "normal"), ("MIDOG21_7", "atypical")):
        (sorted_ / label).mkdir(parents=True)
        shutil.copy(repository / "patches" / f"{name}.png", sorted_ / label)
    write_table(
        sorted_ / "manifest.csv",
        "file,label,dataset,slide,expert1,expert2,expert3,expert1_phase,expert2_phase",
        "normal/MIDOG21_6.png,normal,MIDOG21,002.tiff,False,False,False,NMF metaphase,NMF metaphase",
        "atypical/MIDOG21_7.png,atypical,MIDOG21,002.tiff,True,False,True,AMF other,nan",
    )
    assert facts(read_amibr(sorted_).samples) == expected[:2]
    assert phases(read_amibr(sorted_).samples) == [("NMF metaphase",) * 2, ("AMF other",)]
    assert read_manifest(sorted_) == read_amibr(sorted_).samples, "one table is read alike wherever it is read"


def test_midog25_gets_domains_of_tumour_and_scanner_and_amibr_s_slides(tmp_path: Path) -> None:
    data = read_midog25(write_midog25(tmp_path))
    assert facts(data.samples) == [
        ("1.png", 0, "canine lung cancer, 3D Histech", "MIDOG/201", 0.6667),
        ("2.png", 1, "canine lung cancer, 3D Histech", "MIDOG/201", 1),
        ("3.png", 1, "Hamamatsu XR", "MIDOG/002", 1),
        ("4.png", 0, "Hamamatsu S360", "MIDOG/055", 1),
    ]
    assert [sample.source for sample in data.samples] == ["MIDOG25", "MIDOG25", "MIDOG21", "MIDOG21"]
    assert [path.name for path in data.unlisted] == ["5.png"] and not data.doubtful
    write_table(
        tmp_path / "train.csv",
        MIDOG25,
        "1,201.tiff,,,Lung Carcinoma,3D Histech,,Canine,,,,NMF",
        "2,150.tiff,,,breast carcinoma,CS2,,human,,,,AMF",
        "3,151.tiff,,,breast carcinoma,CS2,,human,,,,AMF",
    )
    assert [sample.domain for sample in read_midog25(tmp_path).samples] == [
        "canine lung carcinoma, 3D Histech",
        "Aperio CS2",
        "human breast carcinoma, CS2",
    ]


def test_omg_octo_is_read_with_either_table(tmp_path: Path) -> None:
    expected = [
        ("c4b9_x1_y2.png", 1, "OMG-Octo", "OMG-Octo/c4b9", 1),
        ("002_x3_y4.png", 0, "OMG-Octo", "OMG-Octo/002", 1),
    ]
    assert facts(read_omg_octo(write_omg_octo(tmp_path)).samples) == expected
    write_table(tmp_path / "octo.csv", "image_file,label", "c4b9_x1_y2.png,AMF", "002_x3_y4.png,MF")
    assert facts(read_omg_octo(tmp_path).samples) == expected
    with pytest.raises(DataError, match=r"train\.csv, line 2: this is MIDOG25's table"):
        read_omg_octo(write_midog25(tmp_path / "midog25"))


def test_the_atnorm_sets_are_in_blocks_of_numbers_as_their_slides_are_unknown(tmp_path: Path) -> None:
    br = read_atnorm_br(write_atnorm_br(tmp_path / "br")).samples
    assert [(s.path.name, s.label, s.group, s.domain) for s in br] == [
        ("7.png", 1, "AtNorM-Br/0001-0009", "AtNorM-Br"),
        ("1.png", 0, "AtNorM-Br/0001-0009", "AtNorM-Br"),
        ("9.png", 0, "AtNorM-Br/0001-0009", "AtNorM-Br"),
    ]
    md = read_atnorm_md(write_atnorm_md(tmp_path / "md")).samples
    assert facts(md) == [
        ("188.png", 1, "AtNorM-MD", "AtNorM-MD/0188-0190", 0.6),
        ("189.png", 0, "AtNorM-MD", "AtNorM-MD/0188-0190", 1),
        ("190.png", 1, "AtNorM-MD", "AtNorM-MD/0188-0190", 1),
    ]
    shutil.rmtree(tmp_path / "br" / "Normal")
    with pytest.raises(DataError, match="has no folder Normal with crops"):
        read_atnorm_br(tmp_path / "br")


def test_the_tumours_beside_atnorm_md_are_its_domains_and_no_block_has_two(tmp_path: Path) -> None:
    table = write_atnorm_md(tmp_path) / "domains.csv"
    rows = ["Filename;Tumor", "188.png;canine lymphoma", "189.PNG;canine lymphoma", "190;neuroendocrine tumour"]
    write_table(table, *rows)
    assert facts(read_atnorm_md(tmp_path).samples) == [
        ("188.png", 1, "canine lymphoma", "AtNorM-MD/0188-0189", 0.6),
        ("189.png", 0, "canine lymphoma", "AtNorM-MD/0188-0189", 1),
        ("190.png", 1, "neuroendocrine tumour", "AtNorM-MD/0190-0190", 1),
    ]
    for content, message in (
        (
            rows[:3],
            r"expert_votes\.csv, line 4: the table domains\.csv beside the crops has no row for 190\.png; add it",
        ),
        ([*rows, "190.png;melanoma"], r"domains\.csv, line 5: 190\.png has another tumour further up; remove one row"),
        ([*rows, "191.png;"], r"domains\.csv, line 5: the cell of the column tumor is empty; fill it"),
        (["Filename;Type", "188.png;x"], r"domains\.csv has no column tumor; it needs filename,tumor"),
    ):
        write_table(table, *content)
        with pytest.raises(DataError, match=message):
            read_atnorm_md(tmp_path)


def test_the_real_atnorm_md_is_in_blocks_within_its_tumours() -> None:
    data = read_atnorm_md(shared("atnorm_md"))
    assert len(data.samples) == 1513 and sum(sample.label for sample in data.samples) == 128
    assert not data.doubtful and not data.unlisted
    sizes = Counter(sample.group for sample in data.samples)
    assert min(sizes.values()) == 72 and max(sizes.values()) == 81 and sizes["AtNorM-MD/0188-0262"] == 75
    domains = {(sample.group, sample.domain) for sample in data.samples}
    assert len(domains) == len(sizes) == 20, "a block is of one tumour"
    assert Counter(domain for _, domain in domains) == {
        "canine lymphoma": 13,
        "canine cutaneous mast cell tumour": 5,
        "human neuroendocrine tumour": 2,
    }


def test_the_benchmark_s_repository_is_read_as_it_is_cloned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Three sets in one folder: none may take the crops of another, and none the test split."""
    clone = write_benchmark_repository(tmp_path / "AMi-Br_Benchmark")
    expected = [
        ("MIDOG21_6.png", 0, "Hamamatsu XR", "MIDOG/002", 1),
        ("MIDOG21_7.png", 1, "Hamamatsu XR", "MIDOG/002", 0.6667),
        ("TUPAC16_6.png", 1, "Aperio XT", "TUPAC16/04_stitched1", 1),
    ]
    for folder in (clone, clone / "AMi-Br", tmp_path):
        data = read_amibr(folder)
        assert facts(data.samples) == expected
        assert [path.relative_to(clone).as_posix() for path in data.unlisted] == ["AMi-Br/Test/Normal/MIDOG21_6000.png"]
    assert [sample.source for sample in data.samples] == ["MIDOG21", "MIDOG21", "TUPAC16"]
    for folder in (clone, clone / "AtNorM-MD", tmp_path):
        assert [sample.path.stem for sample in read_atnorm_md(folder).samples] == ["188", "189", "190"]
    for folder in (clone, clone / "AtNorM-Br", tmp_path):
        data = read_atnorm_br(folder)
        assert {sample.path.parent.parent for sample in data.samples} == {clone / "AtNorM-Br"} and not data.unlisted
    # with the tables beside the folders, only the columns that the split needs, and a table of the test split
    (clone / "AtNorM-MD" / "AtNorM-MD_expert_votes.csv").rename(clone / "AtNorM-MD_expert_votes.csv")
    write_table(clone / "amibr_train_split.csv", "slide,dataset_uid,final_label", "2.tif,MIDOG21_6.png,Normal")
    write_table(clone / "amibr_test_split.csv", "slide,dataset_uid,final_label", "101.tiff,MIDOG21_6000.png,Normal")
    (clone / "AMi-Br" / "amibr_train_split.csv").unlink()
    assert facts(read_amibr(clone).samples) == expected[:1]
    assert "1 tables of AMi-Br are passed over, being of its test split:\n  " in caplog.text
    assert len(read_atnorm_md(clone).samples) == 3


def test_two_folders_of_a_set_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_atnorm_br(tmp_path / name)
    with pytest.raises(DataError, match=r"Both .*a/Atypical and .*b/Atypical have crops; give AtNorM-Br's folder, and"):
        read_atnorm_br(tmp_path)
    for name in ("a", "b"):
        write_atnorm_br(tmp_path / "c" / name / "AtNorM-Br")
    with pytest.raises(
        DataError, match=r"Both .*a/AtNorM-Br and .*b/AtNorM-Br may be AtNorM-Br; give the folder of one"
    ):
        read_atnorm_br(tmp_path / "c")


def test_a_crop_of_two_slides_or_two_labels_is_refused(tmp_path: Path) -> None:
    write_crop(tmp_path / "1.png", 1)
    for row, what in (("1.png,b,NMF", "slide"), ("1.png,a,AMF", "label")):
        write_table(tmp_path / "t.csv", "image_id,filename,majority", "1,a,NMF", "1,a.svs,NMF", row)
        message = rf"t\.csv, line 4: the crop .*1\.png is in line 2, too, with another {what}; remove the wrong row"
        with pytest.raises(DataError, match=message):
            read_omg_octo(tmp_path)


def test_crops_are_found_by_name_in_any_folder_and_with_any_suffix(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", "image_id,filename,majority", "1.png,s,NMF", "2,s,AMF", "x/3.png,s,NMF", "4,s,AMF")
    for name in ("1.TIF", "deep/er/2.jpg", "x/3.png", "y/3.png", "Normal/4.png", "Atypical/4.png", "._1.png"):
        write_crop(tmp_path / name, seed=len(name))
    data = read_omg_octo(tmp_path)
    found = [sample.path.relative_to(tmp_path).as_posix() for sample in data.samples]
    assert found == ["1.TIF", "deep/er/2.jpg", "x/3.png", "Atypical/4.png"]
    assert {path.relative_to(tmp_path).as_posix() for path in data.unlisted} == {"y/3.png", "Normal/4.png"}
    write_crop(tmp_path / "other" / "1.tif", seed=1)
    with pytest.raises(DataError, match=r"line 2: both .* may be the crop 1\.png"):
        read_omg_octo(tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["image_id,filename", "1,s"], r"t\.csv has no rows with a column majority; OMG-Octo comes with a CSV"),
        (["image_id,filename,majority"], r"t\.csv has no rows with a column"),
        (
            ["image_id,filename,majority", "1,s,NMF", "1,s,MAYBE"],
            r"t\.csv, line 3: the label is 'MAYBE'; write AMF or NMF",
        ),
        (["image_id,filename,majority,expert1", "1,s,NMF,perhaps"], r"line 2: the expert1 is 'perhaps'"),
        (["image_id,filename,majority", "1,,NMF"], r"line 2: the cell of the column filename is empty"),
        (["image_id,filename,majority", "1,s"], r"line 2: the cell of the column majority is empty"),
        (
            ["image_id,filename,majority", "7.png,s,NMF", "1,s,NMF", "8.png,s,NMF", "9,s,AMF"],
            r"t\.csv, line 2: there is no crop 7\.png in .*, as for 2 more rows; add the crops, or remove",
        ),
    ],
)
def test_bad_tables_are_refused_by_file_line_and_value(tmp_path: Path, rows: list[str], message: str) -> None:
    write_crop(tmp_path / "1.png", 1)
    write_table(tmp_path / "t.csv", *rows)
    with pytest.raises(DataError, match=message):
        read_omg_octo(tmp_path)


def test_no_table_and_two_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone is no folder"):
        read_midog25(tmp_path / "gone")
    write_crop(tmp_path / "1.png", 1)
    with pytest.raises(DataError, match=r"has no table; MIDOG25 comes with a CSV file"):
        read_midog25(tmp_path)
    for name in ("a", "b"):
        write_table(tmp_path / f"{name}.csv", "image_id,filename,majority", "1,s,NMF")
    with pytest.raises(DataError, match=r"Both .*a\.csv and .*b\.csv may be the table"):
        read_omg_octo(tmp_path)


def test_published_slides_are_one_group_however_they_are_spelled(tmp_path: Path) -> None:
    names = ["007.tiff", "7", "images/007.tiff", "images\\007.tif"]
    for i in range(len(names)):
        write_crop(tmp_path / f"{i}.png", seed=i)
    rows = [f"{i}.png,{name},human breast cancer,Hamamatsu XR,human,NMF" for i, name in enumerate(names)]
    write_table(tmp_path / "t.csv", "image_id,filename,tumor,scanner,species,majority", *rows)
    samples = read_midog25(tmp_path).samples
    assert {(s.group, s.source, s.domain) for s in samples} == {("MIDOG/007", "MIDOG21", "Hamamatsu XR")}
    write_table(tmp_path / "t.csv", "image_id,filename,majority", *(f"{i},{name},NMF" for i, name in enumerate(names)))
    assert {sample.group for sample in read_omg_octo(tmp_path).samples} == {"OMG-Octo/007"}


TABLE = "image_id,filename,majority,expert1", "1.png,s,NMF,NMF", "2,s,AMF,NA"


def test_csv_files_that_are_no_table_of_the_set_do_not_end_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for seed in (1, 2):
        write_crop(tmp_path / f"{seed}.png", seed)
    (tmp_path / "notes.csv").write_bytes(b"Gr\xf6\xdfe;Wert\n1;2\n")
    write_table(tmp_path / "other.csv", "a,a,b", "1,2,3,4")
    write_table(tmp_path / "empty.csv", "")
    with pytest.raises(DataError, match=r"notes\.csv is no UTF-8 text .*OMG-Octo comes with a CSV file that has the"):
        read_omg_octo(tmp_path)
    write_table(tmp_path / "t.csv", *TABLE)
    (tmp_path / "folder.csv").mkdir()
    assert [sample.label for sample in read_omg_octo(tmp_path).samples] == [0, 1]
    named = [line for line in caplog.text.splitlines() if "Not looked at for the table of OMG-Octo: " in line]
    assert len(named) == 2 and "notes.csv is no UTF-8 text" in named[0] and "other.csv has two columns a" in named[1]


def test_hidden_folders_are_passed_over_inside_the_set_alone(tmp_path: Path) -> None:
    folder = tmp_path / ".cache" / "set"
    write_table(folder / "t.csv", *TABLE)
    write_table(folder / ".ipynb_checkpoints" / "t-checkpoint.csv", *TABLE)
    for seed in (1, 2):
        write_crop(folder / f"{seed}.png", seed)
        write_crop(folder / ".thumbnails" / "large" / f"{seed}.png", seed)
        write_crop(folder / "__MACOSX" / f"{seed}.png", seed)
    data = read_omg_octo(folder)
    assert [sample.path for sample in data.samples] == [folder / "1.png", folder / "2.png"] and not data.unlisted


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("in_table", ["NFC", "NFD"])
def test_names_with_accents_and_backslashes_are_found(on_disk: str, in_table: str, tmp_path: Path) -> None:
    """Archives from a Mac compose accents otherwise than tables do; tables from Windows have backslashes."""
    names = ["f\u00e4ll1.png", "\u00e9t\u00e9/2.png"]
    for seed, name in enumerate(names):
        write_crop(tmp_path / unicodedata.normalize(on_disk, name), seed)
    write_crop(tmp_path / "other" / "2.png", 7)
    cells = [unicodedata.normalize(in_table, name).replace("/", "\\") for name in names]
    write_table(tmp_path / "t.csv", "image_id,filename,majority", f"C:\\crops\\{cells[0]},s,NMF", f"{cells[1]},s,AMF")
    found = [sample.path.relative_to(tmp_path).as_posix() for sample in read_omg_octo(tmp_path).samples]
    assert found == [unicodedata.normalize(on_disk, name) for name in names]
    (tmp_path / "t.csv").unlink()
    rows = [f"{cell},{label},d,s,x,1" for cell, label in zip(cells, ("normal", "atypical"), strict=True)]
    write_table(tmp_path / "manifest.csv", "path,label,domain,group,source,agreement", *rows)
    assert [sample.path.relative_to(tmp_path).as_posix() for sample in read_manifest(tmp_path)] == found


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["1.png,s,MAYBE,"], "line 4: the label is 'MAYBE'"),
        (["7.png,s,NMF,"], r"line 4: there is no crop 7\.png"),
        (["1.png,,NMF,"], "line 4: the cell of the column filename is empty"),
    ],
)
def test_a_sentence_names_the_table_and_the_line_in_any_dialect(rows: list[str], message: str, tmp_path: Path) -> None:
    """A line `sep=` and blank rows are lines, too."""
    write_crop(tmp_path / "1.png", 1)
    rows = [row.replace(",", ";") for row in ("image_id,filename,majority,expert1", ",,,", *rows)]
    write_table(tmp_path / "t.csv", "sep=;", *rows)
    with pytest.raises(DataError, match=rf"t\.csv, {message}"):
        read_omg_octo(tmp_path)


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_crop(tmp_path / "elsewhere" / f"{seed}.png", seed)
    folder = tmp_path / "set"
    write_table(folder / "t.csv", *TABLE)
    (folder / "crops").symlink_to(tmp_path / "elsewhere")
    (folder / "again").symlink_to(folder)
    (tmp_path / "elsewhere" / "back").symlink_to(folder)
    samples = read_omg_octo(folder).samples
    assert [sample.path for sample in samples] == [folder / "crops" / "1.png", folder / "crops" / "2.png"]
