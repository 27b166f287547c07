"""Decoding in another process, for formats that libraries in C decode: a crash there costs a sentence, not the server.

The child reads paths from its standard input and answers with the pixels; after a file that takes more memory or
processor time than is granted, the next file gets a new child.
"""

import atexit
import threading
from pathlib import Path

from model.errors import CropError
from model.images.child import Answer, Child, ChildDied, answer_questions, grant
from model.images.decode import decode
from model.images.rgb import Stack

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


class Worker(Child):
    """A child process that decodes one file after another."""

    def __init__(self) -> None:
        super().__init__("model.images.worker")

    def read(self, path: Path) -> Stack:
        """Decodes a file.

        Raises:
            CropError: it cannot be decoded, or the child did not survive it.
        """
        try:
            answer, crops = self.ask(str(path), PATIENCE * _granted_seconds(path))
        except ChildDied as error:
            raise CropError(f"{path} cannot be decoded: {error}; export it again.") from error
        return Stack(crops, answer["mpp"])


def _granted_seconds(path: Path) -> int:
    try:
        return SECONDS + path.stat().st_size // BYTES_A_SECOND
    except OSError:
        return SECONDS


def serve() -> None:
    """What the child does until its standard input ends."""
    # The libraries first: what they take is not the files' memory.
    import cv2  # noqa: F401
    import tifffile  # noqa: F401

    answer_questions(_answer)


def _answer(name: str) -> Answer:
    path = Path(name)
    grant(_granted_seconds(path), MEMORY)
    try:
        stack = decode(path)
    except MemoryError as error:
        raise CropError(f"{path} takes too much memory to decode; give smaller images.") from error
    return {"mpp": stack.mpp}, stack.crops


if __name__ == "__main__":
    serve()
