"""Signals at any moment, and standard streams that are closed or that nobody reads."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import REPOSITORY, check_result

EXAMPLE = REPOSITORY / "test" / "input"
COMMAND = [sys.executable, str(REPOSITORY / "process.py")]


@pytest.fixture
def case(tmp_path: Path, small_weights: Path) -> list[str]:
    weights = ["--weights", str(small_weights), "--device", "cpu"]
    return [*COMMAND, "--input", str(EXAMPLE), "--output", str(tmp_path / "out"), *weights]


@pytest.mark.parametrize("closed", ["stdin", "stdout", "stderr", "all"])
def test_closed_streams_change_nothing_about_the_result(case: list[str], tmp_path: Path, closed: str) -> None:
    """What is opened next must not take the place of stderr, where libraries write."""
    descriptors = {"stdin": [0], "stdout": [1], "stderr": [2], "all": [0, 1, 2]}[closed]

    def close() -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    done = subprocess.run([*case, "--table"], preexec_fn=close, timeout=120, check=False)
    assert done.returncode == 0
    check_result(tmp_path / "out", 8)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_stream_that_nobody_reads_changes_nothing_about_the_result(
    case: list[str], tmp_path: Path, stream: str
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | {stream: writing}
    done = subprocess.run([*case, "--table"], **streams, timeout=120, check=False)
    os.close(writing)
    assert done.returncode == 0
    check_result(tmp_path / "out", 8)


def answers_signals(process: int) -> bool:
    """Whether a process has its own answer to SIGTERM, which Python has none to by itself."""
    status = Path(f"/proc/{process}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("mode", ["case", "serve"])
def test_a_signal_ends_it_without_a_traceback(
    case: list[str], tmp_path: Path, number: signal.Signals, status: int, mode: str
) -> None:
    """As soon as the first line of the program has run: importing PyTorch takes seconds."""
    program = case if mode == "case" else [*case[:2], "serve", "--port", "0", *case[2:]]
    for wait in (0.0, 0.5):
        process = subprocess.Popen(program, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        while not answers_signals(process.pid):
            time.sleep(0.01)
        time.sleep(wait)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == (0 if mode == "serve" else status), errors
        assert b"Traceback" not in errors
        assert not list((tmp_path / "out").glob(".*")), "no part of a result is left"


def test_signals_are_answered_before_anything_slow_is_imported() -> None:
    """What stands before the handlers in the program imports no library."""
    before = (REPOSITORY / "process.py").read_text().partition("answer_signals(")[0]
    code = before.rpartition("if __name__")[0] + "\nprint({'numpy', 'torch', 'logging', 'argparse'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.strip() == "set()"


def test_a_fault_of_the_program_is_a_sentence(case: list[str], tmp_path: Path) -> None:
    code = f"""
import sys, process
import model.modes.case
def broken(*_):
    raise ZeroDivisionError("division by zero")
process.process_case = broken
sys.exit(process.main({case[2:]!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().endswith("(ZeroDivisionError: division by zero); please report it.")
