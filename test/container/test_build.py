"""build.sh with an engine that is a script: what it refuses before anything is built."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers import DEFAULT_WEIGHTS, REPOSITORY


def build(engine: Path, weights: Path | str) -> subprocess.CompletedProcess[str]:
    engine.write_text('#!/bin/sh\necho "$@"\n')
    engine.chmod(0o755)
    settings = {"CONTAINER_ENGINE": str(engine), "WEIGHTS": str(weights)}
    return subprocess.run(
        [REPOSITORY / "build.sh"], env=os.environ | settings, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("weights", ["model/weights/default", "./model/weights/default/", DEFAULT_WEIGHTS.resolve()])
def test_weights_below_model_are_built_in(tmp_path: Path, weights: Path | str) -> None:
    done = build(tmp_path / "engine", weights)
    assert done.returncode == 0 and "--build-arg WEIGHTS=model/weights/default" in done.stdout
    assert "--label weights.folder=model/weights/default --label weights.config.sha256=" in done.stdout


@pytest.mark.parametrize("place", ["elsewhere", "absolute", "up"])
def test_weights_that_the_build_does_not_get_are_refused(tmp_path: Path, place: str) -> None:
    elsewhere = shutil.copytree(DEFAULT_WEIGHTS, tmp_path / "weights")
    weights = {
        "elsewhere": os.path.relpath(elsewhere, REPOSITORY),
        "absolute": elsewhere,
        "up": f"model/../{os.path.relpath(elsewhere, REPOSITORY)}",
    }[place]
    done = build(tmp_path / "engine", weights)
    assert done.returncode == 1 and "is not below model/" in done.stderr and "build" not in done.stdout


def test_what_is_no_weights_folder_is_refused(tmp_path: Path) -> None:
    done = build(tmp_path / "engine", "model/images")
    assert done.returncode == 1 and "is no weights folder" in done.stderr
