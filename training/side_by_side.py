"""A recipe's fits side by side: each a process of its own, with its share of the processors and of the GPUs."""

import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import NoReturn

import torch

from model.errors import UserError
from training.fitting.loading import SIDE_BY_SIDE

logger = logging.getLogger(__name__)

GRACE = 60
"""Seconds in which a process that was told to end must have ended."""


class FitError(UserError):
    """A fit has not come to its end."""


def fit_side_by_side(command: Sequence[str], fits: Sequence[str], jobs: int) -> None:
    """Runs `COMMAND --only FIT` for every fit, at most so many at a time; what they say is passed on.

    Each has an equal share of the processors. Where there are GPUs, a process sees one of them, which it shares with
    others if there are fewer GPUs than processes.

    Args:
        command: what trains, without `--only`.
        fits: their names, in the order in which they are begun.
        jobs: how many at a time.

    Raises:
        FitError: a fit has failed; the others have been ended, too, and would go on after their last epoch.
        KeyboardInterrupt: this process was told to end, by SIGINT or SIGTERM; the fits have been ended.
    """
    places: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
    for number in range(jobs):
        places.put(_place(number, jobs))
    running: dict[str, subprocess.Popen[str]] = {}
    stopping, beginning = False, threading.Lock()

    def run(fit: str) -> int:
        place = places.get()
        with beginning:  # so that a fit is either not begun or among those to be ended
            if stopping:
                return 0
            process = subprocess.Popen(
                [*command, "--only", fit], env=os.environ | place, stderr=subprocess.PIPE, text=True, errors="replace"
            )
            running[fit] = process
        with process:
            for line in process.stderr or ():
                sys.stderr.write(line)
        places.put(place)
        return process.returncode

    outcomes: dict[Future[int], str] = {}
    with _interrupted_by_sigterm(), ThreadPoolExecutor(jobs) as pool:
        try:
            for fit in fits:
                outcomes[pool.submit(run, fit)] = fit
            for done in as_completed(outcomes):
                if status := done.result():
                    raise FitError(f"The fit {outcomes[done]} ended with status {status}; what it said is above.")
                logger.info("%s is done.", outcomes[done])
        finally:
            with beginning:
                stopping = True
            _end(list(running.values()))


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Otherwise this process would die of it at once, and its fits go on beside those of the next start."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _place(number: int, jobs: int) -> dict[str, str]:
    """The environment by which one of the processes keeps to its own part of the machine."""
    place = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // jobs)), SIDE_BY_SIDE: str(jobs)}
    if torch.cuda.is_available():
        seen = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        devices = seen.split(",")
        place["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
    return place


def _end(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
