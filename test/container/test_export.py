"""export.sh with an engine that is a script: what it leaves behind when saving an image fails."""

import os
import subprocess
from pathlib import Path

import pytest
from helpers import REPOSITORY

ENGINE = """#!/bin/sh
case "$1" in
    image) exit 0 ;;
    save) printf 'a part of an image'; exit {status} ;;
esac
"""


def export(folder: Path, status: int) -> subprocess.CompletedProcess[str]:
    engine = folder / "engine"
    engine.write_text(ENGINE.format(status=status))
    engine.chmod(0o755)
    settings = {"CONTAINER_ENGINE": str(engine), "EXPORT_FOLDER": str(folder / "export"), "IMAGE": "some:tag"}
    return subprocess.run(
        [REPOSITORY / "export.sh"], env=os.environ | settings, capture_output=True, text=True, timeout=300, check=False
    )


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
