"""Reading and writing the weights folder (`model.network.weights_folder`), the contract of training and container.

Safetensors hold nothing that executes on loading; nothing here unpickles.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from model.errors import WeightsError
from model.network.classifier import MitosisClassifier
from model.network.ensemble import Classifier, MitosisEnsemble, member_tensors, share
from model.network.weights_config import DTYPES, Network, WeightsConfig, read_config, write_config
from model.network.weights_folder import CONFIG_FILE, TENSOR_FILE, file_sha256, open_tensors
from model.speed.imports import timm
from model.speed.initialisation import compute_buffers, uninitialised


def load(folder: Path) -> tuple[Classifier, WeightsConfig]:
    """Rebuilds the network of a weights folder, on the CPU, in evaluation mode, in the stored precision.

    Raises:
        WeightsError: the folder is incomplete or altered, or its tensors are not those of its architecture.
    """
    config = read_config(folder)
    path = folder / TENSOR_FILE
    try:
        with open_tensors(folder) as file:
            if file.sha256() != config.sha256:
                raise WeightsError(f"{path} was altered: its SHA-256 is not the one in {CONFIG_FILE}; copy it again.")
            tensors = load_file(file.path)
    except FileNotFoundError as error:
        raise WeightsError(f"{folder} is incomplete: {TENSOR_FILE} is missing; copy the folder again.") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as safetensors ({error}); copy it again.") from error
    network = assemble(config.network, tensors, path)
    return network.eval().requires_grad_(False), config


def load_one(folder: Path) -> tuple[MitosisClassifier, WeightsConfig]:
    """`load` for what one network alone can serve.

    Raises:
        WeightsError: as `load`; or the folder holds an ensemble.
    """
    network, config = load(folder)
    if not isinstance(network, MitosisClassifier):
        raise WeightsError(
            f"{folder} holds an ensemble of {config.network.members} networks; give the weights of one network."
        )
    return network, config


def assemble(network: Network, tensors: dict[str, torch.Tensor], source: Path) -> Classifier:
    """The network, or the ensemble of networks, of a file's tensors; arguments and errors are those of `build`."""
    if network.members == 1:
        return build(network, tensors, source)
    try:
        states = member_tensors(tensors, network.members)
    except ValueError as error:
        raise WeightsError(f"{source} does not fit an ensemble of {network.members}: {error}.") from error
    members = [build(network, state, source) for state in states]
    share(members, {name for name, tensor in states[0].items() if all(s[name] is tensor for s in states)})
    return MitosisEnsemble(members)


def build(network: Network, tensors: dict[str, torch.Tensor], source: Path) -> MitosisClassifier:
    """A network whose parameters and buffers are `tensors` themselves, without a random initialisation or a copy.

    Args:
        network: the architecture.
        tensors: its state dictionary.
        source: where the tensors are from, for the error messages.

    Raises:
        WeightsError: the architecture is unknown, or `tensors` has other names, shapes or types.
    """
    # Names with a source, and arguments that name a file, would make timm fetch or unpickle something.
    fetching = [key for key in network.backbone_args if key.startswith(("pretrained", "checkpoint", "cache"))]
    if not timm.is_model(network.backbone) or fetching:
        raise WeightsError(
            f"The network of {source.parent} cannot be built: {fetching[0] if fetching else network.backbone} is no "
            "architecture that timm has, or an argument of one."
        )
    try:
        classifier = uninitialised(partial(MitosisClassifier, network.backbone, network.pooling, network.backbone_args))
    except Exception as error:  # timm's architectures refuse their arguments in every way there is
        raise WeightsError(f"The network of {source.parent} cannot be built: {error}.") from error
    if difference := misfit(tensors, classifier.state_dict()):
        raise WeightsError(f"{source} does not fit the architecture {network.backbone}: {difference}.")
    for name, tensor in classifier.state_dict().items():
        if tensors[name].is_floating_point() != tensor.is_floating_point() or (
            tensor.is_floating_point() and tensors[name].dtype not in DTYPES.values()
        ):
            raise WeightsError(f"{source} does not fit {network.backbone}: tensor {name} is {tensors[name].dtype}.")
    classifier.load_state_dict(tensors, assign=True)
    try:
        compute_buffers(classifier)
    except LookupError as error:
        raise WeightsError(f"{network.backbone} cannot be rebuilt: {error}.") from error
    return classifier


def misfit(tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> str:
    """The first tensor of a file that a network has no place of its shape for, or that is missing; empty if all fit."""
    for name in [*expected, *tensors]:
        shapes = [tuple(side[name].shape) if name in side else "missing" for side in (tensors, expected)]
        if shapes[0] != shapes[1]:
            return f"tensor {name} is {shapes[0]} in the file and {shapes[1]} in the network"
    return ""


def save(
    folder: Path, classifier: MitosisClassifier | Mapping[str, torch.Tensor], config: WeightsConfig
) -> WeightsConfig:
    """Writes a weights folder.

    Args:
        folder: made when missing; files of the same names are replaced.
        classifier: a network, or the tensors of an ensemble as `model.network.ensemble` names them. Matrices and
            kernels are stored in `config.dtype`, vectors (biases, norms, their running statistics) in float32: they are
            a hundredth of the size, and rounding them changes most.
        config: its `sha256` is replaced by that of the written file.

    Returns:
        The configuration as written.

    Raises:
        WeightsError: a tensor holds a number that is not finite, before or after the conversion.
    """
    tensors = {}
    state = classifier.state_dict() if isinstance(classifier, MitosisClassifier) else classifier
    for name, tensor in state.items():
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
