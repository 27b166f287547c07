"""Reading and writing the weights folder (`model.network.weights_folder`), the contract of training and container.

Safetensors hold nothing that executes on loading; nothing here unpickles.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode

from model.constants import CLASSES, THRESHOLD
from model.errors import WeightsError
from model.network.classifier import MitosisClassifier
from model.network.preprocessing import Preprocessing
from model.network.weights_folder import CONFIG_FILE, TENSOR_FILE, file_sha256, sha256_once
from model.speed.imports import timm
from model.speed.start import import_meta_functions

FORMAT_VERSION = 2
"""Raised when a folder written today could not be read rightly by yesterday's container."""

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Network:
    """The arguments of `MitosisClassifier` that rebuild the architecture."""

    backbone: str
    pooling: str = "avg"
    backbone_args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Calibration:
    """P(atypical) = sigmoid(scale * logit + bias): Platt scaling (Platt 1999, without its target smoothing).

    Fitted with both classes weighted alike on predictions for held-out slides, so P is the probability at equal
    prevalence, and P >= 0.5 is the operating point of best balanced accuracy if the classes' likelihoods are logistic.
    """

    scale: float = 1.0
    bias: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and math.isfinite(self.bias) and self.scale > 0):
            raise ValueError(f"A calibration needs a finite bias and a positive finite scale, not {self}.")


@dataclass(frozen=True)
class WeightsConfig:
    """`config.json` of a weights folder.

    Attributes:
        name: name of the recipe that made the weights.
        version: version of the weights, for people.
        network: the architecture.
        preprocessing: how crops become its input.
        calibration: how logits become P(atypical).
        dtype: precision in which matrices and kernels are stored; vectors are float32.
        sha256: of the tensor file, hexadecimal.
        training: data, split, seed and metrics, for people.
        classes: class names by label.
        threshold: confidence from which a crop is atypical.
        format_version: version of this layout.
    """

    name: str
    version: str
    network: Network
    preprocessing: Preprocessing
    calibration: Calibration
    dtype: str
    sha256: str
    training: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, str] = CLASSES
    threshold: float = THRESHOLD
    format_version: int = FORMAT_VERSION


def read_config(folder: Path) -> WeightsConfig:
    """Reads and checks `config.json` of a weights folder.

    Raises:
        WeightsError: the file is missing, is not JSON, lacks or misspells a field, or is of a newer format.
    """
    path = folder / CONFIG_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(f"{folder} is no weights folder: it has no {CONFIG_FILE}.") from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as JSON ({error}); copy the weights folder again.") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} must hold a JSON object; copy the weights folder again.")
    version = content.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise WeightsError(
            f"{path} has format version {version!r}, but this program reads up to {FORMAT_VERSION}; use a newer one."
        )
    try:
        network = dict(content["network"])
        if network.pop("members", 1) != 1:
            raise WeightsError(f"{path} is of several backbones in one, which this program no longer runs; train anew.")
        config = WeightsConfig(
            **content
            | {
                "network": Network(**network),
                "preprocessing": Preprocessing(**content["preprocessing"]),
                "calibration": Calibration(**content["calibration"]),
                "classes": tuple(content["classes"]),
            }
        )
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} does not describe a network ({error}); copy the weights folder again.") from error
    if config.dtype not in DTYPES or config.classes != CLASSES or config.threshold != THRESHOLD:
        raise WeightsError(
            f"{path} must have a dtype among {', '.join(DTYPES)}, classes {list(CLASSES)} and threshold {THRESHOLD}."
        )
    return config


def load(folder: Path) -> tuple[MitosisClassifier, WeightsConfig]:
    """Rebuilds the network of a weights folder, on the CPU, in evaluation mode, in the stored precision.

    Raises:
        WeightsError: the folder is incomplete or altered, or its tensors are not those of its architecture.
    """
    config = read_config(folder)
    path = folder / TENSOR_FILE
    if not path.is_file():
        raise WeightsError(f"{folder} is incomplete: {TENSOR_FILE} is missing; copy the weights folder again.")
    try:
        if sha256_once(path) != config.sha256:
            raise WeightsError(f"{path} was altered: its SHA-256 is not the one in {CONFIG_FILE}; copy it again.")
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as safetensors ({error}); copy it again.") from error
    network = build(config.network, tensors, path)
    return network.eval().requires_grad_(False), config


