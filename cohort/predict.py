"""Classifies a cohort on Ray Data: on this machine, or on a cluster.

    python -m cohort.predict INPUT OUT                   on this machine
    python -m cohort.predict INPUT OUT --address auto    on the cluster that this machine belongs to

INPUT is a folder of crops, a CSV with slide,detections, or a Parquet with these columns or with `file`. OUT gets
predictions.parquet and predictions.csv; what could not be used is a row there. The same command goes on with a run that
was interrupted in any way.
"""

import sys

from model.modes.process_state import answer_signals, open_streams, say_why, status_of

if __name__ == "__main__":  # what is imported next takes its time
    answer_signals(status_of)
    open_streams()

import argparse
import logging
from pathlib import Path

from cohort.inputs import read_inputs
from cohort.machines import connected
from cohort.run import CohortOptions, classify_cohort
from cohort.tables import PREDICTIONS_CSV
from model.constants import DEFAULT_VIEWS, VIEW_SETS
from model.errors import CropError
from model.modes.slide_options import SlideOptions
from model.network.weights_config import read_config
from model.network.weights_folder import choose_weights

logger = logging.getLogger("cohort")


def predict(arguments: argparse.Namespace) -> None:
    """Classifies a cohort.

    Raises:
        UserError: it cannot be done; or some of it could not be used, which the tables tell of.
    """
    weights = choose_weights(arguments.weights).absolute()
    read_config(weights)  # what is wrong with it is said before anything is begun
    inputs = read_inputs(arguments.source)
    if inputs.kind == "slides" and arguments.mpp is not None:
        raise CropError(f"{arguments.source} is a table of slides; give mpp as a column of it, not --mpp.")
    if inputs.kind == "images" and (arguments.only or arguments.all or arguments.unit or arguments.origin):
        raise CropError(f"{arguments.source} holds crops, so it has no detections; leave out what is said of them.")
    slide = SlideOptions(
        only=tuple(arguments.only), everything=arguments.all, unit=arguments.unit, origin=arguments.origin
    )
    options = CohortOptions(weights, arguments.views, arguments.mpp, slide, sys.stderr.isatty())
    stored = sum(file.stat().st_size for file in weights.glob("*.safetensors"))
    with connected(arguments.address, arguments.gpus, stored) as machines:
        logger.info("%d %s, %d predictors.", len(inputs.units), inputs.kind, machines.predictors)
        done = classify_cohort(inputs, arguments.target, machines, options)
    logger.info("%d %s, %d crops; wrote %s", done.units, inputs.kind, done.crops, arguments.target)
    if done.failures:
        table = arguments.target / PREDICTIONS_CSV
        raise CropError(f"{done.failures} rows of {table} could not be classified; its column failure tells why.")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m cohort.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="INPUT", help="as above")
    parser.add_argument("target", type=Path, metavar="OUT", help="folder for the tables")
    parser.add_argument("--address", help="of a cluster of Ray; auto: the one here (default: this machine alone)")
    parser.add_argument("--gpus", type=int, help="predictors, each with a GPU; 0: none (default: as many as there are)")
    parser.add_argument("--weights", type=Path, help="weights folder, at the same path on every machine")
    parser.add_argument("--views", choices=VIEW_SETS, default=DEFAULT_VIEWS, help="(default: %(default)s)")
    parser.add_argument("--mpp", type=float, help="µm per pixel of all crops (default: as their files say)")
    parser.add_argument("--only", action="append", default=[], metavar="CLASS", help="detections of this class alone")
    parser.add_argument("--all", action="store_true", help="MIDOG's hard negatives, too")
    parser.add_argument("--unit", choices=("px", "um"), help="of x and y in tables of detections (default: px)")
    parser.add_argument("--origin", choices=("slide", "scanned"), help="what x and y are counted from")
    parsed = parser.parse_args(arguments)
    if parsed.gpus is not None and not 0 <= parsed.gpus <= 10_000:
        parser.error("--gpus must be from 0 to 10000")
    if parsed.mpp is not None and not 0.01 <= parsed.mpp <= 100:
        parser.error("--mpp must be between 0.01 and 100 µm per pixel")
    return parsed


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 1 with one sentence as the last line on stderr."""
    parsed = parse(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        predict(parsed)
        return 0
    except Exception as error:
        return say_why(error)


if __name__ == "__main__":
    sys.exit(main())
