"""Cohorts for tests: images, slides, runs as processes of their own, and what they leave."""

import csv
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import REPOSITORY
from written_slides import paste, point, write_geojson, write_tiled

PACKAGES = ("ray", "pyarrow")


def require_ray() -> None:
    """Skips a module of tests where cohort/requirements.txt is not installed, or fails when `REQUIRE_RAY` is set."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing and not os.environ.get("REQUIRE_RAY"):
        pytest.skip(f"cohort/requirements.txt is not installed: no {', '.join(missing)}", allow_module_level=True)
    assert not missing, f"REQUIRE_RAY is set, but there is no {', '.join(missing)}"


def write_images(folder: Path, crops: list[np.ndarray], count: int) -> Path:
    """Different images, ten in a folder, every one a crop that is turned and brightened."""
    for number in range(count):
        path = folder / f"{number // 10:03}" / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        crop = np.rot90(crops[number % len(crops)], number // len(crops) % 4)
        cv2.imwrite(str(path), np.clip(crop[..., ::-1].astype(int) + number % 7, 0, 255).astype(np.uint8))
    return folder


def write_slides(folder: Path, crops: list[np.ndarray], count: int) -> Path:
    """A table of slides with ten figures each, one of them twice and one outside."""
    image, centres = paste(crops * 2, columns=5)
    folder.mkdir(exist_ok=True)
    for number in range(count):
        write_tiled(folder / f"{number}.tif", np.clip(image.astype(int) + number, 0, 255).astype(np.uint8))
        features = [point(x, y, f"id {index}") for index, (x, y) in enumerate([*centres, centres[0], (-9, 9)])]
        write_geojson(folder / f"{number}.geojson", features)
    table = folder / "slides.csv"
    table.write_text("slide,detections\n" + "".join(f"{number}.tif,{number}.geojson\n" for number in range(count)))
    return table


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def begin(*arguments: object) -> subprocess.Popen[str]:
    """Begins `python -m cohort.predict`, without a GPU."""
    command = [sys.executable, "-m", "cohort.predict", "--gpus", "0", "--views", "none", *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)


def run(*arguments: object, rc: int = 0) -> str:
    """Runs it to its end; returns what it said."""
    process = begin(*arguments)
    _, said = process.communicate(timeout=300)
    assert process.returncode == rc, said
    assert "Traceback" not in said
    return said


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    """Waits until something holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.05)


def running(mark: str) -> list[int]:
    """Processes that have a text in their command line or environment."""
    from cohort.watchdog import processes_of

    return sorted(processes_of(mark))
