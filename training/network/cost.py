"""What a recipe's network costs, without weights and without computing: its tensors have no numbers.

training/train.sh dinov3_hplus --describe
"""

import logging
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from model.errors import first_line
from model.network.classifier import MitosisClassifier
from training.config import Config, ConfigError
from training.network.adapters import add_adapters, target_modules
from training.network.classifier import build_network
from training.network.counting import Counts, counting
from training.network.frozen import halve_frozen

logger = logging.getLogger(__name__)

SINGLE = 4
"""Bytes of a float32 number."""

USABLE = 0.85
"""Share of a GPU's memory for a step's tensors: the driver, libraries and gaps between tensors have the rest."""


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
        training_memory_mib: of a step, see `training_memory`: `kept` where activations are kept for the backward pass,
            `computed_again` with gradient checkpointing.
    """
    side = config.network.input_size
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
    return {
        "total_parameters": total,
        "trainable_parameters": trainable,
        "lora_parameters": sum(parameter.numel() for parameter in adapters.values()),
        "targets": {kind: sum(name.endswith(f".{kind}") for name in layers) for kind in kinds},
        "input_size": side,
        "tokens": _tokens(network, side),
        "gflops": round(_gflops(network, image), 1),
        "training_memory_mib": {
            name: round(training_memory(_checkpointed(config, again)) / 2**20)
            for name, again in (("kept", False), ("computed_again", True))
        },
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


def training_memory(config: Config, processes: int = 1) -> int:
    """Bytes that a training step's tensors take at most on a GPU, see `count_step`."""
    return count_step(config, processes).peak


def count_step(config: Config, processes: int = 1, frozen_in_half: bool = True) -> Counts:
    """Goes through a training step's forward and backward pass without computing.

    The peak is of weights, gradients, what autograd keeps and what each operation needs, and of AdamW's two moments and
    the averaged weights. Mixed precision is reckoned with unless `optimisation.precision` is `no`.

    Args:
        config: the recipe; `gradient_checkpointing=auto` counts as no.
        processes: that share a batch.
        frozen_in_half: whether frozen weights are in half precision, as `training.network.frozen` has them.
    """
    optimisation, side = config.optimisation, config.network.input_size
    half = optimisation.precision != "no"
    with torch.device("meta"):
        network = build_network(config)
        if config.adapter.rank > 0:
            add_adapters(network, config.adapter)
    with counting() as counts:
        network.to_empty(device="cpu")
        if half and frozen_in_half:
            halve_frozen(network, "bf16")
        counts.begin()
        network.train()
        shown = 2 if config.loss.consistency > 0 else 1
        images = torch.empty(shown * -(-optimisation.batch_size // processes), 3, side, side)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = network(images.contiguous(memory_format=network.memory_format))
        logits.float().square().mean().backward()
    trainable = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    counts.peak += 3 * SINGLE * trainable
    return counts


def choose_checkpointing(config: Config, device: torch.device, processes: int = 1) -> Config:
    """A recipe whose `gradient_checkpointing=auto` is decided.

    Args:
        config: the recipe.
        device: that it is trained on.
        processes: that share a batch.
    """
    if config.optimisation.gradient_checkpointing != "auto":
        return config
    if device.type != "cuda":
        return _checkpointed(config, True)
    needed, total = training_memory(config, processes), torch.cuda.mem_get_info(device)[1]
    again = needed > USABLE * total
    logger.info(
        "A step needs %d MiB of the GPU's %d: activations are %s (optimisation.gradient_checkpointing).",
        *(needed >> 20, total >> 20, "computed again in the backward pass" if again else "kept"),
    )
    return _checkpointed(config, again)


def _checkpointed(config: Config, again: bool) -> Config:
    return replace(config, optimisation=replace(config.optimisation, gradient_checkpointing=again))
