"""One case of the platform: its stack of crops in, its result out."""

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.constants import MICROMETRES_PER_PIXEL, is_expected
from model.errors import CropError
from model.images.checks import warn_of
from model.images.read import read_stack
from model.modes.grand_challenge import DECIMALS, Entry, clear_result, find_stack, result, write_result
from model.modes.loader import Loader
from model.network.calibration import posterior

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaseDone:
    """What became of a case.

    Attributes:
        path: of the result file.
        entries: its content.
        spreads: of each crop, the standard deviation of P(atypical) over the views, in [0, 0.5].
    """

    path: Path
    entries: list[Entry]
    spreads: Sequence[float]


def process_case(input_folder: Path, output_folder: Path, loader: Loader) -> CaseDone:
    """Reads a case, classifies its crops and writes the result; an earlier result is removed first.

    Args:
        input_folder: what the platform mounts as `/input`.
        output_folder: where the result goes.
        loader: of the predictor; its weights are read while the case is.

    Raises:
        UserError: with a sentence for the user.
    """
    start = time.perf_counter()
    clear_result(output_folder)
    loader.begin()
    stack = find_stack(input_folder)
    crops = _crops_of(stack)
    predictor = loader.predictor()
    loaded = time.perf_counter()
    try:
        fields = predictor.config.preprocessing.cut_out(crops)
        shown = sys.stderr is not None and sys.stderr.isatty()
        probabilities, spreads = predictor.predict_with_spread(fields, shown)
    except CropError as error:
        raise CropError(f"{stack}: {error}") from error
    entries = result(probabilities)
    path = write_result(output_folder, entries)
    logger.info(
        "%s: %d crops, %d atypical, weights %s %s, %d views on %s; %.1f s to load, %.1f s to classify; wrote %s",
        stack.name,
        len(crops),
        sum(entry["class"] == "atypical" for entry in entries),
        predictor.config.name,
        predictor.config.version,
        predictor.view_count,
        predictor.device,
        loaded - start,
        time.perf_counter() - loaded,
        path,
    )
    return CaseDone(path, entries, [float(spread) for spread in spreads])


def _crops_of(path: Path) -> list[np.ndarray]:
    """The crops of a case.

    Raises:
        CropError: they cannot be read, or the file states another resolution than theirs.
    """
    stack = read_stack(path)
    if stack.mpp is not None and not is_expected(stack.mpp):
        raise CropError(
            f"{path} states {stack.mpp:.3g} µm per pixel, but a case has {MICROMETRES_PER_PIXEL}; export it at that "
            "resolution, or use the mode for folders, which rescales."
        )
    warn_of(path, stack.crops)
    return stack.crops


def table(path: Path, entries: list[Entry], prevalence: float | None = None) -> str:
    """The result for a person to read: where it is, and a line for each crop.

    Args:
        path: of the result file.
        entries: its content.
        prevalence: share of atypical figures to add the posterior for; None for none.
    """
    lines = [f"{path}", f"{'crop':>5}  {'class':8}  confidence"]
    for number, entry in enumerate(entries, start=1):
        lines.append(f"{number:5}  {entry['class']:8}  {_rounded(entry['confidence']):>10}")
    if prevalence is not None:
        lines[1] += f"  posterior at {prevalence:g}"
        for number, entry in enumerate(entries, start=2):
            lines[number] += f"  {posterior(entry['confidence'], prevalence):.3f}"
    return "\n".join(lines)


def _rounded(confidence: float) -> str:
    """Three decimals, or as many as tell on which side of 0.5 it is."""
    rounded = f"{confidence:.3f}"
    return rounded if rounded != "0.500" else f"{confidence:.{DECIMALS}f}"
