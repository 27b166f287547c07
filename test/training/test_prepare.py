"""`training.prepare` on small folders in the layouts of the published sets, and on the real AMi-Br."""

import csv
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import shared

from training.data.manifest import DataError, Sample, read_manifest
from training.data.published_sets import SETS, read_amibr, read_atnorm_br, read_atnorm_md, read_midog25, read_omg_octo
from training.prepare import main, prepare, summary


def write_crop(path: Path, seed: int, side: int = 128) -> Path:
    """Writes a picture of 8 x 8 random colours; one seed, one picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), cv2.resize(colours, (side, side), interpolation=cv2.INTER_NEAREST))
    return path


def write_table(path: Path, columns: str, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([columns, *rows]) + "\n", encoding="utf-8")


MIDOG25 = "image_id,filename,coordinateX,coordinateY,Tumor,Scanner,Origin,Species,expert1,expert2,expert3,majority"


def write_amibr(folder: Path) -> Path:
    """In its repository's layout: two MIDOG slides and one of TUPAC; pictures 1 to 4."""
    write_table(
        folder / "AMi-Br.csv",
        ",slide,dataset,uid,x,y,expert1_label,expert2_label,expert1_atypical,expert2_atypical,expert3_atypical,majority_atypical",
        "0,002.tiff,MIDOG21,6,4422,216,NMF metaphase,NMF metaphase,False,False,False,False",
        "1,002.tiff,MIDOG21,7,1867,1583,AMF other,NMF metaphase,True,False,True,True",
        "2,101.tiff,MIDOG21,6000,1,1,NMF metaphase,NMF metaphase,False,False,False,False",
        "3,04_stitched1.tif,TUPAC16,6,1,1,AMF other,AMF other,True,True,True,True",
    )
    for seed, name in enumerate(["MIDOG21_6", "MIDOG21_7", "MIDOG21_6000", "TUPAC16_6"], start=1):
        write_crop(folder / "patches" / f"{name}.png", seed)
    return folder


def write_midog25(folder: Path) -> Path:
    """Slide 002 is in AMi-Br too; pictures 11 to 15, the file of the last one without a row."""
    write_table(
        folder / "train.csv",
        MIDOG25,
        "1.png,201.tiff,1,1,canine lung cancer,3D Histech,VMU Vienna,Canine,NMF,AMF,NMF,NMF",
        "2.png,201.tiff,1,1,canine lung cancer,3D Histech,VMU Vienna,Canine,AMF,AMF,,AMF",
        "3.png,002.tiff,1,1,human breast cancer,Hamamatsu XR,UMC Utrecht,Human,AMF,AMF,,AMF",
        "4.png,055.tiff,1,1,human breast cancer,Hamamatsu S360,UMC Utrecht,Human,NMF,NMF,,NMF",
    )
    for seed in range(11, 16):
        write_crop(folder / "crops" / f"{seed - 10}.png", seed)
    return folder


def write_omg_octo(folder: Path) -> Path:
    """A slide called as one of MIDOG's is another; pictures 21 and 22."""
    write_table(folder / "octo.csv", "image_id,filename,majority", "c4b9_x1_y2.png,c4b9,AMF", "002_x3_y4.png,002,NMF")
    for seed, name in enumerate(["c4b9_x1_y2", "002_x3_y4"], start=21):
        write_crop(folder / f"{name}.png", seed)
    return folder


def write_atnorm_br(folder: Path) -> Path:
    """Pictures 31 to 33."""
    for seed, name in enumerate(["Atypical/7", "Normal/1", "Normal/2"], start=31):
        write_crop(folder / f"{name}.png", seed)
    return folder


def write_atnorm_md(folder: Path) -> Path:
    """Pictures 41 and 42, and picture 12 of MIDOG25 once more."""
    write_table(
        folder / "labels.csv",
        "Filename,Expert_1,Expert_2,Expert_3,Expert_4,Expert_5,Majority",
        "a.png,AMF,AMF,NMF,AMF,NMF,AMF",
        "b.png,NMF,NMF,NMF,NMF,NMF,NMF",
        "c.png,AMF,AMF,AMF,AMF,AMF,AMF",
    )
    for seed, name in ((41, "Atypical/a"), (42, "Normal/b"), (12, "Atypical/c")):
        write_crop(folder / f"{name}.png", seed)
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """All five sets."""
    writers = (write_amibr, write_midog25, write_omg_octo, write_atnorm_br, write_atnorm_md)
    return {key: write(tmp_path / key) for key, write in zip(SETS, writers, strict=True)}