def build(network: Network, tensors: dict[str, torch.Tensor], source: Path) -> MitosisClassifier:
    """A network whose parameters and buffers are `tensors` themselves, without a random initialisation or a copy.

    Args:
        network: the architecture.
        tensors: its state dictionary.
        source: where the tensors are from, for the error messages.

    Raises:
        WeightsError: the architecture is unknown, or `tensors` has other names or shapes.
    """
    # Names with a source, and arguments that name a file, would make timm fetch or unpickle something.
    fetching = [key for key in network.backbone_args if key.startswith(("pretrained", "checkpoint", "cache"))]
    if not timm.is_model(network.backbone) or fetching:
        raise WeightsError(
            f"The network of {source.parent} cannot be built: {fetching[0] if fetching else network.backbone} is no "
            "architecture that timm has, or an argument of one."
        )
    try:
        try:
            classifier = _without_tensors(network)
        except NotImplementedError:
            import_meta_functions()
            classifier = _without_tensors(network)
    except Exception as error:  # timm's architectures refuse their arguments in every way there is
        raise WeightsError(f"The network of {source.parent} cannot be built: {error}.") from error
    if difference := misfit(tensors, classifier.state_dict()):
        raise WeightsError(f"{source} does not fit the architecture {network.backbone}: {difference}.")
    classifier.load_state_dict(tensors, assign=True)
    _compute_buffers(classifier, network.backbone)
    return classifier


def misfit(tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> str:
    """The first tensor of a file that a network has no place of its shape for, or that is missing; empty if all fit."""
    for name in [*expected, *tensors]:
        shapes = [tuple(side[name].shape) if name in side else "missing" for side in (tensors, expected)]
        if shapes[0] != shapes[1]:
            return f"tensor {name} is {shapes[0]} in the file and {shapes[1]} in the network"
    return ""


def _without_tensors(network: Network) -> MitosisClassifier:
    with torch.device("meta"), _NoInitialisation():
        return MitosisClassifier(network.backbone, network.pooling, network.backbone_args)


def _compute_buffers(classifier: MitosisClassifier, backbone: str) -> None:
    """Fills the buffers that are in no file, such as the periods of a rotary embedding, as their modules define them.

    Raises:
        WeightsError: timm has no definition apart from construction.
    """
    for name, module in classifier.named_modules():
        missing = {key: buffer for key, buffer in module.named_buffers(recurse=False) if buffer.is_meta}
        if not missing:
            continue
        if not hasattr(module, "init_non_persistent_buffers"):
            raise WeightsError(
                f"{backbone} cannot be rebuilt: the buffer {next(iter(missing))} of {name} is in no file."
            )
        for key, buffer in missing.items():
            module.register_buffer(key, torch.empty(buffer.shape, dtype=buffer.dtype), persistent=False)
        module.init_non_persistent_buffers()


class _NoInitialisation(TorchFunctionMode):
    """Leaves out the filling of new tensors with random or constant numbers, which others will replace.

    On the meta device that changes no number, but it imports torch's compiler, which takes more than a second.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if name in _INITIALISATIONS or getattr(function, "__module__", "") == "torch.nn.init":
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return function(*args, **kwargs)


_INITIALISATIONS = {
    *("normal_", "uniform_", "trunc_normal_", "fill_", "zero_"),
    *("erfinv_", "add_", "sub_", "mul_", "div_", "clamp_"),  # by which timm makes its own truncated normal numbers
}


def save(folder: Path, classifier: MitosisClassifier, config: WeightsConfig) -> WeightsConfig:
    """Writes a weights folder.

    Args:
        folder: made when missing; files of the same names are replaced.
        classifier: its matrices and kernels are stored in `config.dtype`, its vectors (biases, norms, their running
            statistics) in float32: they are a hundredth of the size, and rounding them changes most.
        config: its `sha256` is replaced by that of the written file.

    Returns:
        The configuration as written.

    Raises:
        WeightsError: a tensor holds a number that is not finite, before or after the conversion.
    """
    tensors = {}
    for name, tensor in classifier.state_dict().items():
        if tensor.is_floating_point():
            tensor = tensor.to(DTYPES[config.dtype] if tensor.ndim > 1 else torch.float32)
            if not torch.isfinite(tensor).all():
                raise WeightsError(f"Tensor {name} is not finite in {config.dtype}; nothing was written to {folder}.")
        tensors[name] = tensor.detach().cpu().contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / TENSOR_FILE
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors writes for the owner alone, but the image runs as any user
    written = replace(config, sha256=file_sha256(path))
    write_config(folder, written)
    return written


def write_config(folder: Path, config: WeightsConfig) -> None:
    """Writes `config.json`."""
    (folder / CONFIG_FILE).write_text(json.dumps(asdict(config), indent=2) + "\n", encoding="utf-8")
