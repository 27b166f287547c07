"""Where the network looked: what each place of a crop added to the logit, as a map.

The map is gradient times activation at the last feature map, summed over its channels (HiResCAM, Draelos and Carin
2020, arXiv 2011.08891). Of a convolutional network whose feature map is averaged and given to a linear layer, that is
exactly each place's share of the logit; of a transformer it is a first-order estimate, at the tokens that go into the
last block: after it, only the class token counts. Captum computes it. It is not in the image: it brings matplotlib.

It runs on the network as it is stored, in float32 and without what `model.speed` does. Like the logit, the map is the
mean over the views, each turned back.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.errors import UserError
from model.network import views
from model.network.classifier import MitosisClassifier
from model.network.ensemble import Classifier, members_of
from model.network.preprocessing import Preprocessing
from model.network.weights import load
from model.speed.imports import timm

if TYPE_CHECKING:
    from model.predictor import Predictor


class ExplainError(UserError):
    """There can be no maps of where the network looked."""


@dataclass(frozen=True)
class Place:
    """Where in a backbone the last feature map is: what goes into a layer.

    Attributes:
        layer: the layer.
        tokens: how many tokens before those of the image go into it; None where it is no transformer's.
    """

    layer: nn.Module
    tokens: int | None


def last_map(backbone: nn.Module) -> Place:
    """Where the last feature map of a timm backbone is.

    Raises:
        ExplainError: it is neither a transformer of timm's kind nor a network that pools a feature map.
    """
    tokens, blocks = getattr(backbone, "num_prefix_tokens", None), getattr(backbone, "blocks", None)
    if tokens is not None and blocks:
        return Place(blocks[-1], tokens)
    for module in backbone.modules():
        if isinstance(module, timm.layers.SelectAdaptivePool2d):
            return Place(module, None)
    raise ExplainError(
        f"Where the last feature map of {type(backbone).__name__} is, is not known; run without --explain."
    )


class Explainer:
    """Maps of where a network looked.

    Args:
        network: as it was trained, in evaluation mode and float32; its parameters need no gradient from now on.
        preprocessing: the one that it was trained with.
        view_set: one of `model.constants.VIEW_SETS`.

    Raises:
        ExplainError: Captum is not installed, or the network's architecture is not one that it knows of.
    """

    def __init__(self, network: Classifier, preprocessing: Preprocessing, view_set: str = "none") -> None:
        try:
            from captum.attr import LayerGradientXActivation
        except ImportError as error:
            raise ExplainError(
                "Maps of where the network looked need Captum, which is not installed; "
                "run `pip install -r explain-requirements.txt`, or leave --explain out."
            ) from error
        self.preprocessing, self.view_set = preprocessing, view_set
        network.requires_grad_(False)
        self.device = next(network.parameters()).device
        self._members: list[tuple[Any, MitosisClassifier, Place]] = []
        for member in members_of(network):
            place = last_map(member.backbone)
            self._members.append((LayerGradientXActivation(member, place.layer), member, place))

    @classmethod
    def of(cls, predictor: "Predictor") -> "Explainer":
        """The explainer of a predictor's weights, on its device.

        Raises:
            ExplainError: as above.
            WeightsError: the weights can no longer be read.
        """
        network, config = load(predictor.folder)
        return cls(network.float().to(predictor.device), config.preprocessing, predictor.view_set)

    def __call__(self, crop: np.ndarray) -> np.ndarray:
        """What each pixel of a crop, (H, W, 3) uint8 RGB, adds to the logit.

        Returns:
            (H, W) float32: above 0 where it speaks for atypical, 0 outside the field of view. Of several fields of
            view, views, and members of an ensemble, the mean.

        Raises:
            CropError: the crop is smaller than the field of view.
        """
        fields = self.preprocessing.cut_out([crop]).to(self.device)
        images = views.expand(self.preprocessing.network_input(fields), self.view_set)
        whole = torch.zeros(crop.shape[:2])
        for attribution, member, place in self._members:
            maps = []
            for image in images.split(1):  # one by one: the way back needs what every layer gave
                found = attribution.attribute(image, attribute_to_layer_input=True)
                found = found[0] if isinstance(found, tuple) else found
                maps.append(_grid(found.detach().float(), place, member.backbone).cpu())
            # The logit is the mean over fields of view, so their maps already are shares of it.
            for one, side in zip(_turned_back(torch.stack(maps), self.view_set), self.preprocessing.sides, strict=True):
                _add(whole, one / len(self._members), side)
        return whole.numpy()


def _grid(found: Tensor, place: Place, backbone: Any) -> Tensor:
    """Attributions of a layer's input, summed over channels: (K, h, w) for K fields of view."""
    if place.tokens is not None:
        summed = found[:, place.tokens :].sum(dim=-1)
        side = math.isqrt(summed.shape[1])
        return summed.unflatten(1, (side, side))
    return found.sum(dim=1 if found.shape[1] == backbone.num_features else -1)


def _turned_back(maps: Tensor, view_set: str) -> Tensor:
    """The mean of the maps of all views, (V, K, h, w), each as the crop lies: (K, h, w)."""
    count, _, height, width = maps.shape
    # Where each view has which place of the crop.
    places = views.expand(torch.arange(height * width).view(1, 1, height, width), view_set).flatten(2)
    upright = torch.zeros(count, maps.shape[1], height * width)
    upright.scatter_(2, places.expand(-1, maps.shape[1], -1), maps.flatten(2))
    return upright.mean(dim=0).unflatten(1, (height, width))


def _add(whole: Tensor, one: Tensor, side: int) -> None:
    """Adds a map (h, w) to the middle square of `side` pixels, so that its sum stays what it is but for rounding."""
    density = one * (one.numel() / side**2)
    size: Sequence[int] = (side, side)
    larger = F.interpolate(density[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    top, left = ((length - side) // 2 for length in whole.shape)
    whole[top : top + side, left : left + side] += larger
