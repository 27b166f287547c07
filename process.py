"""Tells atypical from normal mitotic figures in the case in /input and writes the result to /output.

python process.py
python process.py --input DIR --output DIR --weights model/weights/default --views d4 --device auto
"""

import argparse
import logging
import sys
import time
from pathlib import Path

from model import views
from model.crops import read_crops
from model.errors import CropError, UserError
from model.grand_challenge import Entry, find_stack, result, write_result
from model.predictor import Predictor

DEFAULT_WEIGHTS = Path(__file__).parent / "model" / "weights" / "default"

logger = logging.getLogger("process")


def process_case(
    input_folder: Path, output_folder: Path, weights: Path, device: str, view_set: str
) -> tuple[Path, list[Entry]]:
    """Reads a case, classifies its crops and writes the result.

    Returns:
        Path and content of the result file.

    Raises:
        UserError: with a sentence for the user.
    """
    start = time.perf_counter()
    stack = find_stack(input_folder)
    crops = read_crops(stack)
    predictor = Predictor(weights, device, view_set)
    loaded = time.perf_counter()
    try:
        entries = result(predictor(crops, progress=sys.stderr.isatty()))
    except CropError as error:
        raise CropError(f"{stack}: {error}") from error
    path = write_result(output_folder, entries)
    atypical = sum(entry["class"] == "atypical" for entry in entries)
    logger.info(
        "%s: %d crops, %d atypical, weights %s %s, %d views on %s; %.1f s to load, %.1f s to classify; wrote %s",
        stack.name, len(crops), atypical, predictor.config.name, predictor.config.version, predictor.views,
        predictor.device, loaded - start, time.perf_counter() - loaded, path,
    )  # fmt: skip
    return path, entries


def table(path: Path, entries: list[Entry]) -> str:
    """The result for a person to read: where it is, and a line for each crop."""
    lines = [f"{path}", f"{'crop':>5}  {'class':8}  confidence"]
    for number, entry in enumerate(entries, start=1):
        lines.append(f"{number:5}  {entry['class']:8}  {entry['confidence']:10.3f}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 1 with one sentence as the last line on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, default=Path("/input"), help="folder of the case (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("/output"), help="folder of the result (default: %(default)s)"
    )
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS, help="weights folder (default: %(default)s)")
    parser.add_argument("--views", choices=views.NAMES, default="d4", help="views averaged (default: %(default)s)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: %(default)s)")
    parser.add_argument("--table", action="store_true", help="also print the result as a table")
    parsed = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)

    try:
        path, entries = process_case(parsed.input, parsed.output, parsed.weights, parsed.device, parsed.views)
    except UserError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    if parsed.table:
        print(table(path, entries))
    return 0


if __name__ == "__main__":
    sys.exit(main())
