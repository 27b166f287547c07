"""Held-out crops as if another laboratory had stained and another scanner had taken them.

A proxy for slides that are not here, further from the original than training's augmentation goes. Stain and colour are
drawn for each slide, so that all of its crops get the same; resolution, sharpness, noise and JPEG quality are drawn for
each crop.
"""

import zlib
from collections.abc import Sequence

import numpy as np
import torch

from training.config import AugmentationConfig
from training.data.augmentation import change_colour, change_stain, degrade, draw

SHIFT = AugmentationConfig(
    stain=0.4,
    stain_shift=0.06,
    brightness=0.25,
    contrast=0.25,
    saturation=0.4,
    hue=15.0,
    gamma=0.25,
    blur=2.0,
    noise=10.0,
    jpeg=20,
    downscale=2.0,
)
"""How far the crops are moved."""


def shifted(crops: Sequence[np.ndarray], groups: Sequence[str], seed: int) -> list[np.ndarray]:
    """Crops under a synthetic shift of stain, colour, sharpness, noise and compression.

    Args:
        crops: N arrays (H, W, 3) uint8 RGB.
        groups: (N,) slides; a slide's crops get the same stain and colour.
        seed: of the shifts; with it, a slide's name decides stain and colour, a crop's place in `crops` the rest.

    Returns:
        N arrays of the same shapes.
    """
    changed = []
    for number, (crop, group) in enumerate(zip(crops, groups, strict=True)):
        slide_random = np.random.default_rng([seed, zlib.crc32(group.encode())])
        numbers = {name: torch.as_tensor(value)[None] for name, value in draw(slide_random, SHIFT).items()}
        image = torch.from_numpy(degrade(crop, np.random.default_rng([seed, number]), SHIFT))
        image = image.permute(2, 0, 1)[None].float() / 255
        image = change_colour(change_stain(image, numbers), numbers)
        changed.append((image[0] * 255).round().byte().permute(1, 2, 0).numpy())
    return changed
