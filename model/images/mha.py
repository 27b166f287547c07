"""MHA (MetaImage) stacks into crops, one a slice.

MetaImage is a header of `key = value` lines and then the pixels, plain or as one zlib stream. ITK's own reader believes
the header: it follows names of other files, takes a number of dimensions that does not fit its arrays, and hands out
whatever memory held when a stream is short. So the few keys that matter are checked here, all of them, and the pixels
are the very bytes that the header claims. SimpleITK, which writes the platform's files, is what the tests compare with.

Format: https://itk.org/Wiki/ITK/MetaIO/Documentation
"""

import difflib
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

import numpy as np

from model.errors import CropError
from model.images.file import open_image
from model.images.inflate import inflate
from model.images.rgb import Stack, check_size, plausible_mpp, to_rgb

MAX_HEADER_BYTES = 1 << 16
MAX_HEADER_LINES = 100

_TYPES = {"MET_UCHAR": 1, "MET_USHORT": 2}
"""Element types that crops may have: bytes each."""
_UNITS = {"?": 1000, "mm": 1000, "um": 1, "cm": 10_000}
"""Units of ElementSpacing in µm; ITK takes mm where none is named."""

_CHOICES = {
    "ObjectType": ("Image",),
    "NDims": ("2", "3"),
    "BinaryData": ("True",),
    "BinaryDataByteOrderMSB": ("False", "True"),
    "ElementByteOrderMSB": ("False", "True"),
    "CompressedData": ("False", "True"),
    "ElementNumberOfChannels": ("1", "2", "3", "4"),
    "DistanceUnits": tuple(_UNITS),
    "HeaderSize": ("0",),
    "HeaderSizePerSlice": ("0",),
    "ElementType": tuple(_TYPES),
    "ElementDataFile": ("LOCAL",),
}
"""What keys of one value may say."""
_WHOLE = {"CompressedDataSize": 0, "DimSize": 1}
_REAL = {"ElementSpacing": 1, "ElementSize": 1, "Offset": 1, "Position": 1, "Origin": 1, "CenterOfRotation": 1} | {
    "TransformMatrix": 2,
    "Orientation": 2,
    "Rotation": 2,
}
"""Keys of numbers: so many as NDims to this power."""
_KNOWN = (*_CHOICES, *_WHOLE, *_REAL, "AnatomicalOrientation")
_KEY_IN_VALUE = re.compile(rf"\b({'|'.join(_KNOWN)})\s*=")
_NEEDED = ("ObjectType", "NDims", "BinaryData", "DimSize", "ElementType")


def read_mha(path: Path) -> Stack:
    """Reads every slice of an MHA whose pixels are inside it, as RGB vectors.

    Raises:
        CropError: the file is damaged or too large, or its slices have no obvious meaning as crops.
    """
    with open_image(path) as file:
        header = _read_header(path, file)
        width, height, *rest = header.size
        slices = rest[0] if rest else 1
        check_size(path, slices, width * height, header.channels * header.dtype.itemsize)
        if header.channels == 1 and slices > 1 and (slices % 3 == 0 or slices % 4 == 0):
            raise CropError(
                f"{path} has {slices} slices of one channel, which may be grey crops or the colours of fewer crops; "
                "export it as a stack of RGB vectors, one slice a crop."
            )
        count = slices * height * width * header.channels * header.dtype.itemsize
        pixels = _read_pixels(path, file, count, header.compressed_size)
    stack = pixels.view(header.dtype).reshape(slices, height, width, header.channels)
    return Stack(to_rgb(path, (page.astype(page.dtype.newbyteorder("="), copy=False) for page in stack)), header.mpp)


@dataclass(frozen=True)
class _Header:
    size: tuple[int, ...]
    """(width, height) or (width, height, slices)"""
    channels: int
    dtype: np.dtype
    compressed_size: int | None
    """Bytes of the zlib stream; None: not compressed."""
    mpp: float | None


