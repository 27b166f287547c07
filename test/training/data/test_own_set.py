"""A lab's own crops, by a table with any names of columns."""

from pathlib import Path

import pytest
from published_layouts import facts, write_crop, write_table

from training.data.own_set import OwnSet, own_spellings, parse_columns, read_own_set
from training.data.sample import DataError


def own_set(folder: Path, columns: str = "", **others: object) -> OwnSet:
    """The set of `lab` in a folder."""
    named = parse_columns(columns) if columns else {}
    return OwnSet(folder / "crops", folder / "lab.csv", named, **{"name": "lab", **others})


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """Four crops of two slides."""
    for seed in range(1, 5):
        write_crop(tmp_path / "crops" / f"{seed}.png", seed)
    return tmp_path


def test_a_table_with_the_names_of_the_roles_needs_no_option(lab: Path) -> None:
    write_table(
        lab / "lab.csv",
        "File,Label,Slide,Expert1,Expert2,Expert3,expert1_phase",
        "1.png,AMF,A 01.svs,AMF,AMF,NMF,AMF other",
        "2.png,normal,scans\\B.ndpi,0,0,,",
    )
    data = read_own_set(own_set(lab))
    assert facts(data.samples) == [("1.png", 1, "lab", "lab/A 01", 0.6667), ("2.png", 0, "lab", "lab/scans/B", 1)]
    assert [sample.source for sample in data.samples] == ["lab", "lab"]
    assert [sample.phases for sample in data.samples] == [("AMF other",), ()]
    assert [path.name for path in data.unlisted] == ["3.png", "4.png"] and data.table == lab / "lab.csv"


def test_columns_of_any_name_are_taken_for_what_the_user_says(lab: Path) -> None:
    write_table(
        lab / "lab.csv",
        "sep=;",
        "Crop ID;Befund;Fall;Tumor;Herkunft;Leser A;Leser B;label;agreement",
        "1;2;17;Melanom;Nord;2;1;x;y",
        "2.PNG;1;17;Melanom;Nord;1;1;;",
        "3;1;017;Lymphom;MIDOG21;;1;;",
    )
    columns = "file=crop id,label=BEFUND, slide=Fall,domain=Tumor,source=Herkunft,experts=Leser A+leser b"
    spellings = own_spellings(["2"], ["1"])
    samples = read_own_set(own_set(lab, columns, spellings=spellings)).samples
    assert facts(samples) == [
        ("1.png", 1, "Melanom", "Nord/017", 0.5),
        ("2.png", 0, "Melanom", "Nord/017", 1),
        ("3.png", 0, "Lymphom", "MIDOG/017", 1),
    ]
    assert [sample.source for sample in samples] == ["Nord", "Nord", "MIDOG21"]


def test_an_agreement_counts_in_the_place_of_votes(lab: Path) -> None:
    write_table(lab / "lab.csv", "file,label,slide,agreement,expert1", '1,AMF,a,"0,75",NMF', "2,AMF,a,,NMF")
    assert [sample.agreement for sample in read_own_set(own_set(lab)).samples] == [0.75, 1]
    samples = read_own_set(own_set(lab, "experts=expert1"))
    assert not samples.samples and "line 2: most of the experts' votes are against" in samples.doubtful[0]
    write_table(lab / "lab.csv", "file,label,slide,agreement", "1,AMF,a,80 %")
    with pytest.raises(DataError, match=r"lab\.csv, line 2: the agreement is 80 %; write the share of experts"):
        read_own_set(own_set(lab))


