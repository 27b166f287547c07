"""What of a file of detections is asked for, and how its values are understood."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.slides.detections import FINITE

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

    def is_slide(self, name: str) -> bool:
        """Whether a name is the slide's, with its suffix or without."""
        name = name.replace("\\", "/").rpartition("/")[2]
        return name == self.slide or name == Path(self.slide).stem or Path(name).stem == Path(self.slide).stem


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
