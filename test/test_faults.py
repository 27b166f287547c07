"""What goes wrong around the program: full disks, missing rights, kills, GPUs that are there and do not work."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import REPOSITORY, write_case

from model import device as device_module
from model.device import choose_device
from model.errors import PredictionError
from model.modes.grand_challenge import RESULT_FILE, clear_result, result, write_result
from model.predictor import Predictor

COMMAND = [sys.executable, str(REPOSITORY / "process.py"), "--device", "cpu"]


def failing(case: Path, output: Path, weights: Path, before: Callable[[], None] | None = None) -> str:
    """Runs a case that must fail, after `before` in the new process; returns the last line of stderr."""
    done = subprocess.run(
        [*COMMAND, "--input", str(case), "--output", str(output), "--weights", str(weights)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=before,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture
def case(tmp_path: Path, crops: list[np.ndarray]) -> Path:
    write_case(tmp_path / "case", crops)
    return tmp_path / "case"


def test_a_disk_that_takes_only_half_leaves_no_result(case: Path, small_weights: Path) -> None:
    """A limit on the size of files: the kernel writes a hundred bytes of the result and refuses the next one."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    last = failing(case, case / "out", small_weights, limit)
    assert f"{RESULT_FILE} cannot be written: File too large" in last
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


KILLED_STEP_BY_STEP = """
import itertools, json, os, resource, signal, sys, tempfile
from pathlib import Path
from model.modes import grand_challenge
from model.modes.grand_challenge import RESULT_FILE, clear_result, result, write_result

output, earlier = Path(sys.argv[1]), sys.argv[2] == "earlier"
new = result([i / 300 for i in range(300)])
write_result(output, new)
whole = (output / RESULT_FILE).read_bytes()
traced = {grand_challenge.__file__, tempfile.__file__}

def kill_at(step):
    steps = itertools.count(1)
    def trace(frame, event, argument):
        if frame.f_code.co_filename not in traced:
            return None
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)

def kill_after(size):
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it and raises an error instead
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

def outcome(before, argument):
    clear_result(output)
    if earlier:
        write_result(output, result([0.7]))
    old = (output / RESULT_FILE).read_bytes() if earlier else None
    child = os.fork()
    if child == 0:
        before(argument)
        write_result(output, new)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found = (output / RESULT_FILE).read_bytes() if (output / RESULT_FILE).exists() else None
    partial = [file.stat().st_size for file in output.iterdir() if file.name != RESULT_FILE]
    return status, "whole" if found == whole else "as before" if found == old else "spoilt", sum(partial)

steps = []
while not steps or steps[-1][0] != 0:
    steps.append(outcome(kill_at, len(steps) + 1))
sizes = [outcome(kill_after, size) for size in (0, 1, 5000, len(whole) - 1, len(whole))]
print(json.dumps({"steps": steps, "sizes": sizes, "length": len(whole)}))
"""
"""Writes a result again and again in processes that kill themselves: at each line of the code that writes, and (by the
signal of a limit on the size of files) inside a write, when so many bytes are on the disk."""


@pytest.mark.parametrize("output", ["empty", "earlier"])
def test_killed_at_any_step_the_result_is_whole_or_as_before(tmp_path: Path, output: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_STEP_BY_STEP, str(tmp_path), output],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    steps, sizes, length = outcomes["steps"], outcomes["sizes"], outcomes["length"]
    assert [status for status, _, _ in steps] == [-signal.SIGKILL] * (len(steps) - 1) + [0]
    kinds = [kind for _, kind, _ in steps[:-1]]
    appears = kinds.index("whole")
    assert kinds == ["as before"] * appears + ["whole"] * (len(kinds) - appears) and appears > 10
    assert {partial for _, _, partial in steps[:appears]} >= {0, length}, "killed before, and after it was written"
    assert [partial for _, _, partial in steps[appears:]] == [0] * (len(steps) - appears)
    killed = -signal.SIGXFSZ
    assert [tuple(entry) for entry in sizes] == [
        *((killed, "as before", size) for size in (0, 1, 5000, length - 1)),
        (0, "whole", 0),
    ]


KILLED_PROGRAM = """
import os, runpy, signal, sys
moment, folder = sys.argv.pop(1), sys.argv.pop(1)
def hook(event, arguments):
    if event == moment and str(arguments[0]).startswith(folder):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
sys.path.insert(0, os.getcwd())
runpy.run_path("process.py", run_name="__main__")
"""
"""The program, killed when it opens a file in a folder, or renames one there."""


@pytest.mark.parametrize(("moment", "folder", "left"), [("open", "images", 0), ("os.rename", "out", 1)])
def test_a_killed_program_leaves_no_result(
    case: Path, small_weights: Path, moment: str, folder: str, left: int
) -> None:
    """Killed when it is about to read the crops, and when it is about to give the written result its name."""
    output = case / "out"
    write_result(output, result([0.7]))
    arguments = ["--device", "cpu", "--input", str(case), "--output", str(output), "--weights", str(small_weights)]
    done = subprocess.run(
        [sys.executable, "-c", KILLED_PROGRAM, moment, str(case / folder), *arguments],
        capture_output=True,
        timeout=120,
        cwd=REPOSITORY,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (output / RESULT_FILE).exists()
    assert len(list(output.iterdir())) == left


def test_a_gpu_that_does_not_work_is_said_and_the_cpu_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, small_weights: Path, crops: list[np.ndarray]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(device_module, "compute_on", broken)
    assert choose_device("auto").type == "cpu"
    assert "The GPU does not work (CUDA error: no kernel image" in caplog.text
    with pytest.raises(PredictionError, match="does not work"):
        choose_device("cuda")
    assert len(Predictor(small_weights)(crops)) == len(crops)


def test_a_gpu_older_than_pytorchs_kernels_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (6, 1))
    assert choose_device("auto").type == "cpu"
    assert "its compute capability is 6.1, and PyTorch has kernels from 7.0 on" in caplog.text
    with pytest.raises(PredictionError, match=r"compute capability is 6\.1"):
        choose_device("cuda")


def test_the_wheels_have_no_kernels_for_older_gpus() -> None:
    """Which is why none are used."""
    flags = torch._C._cuda_getArchFlags()
    if not flags:
        pytest.skip("this PyTorch is built for the CPU alone")
    capabilities = [int(flag[len("sm_") :].rstrip("a")) for flag in flags.split() if flag.startswith("sm_")]
    assert min(capabilities) == 10 * device_module.OLDEST[0] + device_module.OLDEST[1]


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
