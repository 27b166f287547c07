"""Starts training in several processes, for training/train.sh: PyTorch's launcher, without its traceback at the end.

What went wrong is said by the process that it went wrong in; the launcher would add forty lines on itself.
"""

import logging
import signal
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as launch


def main(arguments: Sequence[str]) -> int:
    """Launches as `torch.distributed.run` does.

    Args:
        arguments: its own.

    Returns:
        The exit status: of the process that failed first, or 130 after an interruption.
    """
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    try:
        launch(list(arguments))
    except ChildFailedError as error:
        return error.get_first_failure()[1].exitcode or 1
    except (SignalException, KeyboardInterrupt) as error:
        return 128 + int(getattr(error, "sigval", signal.SIGINT))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
