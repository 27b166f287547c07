"""Random changes to training crops: what scanners, stains and the microscopist's hand change without changing the cell.

In two halves. `degrade` does what acquisition does (resolution, blur, sharpening, noise, JPEG, an image's edge), crop
by crop in the data loader's processes, at the crop's own pixels. `augment` does stain, colour and geometry for a whole
batch on the training device, where field of view, resizing and every movement are one resampling: pixels are
interpolated once.
"""

import math
from functools import cache

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model.network.preprocessing import Preprocessing
from training.config import AugmentationConfig

Draw = dict[str, np.ndarray | np.float32]
"""The random numbers of a crop's augmentation, by name."""

KNOTS = 5
"""Knots a side of the elastic grid."""

STAINS = torch.tensor(
    [
        [0.650, 0.704, 0.286],  # haematoxylin
        [0.072, 0.990, 0.105],  # eosin
        [0.268, 0.570, 0.776],  # diaminobenzidine, here the residual
    ]
)
"""Optical density of the stains in R, G, B (Ruifrok and Johnston 2001, Anal Quant Cytol Histol 23:291)."""

TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
"""Luma and the two colour differences of R, G, B."""


def draw(random: np.random.Generator, config: AugmentationConfig) -> Draw:
    """The numbers that `augment` needs for one crop: arrays of float32, whose meanings are those of the config.

    Args:
        random: where they come from.
        config: their ranges.
    """

    def spread(limit: float, shape: tuple[int, ...] = ()) -> np.ndarray:
        return np.asarray(random.uniform(-limit, limit, shape), dtype=np.float32)

    quarter_turn = 90 * random.integers(4)
    return {
        "angle": np.float32(math.radians(quarter_turn + spread(config.rotation))),
        "mirror": np.float32(random.choice((-1, 1))),
        "zoom": np.exp(spread(config.scale) + np.array([0.5, -0.5], dtype=np.float32) * spread(config.stretch)),
        "shift": spread(config.shift, (2,)),
        "elastic": random.normal(0, config.elastic, (2, KNOTS, KNOTS)).astype(np.float32),
        "stain": 1 + spread(config.stain, (3,)),
        "stain_shift": spread(config.stain_shift, (3,)),
        "brightness": 1 + spread(config.brightness),
        "contrast": 1 + spread(config.contrast),
        "saturation": (1 + spread(config.saturation)) * np.float32(random.random() >= config.grey),
        "hue": np.radians(spread(config.hue)),
        "gamma": np.exp(spread(config.gamma)),
        **_draw_mixing(random, config),
    }


def _draw_mixing(random: np.random.Generator, config: AugmentationConfig) -> Draw:
    kinds = [kind for kind in ("mixup", "cutmix") if getattr(config, kind) > 0]
    numbers: Draw = {"own_share": np.float32(1), "rectangle": np.zeros(4, dtype=np.float32)}
    if kinds and random.random() < config.mixed:
        kind = kinds[random.integers(len(kinds))]
        other = random.beta(getattr(config, kind), getattr(config, kind))
        if kind == "mixup":
            return numbers | {"own_share": np.float32(1 - other)}
        side = math.sqrt(other)
        left, top = random.uniform(0, 1 - side, 2)
        numbers["rectangle"] = np.array([left, top, left + side, top + side], dtype=np.float32)
    return numbers


