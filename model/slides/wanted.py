"""What of a file of detections is asked for, and how its values are understood."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import CropError
from model.slides.detections import FINITE

_SUFFIX = re.compile(
    r"(?<=.)\.(svs|ndpi|ome|(ome\.)?p?tiff?|mrxs|scn|bif|vms|vmu|svslide|dcm|isyntax|czi|vsi|qptiff|png|jpe?g|jp2|bmp)"
    r"( - .*)?\Z",
    re.I,
)
"""Of slides and pictures of them, with a series' name. Another dot is part of a name: 12.1 is not the slide 12.2."""

MOST_NAMES = 3
"""Of slides in a message."""

LONGEST_TEXT = 200
"""Characters of an id or a name that are kept."""


@dataclass(frozen=True)
class Wanted:
    """What is asked for.

    Attributes:
        path: of the file, for messages.
        slide: name of the slide's file: some files tell of many slides.
        only: classes; empty for all.
        everything: also what MIDOG's files call hard negatives.
        region: name or class of the areas to count in; empty for none.
        unit: `px` or `um`, where the user says it.
    """

    path: Path
    slide: str = ""
    only: tuple[str, ...] = ()
    everything: bool = False
    region: str = ""
    unit: str | None = None

    def takes(self, label: str) -> bool:
        """Whether a class is asked for."""
        return not self.only or label in self.only

    def named_so(self, names: Iterable[str]) -> str | None:
        """Which of the names of slides in a file is the slide's; None where none is. Folders in them do not matter.

        First comes the name of the slide's file, then that without its suffix, then that with another suffix of slides.

        Raises:
            CropError: several are as good, so it may be one of other slides.
        """
        stem = _SUFFIX.sub("", self.slide)
        found: dict[int, set[str]] = {}
        for path in names:
            name = path.replace("\\", "/").rpartition("/")[2]
            if _SUFFIX.sub("", name) == stem:
                found.setdefault(0 if name == self.slide else 1 if name == stem else 2, set()).add(path)
        if not found:
            return None
        best = sorted(found[min(found)])
        if len(best) > 1:
            listed = ", ".join(map(shown, best[:MOST_NAMES]))
            raise CropError(
                f"{self.path} tells of {listed}, and each may be {self.slide}; give the detections of this slide alone."
            )
        return best[0]


def to_number(value: Any) -> float:
    """A value as a coordinate; NaN where it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return math.nan
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return math.nan
    return number if abs(number) < FINITE else math.nan


def shown(value: Any) -> str:
    """A value as a text of one line; empty where it is nothing that could be one."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    text = "".join(char if char.isprintable() else " " for char in str(value))
    return text[:LONGEST_TEXT].strip()
