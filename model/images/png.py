"""The parts of a PNG that make its picture, checked: the checksum of every chunk, and the stream of the pixels.

Format: https://www.w3.org/TR/png-3/
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from model.images.inflate import inflate
from model.images.rgb import check_size, plausible_mpp

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 100_000

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples per pixel of each colour type: grey, RGB, palette, grey and alpha, RGB and alpha."""
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row of each pass of an interlaced picture, and the steps to the next ones."""


@dataclass(frozen=True)
class Png:
    """A PNG without what is not its picture: notes, colour profiles, the further frames of an animation."""

    content: bytes
    """A PNG file of the chunks that a decoder needs."""
    size: tuple[int, int]
    """(width, height)"""
    mode: str
    exif: bytes
    mpp: float | None


def parse_png(path: Path, content: bytes) -> Png:
    """Takes a PNG apart and checks it up to the last byte.

    Raises:
        ValueError: it is damaged, or not what the format allows; the message says how.
        CropError: it claims too many pixels.
    """
    chunks = list(_chunks(content))
    kinds = [kind for kind, _ in chunks]
    first = {kind: data for kind, data in reversed(chunks)}
    if kinds[0] != b"IHDR" or kinds[-1] != b"IEND" or len(first[b"IHDR"]) != 13 or b"IDAT" not in first:
        raise ValueError("chunks are missing")
    start, count = kinds.index(b"IDAT"), kinds.count(b"IDAT")
    if {*kinds[start : start + count]} != {b"IDAT"} or any(
        kinds.count(kind) > 1 for kind in (b"IHDR", b"PLTE", b"IEND")
    ):
        raise ValueError("chunks are there twice")
    width, height, depth, colour, *methods, interlaced = struct.unpack(">IIBBBBB", first[b"IHDR"])
    if depth not in _DEPTHS.get(colour, ()) or any(methods) or interlaced > 1 or (colour == 3) > (b"PLTE" in first):
        raise ValueError("its header says what the format does not allow")
    bits = depth * _CHANNELS[colour]
    check_size(path, 1, width * height, max(1, bits // 8))
    pixels = iter([data for kind, data in chunks if kind == b"IDAT" and data])
    for _ in inflate(lambda: next(pixels, b""), _raw_bytes(width, height, bits, bool(interlaced))):
        pass
    kept = [(kind, data) for kind, data in chunks if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")]
    return Png(
        content=SIGNATURE + b"".join(write_chunk(kind, data) for kind, data in kept),
        size=(width, height),
        mode="" if colour else "1" if bits == 1 else "grey with a transparent value" if b"tRNS" in first else "",
        exif=first.get(b"eXIf", b""),
        mpp=_mpp(first.get(b"pHYs", b"")),
    )


def write_chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk as it is in a file: length, kind, data, checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, data) of each chunk."""
    at = len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        if len(content) < at + 12:
            raise ValueError("it is cut short")
        (length,) = struct.unpack_from(">I", content, at)
        kind, data, end = content[at + 4 : at + 8], content[at + 8 : at + 8 + length], at + 12 + length
        if len(content) < end or content[at:end] != write_chunk(kind, data):
            raise ValueError("the checksum of a chunk is wrong")
        if kind[0] & 0x20 == 0 and kind not in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            raise ValueError("it needs more than is known of the format")
        yield kind, data
        at = end
        if kind == b"IEND":
            if at != len(content):
                raise ValueError("something follows its end")
            return
    raise ValueError(f"it has more than {MAX_CHUNKS} chunks")


def _raw_bytes(width: int, height: int, bits: int, interlaced: bool) -> int:
    """Bytes of the decompressed pixels: each row of each pass has one more, for its filter."""
    total = 0
    for left, top, right, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits // 8))
    return total


def _mpp(physical: bytes) -> float | None:
    """µm per pixel from pHYs: pixels a unit in x and y, and the unit: 1 is the metre."""
    if len(physical) != 9:
        return None
    x, y, unit = struct.unpack(">IIB", physical)
    return plausible_mpp(1e6 / x if x else 0, 1e6 / y if y else 0) if unit == 1 else None