def degrade(crop: np.ndarray, random: np.random.Generator, config: AugmentationConfig) -> np.ndarray:
    """One crop as a worse scanner would have stored it.

    Args:
        crop: (H, W, 3) uint8 RGB.
        random: where chance comes from.
        config: how far to go.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    height, width = crop.shape[:2]
    if config.downscale > 1 and random.random() < 0.25:
        factor = random.uniform(1, config.downscale)
        small = cv2.resize(crop, (round(width / factor), round(height / factor)), interpolation=cv2.INTER_AREA)
        crop = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    if config.blur > 0 and random.random() < 0.5:
        crop = cv2.GaussianBlur(crop, (0, 0), max(random.uniform(0, config.blur), 1e-2))
    if config.sharpen > 0 and random.random() < 0.25:
        strength = random.uniform(0, config.sharpen)
        crop = cv2.addWeighted(crop, 1 + strength, cv2.GaussianBlur(crop, (0, 0), 1.0), -strength, 0)
    if config.noise > 0 and random.random() < 0.5:
        noise = random.standard_normal(crop.shape, dtype=np.float32) * random.uniform(0, config.noise)
        crop = np.clip(np.rint(crop + noise), 0, 255).astype(np.uint8)
    if config.jpeg > 0 and random.random() < 0.5:
        quality = int(random.integers(config.jpeg, 101))
        _, encoded = cv2.imencode(".jpg", crop[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        crop = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))[..., ::-1]
    if config.margin > 0 and random.random() < 0.25:
        crop = crop.copy()
        np.rot90(crop, int(random.integers(4)))[: round(random.uniform(0, config.margin))] = 0
    return np.ascontiguousarray(crop)


def augment(crops: Tensor, numbers: dict[str, Tensor], preprocessing: Preprocessing) -> Tensor:
    """A batch of crops, stained, coloured and moved as `draw` says, as the network's input.

    Args:
        crops: (N, H, W, 3) uint8 RGB.
        numbers: the draws of the crops, stacked, on the same device.
        preprocessing: field of view, input size and normalisation.

    Returns:
        (N, 3, S, S) float32, normalised, channels-last in memory.
    """
    images = crops.permute(0, 3, 1, 2).contiguous().float().div_(255)
    images = change_colour(change_stain(images, numbers), numbers)
    height, width = crops.shape[1:3]
    grid = sampling_grid(numbers, (height, width), preprocessing)
    images = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return preprocessing.normalise(images).contiguous(memory_format=torch.channels_last)


def mix(images: Tensor, targets: Tensor, weights: Tensor, numbers: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Mixes crops, their targets and weights with those of the batch in reverse order.

    MixUp (Zhang et al. 2018, arXiv 1710.09412, eq. 1) adds a share of another image, CutMix (Yun et al. 2019, arXiv
    1905.04899, section 3.1) puts a rectangle of it; targets and weights are mixed by the shares.

    Args:
        images: (N, 3, S, S).
        targets: (N, T) 0 to 1.
        weights: (N,) in the loss.
        numbers: `own_share` (N,) and `rectangle` (N, 4), left, top, right, bottom as fractions of the side; or neither,
            where no crop of the batch is mixed (see `training.data.crops.stack`).

    Returns:
        Mixed images, targets and weights, of the same shapes.
    """
    if "own_share" not in numbers:
        return images, targets, weights
    rectangle, side = numbers["rectangle"], images.shape[-1]
    pixel = (torch.arange(side, device=images.device) + 0.5) / side
    across, down = ((rectangle[:, i, None] <= pixel) & (pixel < rectangle[:, i + 2, None]) for i in (0, 1))
    inside = down[:, :, None] & across[:, None, :]
    own = numbers["own_share"].view(-1, 1, 1) * ~inside
    share = own.mean(dim=(1, 2))
    mixed = torch.lerp(images.flip(0), images, own.unsqueeze(1))
    targets = torch.lerp(targets.flip(0), targets, share.unsqueeze(1))
    weights = torch.lerp(weights.flip(0), weights, share)
    return mixed.contiguous(memory_format=torch.channels_last), targets, weights


def change_stain(images: Tensor, numbers: dict[str, Tensor]) -> Tensor:
    """Changes the amount of each stain (Tellez et al. 2018, IEEE TMI 37:2126), gamma and brightness.

    Optical density is -ln(intensity) (Beer-Lambert); unmixed into stains by the inverse of `STAINS`, scaled, shifted,
    and mixed again. There, gamma is a factor and brightness a summand.

    Args:
        images: (N, 3, H, W) in [0, 1].
        numbers: `stain` and `stain_shift` (N, 3): factor and summand of the density of haematoxylin, eosin and
            residual; `gamma` and `brightness` (N,).

    Returns:
        (N, 3, H, W), not negative; above 1 where brightness made it so.
    """
    stains, unmix = _stain_matrices(images.device)
    mix = unmix @ torch.diag_embed(numbers["stain"]) @ stains
    mix = mix * numbers["gamma"].view(-1, 1, 1)
    offset = numbers["stain_shift"] @ stains - numbers["brightness"].log().unsqueeze(1)
    log_intensity = images.clamp(min=1 / 255).log_()
    changed = torch.baddbmm(-offset.unsqueeze(2), mix.transpose(1, 2), log_intensity.flatten(2))
    return changed.exp_().view_as(images)


