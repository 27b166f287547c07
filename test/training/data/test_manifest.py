"""A manifest in the program's own format, and AMi-Br's own table in its place."""

import csv
from pathlib import Path

import pytest
from helpers import shared

from training.data.manifest import read_manifest, write_manifest
from training.data.sample import DataError, Sample


def write_manifest_rows(root: Path, rows: list[dict[str, str]]) -> None:
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def test_shared_manifest_has_its_known_counts_and_domains() -> None:
    samples = read_manifest(shared("amibr"))
    assert len(samples) == 2894 and sum(sample.label for sample in samples) == 648
    assert len({sample.group for sample in samples}) == 146
    counts = {name: sum(s.domain == name for s in samples) for name in {s.domain for s in samples}}
    assert counts == {
        "Hamamatsu XR": 358,
        "Hamamatsu S360": 425,
        "Aperio CS2": 509,
        "Aperio XT": 1141,
        "Leica SCN400": 461,
    }


def test_bad_manifests_are_refused_by_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest\.csv cannot be read .*data\.root"):
        read_manifest(tmp_path)
    row = {"file": "a.png", "label": "odd", "dataset": "MIDOG21", "slide": "001.tiff"}
    write_manifest_rows(tmp_path, [row])
    with pytest.raises(DataError, match="line 2: the label is 'odd'"):
        read_manifest(tmp_path)
    write_manifest_rows(tmp_path, [row | {"label": "normal"}])
    with pytest.raises(DataError, match=r"line 2: there is no file .*a\.png"):
        read_manifest(tmp_path)
    write_manifest_rows(tmp_path, [{"file": "a.png", "label": "normal"}])
    with pytest.raises(DataError, match="column dataset"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.csv").write_text("file,label,dataset,slide\na.png,normal\n")
    with pytest.raises(DataError, match="line 2 has too few columns"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.csv").write_bytes(b"file,label,dataset,slide\ncaf\xe9.png,normal,x,1\n")
    with pytest.raises(DataError, match=r"is no UTF-8 text"):
        read_manifest(tmp_path)


def test_a_manifest_saved_by_a_spreadsheet_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "manifest.csv").write_bytes(b"\xef\xbb\xbffile,label,dataset,slide\r\na.png,normal,x,1\r\n")
    assert read_manifest(tmp_path)[0].path == tmp_path / "a.png"


def test_experts_votes_become_agreement_and_soft_labels(tmp_path: Path) -> None:
    samples = read_manifest(shared("amibr"))
    assert {round(sample.agreement, 3) for sample in samples} == {0.667, 1.0}
    split = [sample for sample in samples if sample.agreement < 1]
    assert len(split) == 314 + 328, "crops on which the three experts are not of one mind"
    assert {round(sample.soft_label, 3) for sample in split if sample.label} == {0.667}
    assert {round(sample.soft_label, 3) for sample in split if not sample.label} == {0.333}
    (tmp_path / "a.png").touch()
    row = {"file": "a.png", "label": "normal", "dataset": "x", "slide": "1", "expert1": "True", "expert2": "True"}
    write_manifest_rows(tmp_path, [row])
    with pytest.raises(DataError, match="line 2: most of the experts' votes are against the label normal"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("votes", "agreement"),
    [
        (("True", "True", "nan"), 1.0),
        (("True", "NA", ""), 1.0),
        (("1.0", "1.0", "0.0"), 2 / 3),
        (("1", "0", "1"), 2 / 3),
        (("AMF", "amf", "NMF"), 2 / 3),
        (("atypical", "Normal", "TRUE"), 2 / 3),
        (("True", "False", "n/a"), 0.5),
        (("None", "", "nan"), 1.0),
    ],
)
def test_a_vote_that_is_no_vote_is_not_counted_and_any_spelling_is_understood(
    votes: tuple[str, ...], agreement: float, tmp_path: Path
) -> None:
    (tmp_path / "a.png").touch()
    row = {"file": "a.png", "label": "atypical", "dataset": "TUPAC16", "slide": "1.tif"}
    write_manifest_rows(tmp_path, [row | {f"expert{i}": vote for i, vote in enumerate(votes, start=1)}])
    assert read_manifest(tmp_path)[0].agreement == agreement


@pytest.mark.parametrize("votes", [("1.0", "0.0", "1.0"), ("AMF", "AMF", "NMF")])
def test_votes_against_a_label_are_refused_in_any_spelling(votes: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    row = {"file": "a.png", "label": "normal", "dataset": "TUPAC16", "slide": "1.tif"}
    write_manifest_rows(tmp_path, [row | {f"expert{i}": vote for i, vote in enumerate(votes, start=1)}])
    with pytest.raises(DataError, match="line 2: most of the experts' votes are against the label normal"):
        read_manifest(tmp_path)
    write_manifest_rows(tmp_path, [row | {"expert1": "perhaps"}])
    with pytest.raises(DataError, match="line 2: the expert1 is 'perhaps'; write AMF or NMF"):
        read_manifest(tmp_path)


def test_a_written_manifest_is_read_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "crops").mkdir()
    for name in ("a.png", "b, c.png"):
        (tmp_path / "crops" / name).touch()
    samples = [
        Sample(
            tmp_path / "crops" / "a.png", 1, "canine lymphoma, scanner", "slide 1", "x", 0.75, ("AMF other", "a, b")
        ),
        Sample(tmp_path / "crops" / "b, c.png", 0, "d", "slide 2", "y"),
    ]
    path = write_manifest(tmp_path, samples)
    assert path.read_text().startswith("path,label,domain,group,source,agreement,phases\ncrops/a.png,atypical,")
    assert read_manifest(tmp_path) == samples
    path.write_text(path.read_text().replace("0.75", "0.3"))
    with pytest.raises(DataError, match=r"line 2: the agreement is 0\.3"):
        read_manifest(tmp_path)
    with pytest.raises(DataError, match="line 2: the phase 'a;b' has a semicolon"):
        (tmp_path / "amibr").mkdir()
        (tmp_path / "amibr" / "a.png").touch()
        (tmp_path / "amibr" / "manifest.csv").write_text(
            "file,label,dataset,slide,expert1_phase\na.png,normal,TUPAC16,1.tif,a;b\n"
        )
        read_manifest(tmp_path / "amibr")
    path.write_text("path,label,domain,group,source,agreement,phases\ncrops/a.png,normal,d,s,x,1, a; ;b \n")
    assert read_manifest(tmp_path)[0].phases == ("a", "b")
    path.write_text("path,label,domain,group,source,agreement\ncrops/a.png,normal,d,s,x,1\n")
    assert read_manifest(tmp_path)[0].phases == ()


def test_a_slide_is_one_group_however_it_is_spelled(tmp_path: Path) -> None:
    spellings = ["002.tiff", "2", "002.tif", "images/002.tiff", "images\\002.TIFF", " 0002.svs "]
    for i in range(len(spellings) + 1):
        (tmp_path / f"{i}.png").touch()
    rows = [
        {"file": f"{i}.png", "label": "normal", "dataset": "MIDOG21", "slide": slide}
        for i, slide in enumerate([*spellings, "020.tiff"])
    ]
    write_manifest_rows(tmp_path, rows)
    samples = read_manifest(tmp_path)
    assert [sample.group for sample in samples] == ["MIDOG/002"] * 6 + ["MIDOG/020"]
    assert {sample.domain for sample in samples} == {"Hamamatsu XR"}
    groups = ["x/002.tiff", "x\\2", "x/002", "y/002", "case 1.2", "case 1", "2"]
    write_manifest_rows(
        tmp_path,
        [
            {"path": f"{i}.png", "label": "normal", "domain": "d", "group": group, "source": "s", "agreement": "1"}
            for i, group in enumerate(groups)
        ],
    )
    named = [sample.group for sample in read_manifest(tmp_path)]
    assert named == ["x/002.tiff"] * 3 + ["y/002", "case 1.2", "case 1", "2"]


@pytest.mark.parametrize("group", ["", " ", "images/", ".tiff"])
def test_a_crop_of_no_slide_is_refused(group: str, tmp_path: Path) -> None:
    """An empty group would be one slide of all that lack one."""
    (tmp_path / "a.png").touch()
    row = {"path": "a.png", "label": "normal", "domain": "d", "group": group, "source": "s", "agreement": "1"}
    write_manifest_rows(tmp_path, [row])
    with pytest.raises(DataError, match=r"manifest\.csv, line 2: the slide is '.*', which is no name; write which"):
        read_manifest(tmp_path)
    write_manifest_rows(tmp_path, [{"file": "a.png", "label": "normal", "dataset": "MIDOG21", "slide": group}])
    with pytest.raises(DataError, match=r"manifest\.csv, line 2: the slide is '.*', which is no name; write which"):
        read_manifest(tmp_path)


def test_a_crop_listed_twice_counts_once_or_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    row = {"file": "a.png", "label": "normal", "dataset": "MIDOG21", "slide": "002.tiff"}
    write_manifest_rows(tmp_path, [row, row | {"file": "b.png"}, row | {"slide": "2"}])
    assert [sample.path.name for sample in read_manifest(tmp_path)] == ["a.png", "b.png"]
    assert "line 4 is line 2" in caplog.text
    for change, what in (({"label": "atypical"}, "label"), ({"slide": "003.tiff"}, "group")):
        write_manifest_rows(tmp_path, [row, row | change])
        with pytest.raises(DataError, match=rf"line 3: the crop .*a\.png is in line 2, too, with another {what}; rem"):
            read_manifest(tmp_path)


def test_a_manifest_that_a_spreadsheet_saved_with_semicolons_is_read_as_before(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    samples = [Sample(tmp_path / "a.png", 1, "canine lymphoma, scanner", "slide 1", "x", 0.75, ("AMF other", "b"))]
    path = write_manifest(tmp_path, samples)
    row = 'a.png;atypical;canine lymphoma, scanner;slide 1;x;0,75;"AMF other;b"'
    path.write_text(f"sep=;\nPath;label;domain;group;source; agreement;phases\n;;;;;;\n{row}\n")
    assert read_manifest(tmp_path) == samples
    path.write_text(path.read_text().replace("0,75", "most"))
    with pytest.raises(DataError, match=r"manifest\.csv, line 4: the agreement is most; write the share"):
        read_manifest(tmp_path)
