"""The directories of a TIFF, looked at before a library is: how many there are, and what they claim, within bounds.

A directory lists tags of a page: its size, where its pixels are, how they are coded. Nothing ties these numbers to the
file, so a few bytes can send a reader round in circles or make it allocate anything. Here every directory is visited
once, and no tag may have more values than the file has bytes for.

Format: TIFF 6.0 (Adobe 1992), section 2; BigTIFF (https://www.awaresystems.be/imaging/tiff/bigtiff.html).
"""

import os
import struct
from dataclasses import dataclass, field
from typing import BinaryIO

from model.images.rgb import MAX_CROPS

MAX_TAGS = 1000
"""Of a directory; ours have some twenty."""

SMALL_VALUE = 1024
"""Bytes of a tag's values that directories may share; larger ones together must not exceed the file."""

MAX_TEXT = 1 << 20
"""Bytes of a description that are read."""

SUBFILE, OLD_SUBFILE, WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC = 254, 255, 256, 257, 258, 259, 262
DESCRIPTION, ORIENTATION, SAMPLES = 270, 274, 277
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296

PLAIN = (1, 8, 32946)
"""Compressions: none, and deflate by its two numbers."""

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value of each type."""
_WHOLE = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
"""Types of whole numbers, as `struct` calls them."""
_NUMBERS = {BITS, 273, 279, 324, 325}
_SINGLE = {*range(SUBFILE, 260), PHOTOMETRIC, 266, ORIENTATION, SAMPLES, 278, 284, 317, 322, 323} - _NUMBERS
"""Tags that say how the pixels are coded, all of them whole numbers; the latter have one value."""
_TEXTS_AND_RATIOS = {**dict.fromkeys((269, 270, 271, 272, 285, 305, 306, 315, 316), (1, 2, 7))} | dict.fromkeys(
    (X_RESOLUTION, Y_RESOLUTION, 286, 287, 318, 319), (5, 10)
)
"""Types that other tags have: where one of them has another, it may have been one of the above."""


@dataclass(frozen=True)
class Directory:
    """The tags of one page.

    Attributes:
        entries: type, number of values, and offset in the file of the values, by tag.
        file: what they are in.
        order: of bytes, `<` or `>`.
        spans: where the directory and its values begin and end in the file.
    """

    file: BinaryIO = field(repr=False)
    order: str
    entries: dict[int, tuple[int, int, int]]
    spans: list[tuple[int, int]] = field(default_factory=list)

    def number(self, tag: int, default: int) -> int:
        """The first value of a tag of whole numbers; `default` where it is missing.

        Raises:
            ValueError: it is none, or cut off.
        """
        if tag not in self.entries:
            return default
        kind, count, offset = self.entries[tag]
        if kind not in _WHOLE or not count:
            raise ValueError(f"tag {tag} is no whole number")
        return struct.unpack(self.order + _WHOLE[kind], self._bytes(offset, _SIZES[kind]))[0]

    def ratio(self, tag: int) -> float | None:
        """The first value of a tag of fractions; None where it is missing, no fraction or one by zero."""
        kind, count, offset = self.entries.get(tag, (0, 0, 0))
        if kind != 5 or not count:
            return None
        numerator, denominator = struct.unpack(f"{self.order}II", self._bytes(offset, 8))
        return numerator / denominator if denominator else None

    def text(self, tag: int) -> str:
        """The text of a tag; empty where it is missing.

        Raises:
            ValueError: it is longer than is read.
        """
        kind, count, offset = self.entries.get(tag, (2, 0, 0))
        if kind not in (1, 2, 7) or count > MAX_TEXT:
            raise ValueError(f"the text of tag {tag} is too long or no text")
        return self._bytes(offset, count).partition(b"\0")[0].decode("utf-8", "replace")

    def _bytes(self, offset: int, count: int) -> bytes:
        return _read(self.file, offset, count)


def read_directories(file: BinaryIO) -> list[Directory]:
    """All directories of the chain, in order; those of SubIFDs, which hold smaller copies, are left out.

    Raises:
        ValueError: the file is no TIFF, or a directory is damaged, there twice, one of too many, or claims more than
            the file holds.
    """
    size = os.fstat(file.fileno()).st_size
    order, big, offset = _header(file)
    # Number of tags; of an entry: tag, type, number of values; value or offset of the values.
    counted, entry, place = ("Q", "HHQ", "Q") if big else ("H", "HHI", "I")
    count_size, head_size, place_size = (struct.calcsize(order + code) for code in (counted, entry, place))
    found: list[Directory] = []
    visited: set[int] = set()
    large_values = 0
    while offset:
        if offset in visited:
            raise ValueError("its directories go round in a circle")
        if len(found) > MAX_CROPS:
            raise ValueError(f"it has more than {MAX_CROPS} pages")
        visited.add(offset)
        (tags,) = struct.unpack(order + counted, _read(file, offset, count_size))
        if not 0 < tags <= MAX_TAGS:
            raise ValueError(f"a directory claims {tags} tags")
        entry_size = head_size + place_size
        content = _read(file, offset + count_size, tags * entry_size + place_size)
        entries: dict[int, tuple[int, int, int]] = {}
        spans = [(offset, offset + count_size + len(content))]
        last = -1
        for start in range(0, tags * entry_size, entry_size):
            tag, kind, count = struct.unpack_from(order + entry, content, start)
            length = count * _SIZES.get(kind, 1)
            if length <= place_size:
                at = offset + count_size + start + head_size
            else:
                (at,) = struct.unpack_from(order + place, content, start + head_size)
                if at + length > size:
                    raise ValueError(f"the values of tag {tag} are not in the file")
                large_values += length if length > SMALL_VALUE else 0
                spans.append((at, at + length))
            if tag <= last:
                raise ValueError(f"tag {tag} is there twice, or not in its place")
            _check_type(tag, kind, count)
            entries[tag], last = (kind, count, at), tag
        if large_values > size:
            raise ValueError("its tags claim more values than the file holds")
        found.append(Directory(file, order, entries, spans))
        (offset,) = struct.unpack_from(order + place, content, tags * entry_size)
    return found


def _check_type(tag: int, kind: int, count: int) -> None:
    """Checks that a tag has values of a type that it may have: one changed bit must not hide how pixels are coded."""
    if (tag in _NUMBERS or tag in _SINGLE) and (kind not in _WHOLE or not count):
        raise ValueError(f"tag {tag} is no whole number")
    if tag in _SINGLE and count != 1:
        raise ValueError(f"tag {tag} has {count} values instead of one")
    if kind not in _SIZES or kind not in _TEXTS_AND_RATIOS.get(tag, _SIZES):
        raise ValueError(f"tag {tag} is of a type that it does not have")


def check_apart(directories: list[Directory], pixels: list[tuple[int, int]]) -> None:
    """Checks that pixels lie neither over each other nor over a directory, its values or the file's first bytes.

    Args:
        directories: of the file.
        pixels: where strips, tiles or images begin and end in the file.

    Raises:
        ValueError: they do, so one of the numbers that say where they are is wrong.
    """
    around = [(0, 8), *(span for directory in directories for span in directory.spans)]
    spans = sorted([(*span, True) for span in pixels] + [(*span, False) for span in around])
    end_of_pixels = end = 0
    for start, stop, is_pixels in spans:
        if start < (end if is_pixels else end_of_pixels):
            raise ValueError("its pixels lie over each other, or over what says where they are")
        end = max(end, stop)
        end_of_pixels = max(end_of_pixels, stop) if is_pixels else end_of_pixels


def is_plain(file: BinaryIO) -> bool:
    """Whether the pixels of every page are as they are, or deflated: what Python itself decodes, and checks.

    A file whose directories are refused is, as far as this goes, plain.
    """
    try:
        directories = read_directories(file)
    except ValueError:
        return True
    try:
        return all(directory.number(COMPRESSION, 1) in PLAIN for directory in directories)
    except ValueError:
        return False


def _header(file: BinaryIO) -> tuple[str, bool, int]:
    """Order of bytes, whether it is a BigTIFF, and the offset of the first directory."""
    start = _read(file, 0, 8)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    if order is None:
        raise ValueError("it does not start like a TIFF")
    version, first = struct.unpack(f"{order}HI", start[2:])
    if version == 42:
        return order, False, first
    if version == 43 and first == (8 if order == "<" else 8 << 16):
        return order, True, struct.unpack(f"{order}Q", _read(file, 8, 8))[0]
    raise ValueError("it does not start like a TIFF")


def _read(file: BinaryIO, offset: int, count: int) -> bytes:
    try:
        content = os.pread(file.fileno(), count, offset)
    except OverflowError as error:
        raise ValueError("it is cut short, or points beyond its end") from error
    if len(content) != count:
        raise ValueError("it is cut short, or points beyond its end")
    return content
