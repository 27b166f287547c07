"""`training.prepare` on small folders in the layouts of the published sets, and on the real AMi-Br."""

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import REPOSITORY, shared
from published_layouts import (
    facts,
    write_amibr,
    write_atnorm_br,
    write_atnorm_md,
    write_crop,
    write_midog25,
    write_omg_octo,
    write_table,
)

from training.config import load_config
from training.data.folds import splits_of
from training.data.manifest import read_manifest
from training.data.published_sets import SETS
from training.data.sample import DataError
from training.prepare import main, prepare, summary


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """All five sets."""
    writers = (write_amibr, write_midog25, write_omg_octo, write_atnorm_br, write_atnorm_md)
    return {key: write(tmp_path / key) for key, write in zip(SETS, writers, strict=True)}


def test_the_manifest_holds_every_crop_once_and_is_read_back_equal(
    folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backwards = dict(reversed(folders.items()))
    prepared = prepare(tmp_path / "out", backwards)
    assert read_manifest(tmp_path / "out") == prepared.samples
    assert Counter(sample.source for sample in prepared.samples) == {
        "MIDOG21": 4,
        "TUPAC16": 1,
        "MIDOG25": 2,
        "OMG-Octo": 2,
        "AtNorM-Br": 3,
        "AtNorM-MD": 2,
    }
    assert prepared.removed == {
        ("MIDOG25", "slide in an earlier set"): 1,
        ("MIDOG25", "not in the set's table"): 1,
        ("AtNorM-MD", "same pixels as another crop"): 1,
    }
    names = {f"{name}/{sample.path.name}" for name, sample in prepared.found}
    assert not names & {"MIDOG25/3.png", "AtNorM-MD/190.png"} and {"AMi-Br/MIDOG21_6.png", "MIDOG25/2.png"} <= names
    assert "5.png" in caplog.text and "2 of them may be of slides of AMi-Br or MIDOG25" in caplog.text


def test_paths_are_relative_to_the_manifest_where_they_can_be(folders: dict[str, Path], tmp_path: Path) -> None:
    prepare(tmp_path, {"omg_octo": folders["omg_octo"]})
    with (tmp_path / "manifest.csv").open(encoding="utf-8") as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["omg_octo/c4b9_x1_y2.png", "omg_octo/002_x3_y4.png"]


def test_of_the_same_pixels_the_more_frequent_label_stays_and_the_other_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_table(
        tmp_path / "octo" / "t.csv",
        "image_id,filename,majority",
        "a,s,NMF",
        "b,s,AMF",
        "c,s,NMF",
        "d,s,AMF",
        "e,s,AMF",
        "f,s,NMF",
    )
    for name, seed in (("a.png", 1), ("b.tif", 1), ("c.png", 1), ("d.png", 2), ("e.png", 3), ("f.png", 3)):
        write_crop(tmp_path / "octo" / name, seed)
    prepared = prepare(tmp_path / "out", {"omg_octo": tmp_path / "octo"})
    assert [(s.path.name, s.label) for s in prepared.samples] == [("a.png", 0), ("d.png", 1)]
    assert prepared.removed == {
        ("OMG-Octo", "same pixels as another crop"): 1,
        ("OMG-Octo", "same pixels, but another label"): 3,
    }
    assert "b.tif (atypical) is" in caplog.text and "c.png" not in caplog.text
    assert "e.png (atypical) is" in caplog.text, "one says this, one that: neither is used"


def test_rows_whose_label_is_contradicted_are_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_atnorm_md(tmp_path / "md")
    write_table(
        folder / "AtNorM-MD_expert_votes.csv",
        " Filename ,EXPERT_1,Expert_2,Expert_3,majority",
        "188.png, 1 ,0,0.0,AMF",
        "189.png,False,,nan,normal",
        "Atypical/190.png,0,0,1,Normal",
    )
    prepared = prepare(tmp_path / "out", {"atnorm_md": folder})
    assert facts(prepared.samples) == [("189.png", 0, "AtNorM-MD", "AtNorM-MD/0189-0189", 1)]
    assert prepared.removed == {("AtNorM-MD", "label contradicted"): 2}
    assert "line 2: most of the experts' votes are against the label atypical" in caplog.text
    assert "line 4: the label is normal, but" in caplog.text


def test_bad_crops_are_refused_by_name_and_nothing_is_written(
    folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    chosen = {key: folders[key] for key in ("omg_octo", "atnorm_br")}
    write_crop(folders["atnorm_br"] / "Normal" / "9.png", 33, side=64)
    with pytest.raises(DataError, match=r"Normal/9\.png is 64 x 64 pixels instead of 128 x 128; .* --size .*large\.$"):
        prepare(out, chosen)
    (folders["omg_octo"] / "c4b9_x1_y2.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"c4b9_x1_y2\.png cannot be read .* \(1 more crops cannot be used either\)\.$"):
        prepare(out, chosen)
    assert "Normal/9.png" in caplog.text
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
        "set source domain groups normal atypical",
        "AMi-Br MIDOG21 Aperio CS2 1 1 0",
        "AMi-Br MIDOG21 Hamamatsu XR 1 1 1",
        "AMi-Br TUPAC16 Aperio XT 1 0 1",
        "MIDOG25 MIDOG21 Hamamatsu S360 1 1 0",
        "MIDOG25 MIDOG25 canine lung cancer, 3D Histech 1 1 1",
        "OMG-Octo OMG-Octo OMG-Octo 2 1 1",
        "AtNorM-Br AtNorM-Br AtNorM-Br 1 2 1",
        "AtNorM-MD AtNorM-MD AtNorM-MD 1 1 1",
        "all 9 8 6",
        "",
        "set left out crops",
        "MIDOG25 not in the set's table 1",
        "MIDOG25 slide in an earlier set 1",
        "AtNorM-MD same pixels as another crop 1",
        "",
        str(tmp_path / "out" / "manifest.csv"),
    ]
    with pytest.raises(SystemExit, match=r"^.*gone is no folder; give the one that .* unpacked to\.$"):
        main([out, "--amibr", str(tmp_path / "gone")])
    with pytest.raises(SystemExit) as stop:
        main([out])
    assert stop.value.code == 2 and "at least one data set" in capsys.readouterr().err


def test_only_the_crops_that_a_table_lists_are_used(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "only.csv"
    rows = [
        "AMi-Br;MIDOG21_6.png;",
        "AtNorM-MD;188;canine lymphoma",
        "atnorm-md;189.png;canine lymphoma",
        "AtNorM-MD;190;",
    ]
    write_table(table, "set;file;domain", *rows)
    arguments = [str(tmp_path / "out"), "--only", str(table), "--amibr", str(folders["amibr"])]
    main([*arguments, "--atnorm-md", str(folders["atnorm_md"])])
    assert facts(read_manifest(tmp_path / "out")) == [
        ("MIDOG21_6.png", 0, "Hamamatsu XR", "MIDOG/002", 1),
        ("188.png", 1, "canine lymphoma", "AtNorM-MD/0188-0189", 0.6),
        ("189.png", 0, "canine lymphoma", "AtNorM-MD/0188-0189", 1),
        ("190.png", 1, "AtNorM-MD", "AtNorM-MD/0190-0190", 1),
    ]
    assert "AMi-Br not among those to use 3" in " ".join(capsys.readouterr().out.split())
    for content, message in (
        (["set;file", "AMi-Br;MIDOG21_6", "Lab;1"], "only.csv lists crops of 'lab', a set that was not given"),
        (
            ["set;file", "AMi-Br;MIDOG21_6", "AMi-Br;x", "AMi-Br;y"],
            "lists the crop x and 1 more of AMi-Br, which canno",
        ),
        (["file", "MIDOG21_6"], "only.csv has no column set; it needs set,file and may have domain"),
        (["set;file", "AMi-Br;"], "line 2: the cell of the column file is empty"),
    ):
        write_table(table, *content)
        with pytest.raises(SystemExit, match=message):
            main(arguments)


@pytest.mark.slow
def test_the_recipe_s_own_table_lists_its_data(tmp_path: Path) -> None:
    """The crops that the default weights are made of, by the command in docs/data.md."""
    only = str(REPOSITORY / "training" / "configs" / "compact.csv")
    sets = ["--amibr", str(shared("amibr")), "--atnorm-md", str(shared("atnorm_md"))]
    main([str(tmp_path), "--only", only, *sets])
    samples = read_manifest(tmp_path)
    assert Counter(sample.source for sample in samples) == {"MIDOG21": 1292, "TUPAC16": 1602, "AtNorM-MD": 1513}
    assert sum(sample.label for sample in samples) == 776 and len({sample.group for sample in samples}) == 166


def test_a_set_of_one_s_own_is_combined_with_published_ones(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its crops come last: one has the pixels of a crop of OMG-Octo, one is of a slide that AMi-Br has crops of."""
    for seed, name in ((51, "a/1"), (52, "a/2"), (21, "b/1"), (53, "b/2")):
        write_crop(tmp_path / "lab" / f"{name}.png", seed)
    table = tmp_path / "lab.csv"
    rows = ["a/1.png,1,S1,Nord", "a/2.png,0,S1,Nord", "b/1.png,1,S2,Nord", "b/2.png,0,2,MIDOG21"]
    write_table(table, "Image,atypical,slide,source", *rows)
    out = str(tmp_path / "out")
    sets = ["--amibr", str(folders["amibr"]), "--omg-octo", str(folders["omg_octo"])]
    own = ["--images", str(tmp_path / "lab"), "--labels", str(table), "--columns", "file=image,label=atypical"]
    main([out, *sets, *own, "--name", "Lab"])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "Lab Nord Lab 1 1 1" in lines and "all 6 4 4" in lines
    assert lines[-4:-2] == ["Lab slide in an earlier set 1", "Lab same pixels as another crop 1"]
    samples = read_manifest(tmp_path / "out")
    assert [s.group for s in samples if s.source == "Nord"] == ["Nord/S1", "Nord/S1"]
    main([out, *own])
    assert len(read_manifest(tmp_path / "out")) == 4
    for name in ("AMi-BR", " "):
        with pytest.raises(
            SystemExit, match=rf"^The --name '{name}' is empty or a published set's; give another for your"
        ):
            main([out, *own, "--name", name])
    with pytest.raises(
        SystemExit, match=r"^.*lab\.csv, line 2: the atypical is '1', which is given neither .*; give it\.$"
    ):
        main([out, *own, "--atypical", "yes"])
    for words, message in (
        (own[:2], "give --images and --labels together"),
        (own[4:], "are about a set of one's own"),
        (["--normal", "0", *sets], "are about a set of one's own"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([out, *words])
        assert stop.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.slow
def test_amibr_s_training_crops_are_all_different(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, {"amibr": shared("amibr")})
    assert read_manifest(tmp_path) == prepared.samples
    assert not prepared.removed
    assert len(prepared.samples) == 2894 and sum(sample.label for sample in prepared.samples) == 648
    assert len({sample.group for sample in prepared.samples}) == 146
    assert Counter(sample.agreement for sample in prepared.samples) == {1: 2252, 2 / 3: 642}
    assert summary(prepared).splitlines()[-1].split() == ["all", "146", "2246", "648"]
    assert {len(sample.phases) for sample in prepared.samples} == {2}
    assert len({sample.phases[0] for sample in prepared.samples}) == 8


@pytest.mark.slow
def test_training_on_prepared_amibr_is_training_on_its_own_table(tmp_path: Path) -> None:
    """Crops, labels, votes, slides, domains and sources, in this order, and so the folds and everything after them."""
    prepare(tmp_path, {"amibr": shared("amibr")})
    prepared, own = read_manifest(tmp_path), read_manifest(shared("amibr"))
    assert prepared == own
    assert {sample.source for sample in own} == {"MIDOG21", "TUPAC16"}
    config = load_config(REPOSITORY / "training" / "configs" / "compact.yaml", ["data.root=."])
    splits = splits_of(config, prepared)
    assert [split.name for split in splits] == ["slides", "sources"]
    # the folds that the published figures stand on, which the spelling of the slides must not change
    with (shared("amibr") / "manifest.csv").open(encoding="utf-8") as file:
        spelled = [f"{row['dataset']}/{row['slide']}" for row in csv.DictReader(file)]
    as_published = [replace(sample, group=group) for sample, group in zip(own, spelled, strict=True)]
    assert np.array_equal(splits[0].folds, splits_of(config, as_published)[0].folds)
