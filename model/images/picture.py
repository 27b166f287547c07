"""A PNG or JPEG into the one crop it holds."""

import struct
from pathlib import Path

import numpy as np

from model.errors import CropError
from model.images import jpeg, png
from model.images.file import open_image
from model.images.rgb import Stack, to_rgb, upright

MAX_PICTURE_BYTES = 1 << 28


def read_picture(path: Path) -> Stack:
    """Reads a PNG (of an animated one, the picture that is shown where there are no animations) or JPEG: one crop.

    The file is taken apart and checked to its last byte before a decoder sees it, and turned as its Exif data says.

    Raises:
        CropError: the file is damaged or too large, or has no obvious meaning as a crop.
    """
    import cv2

    with open_image(path, MAX_PICTURE_BYTES) as file:
        content = file.read()
    try:
        if content.startswith(png.SIGNATURE):
            picture: png.Png | jpeg.Jpeg = png.parse_png(path, content)
        elif content.startswith(jpeg.SIGNATURE):
            picture = jpeg.parse_jpeg(path, content)
        else:
            raise ValueError("it starts like neither")
    except ValueError as error:
        raise CropError(f"{path} cannot be read as a PNG or JPEG ({error}); export it again.") from error
    if picture.mode:
        raise CropError(f"{path} is a picture of mode {picture.mode}; export it as an 8-bit RGB crop.")
    image = cv2.imdecode(np.frombuffer(picture.content, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.shape[:2] != picture.size[::-1]:
        raise CropError(f"{path} is damaged; export it again.")
    if image.ndim == 3:
        image = image[..., [2, 1, 0, 3][: image.shape[2]]]
    return Stack(to_rgb(path, [upright(image, _orientation(picture.exif))]), picture.mpp)


def _orientation(exif: bytes) -> int:
    """The Exif tag Orientation, of the first directory of a TIFF; 1, upright, if there is none that can be read."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = ">" if tiff.startswith(b"MM") else "<"
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(entries):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * entry)
            if (tag, kind) == (0x0112, 3):
                return value
    except struct.error:  # it ends before
        pass
    return 1
