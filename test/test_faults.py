"""What goes wrong around the program: full disks, missing rights, kills, GPUs that are there and do not work."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import REPOSITORY, check_result, write_case

from model import predictor as predictor_module
from model.errors import PredictionError
from model.modes.grand_challenge import RESULT_FILE, clear_result, result, write_result
from model.predictor import Predictor, choose_device

COMMAND = [sys.executable, str(REPOSITORY / "process.py"), "--device", "cpu"]
KILLS = 50


def failing(case: Path, output: Path, weights: Path) -> str:
    """Runs a case that must fail; returns the last line of stderr."""
    done = subprocess.run(
        [*COMMAND, "--input", str(case), "--output", str(output), "--weights", str(weights)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture
def case(tmp_path: Path, crops: list[np.ndarray]) -> Path:
    write_case(tmp_path / "case", crops)
    return tmp_path / "case"


def test_a_full_disk_leaves_no_result(case: Path, small_weights: Path) -> None:
    """/dev/full takes the place of the temporary file's device: every write to it fails as on a full disk."""
    code = f"""
import os, sys, runpy
def full(descriptor):
    raise OSError(28, "No space left on device")
os.fsync = full
sys.argv = ["process.py", "--device", "cpu", "--input", {str(case)!r}, "--output", {str(case / "out")!r},
            "--weights", {str(small_weights)!r}]
sys.path.insert(0, {str(REPOSITORY)!r})
runpy.run_path({str(REPOSITORY / "process.py")!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr.strip().splitlines()[-1]
    assert list((case / "out").iterdir()) == []


def test_an_output_that_is_no_folder_is_refused(case: Path, small_weights: Path) -> None:
    (case / "out").write_text("a file")
    assert "out cannot be cleared (Not a directory)" in failing(case, case / "out", small_weights)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; .ci/run tries it in the container")
def test_a_read_only_output_is_refused(case: Path, small_weights: Path) -> None:
    (case / "out").mkdir(mode=0o555)
    assert "Permission denied" in failing(case, case / "out", small_weights)


def test_an_earlier_result_does_not_outlive_a_bad_case(case: Path, small_weights: Path) -> None:
    write_result(case / "out", result([0.7]))
    (case / "inputs.json").unlink()
    failing(case, case / "out", small_weights)
    assert list((case / "out").iterdir()) == []


def test_only_own_files_are_cleared(tmp_path: Path) -> None:
    write_result(tmp_path, result([0.7]))
    (tmp_path / "notes.txt").write_text("the user's")
    (tmp_path / f".{RESULT_FILE}.abc").write_text("half a result")
    clear_result(tmp_path, only_partial=True)
    assert {file.name for file in tmp_path.iterdir()} == {"notes.txt", RESULT_FILE}
    clear_result(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_killed_at_any_moment_the_result_is_whole_or_absent(case: Path, small_weights: Path) -> None:
    """`KILLS` times while results are written over and over and removed, so that every kill falls into that."""
    output = case / "out"
    code = f"""
import sys
sys.path.insert(0, {str(REPOSITORY)!r})
from pathlib import Path
from model.modes.grand_challenge import clear_result, result, write_result
print("go", flush=True)
while True:
    for _ in range(3):
        write_result(Path({str(output)!r}), result([i / 3000 for i in range(3000)]))
    clear_result(Path({str(output)!r}))
"""
    moments = random.Random(0)
    whole = 0
    for _ in range(KILLS):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moments.uniform(0, 0.08))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        if (output / RESULT_FILE).exists():
            clear_result(output, only_partial=True)
            check_result(output, 3000)
            whole += 1
        clear_result(output)
    assert 0 < whole <= KILLS


@pytest.mark.parametrize("part", [0.2, 0.5, 0.8, 0.95, 1.0])
def test_a_killed_program_leaves_no_part_of_a_result(case: Path, small_weights: Path, part: float) -> None:
    """Killed after some part of the time that a whole run takes."""
    command = [*COMMAND, "--input", str(case), "--output", str(case / "out"), "--weights", str(small_weights)]
    start = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    whole = time.monotonic() - start
    clear_result(case / "out")
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    time.sleep(whole * part)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if (case / "out" / RESULT_FILE).exists():
        clear_result(case / "out", only_partial=True)
        check_result(case / "out", 5)


def test_a_gpu_that_does_not_work_is_said_and_the_cpu_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, small_weights: Path, crops: list[np.ndarray]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(predictor_module, "_try_gpu", broken)
    assert choose_device("auto").type == "cpu"
    assert "The GPU does not work (CUDA error: no kernel image" in caplog.text
    with pytest.raises(PredictionError, match="does not work"):
        choose_device("cuda")
    assert len(Predictor(small_weights)(crops)) == len(crops)


def test_a_driver_that_is_too_old_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def too_old() -> bool:
        import warnings

        warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old (found 11040).", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", too_old)
    assert choose_device("auto").type == "cpu"
    assert "driver on your system is too old" in caplog.text
    with pytest.raises(PredictionError, match="driver on your system is too old"):
        choose_device("cuda")
