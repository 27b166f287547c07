"""Tells atypical from normal mitotic figures.

    python process.py                   the case in /input, its result to /output (the platform's `exec`)
    python process.py serve             a server that handles one case after another (the platform's `invoke`)
    python process.py folder IN OUT     every crop of every image in a folder, as tables

Each takes --help.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from model.constants import DEFAULT_VIEWS, HOST, MICROMETRES_PER_PIXEL, PORT, VIEW_SETS
from model.errors import CropError, UserError, one_line
from model.modes.case import process_case, table
from model.modes.grand_challenge import clear_result
from model.modes.loader import Loader

if TYPE_CHECKING:  # PyTorch takes seconds to import: what is wrong with a case is said before that
    from model.predictor import Predictor

logger = logging.getLogger("process")


def run_case(arguments: argparse.Namespace, loader: Loader) -> int:
    """The platform's `exec`."""
    path, entries = process_case(arguments.input, arguments.output, loader)
    if arguments.table:
        print(table(path, entries))
    return 0


def run_server(arguments: argparse.Namespace, loader: Loader) -> int:
    """The platform's `invoke`."""
    from model.modes.server import serve

    def load() -> Predictor:
        return loader.predictor

    def handle(_: Predictor) -> None:
        process_case(arguments.input, arguments.output, loader)

    tidy = partial(clear_result, arguments.output, only_partial=True)
    return serve(load, handle, tidy, arguments.host, arguments.port)


def run_folder(arguments: argparse.Namespace, loader: Loader) -> int:
    """A lab's own images."""
    predictor = loader.predictor
    # After the loader, which imports PyTorch leanly.
    from model.modes.folder import FAILURES, classify_folder

    mpp = arguments.mpp
    if mpp is None:
        mpp = MICROMETRES_PER_PIXEL
        logger.info("The images are taken to have %s µm per pixel; say --mpp if they have not.", mpp)
    done = classify_folder(predictor, arguments.source, arguments.target, mpp, arguments.resume, sys.stderr.isatty())
    logger.info("%d images, %d crops; wrote %s", done.files, done.crops, arguments.target)
    if done.failed:
        failures = arguments.target / FAILURES
        raise CropError(f"{done.failed} of {done.files} images could not be used; {failures} tells which and why.")
    return 0


def positive(text: str) -> float:
    """A number above zero, for the command line."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return number


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line; the mode is its first word, a case when it is none of them."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--weights",
        type=Path,
        help="weights folder (default: MODEL_DIR, then /opt/ml/model, then the one in the image)",
    )
    common.add_argument(
        "--views", choices=VIEW_SETS, default=DEFAULT_VIEWS, help="views averaged (default: %(default)s)"
    )
    common.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: %(default)s)")
    folders = argparse.ArgumentParser(add_help=False)
    folders.add_argument("--input", type=Path, default=Path("/input"), help="folder of the case (default: %(default)s)")
    folders.add_argument("--output", type=Path, default=Path("/output"), help="for the result (default: %(default)s)")

    def parser(mode: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        return argparse.ArgumentParser(
            prog=f"process.py{mode}",
            description=__doc__,
            parents=[*parents, common],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    match arguments:
        case ["serve", *rest]:
            serve = parser(" serve", folders)
            serve.add_argument("--host", default=HOST, help="address to listen on (default: %(default)s)")
            serve.add_argument("--port", type=int, default=PORT, help="(default: %(default)s)")
            return serve.parse_args(rest, argparse.Namespace(run=run_server))
        case ["folder", *rest]:
            folder = parser(" folder")
            folder.add_argument("source", type=Path, metavar="IN", help="folder of PNG, JPEG, TIFF and MHA crops")
            folder.add_argument("target", type=Path, metavar="OUT", help="folder for the tables")
            folder.add_argument("--mpp", type=positive, help="µm per pixel of the images (default: 0.25)")
            folder.add_argument("--resume", action="store_true", help="go on with an interrupted run")
            return folder.parse_args(rest, argparse.Namespace(run=run_folder))
        case _:
            one = parser("", folders)
            one.add_argument("--table", action="store_true", help="also print the result as a table")
            return one.parse_args(arguments, argparse.Namespace(run=run_case))


def _stop(arguments: argparse.Namespace, *_: object) -> None:
    """Ends the process at once; a server that is told to stop has done its work, anything else has not."""
    if hasattr(arguments, "output"):
        clear_result(arguments.output, only_partial=True)
    os._exit(0 if arguments.run is run_server else 128 + signal.SIGTERM)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 1 with one sentence as the last line on stderr."""
    parsed = parse(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)

    # A container's first process has no default action for SIGTERM, and what is imported later takes seconds.
    signal.signal(signal.SIGTERM, partial(_stop, parsed))

    try:
        return parsed.run(parsed, Loader(parsed.weights, parsed.device, parsed.views))
    except UserError as error:
        print(one_line(error), file=sys.stderr)
        return 1


if __name__ == "__main__":
    status = main()
    # All is written. To take PyTorch apart in good order would keep the user waiting for half a second more.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
