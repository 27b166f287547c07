"""Tables as spreadsheets and scripts write them."""

from pathlib import Path

import pytest

from training.data.csv_file import read_csv
from training.data.sample import DataError

ROWS = [{"name": "a", "label": "x, y; z"}, {"name": "b", "label": "w"}]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('name,label\na,"x, y; z"\nb,w\n', [2, 3]),
        ('name;label\na;"x, y; z"\nb;w\n', [2, 3]),
        ("name\tlabel\na\tx, y; z\nb\tw\n", [2, 3]),
        ("name|label\na|x, y; z\nb|w", [2, 3]),
        ('sep=,\nname,label\na,"x, y; z"\nb,w\n', [3, 4]),
        ('"sep=;"\r\nname;label\r\na;"x, y; z"\r\nb;w\r\n', [3, 4]),
        ('SEP=;\rname;label\ra;"x, y; z"\rb;w\r', [3, 4]),
        ('\ufeffname,label\r\na,"x, y; z"\r\nb,w\r\n', [2, 3]),
        ('\ufeffsep=;\nname;label\na;"x, y; z"\nb;w\n', [3, 4]),
        ('name,label\n\na,"x, y; z"\n , \n,\nb,w\n\n', [3, 6]),
        ('name,label\na,"x, y; z",\nb,w,,\n', [2, 3]),
    ],
)
def test_dialects_are_read_alike_and_rows_know_their_lines(text: str, lines: list[int], tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())
    table = read_csv(path, "give another")
    assert table.columns == ("name", "label") and table.rows == ROWS and table.lines == lines


def test_cells_over_several_lines_are_counted_by_the_line_they_start_in(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('name,label\na,"one\ntwo"\nb\n')
    table = read_csv(path, "give another")
    assert table.rows == [{"name": "a", "label": "one\ntwo"}, {"name": "b"}]
    assert table.lines == [2, 4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"name,label\na,canine lung, cancer\n",
            r"line 2 has 3 cells for 2 columns; put a cell that has ',' in it between",
        ),
        (b"sep=;\nname;label\na;b;c\n", r"line 3 has 3 cells for 2 columns; put a cell that has ';' in it"),
        (b"name,label,name\na,b,c\n", r"has two columns name; rename or remove one"),
        (b'sep=,\nname,label\n\nx,y\na,"b\nc,d\n', r"line 5 is no line of a CSV file \(unexpected end of data\); save"),
        (b'name,label\na,"b"c\n', r"line 2 is no line of a CSV file \(',' expected after '\"'\); save it"),
        (b"name, Name \na,b\n", r"has two columns name; rename or remove one"),
        (b"Gr\xf6\xdfe;Wert\n1;2\n", r"is no UTF-8 text"),
    ],
)
def test_what_would_be_misread_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    """A comma within a cell moves all cells after it; a quote left open swallows the rows after it."""
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"t\.csv.*{message}"):
        read_csv(path, "give another")
