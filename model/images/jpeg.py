"""The parts of a JPEG, checked: its segments, and the coded pixels, which have no checksum.

A decoder fills what damage has taken with whatever comes next, and libjpeg tells so on standard error alone. The
Huffman codes are therefore read a first time by libjxl, which takes a JPEG to pieces only if it could be put together
again: it refuses invalid codes, missing restart intervals and missing blocks.

Format: ITU-T T.81 (https://www.w3.org/Graphics/JPEG/itu-t81.pdf), JFIF 1.02, Exif 2.3.
"""

import re
import struct
from dataclasses import dataclass
from pathlib import Path

from model.images.rgb import check_size, plausible_mpp

SIGNATURE = b"\xff\xd8\xff"
MAX_SEGMENTS = 1000
MAX_SCAN_WORK = 1 << 29
"""Upper bound on the pixels times the square of the number of scans: each scan is read once for each of them."""

_FRAMES = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive"}
_OTHER_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_EOI, _SOS, _APP0, _APP1, _APP14, _COMMENT = 0xD9, 0xDA, 0xE0, 0xE1, 0xEE, 0xFE
_NOTES = {*range(_APP1, _APP14), 0xEF, _COMMENT}
"""Segments that say nothing of how to decode; APP0 (JFIF) and APP14 (Adobe) say which colours are coded."""
_SAMPLINGS = {0x11, 0x12, 0x21, 0x22}
"""Samples of a channel across and down, in one byte, that libjxl reads: 4:4:4, 4:4:0, 4:2:2, 4:2:0."""
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7]", re.DOTALL)
"""A marker; coded data has 0xff before 0 and restart markers only."""


@dataclass(frozen=True)
class Jpeg:
    """What the segments of a JPEG say."""

    content: bytes
    """A JPEG file without the segments that are notes."""
    size: tuple[int, int]
    """(width, height)"""
    mode: str
    exif: bytes
    mpp: float | None


def parse_jpeg(path: Path, content: bytes) -> Jpeg:
    """Goes through a JPEG up to its last byte and checks that its coded pixels are whole.

    Raises:
        ValueError: it is damaged, or of a kind that is not read; the message says how.
        CropError: it claims too many pixels.
    """
    at, frame, exif, mpp = 2, None, b"", None
    kept, ends = bytearray(content[:2]), []
    for _ in range(MAX_SEGMENTS):
        marker, data = _segment(content, at)
        start, at = at, at + 4 + len(data)
        if marker not in _NOTES:
            kept += content[start:at]
        if marker in _OTHER_FRAMES:
            raise ValueError("it is lossless, hierarchical or arithmetic-coded")
        if marker in _FRAMES:
            if frame or len(data) < 6 or data[0] != 8:
                raise ValueError("it has two frames, or no 8 bits a sample")
            frame = struct.unpack_from(">HHB", data, 1)
            if len(data) != 6 + 3 * frame[2] or not {*data[7::3]} <= _SAMPLINGS:
                raise ValueError("its colours are sampled other than 1 to 1 or 2 to 1")
            check_size(path, 1, frame[0] * frame[1])
        elif marker == _APP0 and data.startswith(b"JFIF\0"):
            mpp = _mpp(data)
        elif marker == _APP1 and data.startswith(b"Exif\0\0") and not exif:
            exif = data
        elif marker == _SOS:
            if not frame:
                raise ValueError("its frame is missing")
            end = _END_OF_SCAN.search(content, at)
            if end is None:
                raise ValueError("it is cut short")
            kept += content[at : end.start()]
            at = end.start()
            ends.append(len(kept))
            if content[at + 1] == _EOI:
                break
    else:
        raise ValueError(f"it has more than {MAX_SEGMENTS} segments")
    if at + 2 != len(content):
        raise ValueError("something follows its end")
    kept += content[at:]
    height, width, channels = frame
    if channels in (1, 3):
        if len(ends) ** 2 * width * height > MAX_SCAN_WORK:
            raise ValueError(f"it has {len(ends)} scans")
        _check_scans(bytes(kept), ends)
    return Jpeg(
        bytes(kept), (width, height), {1: "", 3: "", 4: "CMYK"}.get(channels, f"{channels} channels"), exif, mpp
    )


def _segment(content: bytes, at: int) -> tuple[int, bytes]:
    """Marker and data of the segment at an offset."""
    if len(content) < at + 4:
        raise ValueError("it is cut short")
    start, marker, length = struct.unpack_from(">BBH", content, at)
    if start != 0xFF or marker < 0xC0 or 0xD0 <= marker <= _EOI or length < 2 or len(content) < at + 2 + length:
        raise ValueError("its segments are damaged")
    return marker, content[at + 4 : at + 2 + length]


def _check_scans(content: bytes, ends: list[int]) -> None:
    """Checks that every scan holds the codes of all its blocks, and no byte more.

    The last byte of a scan is needed exactly if the picture is not whole without it.

    Raises:
        ValueError: codes are invalid, missing or too many.
    """
    if not _is_whole(content):
        raise ValueError("its coded pixels are damaged")
    for end in ends:
        last = 2 if content[end - 2 : end] == b"\xff\x00" else 1
        if _is_whole(content[: end - last] + content[end:]):
            raise ValueError("its coded pixels are more than its frame holds")


def _is_whole(content: bytes) -> bool:
    import imagecodecs

    try:
        imagecodecs.jpegxl_encode_jpeg(content, numthreads=1)
    except imagecodecs.JpegxlError:
        return False
    return True


def _mpp(jfif: bytes) -> float | None:
    """µm per pixel from JFIF's density: its unit (1: dots per inch, 2: per cm), then x and y."""
    if len(jfif) < 12:
        return None
    unit, x, y = struct.unpack_from(">BHH", jfif, 7)
    length = {1: 25_400, 2: 10_000}.get(unit)
    return plausible_mpp(length / x if x else 0, length / y if y else 0) if length else None
