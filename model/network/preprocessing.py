"""From crops to the network's input; the one definition, used by the container and by training's validation."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model.checks import check_list, check_number, check_whole
from model.constants import MICROMETRES_PER_PIXEL
from model.errors import CropError

SMALLEST_SIDE, LARGEST_FIELD, LARGEST_INPUT, MOST_SCALES = 8, 4096, 1024, 16
"""Pixels a side, and number of fields of view: fewer is a mistake, and so is more, which would fill the memory."""


@dataclass(frozen=True)
class Preprocessing:
    """How a crop becomes the network's input.

    Attributes:
        field_of_view: side of the central square that the network was trained to look at, in pixels of 0.25 µm.
        input_size: side of the network's input, in pixels; the field of view is resized to it.
        mean: per-channel (R, G, B) mean subtracted from values in [0, 1].
        std: per-channel (R, G, B) divisor after that.
        scales: fields of view that the network gets of a crop, in units of `field_of_view`.

    Raises:
        ValueError: a value is of another type, or out of range.
    """

    field_of_view: int
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        check_whole("field_of_view", self.field_of_view, SMALLEST_SIDE, LARGEST_FIELD)
        check_whole("input_size", self.input_size, SMALLEST_SIDE, LARGEST_INPUT)
        for name, shortest, longest, low, high in (
            ("mean", 3, 3, -10, 10),
            ("std", 3, 3, 1e-3, 1e3),
            ("scales", 1, MOST_SCALES, 0.01, 100),
        ):
            values = check_list(name, getattr(self, name), shortest, longest)
            for value in values:
                check_number(name, value, low, high)
            object.__setattr__(self, name, tuple(values))
        if max(self.scales) * self.field_of_view > LARGEST_FIELD:
            raise ValueError(
                f"scales of a field_of_view of {self.field_of_view} must not exceed {LARGEST_FIELD} pixels"
            )

    def side(self, scale: float) -> int:
        """Side of the field of view at a scale, in pixels of the crop."""
        return max(1, round(self.field_of_view * scale))

    @property
    def sides(self) -> list[int]:
        """Sides of the fields of view of all scales, in pixels of the crop."""
        return [self.side(scale) for scale in self.scales]

    @property
    def channels(self) -> int:
        """Channels of the network's input: three for each scale."""
        return 3 * len(self.scales)

    @property
    def largest_side(self) -> int:
        """Side of the largest field of view, in pixels of the crop."""
        return max(self.sides)

    def cut_out(self, crops: Sequence[np.ndarray]) -> Tensor:
        """Cuts the largest field of view out of the middle of every crop.

        Args:
            crops: N arrays (H, W, 3), uint8 RGB, each at least `largest_side` high and wide; sizes may differ.

        Returns:
            (N, F, F, 3) uint8 on the CPU, F being `largest_side`.

        Raises:
            CropError: a crop is smaller than the largest field of view; the sentence tells which (counted from 1).
        """
        side = self.largest_side
        fields = np.empty((len(crops), side, side, 3), dtype=np.uint8)
        for number, crop in enumerate(crops, start=1):
            height, width = crop.shape[:2]
            if min(height, width) < side:
                raise CropError(
                    f"Crop {number} is {width} x {height} pixels, but the network looks at {side} x {side} pixels of "
                    f"{MICROMETRES_PER_PIXEL} µm; give crops of 128 x 128 pixels."
                )
            top, left = (height - side) // 2, (width - side) // 2
            fields[number - 1] = crop[top : top + side, left : left + side]
        return torch.from_numpy(fields)

    def network_input(self, fields: Tensor) -> Tensor:
        """Resizes (bilinear, antialiased) and normalises fields of view, on the device they are on.

        Args:
            fields: (N, F, F, 3) uint8, from `cut_out`.

        Returns:
            (N, 3 K, S, S) float32, K being the number of scales and S `input_size`: R, G, B of the first scale's field
            of view, then of the next.
        """
        images = fields.permute(0, 3, 1, 2).float().div_(255)
        return torch.cat([self.normalise(self._resized(images, scale)) for scale in self.scales], dim=1)

    def _resized(self, images: Tensor, scale: float) -> Tensor:
        side = self.side(scale)
        start = (images.shape[-1] - side) // 2
        images = images[..., start : start + side, start : start + side]
        if side == self.input_size:
            return images
        size = (self.input_size, self.input_size)
        return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)

    def normalise(self, images: Tensor) -> Tensor:
        """Subtracts the mean and divides by the standard deviation: (N, 3, H, W) float in [0, 1] to the same shape."""
        mean, std = (_channels(values, images.device, images.dtype) for values in (self.mean, self.std))
        return (images - mean) / std


@cache
def _channels(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """(C, 1, 1); kept, since copying to a GPU waits for what the GPU is doing."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device, dtype=dtype).view(-1, 1, 1)
