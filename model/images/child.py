"""A child process that decodes, and how it is talked to: a crash there costs a sentence, not this process.

Questions are lines of JSON; an answer is a line of JSON and the bytes of its crops. Nothing is pickled. A question that
takes more memory or processor time than is granted ends the child alone.
"""

import contextlib
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from model.errors import CropError

Answer = tuple[dict[str, Any], list[np.ndarray]]
"""What JSON can say, and crops, (H, W, 3) uint8."""


class ChildDied(Exception):
    """The child did not survive a question; the message says why: "it takes too much time"."""


class Child:
    """A child process that answers one question after another.

    Args:
        module: run as a program; it calls `answer_questions`.
    """

    def __init__(self, module: str) -> None:
        root = str(Path(__file__).parents[2])
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            env=os.environ | one_thread | {"PYTHONPATH": root},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def alive(self) -> bool:
        """Whether it can answer another question."""
        return self.process.poll() is None

    def ask(self, question: object, seconds: float) -> Answer:
        """The answer to a question, which JSON can say.

        Args:
            question: is passed to the child's `answer`.
            seconds: on the clock, after which the child is killed.

        Raises:
            CropError: the child says so.
            ChildDied: it crashed, or took too much time or memory.
        """
        impatience = threading.Timer(seconds, self.process.kill)
        impatience.start()
        try:
            return self._ask(question)
        except (OSError, EOFError, ValueError) as error:
            raise ChildDied(self._cause_of_death()) from error
        finally:
            impatience.cancel()

    def _ask(self, question: object) -> Answer:
        questions, answers = cast(BinaryIO, self.process.stdin), cast(BinaryIO, self.process.stdout)
        questions.write(json.dumps(question).encode() + b"\n")
        questions.flush()
        line = answers.readline()
        if not line:
            raise EOFError
        answer = json.loads(line)
        for level, name, message in answer["log"]:
            logging.getLogger(name).log(level, "%s", message)
        if "error" in answer:
            raise CropError(answer["error"])
        crops = []
        for height, width in answer["sizes"]:
            content = answers.read(height * width * 3)
            crops.append(np.frombuffer(content, np.uint8).reshape(height, width, 3).copy())
        return answer["answer"], crops

    def close(self) -> None:
        """Ends the child, which answers nothing."""
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):  # what was left to be written has nobody to read it
                cast(BinaryIO, stream).close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=1)

    def _cause_of_death(self) -> str:
        try:
            status = self.process.wait(timeout=1)
        except subprocess.TimeoutExpired:  # it lives, but talks nonsense
            self.process.kill()
            status = self.process.wait()
        self.close()
        if status == -signal.SIGXCPU:
            return "it takes too much time"
        return "it takes too much time or memory" if status == -signal.SIGKILL else "its decoder crashed"


class _Notes(logging.Handler):
    """Keeps what is logged, for the parent."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[tuple[int, str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.notes.append((record.levelno, record.name, record.getMessage()))


def answer_questions(answer: Callable[[Any], Answer]) -> None:
    """What the child does until its standard input ends.

    Args:
        answer: answers a question; what it may take it grants itself, by `grant`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the parent answers
    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    notes = _Notes()
    logging.basicConfig(level=logging.INFO, handlers=[notes])
    for line in sys.stdin.buffer:
        notes.notes.clear()
        said: dict[str, object] = {"log": notes.notes}
        crops: list[np.ndarray] = []
        try:
            content, crops = answer(json.loads(line))
            said |= {"answer": content, "sizes": [crop.shape[:2] for crop in crops]}
        except CropError as error:
            said["error"] = str(error)
        answers.write(json.dumps(said).encode() + b"\n")
        for crop in crops:
            answers.write(np.ascontiguousarray(crop).data)
        answers.flush()


def grant(seconds: int, memory: int) -> None:
    """Limits what this process may take from now on.

    Args:
        seconds: of processor time.
        memory: bytes, beyond what it has.
    """
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    limits = {resource.RLIMIT_CPU: int(used) + 1 + seconds, resource.RLIMIT_DATA: _data() + memory}
    for kind, limit in limits.items():
        _, most = resource.getrlimit(kind)
        if most == resource.RLIM_INFINITY or limit <= most:
            resource.setrlimit(kind, (limit, most))


def _data() -> int:
    """Bytes of private memory that the process may write to, as the kernel counts them for RLIMIT_DATA."""
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    return pages * resource.getpagesize()