def _read_header(path: Path, file: BinaryIO) -> _Header:
    """Everything up to the first byte of the pixels."""
    values: dict[str, str] = {}
    try:
        for line in _lines(file):
            key, separator, value = line.partition("=")
            key, value = key.removesuffix(" "), value.strip(" ")
            if not separator or not re.fullmatch(r"[^\s=]+", key):
                raise ValueError(f"no key and value in '{line[:40]}'")
            if key in values:
                raise ValueError(f"{key} is there twice")
            if key not in _KNOWN and difflib.get_close_matches(key.casefold(), map(str.casefold, _KNOWN), 1, 0.8):
                raise ValueError(f"{key[:40]} is no key of the format")
            if _KEY_IN_VALUE.search(value):
                raise ValueError(f"two keys in one line, '{line[:40]}'")
            values[key] = value
            if key == "ElementDataFile":
                break
        return _parse(values)
    except ValueError as error:
        raise CropError(
            f"{path} cannot be read as MHA ({error}); export it again, 8-bit RGB crops in one .mha file."
        ) from error


def _lines(file: BinaryIO) -> Iterator[str]:
    left = MAX_HEADER_BYTES
    for _ in range(MAX_HEADER_LINES):
        line = file.readline(left)
        left -= len(line)
        if not line.endswith(b"\n"):
            break
        text = line[:-1].removesuffix(b"\r").decode("utf-8").replace("\t", " ")
        if not text.isprintable():
            raise ValueError("a line is no text")
        yield text
    raise ValueError("it has no ElementDataFile")


def _parse(values: dict[str, str]) -> _Header:
    """What the keys say, each of them checked; others than MetaImage's own are notes that programs leave there."""
    for key, choices in _CHOICES.items():
        if key in values and values[key] not in choices:
            raise ValueError(f"{key} is '{values[key][:40]}', not {' or '.join(choices)}")
    for key in _NEEDED:
        if key not in values:
            raise ValueError(f"it has no {key}")
    dimensions = int(values["NDims"])
    numbers = {
        key: _numbers(key, values[key], dimensions**power, pattern)
        for keys, pattern in ((_WHOLE, r"[0-9]{1,10}"), (_REAL, r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"))
        for key, power in keys.items()
        if key in values
    }
    if not re.fullmatch(rf"[A-Z?]{{{dimensions}}}", values.get("AnatomicalOrientation", "?" * dimensions)):
        raise ValueError(f"AnatomicalOrientation is '{values['AnatomicalOrientation'][:40]}'")
    compressed = values.get("CompressedData") == "True"
    if compressed and "CompressedDataSize" not in numbers:
        raise ValueError("it has no CompressedDataSize")
    order = {values[key] for key in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB") if key in values}
    width = _TYPES[values["ElementType"]]
    if len(order) > 1 or (width > 1 and not order):
        raise ValueError("it has no BinaryDataByteOrderMSB, or two")
    spacing = numbers.get("ElementSpacing") or numbers.get("ElementSize") or [0.0, 0.0]
    unit = _UNITS[values.get("DistanceUnits", "?")]
    return _Header(
        size=tuple(int(side) for side in numbers["DimSize"]),
        channels=int(values.get("ElementNumberOfChannels", "1")),
        dtype=np.dtype(f"{'>' if order == {'True'} else '<'}u{width}"),
        compressed_size=int(numbers["CompressedDataSize"][0]) if compressed else None,
        mpp=plausible_mpp(spacing[0] * unit, spacing[1] * unit),
    )


def _numbers(key: str, value: str, count: int, pattern: str) -> list[float]:
    words = value.split()
    numbers = [float(word) for word in words if len(word) < 40 and re.fullmatch(pattern, word)]
    if len(words) != count or len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{key} is '{value[:40]}', not {count} numbers")
    return numbers


def _read_pixels(path: Path, file: BufferedReader, count: int, compressed_size: int | None) -> np.ndarray:
    """The `count` bytes of the pixels, (count,) uint8, if they are what the rest of the file holds, and all of it."""
    held = os.fstat(file.fileno()).st_size - file.tell()
    if held != (count if compressed_size is None else compressed_size):
        raise CropError(f"{path} does not have the number of bytes its header says; export it again.")
    pixels = np.empty(count, np.uint8)
    if compressed_size is None:
        if file.readinto(pixels.data) != count:
            raise CropError(f"{path} was changed while it was read; try again.")
        return pixels
    at = 0
    try:
        for part in inflate(lambda: file.read(1 << 16), count):
            pixels[at : at + len(part)] = np.frombuffer(part, np.uint8)
            at += len(part)
    except ValueError as error:
        raise CropError(f"{path} is damaged: {error}; export it again.") from error
    return pixels
