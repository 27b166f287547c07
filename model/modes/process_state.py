"""What a process needs before anything else: an answer to signals, and streams to write to.

Imports next to nothing, so that signals are answered from the start.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from model.errors import UserError, sentence


def answer_signals(status: Callable[[int], int], clean_up: Callable[[], object] = lambda: None) -> None:
    """Lets SIGTERM and SIGINT end the process at once, without a traceback.

    A container's first process has no default action for them, and threads that compute cannot be stopped otherwise.

    Args:
        status: gives the exit status for a signal's number.
        clean_up: called before; its errors count for nothing.
    """

    def end(number: int, _: FrameType | None) -> None:
        try:
            clean_up()
        finally:
            os._exit(status(number))

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def status_of(number: int) -> int:
    """The exit status of a process that a signal ended, by the shell's convention."""
    return 128 + number


def say_why(error: Exception) -> int:
    """Says in one sentence, as the last line on stderr, what has ended the program; returns the exit status, 1.

    A fault of the program's own is raised instead where `ATYPICAL_MITOSIS_TRACEBACK` is set.
    """
    if os.environ.get("ATYPICAL_MITOSIS_TRACEBACK") and not isinstance(error, UserError):
        raise error
    with contextlib.suppress(OSError):
        print(sentence(error), file=sys.stderr)
    return 1


def open_streams() -> None:
    """Puts /dev/null in the place of standard streams that are closed.

    Otherwise the next file that is opened, such as the result, would take the place of stderr, and get what libraries
    write there.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
