"""What a recipe's network costs, without weights and without computing: everything is on PyTorch's meta device.

training/train.sh dinov3_hplus --describe
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from model.errors import first_line
from model.network.classifier import MitosisClassifier
from training.config import Config, ConfigError
from training.network.adapters import add_adapters, target_modules
from training.network.classifier import build_network

HALF, SINGLE = 2, 4
"""Bytes of a number."""


def check_network(config: Config) -> None:
    """Runs a recipe's network on one image without weights and without computing, and puts its adapters on.

    Raises:
        ConfigError: the architecture refuses its arguments or the size of its input, or has no layers for the adapters.
    """
    network, side = config.network, config.network.input_size
    try:
        with torch.device("meta"), torch.no_grad():
            classifier = build_network(config).eval()
            features = classifier.backbone(torch.empty(1, 3, side, side))
            if features.shape != (1, classifier.head.in_features):
                raise ValueError(f"its features have the shape {tuple(features.shape)[1:]}")
    except Exception as error:  # timm's architectures refuse what does not suit them in every way there is
        reason = first_line(error)
        raise ConfigError(
            f"{network.backbone} does not work with network.input_size={side}, network.pooling={network.pooling} and "
            f"network.backbone_args={network.backbone_args} ({reason}); change one of them."
        ) from error
    if config.adapter.rank > 0:
        target_modules(classifier.backbone, config.adapter.targets)


def describe(config: Config) -> dict[str, Any]:
    """A recipe in figures.

    Returns:
        total_parameters: of the network with its head, without adapters.
        trainable_parameters: adapters and head, or everything.
        lora_parameters: of the adapters.
        targets: layers with an adapter, by kind, with their number.
        input_size: pixels a side.
        tokens: tokens an image, with class and register tokens; None for a convolutional network.
        gflops: 1e9 floating-point operations of the forward pass of one image, that is of one field of view of one
            view of a crop; a multiplication and an addition are two.
        training_memory_gib: estimate for one step at the recipe's batch size: weights, gradients, AdamW's two moments,
            the averaged weights, and what autograd keeps for the backward pass (counted; half of it in mixed
            precision, plus one block's share when activations are computed again).
    """
    side, optimisation = config.network.input_size, config.optimisation
    with torch.device("meta"):
        network = build_network(config)
        total = sum(parameter.numel() for parameter in network.parameters())
        if config.adapter.rank > 0:
            add_adapters(network, config.adapter)
        image = torch.empty(1, 3, side, side)
    trainable = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    adapters = {name: p for name, p in network.named_parameters() if ".lora_" in name}
    layers = [name.partition(".lora_A")[0] for name in adapters if ".lora_A" in name]
    kinds = sorted({name.rpartition(".")[2] for name in layers})
    half = optimisation.precision != "no"
    activations = _kept_bytes(network, image, config) * (HALF / SINGLE if half else 1) * optimisation.batch_size
    states = SINGLE * total + SINGLE * 4 * trainable + (HALF * total if half else 0)
    return {
        "total_parameters": total,
        "trainable_parameters": trainable,
        "lora_parameters": sum(parameter.numel() for parameter in adapters.values()),
        "targets": {kind: sum(name.endswith(f".{kind}") for name in layers) for kind in kinds},
        "input_size": side,
        "tokens": _tokens(network, side),
        "gflops": round(_gflops(network, image), 1),
        "training_memory_gib": round((states + activations) / 1024**3, 1),
    }


def _tokens(network: MitosisClassifier, side: int) -> int | None:
    backbone: Any = network.backbone
    embedding = getattr(backbone, "patch_embed", None)
    if embedding is None:
        return None
    return (side // embedding.patch_size[0]) ** 2 + backbone.num_prefix_tokens


def _gflops(network: MitosisClassifier, image: Tensor) -> float:
    network.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.backbone(image)  # the head, one row of numbers, does not count
    return counter.get_total_flops() / 1e9


def _kept_bytes(network: MitosisClassifier, image: Tensor, config: Config) -> float:
    """Bytes that autograd keeps of one image in float32, parameters apart."""
    kept: dict[int, int] = {}
    parameters = {id(parameter) for parameter in network.parameters()}
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        if id(tensor) not in parameters and tensor.is_floating_point():
            kept[id(tensor)] = tensor.numel() * tensor.element_size()
            alive.append(tensor)  # so that no later tensor gets the same id
        return tensor

    network.train()
    backbone: Any = network.backbone
    if config.optimisation.gradient_checkpointing:
        backbone.set_grad_checkpointing(False)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        backbone(image)  # the head, one row of numbers, does not count
    total = sum(kept.values())
    blocks = len(getattr(backbone, "blocks", ())) or 1
    if not config.optimisation.gradient_checkpointing:
        return total
    tokens = _tokens(network, config.network.input_size)
    inputs = blocks * SINGLE * tokens * backbone.num_features if tokens else total / math.sqrt(blocks)
    return inputs + total / blocks
