"""Crops of any resolution at the one that the network was trained with."""

import cv2
import numpy as np

from model.constants import MICROMETRES_PER_PIXEL, is_expected


def resolution(said: float | None, stated: float | None) -> float:
    """The µm per pixel that an image is taken to have.

    Args:
        said: by the user; it is believed as it is.
        stated: by the file; within a tenth of 0.25 it is taken as 0.25, and where there is none, too.
    """
    if said is not None:
        return said
    return MICROMETRES_PER_PIXEL if stated is None or is_expected(stated) else stated


def rescale(crop: np.ndarray, mpp: float) -> np.ndarray:
    """A crop of `mpp` µm per pixel, (H, W, 3) uint8, resampled to 0.25 µm per pixel."""
    factor = mpp / MICROMETRES_PER_PIXEL
    size = [max(1, round(side * factor)) for side in (crop.shape[1], crop.shape[0])]
    return cv2.resize(crop, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
