"""Decoding in another process, for formats that libraries in C decode: a crash there costs a sentence, not the server.

The child reads paths from its standard input and answers with the pixels; a file that takes more memory or processor
time than is granted ends the child alone, and the next file gets a new one. Nothing is pickled: an answer is a line of
JSON and the bytes of the crops.
"""

import atexit
import contextlib
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from model.errors import CropError
from model.images.decode import decode
from model.images.rgb import Stack

logger = logging.getLogger(__name__)

MEMORY = 1 << 30
"""Bytes that a file may take to decode."""

SECONDS, BYTES_A_SECOND = 5, 1 << 20
"""Processor time that a file may take to decode: so many seconds, and one more for so many bytes."""

PATIENCE = 20
"""How many times as long may pass on the clock, on a machine that does other things, too."""

_idle: list["Worker"] = []
_idle_lock = threading.Lock()


@atexit.register
def _dismiss() -> None:
    """Ends the idle ones in good order; the others end with this process, as their standard input does."""
    while _idle:
        _idle.pop().close()


def read_apart(path: Path) -> Stack:
    """`model.images.decode.decode` in another process; several threads may call it at once.

    Raises:
        CropError: as `decode` does; or its decoder crashed, or takes too much time or memory.
    """
    with _idle_lock:
        worker = _idle.pop() if _idle else None
    worker = worker or Worker()
    try:
        stack = worker.read(path)
    except CropError:
        if worker.alive():
            with _idle_lock:
                _idle.append(worker)
        raise
    with _idle_lock:
        _idle.append(worker)
    return stack


class Worker:
    """A child process that decodes one file after another."""

    def __init__(self) -> None:
        root = str(Path(__file__).parents[2])
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "model.images.worker"],
            env=os.environ | one_thread | {"PYTHONPATH": root},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def alive(self) -> bool:
        """Whether it can decode another file."""
        return self.process.poll() is None

    def read(self, path: Path) -> Stack:
        """Decodes a file.

        Raises:
            CropError: it cannot be decoded, or the child did not survive it.
        """
        wait = PATIENCE * _granted_seconds(path)
        impatience = threading.Timer(wait, self.process.kill)
        impatience.start()
        try:
            return self._ask(path)
        except (OSError, EOFError, ValueError) as error:
            cause = self._cause_of_death()
            raise CropError(f"{path} cannot be decoded: {cause}; export it again.") from error
        finally:
            impatience.cancel()

    def _ask(self, path: Path) -> Stack:
        questions, answers = cast(BinaryIO, self.process.stdin), cast(BinaryIO, self.process.stdout)
        questions.write(json.dumps(str(path)).encode() + b"\n")
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
        return Stack(crops, answer["mpp"])

    def close(self) -> None:
        """Ends the child, which decodes nothing."""
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


def _granted_seconds(path: Path) -> int:
    try:
        return SECONDS + path.stat().st_size // BYTES_A_SECOND
    except OSError:
        return SECONDS


class _Notes(logging.Handler):
    """Keeps what is logged, for the parent."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[tuple[int, str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.notes.append((record.levelno, record.name, record.getMessage()))


def serve() -> None:
    """What the child does until its standard input ends."""
    # The libraries first: what they take is not the files' memory.
    import cv2  # noqa: F401
    import tifffile  # noqa: F401

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the parent answers
    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    notes = _Notes()
    logging.basicConfig(level=logging.INFO, handlers=[notes])
    for line in sys.stdin.buffer:
        path = Path(json.loads(line))
        notes.notes.clear()
        _grant(path)
        answer: dict[str, object] = {"log": notes.notes}
        crops: list[np.ndarray] = []
        try:
            stack = decode(path)
            crops = stack.crops
            answer |= {"sizes": [crop.shape[:2] for crop in crops], "mpp": stack.mpp}
        except CropError as error:
            answer["error"] = str(error)
        except MemoryError:
            answer["error"] = f"{path} takes too much memory to decode; give smaller images."
        answers.write(json.dumps(answer).encode() + b"\n")
        for crop in crops:
            answers.write(np.ascontiguousarray(crop).data)
        answers.flush()


def _grant(path: Path) -> None:
    """Limits what the next file may take."""
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    limits = {resource.RLIMIT_CPU: int(used) + 1 + _granted_seconds(path), resource.RLIMIT_DATA: _data() + MEMORY}
    for kind, limit in limits.items():
        _, most = resource.getrlimit(kind)
        if most == resource.RLIM_INFINITY or limit <= most:
            resource.setrlimit(kind, (limit, most))


def _data() -> int:
    """Bytes of private memory that the process may write to, as the kernel counts them for RLIMIT_DATA."""
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    serve()