def facts(samples: list[Sample]) -> list[tuple[str, int, str, str, float]]:
    return [(s.path.name, s.label, s.domain, s.group, s.agreement) for s in samples]


def phases(samples: list[Sample]) -> list[tuple[str, ...]]:
    return [sample.phases for sample in samples]


def test_amibr_is_read_in_both_layouts(tmp_path: Path) -> None:
    expected = [
        ("MIDOG21_6.png", 0, "human breast cancer, Hamamatsu XR", "MIDOG/002", 1),
        ("MIDOG21_7.png", 1, "human breast cancer, Hamamatsu XR", "MIDOG/002", 0.6667),
        ("MIDOG21_6000.png", 0, "human breast cancer, Aperio CS2", "MIDOG/101", 1),
        ("TUPAC16_6.png", 1, "human breast cancer, Aperio XT", "TUPAC16/04_stitched1.tif", 1),
    ]
    repository = write_amibr(tmp_path / "repository")
    assert facts(read_amibr(repository).samples) == expected
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
    assert phases(read_manifest(sorted_)) == [("NMF metaphase",) * 2, ("AMF other",)]


def test_midog25_gets_domains_of_tumour_and_scanner_and_amibr_s_slides(tmp_path: Path) -> None:
    data = read_midog25(write_midog25(tmp_path))
    assert facts(data.samples) == [
        ("1.png", 0, "canine lung cancer, 3D Histech", "MIDOG/201", 0.6667),
        ("2.png", 1, "canine lung cancer, 3D Histech", "MIDOG/201", 1),
        ("3.png", 1, "human breast cancer, Hamamatsu XR", "MIDOG/002", 1),
        ("4.png", 0, "human breast cancer, Hamamatsu S360", "MIDOG/055", 1),
    ]
    assert [path.name for path in data.unlisted] == ["5.png"] and not data.doubtful
    write_table(
        tmp_path / "train.csv",
        MIDOG25,
        "1,201.tiff,,,Lung Carcinoma,3D Histech,,Canine,,,,NMF",
        "2,150.tiff,,,breast carcinoma,CS2,,human,,,,AMF",
        "3,151.tiff,,,breast carcinoma,CS2,,human,,,,AMF",
    )
    assert [sample.domain for sample in read_midog25(tmp_path).samples] == [
        "canine lung carcinoma, 3D Histech", "human breast cancer, Aperio CS2", "human breast carcinoma, CS2",
    ]  # fmt: skip


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


def test_the_atnorm_sets_are_one_group_each_as_their_slides_are_unknown(tmp_path: Path) -> None:
    br = read_atnorm_br(write_atnorm_br(tmp_path / "br")).samples
    assert [(s.path.name, s.label, s.group, s.domain) for s in br] == [
        ("7.png", 1, "AtNorM-Br", "AtNorM-Br"), ("1.png", 0, "AtNorM-Br", "AtNorM-Br"),
        ("2.png", 0, "AtNorM-Br", "AtNorM-Br"),
    ]  # fmt: skip
    md = read_atnorm_md(write_atnorm_md(tmp_path / "md")).samples
    assert facts(md) == [
        ("a.png", 1, "AtNorM-MD", "AtNorM-MD", 0.6), ("b.png", 0, "AtNorM-MD", "AtNorM-MD", 1),
        ("c.png", 1, "AtNorM-MD", "AtNorM-MD", 1),
    ]  # fmt: skip
    shutil.rmtree(tmp_path / "br" / "Normal")
    with pytest.raises(DataError, match="has no folder Normal with crops"):
        read_atnorm_br(tmp_path / "br")


