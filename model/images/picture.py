"""A PNG or JPEG into the one crop it holds."""

from pathlib import Path

import numpy as np

from model.errors import CropError
from model.images.rgb import Stack, check_size, to_rgb


def read_picture(path: Path) -> Stack:
    """Reads a PNG or JPEG: one crop.

    Raises:
        CropError: the file is damaged or too large, or has no obvious meaning as a crop.
    """
    import cv2
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None  # the size is checked here
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as header:
            size, mode = header.size, header.mode
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise CropError(f"{path} cannot be read as a PNG or JPEG; export it again.") from error
    check_size(path, 1, size[0] * size[1])
    if mode in ("1", "CMYK", "YCCK", "F"):
        raise CropError(f"{path} is a picture of mode {mode}; export it as an 8-bit RGB crop.")
    image = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.shape[:2] != size[::-1]:
        raise CropError(f"{path} is damaged; export it again.")
    if image.ndim == 3:
        image = image[..., [2, 1, 0, 3][: image.shape[2]]]
    return Stack(to_rgb(path, [image]))
