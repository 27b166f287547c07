import os
from pathlib import Path

import pytest

from model.errors import LONGEST_MESSAGE, CaseError, one_line, sentence
from model.files import open_regular, read_bounded, write_whole


@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
def test_only_regular_files_are_opened(tmp_path: Path, kind: str) -> None:
    path = Path("/dev/zero") if kind == "device" else tmp_path / kind
    if kind == "fifo":
        os.mkfifo(path)
    if kind == "folder":
        path.mkdir()
    with pytest.raises(OSError, match="it is a "):
        open_regular(path)


def test_no_more_is_read_than_expected(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_bounded(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match="larger than the 4 bytes"):
        read_bounded(tmp_path / "file", 4)


def test_a_long_message_keeps_its_beginning_and_its_advice() -> None:
    message = one_line(CaseError(f"/input/inputs.json names {'x' * 5000}; give a case of this algorithm."))
    assert len(message) <= LONGEST_MESSAGE
    assert message.startswith("/input/inputs.json names xxx") and message.endswith("give a case of this algorithm.")


def test_a_message_cannot_move_the_cursor_or_break_a_line() -> None:
    assert one_line(CaseError("a\x1b[2Jb\nc\u202ed")) == "a\\x1b[2Jb c\\u202ed"


def test_whatever_ends_a_program_is_one_sentence() -> None:
    assert sentence(CaseError("a\nb.")) == "a b."
    assert sentence(MemoryError()).startswith("The memory does not suffice")
    assert sentence(KeyError("x\ny")) == (
        "The program failed through a fault of its own (KeyError: 'x\\ny'); please report it."
    )


def test_a_text_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "page.html"
    write_whole(path, "a name that is no text: \udcff")
    assert path.read_text() == "a name that is no text: \\udcff"
    monkeypatch.setattr(Path, "replace", lambda *_: os.open("/nowhere/at/all", os.O_RDONLY))
    with pytest.raises(OSError, match="No such file"):
        write_whole(path, "another")
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"] and "another" not in path.read_text()