def test_the_manifest_holds_every_crop_once_and_is_read_back_equal(
    folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backwards = dict(reversed(folders.items()))
    prepared = prepare(tmp_path / "out", backwards)
    assert read_manifest(tmp_path / "out") == prepared.samples
    assert Counter(sample.source for sample in prepared.samples) == {
        "AMi-Br": 4, "MIDOG25": 3, "OMG-Octo": 2, "AtNorM-Br": 3, "AtNorM-MD": 2,
    }  # fmt: skip
    assert prepared.removed == {
        ("MIDOG25", "slide in an earlier set"): 1, ("MIDOG25", "not in the set's table"): 1,
        ("AtNorM-MD", "same pixels as an earlier crop"): 1,
    }  # fmt: skip
    names = {f"{s.source}/{s.path.name}" for s in prepared.samples}
    assert not names & {"MIDOG25/3.png", "AtNorM-MD/c.png"} and {"AMi-Br/MIDOG21_6.png", "MIDOG25/2.png"} <= names
    assert "5.png" in caplog.text and "2 of them may be of slides of AMi-Br or MIDOG25" in caplog.text


def test_paths_are_relative_to_the_manifest_where_they_can_be(folders: dict[str, Path], tmp_path: Path) -> None:
    prepare(tmp_path, {"omg_octo": folders["omg_octo"]})
    with (tmp_path / "manifest.csv").open(encoding="utf-8") as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["omg_octo/c4b9_x1_y2.png", "omg_octo/002_x3_y4.png"]


def test_the_same_pixels_with_another_label_keep_the_first_and_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_table(
        tmp_path / "octo" / "t.csv", "image_id,filename,majority", "a,s,NMF", "b,s,AMF", "c,s,NMF", "d,s,AMF",
    )  # fmt: skip
    for name, seed in (("a.png", 1), ("b.tif", 1), ("c.png", 1), ("d.png", 2)):
        write_crop(tmp_path / "octo" / name, seed)
    prepared = prepare(tmp_path / "out", {"omg_octo": tmp_path / "octo"})
    assert [(s.path.name, s.label) for s in prepared.samples] == [("a.png", 0), ("d.png", 1)]
    assert prepared.removed == {
        ("OMG-Octo", "same pixels as an earlier crop"): 1, ("OMG-Octo", "same pixels, but another label"): 1,
    }  # fmt: skip
    assert "b.tif (atypical) is" in caplog.text and "c.png" not in caplog.text


def test_rows_whose_label_is_contradicted_are_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_atnorm_md(tmp_path / "md")
    write_table(
        folder / "labels.csv",
        " Filename ,EXPERT_1,Expert_2,Expert_3,majority",
        "a.png, 1 ,0,0.0,AMF",
        "b.png,False,,nan,normal",
        "Atypical/c.png,0,0,1,Normal",
    )
    prepared = prepare(tmp_path / "out", {"atnorm_md": folder})
    assert facts(prepared.samples) == [("b.png", 0, "AtNorM-MD", "AtNorM-MD", 1)]
    assert prepared.removed == {("AtNorM-MD", "label contradicted"): 2}
    assert "line 2: most of the experts' votes are against the label atypical" in caplog.text
    assert "line 4: the label is normal, but" in caplog.text


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
            r"t\.csv, line 2: there is no crop 7\.png in .*, as for 2 more rows; download the crops again",
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


def test_bad_crops_are_refused_by_name_and_nothing_is_written(
    folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    chosen = {key: folders[key] for key in ("omg_octo", "atnorm_br")}
    write_crop(folders["atnorm_br"] / "Normal" / "2.png", 33, side=64)
    with pytest.raises(DataError, match=r"Normal/2\.png is 64 x 64 pixels instead of 128 x 128; .* --size .*large\.$"):
        prepare(out, chosen)
    (folders["omg_octo"] / "c4b9_x1_y2.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"c4b9_x1_y2\.png cannot be read .* \(1 more crops cannot be used either\)\.$"):
        prepare(out, chosen)
    assert "Normal/2.png" in caplog.text
    assert not out.exists()
    write_crop(folders["atnorm_br"] / "Atypical" / "7.png", 31, side=64)
    write_crop(folders["atnorm_br"] / "Normal" / "1.png", 32, side=64)
    assert len(prepare(out, {"atnorm_br": folders["atnorm_br"]}, size=64).samples) == 3
    with pytest.raises(DataError, match=r"Atypical/7\.png is 64 x 64 pixels instead of 32 x 32"):
        prepare(tmp_path / "another", {"atnorm_br": folders["atnorm_br"]}, size=32)


def test_a_manifest_is_replaced_only_as_a_whole_and_only_an_own_one(folders: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(out, {"omg_octo": folders["omg_octo"]})
    before = (out / "manifest.csv").read_bytes()
    (folders["amibr"] / "patches" / "MIDOG21_6.png").unlink()
    with pytest.raises(DataError, match="there is no crop MIDOG21_6"):
        prepare(out, folders)
    assert (out / "manifest.csv").read_bytes() == before
    prepare(out, {"atnorm_br": folders["atnorm_br"]})
    assert len(read_manifest(out)) == 3 and [path.name for path in out.iterdir()] == ["manifest.csv"]
    columns = "path,label,domain,group,source,agreement"
    write_table(out / "manifest.csv", columns, "a.png,normal,x,y,z,1")
    prepare(out, {"atnorm_br": folders["atnorm_br"]})
    write_table(out / "manifest.csv", f"{columns},phases,mine", "a.png,normal,x,y,z,1,,kept")
    with pytest.raises(DataError, match=r"manifest\.csv was not written by this program; give another folder"):
        prepare(out, {"atnorm_br": folders["atnorm_br"]})
    write_table(out / "manifest.csv", "file,label,dataset,slide", "a.png,normal,x,y")
    with pytest.raises(DataError, match=r"manifest\.csv was not written by this program; give another folder"):
        prepare(out, {"atnorm_br": folders["atnorm_br"]})
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file cannot be made: .*; give another folder"):
        prepare(tmp_path / "file", {"atnorm_br": folders["atnorm_br"]})


def test_a_file_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    folder = write_atnorm_br(tmp_path / "br")
    (folder / "Normal" / "1.png").rename(folder / "Normal" / "\udcff.png")
    with pytest.raises(DataError, match=r"cannot be written: .*udcff\.png' is no UTF-8 text; rename the file"):
        prepare(tmp_path / "out", {"atnorm_br": folder})
    assert not list((tmp_path / "out").iterdir())


def test_the_command_prints_counts_and_ends_with_one_sentence(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    arguments = [word for key, folder in folders.items() for word in (f"--{key.replace('_', '-')}", str(folder))]
    main([out, *arguments])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "source domain groups normal atypical",
        "AMi-Br human breast cancer, Aperio CS2 1 1 0",
        "AMi-Br human breast cancer, Aperio XT 1 0 1",
        "AMi-Br human breast cancer, Hamamatsu XR 1 1 1",
        "MIDOG25 canine lung cancer, 3D Histech 1 1 1",
        "MIDOG25 human breast cancer, Hamamatsu S360 1 1 0",
        "OMG-Octo OMG-Octo 2 1 1",
        "AtNorM-Br AtNorM-Br 1 2 1",
        "AtNorM-MD AtNorM-MD 1 1 1",
        "all 9 8 6",
        "",
        "source left out crops",
        "MIDOG25 not in the set's table 1",
        "MIDOG25 slide in an earlier set 1",
        "AtNorM-MD same pixels as an earlier crop 1",
        "",
        str(tmp_path / "out" / "manifest.csv"),
    ]
    with pytest.raises(SystemExit, match=r"^.*gone is no folder; give the one that .* unpacked to\.$"):
        main([out, "--amibr", str(tmp_path / "gone")])
    with pytest.raises(SystemExit) as stop:
        main([out])
    assert stop.value.code == 2 and "at least one data set" in capsys.readouterr().err


@pytest.mark.slow
def test_amibr_s_training_crops_are_all_different(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, {"amibr": shared("amibr")})
    assert read_manifest(tmp_path) == prepared.samples
    assert not prepared.removed
    assert len(prepared.samples) == 2894 and sum(sample.label for sample in prepared.samples) == 648
    assert len({sample.group for sample in prepared.samples}) == 146
    assert Counter(sample.agreement for sample in prepared.samples) == {1: 2252, 0.6667: 642}
    assert summary(prepared).splitlines()[-1].split() == ["all", "146", "2246", "648"]
    own = read_manifest(shared("amibr"))
    assert [(s.path.name, s.label, s.phases) for s in prepared.samples] == [
        (s.path.name, s.label, s.phases) for s in own
    ]
    assert {len(sample.phases) for sample in own} == {2} and len({sample.phases[0] for sample in own}) == 8
