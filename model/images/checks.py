"""Crops that no answer means anything for: blank ones, and ones that are not of an H&E stain.

The network was trained on H&E crops alone and gives any picture a confidence. Haematoxylin and eosin both absorb green
the most (Ruifrok and Johnston 2001, Anal Quant Cytol Histol 23:291), so an H&E crop is purple or pink nearly
everywhere: green is the lowest of a pixel's three channels. Grey pictures, immunohistochemistry with DAB (brown: blue
is the lowest), inverted colours and fluorescence are told by that. Red and blue swapped are not told: purple stays
purple.

Rates: 0 of 2,894 crops of AMi-Br and 0 of 1,513 of AtNorM-MD are remarked on (`pytest test/model/images/test_checks.py`
counts them, and fails at 1 in 1,000). Beside each bound stands the lowest value of a real crop.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

logger = logging.getLogger(__name__)

MIN_CONTRAST = 12
"""Standard deviation of green, of 255; of a real crop: 20.8."""
MIN_BRIGHTNESS = 50
"""Mean of the three channels, of 255; of a real crop: 72."""
MIN_EXCESS = 4
"""Mean of red, and of blue, above that of green, of 255; of a real crop: 8.3."""
MIN_SHARE = 0.6
"""Share of pixels in which no channel is lower than green; of a real crop: 0.75."""

BLANK = "blank or featureless"
FOREIGN = "far from the colours of H&E"

LISTED = 10
"""Numbers of crops in a warning."""

_MAX_SIDE = 128
"""Of larger crops, every second, third ... pixel is looked at."""


def remark(crop: np.ndarray) -> str | None:
    """What is wrong with a crop (H, W, 3), uint8 RGB: `BLANK`, `FOREIGN` or nothing."""
    step = -(-max(crop.shape[:2]) // _MAX_SIDE)
    red, green, blue = np.ascontiguousarray(crop[::step, ::step].reshape(-1, 3).T)
    if green.std() < MIN_CONTRAST:
        return BLANK
    means = red.mean(), green.mean(), blue.mean()
    share = np.count_nonzero(green <= np.minimum(red, blue)) / green.size
    excess = min(means[0], means[2]) - means[1]
    return FOREIGN if sum(means) < 3 * MIN_BRIGHTNESS or excess < MIN_EXCESS or share < MIN_SHARE else None


def remarks(crops: Sequence[np.ndarray]) -> list[str]:
    """What is wrong with the crops of a file, a sentence's middle for each kind: "crops 2 and 5 are blank"."""
    found: dict[str, list[int]] = {}
    for number, crop in enumerate(crops, start=1):
        if kind := remark(crop):
            found.setdefault(kind, []).append(number)
    return [f"{_enumerate(numbers)} {'is' if len(numbers) == 1 else 'are'} {kind}" for kind, numbers in found.items()]


def warn_of(path: Path, crops: Sequence[np.ndarray]) -> None:
    """Logs a warning for each kind of crop of a file that no answer means anything for."""
    for found in remarks(crops):
        logger.warning("%s: %s; the confidence says nothing there.", path, found)


def _enumerate(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"crop {numbers[0]}"
    listed = ", ".join(map(str, numbers[:LISTED]))
    return f"crops {listed}" + (f" and {len(numbers) - LISTED} more" if len(numbers) > LISTED else "")