def test_without_slides_the_user_must_say_so(lab: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_table(lab / "lab.csv", "file,label,case", "1.png,AMF,a", "2.png,NMF,a")
    message = r"lab\.csv has no column slide, and crops of one slide on both .* slide=NAME, or write slide=none if each"
    with pytest.raises(DataError, match=message):
        read_own_set(own_set(lab))
    assert [sample.group for sample in read_own_set(own_set(lab, "slide=case")).samples] == ["lab/a", "lab/a"]
    assert not caplog.text
    assert [s.group for s in read_own_set(own_set(lab, "slide=none")).samples] == ["lab/1.png", "lab/2.png"]
    assert "lab.csv: every crop is taken for a slide of its own" in caplog.text


def test_a_crop_is_found_by_its_folders_and_not_taken_for_another_s_namesake(tmp_path: Path) -> None:
    """The table has paths of another computer; each slide's crops are numbered from 1."""
    for seed, name in enumerate(["A/1", "A/2", "B/1"], start=1):
        write_crop(tmp_path / "crops" / f"{name}.png", seed)
    rows = ["D:\\export\\A\\1.png,AMF,A", "D:\\export\\B\\1.png,NMF,B"]
    write_table(tmp_path / "lab.csv", "file,label,slide", *rows)
    found = [sample.path.relative_to(tmp_path).as_posix() for sample in read_own_set(own_set(tmp_path)).samples]
    assert found == ["crops/A/1.png", "crops/B/1.png"]
    write_table(tmp_path / "lab.csv", "file,label,slide", *rows, "D:\\export\\B\\2.png,NMF,B")
    with pytest.raises(
        DataError, match=r"lab\.csv, line 4: there is no crop D:.*B.2\.png in .*crops; add the crops, or"
    ):
        read_own_set(own_set(tmp_path))
    write_table(tmp_path / "lab.csv", "file,label,slide", "./A//2.png,AMF,A", f"{tmp_path}/crops/B/1.png,NMF,B")
    assert [sample.path.parent.name for sample in read_own_set(own_set(tmp_path)).samples] == ["A", "B"]
    write_table(tmp_path / "lab.csv", "file,label,slide", "1.png,AMF,A")
    with pytest.raises(DataError, match=r"lab\.csv, line 2: both .*A/1\.png and .*B/1\.png may be the crop 1\.png"):
        read_own_set(own_set(tmp_path))


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (["file,label,slide"], "", r"lab\.csv has no rows; give the table of the crops as --labels"),
        (
            ["f,label,slide", "1,AMF,a"],
            "",
            r"lab\.csv has no column file; name it with --columns file=NAME \(its columns",
        ),
        (["file,l,slide", "1,AMF,a"], "", r"has no column label; name it .* \(its columns are file, l, slide\)"),
        (
            ["file,label,slide", "1,AMF,a"],
            "domain=Tumour",
            r"has no column tumour, which --columns names for the domain;",
        ),
        (["file,label,slide", "1,AMF,a"], "experts=A", r"has no column 'a', which --columns names for the experts"),
        (
            ["file,label,slide,A,B", "1,AMF,a,,"],
            "experts=A,agreement=B",
            r"--columns names agreement and experts; leave",
        ),
        (
            ["file,label,slide", "1,AMF,a", "2,odd,a"],
            "",
            r"lab\.csv, line 3: the label is 'odd'; write .* --atypical VALUE",
        ),
        (
            ["file,dx,slide", "1,2,a"],
            "label=dx",
            r"lab\.csv, line 2: the dx is '2'; write AMF or NMF, .* --normal VALUE",
        ),
        (["file,label,slide", "1,AMF,"], "", r"lab\.csv, line 2: the cell of the column slide is empty; fill it"),
        (["file,label,slide", "1,AMF,NaN"], "", r"lab\.csv, line 2: the cell of the column slide says 'NaN'; fill it"),
        (["file,label,slide,domain", "1,AMF,a"], "", r"line 2: the cell of the column domain is empty; fill it"),
        (["file,label,slide,expert1", "1,AMF,a,?"], "", r"lab\.csv, line 2: the expert1 is '\?'; write AMF"),
        (["file,label,slide", "1,AMF,.svs"], "", r"lab\.csv, line 2: the slide is '\.svs', which is no name"),
        (
            ["file,label,slide", "9,AMF,a", "1,NMF,a"],
            "",
            r"lab\.csv, line 2: there is no crop 9 in .*crops; add the crops",
        ),
        (
            ["file,label,slide", "1,AMF,a", "1.png,NMF,a"],
            "",
            r"lab\.csv, line 3: the crop .* with another label; remove",
        ),
    ],
)
def test_bad_tables_are_refused_by_table_line_and_column(
    lab: Path, rows: list[str], columns: str, message: str
) -> None:
    write_table(lab / "lab.csv", *rows)
    with pytest.raises(DataError, match=message):
        read_own_set(own_set(lab, columns))


def test_named_spellings_are_the_only_ones(lab: Path) -> None:
    """Where 2 is atypical, 1 may be normal: what a lab writes is not guessed at once it says how it writes."""
    write_table(lab / "lab.csv", "file,label,slide", "1,2,a", "2,1,a")
    with pytest.raises(
        DataError, match=r"lab\.csv, line 3: the label is '1', which is given neither as --atypical nor"
    ):
        read_own_set(own_set(lab, spellings=own_spellings(["2"], [])))
    samples = read_own_set(own_set(lab, spellings=own_spellings(["2"], ["1", "0"]))).samples
    assert [sample.label for sample in samples] == [1, 0]
    with pytest.raises(DataError, match=r"'Pos' is given as --atypical and as --normal; leave one of them"):
        own_spellings(["pos"], ["Pos"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "file",
            r"--columns has the part 'file'; write ROLE=COLUMN, with a role of file, label, slide, domain, source, ",
        ),
        ("file=a,,label=b", r"has the part ''"),
        ("tumour=a", r"has the part 'tumour=a'"),
        ("file=", r"has the part 'file='"),
        ("file=a,label=b,file=c", r"--columns names file twice; leave one of them"),
    ],
)
def test_bad_options_are_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_columns(text)
