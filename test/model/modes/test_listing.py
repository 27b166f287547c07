"""Which images a folder holds: links, what cannot be looked into, depth."""

import logging
import os
import subprocess
from pathlib import Path

import pytest

from model.modes.listing import Listed, list_images, order


def names(root: Path) -> list[str]:
    found = [image.name for image in list_images(root)]
    assert found == sorted(found, key=order)
    return found


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")


def test_a_tree_is_listed_folder_by_folder(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("b.png", "b/z.tif", "b/a/c.mha", "a.JPG", "b-c.png", "notes.txt", ".h.png")))
    touch(tmp_path / ".hidden" / "a.png")
    assert names(tmp_path) == ["a.JPG", "b/a/c.mha", "b/z.tif", "b-c.png", "b.png"]
    image = next(iter(list_images(tmp_path)))
    assert image == Listed("a.JPG", 1, (tmp_path / "a.JPG").stat().st_mtime_ns)


def test_links_to_folders_are_followed_once_and_never_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path / "real" / "a.png", tmp_path / "in" / "own" / "b.png")
    (tmp_path / "in" / "first").symlink_to(tmp_path / "real")
    (tmp_path / "in" / "second").symlink_to(tmp_path / "real")
    (tmp_path / "in" / "own" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "itself").symlink_to("itself")
    with caplog.at_level(logging.WARNING):
        assert names(tmp_path / "in") == ["first/a.png", "own/b.png"]
    assert "own/back leads to" in caplog.text and "second leads to" in caplog.text


def test_a_link_to_what_is_listed_where_it_lies_is_passed_over(tmp_path: Path) -> None:
    """Otherwise its figures would count twice, whether the link comes before or after."""
    touch(tmp_path / "in" / "m" / "sub" / "x.png", tmp_path / "out" / "sub" / "y.png", tmp_path / "in" / ".h" / "z.png")
    for name, target in (
        *(("a", "in/m"), ("z", "in/m"), ("n", "in/m/sub"), ("m/up", "in")),
        *(("o", "out"), ("p", "out/sub"), ("h", "in/.h")),
    ):
        (tmp_path / "in" / name).symlink_to(tmp_path / target)
    assert names(tmp_path / "in") == ["h/z.png", "m/sub/x.png", "o/sub/y.png"]


def test_folders_below_a_link_that_cannot_be_entered_are_each_told_of(tmp_path: Path) -> None:
    """They have no identity, and so are not one another."""
    deep = "d" * 250
    at = tmp_path / "out"
    at.mkdir()
    held = os.open(at, os.O_RDONLY)
    for name in "abc":
        os.mkdir(name, dir_fd=held)
        below = os.open(name, os.O_RDONLY, dir_fd=held)
        for _ in range(17):  # deeper than a path may be long
            os.mkdir(deep, dir_fd=below)
            below, above = os.open(deep, os.O_RDONLY, dir_fd=below), below
            os.close(above)
        os.close(below)
    os.close(held)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "linked").symlink_to(at)
    found = list(list_images(tmp_path / "in"))
    assert [image.name.split("/")[1] for image in found] == ["a", "b", "c"] and all(image.problem for image in found)
    subprocess.run(["rm", "-r", at], check=True)


def test_a_folder_of_links_alone_has_their_images(tmp_path: Path) -> None:
    touch(tmp_path / "real" / "a.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "real")
    assert names(tmp_path / "in") == ["linked/a.png"]


def test_links_that_multiply_are_listed_in_linear_time(tmp_path: Path) -> None:
    """Thirty folders, each with two links to the next: two to the thirtieth ways down."""
    for number in range(30):
        (tmp_path / f"{number:02}").mkdir()
        for side in "ab":
            (tmp_path / f"{number:02}" / side).symlink_to(tmp_path / f"{number + 1:02}")
    touch(tmp_path / "30" / "x.png")
    assert names(tmp_path) == ["30/x.png"]


def test_a_broken_link_to_an_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    (image,) = list_images(tmp_path)
    assert "gone.png cannot be opened (No such file or directory)" in image.problem


def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "a" / "x.png", tmp_path / "b" / "y.png")
    scandir = os.scandir

    def denied(path: Path) -> object:
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    first, second = list_images(tmp_path)
    assert first.name == "a" and "a cannot be listed (Permission denied)" in first.problem
    assert second.name == "b/y.png"


def test_a_tree_deeper_than_paths_may_be_is_named(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("deep", dir_fd=descriptor)
        below = os.open("deep", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    touch(tmp_path / "x.png")
    *problems, image = list_images(tmp_path)
    subprocess.run(["rm", "-r", tmp_path / "deep"], check=True)  # pytest's own tidying does not get that deep
    assert image.name == "x.png"
    assert any("cannot be" in found.problem and "too long" in found.problem for found in problems)
