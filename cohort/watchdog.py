"""Ends what a run on one machine started, when the run itself was ended without notice; run as a program.

    python -m cohort.watchdog FOLDER

Ray's own processes outlive a driver that is killed, and hold its memory. This one waits for the end of its standard
input, which the driver holds open and the kernel closes with it, then ends every process that has FOLDER, made for this
run alone, in its command line or environment, with all that these started, and removes FOLDER.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PATIENCE = 5.0
"""Seconds for processes to end by themselves, and again after SIGTERM, before SIGKILL."""


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it ended, or is somebody else's
        return b""


def _parents() -> Iterator[tuple[int, int]]:
    """(process, its parent) of all processes."""
    for path in Path("/proc").iterdir():
        if path.name.isdecimal() and (stat := _read(path / "stat")):
            yield int(path.name), int(stat.rpartition(b")")[2].split()[1])


def processes_of(folder: str) -> set[int]:
    """The processes that belong to a run, but for this one."""
    marked = os.fsencode(folder)
    parents = dict(_parents())
    found = {
        process
        for process in parents
        if any(marked in _read(Path(f"/proc/{process}/{name}")) for name in ("cmdline", "environ"))
    }
    while more := {process for process, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def end(folder: str) -> None:
    """Ends them all."""
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + PATIENCE
        while left := processes_of(folder):
            if number is not None:
                _signal(left, number)
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)
        if not left:
            return


def _signal(processes: set[int], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)


def main(folder: str) -> None:
    """Waits, and ends them."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # which are for the driver, and end it
    sys.stdin.buffer.read()
    end(folder)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
