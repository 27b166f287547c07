"""Tells atypical from normal mitotic figures.

    python process.py                   the case in /input, its result to /output (the platform's `exec`)
    python process.py serve             a server that handles one case after another (the platform's `invoke`)
    python process.py folder IN OUT     every crop of every image in a folder, as tables

Each takes --help.
"""

import sys

from model.modes.process_state import answer_signals, open_streams, status_of

if __name__ == "__main__":  # what is imported next takes its time
    answer_signals((lambda _: 0) if sys.argv[1:2] == ["serve"] else status_of)
    open_streams()

import argparse
import contextlib
import logging
import os
from functools import partial
from pathlib import Path

from model.constants import DEFAULT_VIEWS, HOST, MICROMETRES_PER_PIXEL, PORT, VIEW_SETS
from model.errors import CropError, UserError, one_line
from model.modes.case import process_case, table
from model.modes.grand_challenge import clear_result
from model.modes.loader import Loader

logger = logging.getLogger("process")


def run_case(arguments: argparse.Namespace, loader: Loader) -> int:
    """The platform's `exec`."""
    path, entries = process_case(arguments.input, arguments.output, loader)
    if arguments.table:
        with contextlib.suppress(OSError):  # nobody reads it; the result is written
            print(table(path, entries), flush=True)
    return 0


def run_server(arguments: argparse.Namespace, loader: Loader) -> int:
    """The platform's `invoke`."""
    from model.modes.server import serve

    handle = partial(process_case, arguments.input, arguments.output, loader)
    return serve(loader.predictor, handle, arguments.clean_up, arguments.host, arguments.port)


def run_folder(arguments: argparse.Namespace, loader: Loader) -> int:
    """A lab's own images."""
    predictor = loader.predictor()
    from model.modes.folder import FolderOptions, classify_folder  # which imports PyTorch, as the loader does with care
    from model.modes.tables import FAILURES

    if arguments.mpp is None:
        logger.info(
            "Images that do not state their resolution are taken to have %s µm per pixel; say --mpp if they have not.",
            MICROMETRES_PER_PIXEL,
        )
    options = FolderOptions(arguments.mpp, arguments.resume, sys.stderr.isatty())
    done = classify_folder(predictor, arguments.source, arguments.target, options)
    logger.info("%d images, %d crops; wrote %s", done.files, done.crops, arguments.target)
    if done.failed:
        failures = arguments.target / FAILURES
        raise CropError(f"{done.failed} of {done.files} images could not be used; {failures} tells which and why.")
    return 0


def micrometres(text: str) -> float:
    """µm per pixel, for the command line: within what microscopes and scanners have."""
    number = float(text)
    if not 0.01 <= number <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.01 and 100 µm per pixel")
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
            folder.add_argument("--mpp", type=micrometres, help="µm per pixel of all images (default: as they say)")
            folder.add_argument("--resume", action="store_true", help="go on with an interrupted run")
            return folder.parse_args(rest, argparse.Namespace(run=run_folder))
        case _:
            one = parser("", folders)
            one.add_argument("--table", action="store_true", help="also print the result as a table")
            return one.parse_args(arguments, argparse.Namespace(run=run_case))


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 1 with one sentence as the last line on stderr."""
    parsed = parse(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    parsed.clean_up = lambda: None
    if hasattr(parsed, "output"):
        parsed.clean_up = partial(clear_result, parsed.output, only_partial=True)
    # A server that is told to stop has done its work, anything else has not.
    answer_signals((lambda _: 0) if parsed.run is run_server else status_of, parsed.clean_up)
    try:
        return parsed.run(parsed, Loader(parsed.weights, parsed.device, parsed.views))
    except UserError as error:
        sentence = one_line(error)
    except MemoryError:
        sentence = "The memory does not suffice; give the process more, or smaller images."
    except Exception as error:
        logger.debug("", exc_info=error)
        what = f"{type(error).__name__}: {error}"
        sentence = one_line(UserError(f"The program failed through a fault of its own ({what}); please report it."))
        if os.environ.get("ATYPICAL_MITOSIS_TRACEBACK"):
            raise
    with contextlib.suppress(OSError):
        print(sentence, file=sys.stderr)
    return 1


if __name__ == "__main__":
    status = main()
    # All is written. To take PyTorch apart in good order would keep the user waiting for half a second more.
    with contextlib.suppress(OSError):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)