def change_colour(images: Tensor, numbers: dict[str, Tensor]) -> Tensor:
    """Contrast, saturation and hue.

    Contrast is about each image's mean luma. Saturation and hue are a scaling and a rotation of the two colour
    differences of YIQ. All three are one 3 x 3 matrix and an offset for each image.

    Args:
        images: (N, 3, H, W), not negative.
        numbers: `contrast`, `saturation` (factors) and `hue` (radians), all (N,).

    Returns:
        (N, 3, H, W) in [0, 1].
    """
    to_yiq, from_yiq = _yiq_matrices(images.device)
    cosine, sine = (function(numbers["hue"]) * numbers["saturation"] for function in (torch.cos, torch.sin))
    turn = torch.zeros(len(images), 3, 3, device=images.device)
    turn[:, 0, 0] = 1
    turn[:, 1, 1], turn[:, 1, 2] = cosine, -sine
    turn[:, 2, 1], turn[:, 2, 2] = sine, cosine
    contrast = numbers["contrast"].view(-1, 1, 1)
    matrix = from_yiq @ turn @ to_yiq * contrast
    mean_luma = images.mean(dim=(2, 3)) @ to_yiq[0]
    offset = mean_luma.view(-1, 1, 1) * (1 - contrast)
    return torch.baddbmm(offset, matrix, images.flatten(2)).clamp_(0, 1).view_as(images)


def sampling_grid(numbers: dict[str, Tensor], crop_size: tuple[int, int], preprocessing: Preprocessing) -> Tensor:
    """Where in the crop each pixel of the network's input is taken from.

    Args:
        numbers: `angle`, `mirror`, `zoom`, `shift` and `elastic` of N draws; the last may be missing where it is 0.
        crop_size: height and width of the crops, pixels.
        preprocessing: its field of view and input size.

    Returns:
        (N, S, S, 2), x and y as `torch.nn.functional.grid_sample` wants them (`align_corners=False`).
    """
    angle, zoom = numbers["angle"], numbers["zoom"]
    cosine, sine = angle.cos(), angle.sin()
    rotation = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], -2)
    scaling = torch.diag_embed(torch.stack([numbers["mirror"] / zoom[:, 0], 1 / zoom[:, 1]], -1))
    half = preprocessing.field_of_view / 2
    matrix = rotation @ scaling * half
    affine = torch.cat([matrix, numbers["shift"].unsqueeze(-1)], dim=-1)
    size = preprocessing.input_size
    pixels = F.affine_grid(affine, [len(angle), 3, size, size], align_corners=False)
    if "elastic" in numbers:
        elastic = F.interpolate(numbers["elastic"], (size, size), mode="bicubic", align_corners=True)
        pixels = pixels + elastic.permute(0, 2, 3, 1)
    height, width = crop_size
    return pixels / _on(pixels.device, width / 2, height / 2)


# What does not change is computed and copied once: a copy from pageable memory makes the program wait for the GPU, and
# so does the inverse of a matrix, which may not exist.


@cache
def _stain_matrices(device: torch.device) -> tuple[Tensor, Tensor]:
    """`STAINS` with rows of unit length, and the inverse of that."""
    with torch.inference_mode(False):
        stains = STAINS / STAINS.norm(dim=1, keepdim=True)
        return stains.to(device), torch.linalg.inv(stains).to(device)


@cache
def _yiq_matrices(device: torch.device) -> tuple[Tensor, Tensor]:
    """`TO_YIQ` and its inverse."""
    with torch.inference_mode(False):
        return TO_YIQ.to(device), torch.linalg.inv(TO_YIQ).to(device)


@cache
def _on(device: torch.device, *values: float) -> Tensor:
    """A vector on a device."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device)
