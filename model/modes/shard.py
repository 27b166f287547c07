"""A shard: one of several runs that share an input, as the jobs of an array do; and the note that it leaves.

    OUT/shard.json    which shard of how many, of which input; written last, so what has none is not finished

Which names belong to a shard follows from each name alone, so no run needs to know of the others, and neither the order
of listing nor what is added to the input moves a name from one shard to another. What a note says is input like any
other: it is checked.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from model.checks import check_text, check_whole
from model.errors import CaseError
from model.modes.writing import Whole, open_own, unwritable

NOTE = "shard.json"
MOST_SHARDS = 10_000
_LARGEST_NOTE = 1 << 21
KINDS = ("folder", "slide", "slides")


@dataclass(frozen=True)
class Shard:
    """One of several runs.

    Attributes:
        number: from 1 to `count`.
        count: how many shards there are.

    Raises:
        ValueError: they are no such numbers.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        check_whole("count", self.count, 1, MOST_SHARDS)
        check_whole("number", self.number, 1, self.count)

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """A shard as the command line says it: `3/8`.

        Raises:
            ValueError: the text is none.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
        if not found:
            raise ValueError(f"'{text}' is not I/N")
        return cls(int(found[1]), int(found[2]))

    def takes(self, name: str) -> bool:
        """Whether a name belongs to this shard; each belongs to one, by its SHA-256."""
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True)
class ShardNote:
    """The content of shard.json.

    Attributes:
        kind: one of `KINDS`: of images, of a slide's detections, or of the slides of a table.
        shard: number and count.
        input: SHA-256 that is the same for all shards of an input.
        slides: of a table of slides, the folders of all of them, of whatever shard, in the table's order.
        settings: of a table of slides, what must be the same for all of them: weights, views, options.

    Raises:
        ValueError: a value is of another type, or out of range.
    """

    kind: str
    shard: Shard
    input: str
    slides: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_text("input", self.input)
        if self.kind not in KINDS or not isinstance(self.settings, dict) or not isinstance(self.slides, list):
            raise ValueError("no note of a shard")
        for name in self.slides:
            check_text("slides", name)
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name):
                raise ValueError(f"'{name}' is no folder of a slide")
        if len({name.lower() for name in self.slides}) < len(self.slides):
            raise ValueError("a folder is named twice")


Shards = Sequence[tuple[Path, ShardNote]]
"""Folders with their notes, by number."""


def clear_note(folder: Path) -> None:
    """Removes the note of an earlier run: from now on the folder holds no finished shard.

    Raises:
        CaseError: it cannot be removed.
    """
    try:
        (folder / NOTE).unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def write_note(folder: Path, note: ShardNote) -> None:
    """Notes that a shard is finished.

    Raises:
        CaseError: it cannot be written.
    """
    try:
        with Whole(folder / NOTE) as file:
            json.dump(asdict(note), file, indent=2)
            file.write("\n")
    except OSError as error:
        raise unwritable(folder, error) from error


def read_note(folder: Path) -> ShardNote:
    """Reads and checks the note of a shard.

    Raises:
        CaseError: it is missing, or is not as this program writes it.
    """
    path = folder / NOTE
    try:
        with open_own(path, "r") as file:
            text = file.read(_LARGEST_NOTE + 1)
        if len(text) > _LARGEST_NOTE:
            raise ValueError("it is too large")
        content = json.loads(text)
        return ShardNote(**content | {"shard": Shard(**content["shard"])})
    except FileNotFoundError as error:
        raise CaseError(f"{folder} holds no finished shard: it has no {NOTE}; run the shard to its end.") from error
    except OSError as error:
        raise CaseError(f"{path} cannot be read ({error.strerror}); run the shard again.") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CaseError(f"{path} cannot be understood ({error}); run the shard again.") from error


def altered(folder: Path, what: str) -> CaseError:
    """The error that a shard is not as its run left it."""
    return CaseError(f"{folder} holds a shard that cannot be used: {what}; run it again.")


def different_settings(folder: Path, other: Path) -> CaseError:
    """The error that two shards are not of one run."""
    return CaseError(f"{folder} and {other} have other weights, views or options; run one of them again.")
