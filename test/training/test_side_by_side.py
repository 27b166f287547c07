"""Fits side by side: each has its place, so many run at a time, and one that fails ends the others."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import REPOSITORY, config_for, recipe

from training.run_folder import open_run
from training.side_by_side import FitError, fit_side_by_side
from training.train import fit_names, main, train

FIT = """
import os, sys, time
name = sys.argv[-1]
print("fitting", name, file=sys.stderr, flush=True)
with open("begun", "a") as file:
    places = ("OMP_NUM_THREADS", "FITS_SIDE_BY_SIDE", "CUDA_VISIBLE_DEVICES")
    print(name, *map(os.environ.get, places), file=file)
if name == "bad":
    sys.exit("The loss became nan.")
time.sleep(60 if name in ("long", "never") else 0.2)
"""
COMMAND = [sys.executable, "-c", FIT]


def test_every_fit_runs_once_with_its_share_of_the_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    fit_side_by_side(COMMAND, ["final", "slides_0", "slides_1"], 2)
    begun = sorted(line.split() for line in (tmp_path / "begun").read_text().splitlines())
    assert begun == [[name, "3", "2", "None"] for name in ("final", "slides_0", "slides_1")]
    assert "fitting slides_1" in capfd.readouterr().err


def test_every_fit_sees_one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    fit_side_by_side(COMMAND, ["final", "slides_0", "slides_1", "slides_2"], 2)
    assert {line.split()[3] for line in (tmp_path / "begun").read_text().splitlines()} == {"2", "5"}


def test_more_fits_than_gpus_share_them_and_the_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    fit_side_by_side(COMMAND, ["final", "slides_0", "slides_1"], 3)
    assert {tuple(line.split()[1:]) for line in (tmp_path / "begun").read_text().splitlines()} == {("2", "3", "0")}


def test_a_fit_that_fails_ends_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    with pytest.raises(FitError, match="The fit bad ended with status 1; what it said is above"):
        fit_side_by_side(COMMAND, ["long", "bad", "never", "neither"], 2)
    assert time.monotonic() - start < 30
    assert "The loss became nan." in capfd.readouterr().err
    assert not (tmp_path / "begun").read_text().count("neither")


def test_told_to_end_it_ends_the_fits(tmp_path: Path) -> None:
    """Otherwise they would go on beside those of the next start."""
    script = (
        "import sys; from training.side_by_side import fit_side_by_side\n"
        f"fit_side_by_side([sys.executable, '-c', {LONG!r}], ['a', 'b'], 2)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}
    )
    begun = wait_for(lambda: len(pids := list(tmp_path.glob("*.pid"))) == 2 and pids)
    process.terminate()
    assert process.wait(60) != 0
    for file in begun:
        assert not Path("/proc", file.stem).exists()


LONG = """
import os, time
from pathlib import Path
Path(f"{os.getpid()}.pid").touch()
time.sleep(100)
"""


def wait_for(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("few_resamples", "one_thread")
def test_a_recipe_with_fits_side_by_side_gives_the_weights_of_one_fit_after_the_other(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    caplog.set_level(logging.INFO)
    main(["compact", *recipe(data, tmp_path / "beside", "optimisation.epochs=2"), "--jobs", "2"])
    assert not any("loss/train" in record.getMessage() for record in caplog.records)
    config = config_for(data, tmp_path / "after", "optimisation.epochs=2")
    train(config)
    beside, after = (tmp_path / way / "weights/model.safetensors" for way in ("beside", "after"))
    assert beside.read_bytes() == after.read_bytes()
    with open_run(config, replace=True) as run:
        assert fit_names(run) == ["final", "slides_0", "slides_1"]
    log = (tmp_path / "beside" / "weights" / "training.log").read_text()
    assert all(f"{name} epoch 2/2" in log for name in ("final", "slides_0", "slides_1"))
