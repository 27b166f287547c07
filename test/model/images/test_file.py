"""Whatever lies under an image's name: a regular file is opened, anything else costs one sentence and no wait."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from model.errors import CropError
from model.images import file as file_module
from model.images.file import open_image
from model.images.read import SUFFIXES, read_stack


def bind_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))


KINDS: dict[str, Callable[[Path], object]] = {
    "a directory": Path.mkdir,
    "a pipe": os.mkfifo,
    "a socket": bind_socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_regular_file_is_refused(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    KINDS[kind](path)
    with pytest.raises(
        CropError, match=rf"image{suffix} cannot be opened: it is {kind}; give a readable image file\.$"
    ):
        read_stack(path)


def test_a_pipe_that_is_swapped_in_before_the_opening_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(b"x")

    def swap(*_: object, open_file: Callable[..., int] = os.open) -> int:
        path.unlink()
        os.mkfifo(path)
        return open_file(*_)

    monkeypatch.setattr(file_module.os, "open", swap)
    with pytest.raises(CropError, match="it is a pipe"):
        open_image(path)


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "is empty"), (b"x" * 11, "11 bytes large, more than the 10 that are read")]
)
def test_empty_and_large_files_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(content)
    with pytest.raises(CropError, match=words):
        open_image(path, max_bytes=10)


def test_a_regular_file_is_opened_also_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"x" * 10)
    (tmp_path / "link.png").symlink_to("image.png")
    with open_image(tmp_path / "link.png", max_bytes=10) as file:
        assert file.read() == b"x" * 10


def test_a_name_that_cannot_be_is_refused(tmp_path: Path) -> None:
    for name in ("a\0b.png", "a" * 300 + ".png", "missing.png"):
        with pytest.raises(CropError, match=r"cannot be opened: .*; give a readable image file\.$"):
            open_image(tmp_path / name)
