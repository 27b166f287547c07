"""export.sh with an engine that is a script: what it leaves behind when saving an image fails."""

import gzip
import hashlib
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from helpers import DEFAULT_WEIGHTS, REPOSITORY

ENGINE = """#!/bin/sh
case "$*" in
    *weights.folder*) echo '{weights}' ;;
    *weights.config.sha256*) echo '{sha256}' ;;
esac
case "$1" in
    image) exit 0 ;;
    save) printf 'a part of an image'; exit {status} ;;
esac
"""


def export(
    folder: Path, status: int, weights: Path | None = DEFAULT_WEIGHTS, **others: str
) -> subprocess.CompletedProcess[str]:
    """Of an image that was built with some weights, or does not say so."""
    engine = folder / "engine"
    sha256 = hashlib.sha256((weights / "config.json").read_bytes()).hexdigest() if weights else ""
    engine.write_text(ENGINE.format(status=status, weights=weights or "", sha256=sha256))
    engine.chmod(0o755)
    settings = {"CONTAINER_ENGINE": str(engine), "EXPORT_FOLDER": str(folder / "export"), "IMAGE": "some:tag"} | others
    return subprocess.run(
        [REPOSITORY / "export.sh"], env=os.environ | settings, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_model_s_archive_has_the_weights_and_no_page_with_crops(tmp_path: Path) -> None:
    weights = Path(shutil.copytree(DEFAULT_WEIGHTS, tmp_path / "weights"))
    (weights / "report.html").write_text("crops of patients")
    export(tmp_path, status=0, weights=weights)  # what follows, the bill of materials, is not looked at here
    with tarfile.open(tmp_path / "export" / "model.tar.gz") as archive:
        names = {name.removeprefix("./") for name in archive.getnames()}
    assert names - {"."} == {file.name for file in DEFAULT_WEIGHTS.iterdir()} - {"report.html"}
    for image in ("some-tag.tar.gz", "some-tag-slim.tar.gz"):
        assert gzip.decompress((tmp_path / "export" / image).read_bytes()) == b"a part of an image"


def test_an_image_that_does_not_say_its_weights_is_to_be_built_again(tmp_path: Path) -> None:
    done = export(tmp_path, status=0, weights=None)
    assert done.returncode == 1 and "some:tag does not say which weights it has" in done.stderr


def test_weights_that_the_image_was_not_built_with_are_refused(tmp_path: Path) -> None:
    weights = Path(shutil.copytree(DEFAULT_WEIGHTS, tmp_path / "weights"))
    config = weights / "config.json"
    config.write_text(config.read_text().replace('"version": "', '"version": "0'))
    done = export(tmp_path, status=0, WEIGHTS=str(weights))
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"some:tag was not built with the weights in '{weights}' as they are now; run WEIGHTS="
    )
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize("before", [None, b"the archive of before"])
def test_a_save_that_fails_leaves_no_archive_and_keeps_the_earlier_one(tmp_path: Path, before: bytes | None) -> None:
    archive = tmp_path / "export" / "some-tag.tar.gz"
    archive.parent.mkdir()
    if before:
        archive.write_bytes(before)
    done = export(tmp_path, status=3)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith(f"{archive} was not written")
    assert [path.name for path in archive.parent.iterdir()] == ([archive.name] if before else [])
    assert not before or archive.read_bytes() == before
