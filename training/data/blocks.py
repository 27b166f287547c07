"""Runs of neighbouring file numbers, which stand in for slides where a set does not say which slide a crop is of.

Crops are cut slide by slide and numbered as they are cut, so that neighbours mostly are of one slide. A border between
two runs goes through a slide now and then: what is held out by such groups looks better than what is held out by
slides. `benchmark.number_blocks` measures how much of that a length leaves.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np

from model.constants import CLASSES
from training.data.sample import Sample

logger = logging.getLogger(__name__)

LENGTH = 75
"""About how many crops are in a block; docs/data.md has the measurement behind it."""


def in_blocks(samples: Sequence[Sample], length: int = LENGTH) -> list[Sample]:
    """Puts crops of one group into groups of neighbouring numbers, called `GROUP/FIRST-LAST`.

    A block holds both classes and is of one domain. The blocks of a domain are of one size, or differ by one crop.
    Where the numbers are no order of slides, because a file has none, two have the same, or the classes are numbered
    one after the other, the group stays whole, and that is logged.

    Args:
        samples: N crops of one group.
        length: how many crops a block should have.

    Returns:
        N, in the same order.
    """
    numbers = [file_number(sample.path) for sample in samples]
    if reason := _no_order(samples, numbers):
        logger.warning("%s stays one group, which no split divides: %s.", samples[0].group, reason)
        return list(samples)
    groups: dict[int, str] = {}
    order = sorted((number, sample.domain) for number, sample in zip(numbers, samples, strict=True))
    for _, run in groupby(order, key=lambda each: each[1]):
        inside = [number for number, _ in run]
        for block in np.array_split(inside, max(1, round(len(inside) / length))):
            groups |= dict.fromkeys(block.tolist(), f"{block[0]:04d}-{block[-1]:04d}")
    return [
        replace(sample, group=f"{sample.group}/{groups[number]}")
        for number, sample in zip(numbers, samples, strict=True)
    ]


def file_number(path: Path) -> int:
    """The number that a file's name ends in, `188` for `188.png`; -1 for none."""
    found = re.search(r"\d+$", path.stem, re.ASCII)
    return int(found[0]) if found else -1


def _no_order(samples: Sequence[Sample], numbers: Sequence[int]) -> str:
    """Why the numbers of files cannot stand in for slides; empty where they can."""
    first: dict[int, Path] = {}
    for number, sample in zip(numbers, samples, strict=True):
        if number < 0:
            return f"the name of {sample.path} does not end in a number"
        if first.setdefault(number, sample.path) != sample.path:
            return f"{first[number]} and {sample.path} have the same number"
    of_class = [
        [number for number, sample in zip(numbers, samples, strict=True) if sample.label == label]
        for label in range(len(CLASSES))
    ]
    if all(of_class) and max(map(min, of_class)) > min(map(max, of_class)):
        return "its classes are numbered one after the other"
    return ""
