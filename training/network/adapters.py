"""Low-rank adapters (LoRA): put on a backbone, merged into it again.

LoRA (Hu et al. 2021, arXiv 2106.09685, section 4.1) adds to a frozen weight W the product of two small matrices,
W + scale B A, with A of shape (rank, in) and B of shape (out, rank), B starting at zero; scale is alpha / rank, or
alpha / sqrt(rank) for rsLoRA (Kalajdzievski 2023, arXiv 2312.03732). DoRA (Liu et al. 2024, arXiv 2402.09353) learns
magnitude and direction of the columns apart. The implementation is peft's.
"""

import hashlib
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Conv2d as AdaptedConv2d
from torch import Tensor, nn
from torch.func import functional_call

from model.network.classifier import MitosisClassifier
from model.network.weights import misfit
from training.config import AdapterConfig, ConfigError
from training.network.classifier import changing

TARGETS = {
    "q": ("attn.q_proj",),
    "k": ("attn.k_proj",),
    "v": ("attn.v_proj",),
    "proj": ("attn.proj",),
    "mlp": ("mlp.fc1", "mlp.fc1_g", "mlp.fc1_x", "mlp.fc2"),
    "pointwise": ("conv_pw", "conv_pwl"),
}
"""timm's layers by the names that a recipe uses; `pointwise` is for convolutional networks."""


def add_adapters(classifier: MitosisClassifier, config: AdapterConfig) -> None:
    """Puts adapters on a classifier's backbone, in place, and freezes what they are on; the head stays trainable.

    Args:
        classifier: with a plain backbone.
        config: rank, scale, targets, and whether the layers without adapters are frozen, too.

    Raises:
        ConfigError: a target is unknown, or the backbone has no such layer.
    """
    peft_config = LoraConfig(
        r=config.rank,
        lora_alpha=cast(int, config.alpha),  # a divided number, though peft declares whole ones
        lora_dropout=config.dropout,
        target_modules=target_modules(classifier.backbone, config.targets),
        use_dora=config.dora,
        use_rslora=config.rslora,
    )
    classifier.backbone = get_peft_model(classifier.backbone, peft_config)
    if config.others:
        for name, parameter in classifier.backbone.named_parameters():
            if ".base_layer." not in name:
                parameter.requires_grad_(True)
    if not config.dropout and not config.dora:
        for layer in classifier.backbone.modules():
            if isinstance(layer, AdaptedConv2d):
                layer.forward = partial(_convolve, layer)  # type: ignore[method-assign]


def _convolve(layer: AdaptedConv2d, images: Tensor) -> Tensor:
    """An adapted convolution in one step: kernels are small, so adding B A to them costs less than two more steps."""
    base, device = layer.get_base_layer(), images.device.type
    # Tensors without numbers, which a recipe's cost is counted with, are on a device that has no autocast.
    with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
        kernel = cast(Tensor, base.weight) + layer.get_delta_weight("default")
    return functional_call(base, {"weight": kernel}, images)


def has_adapters(network: nn.Module) -> bool:
    """Whether there are adapters on a classifier's backbone that are not merged."""
    return isinstance(getattr(network, "backbone", None), PeftModel)


def target_modules(backbone: nn.Module, targets: list[str]) -> list[str]:
    """Full names of the layers that adapters go on, in the network's order.

    Raises:
        ConfigError: a target is unknown, or the backbone has no such layer.
    """
    unknown = [target for target in targets if target not in TARGETS]
    if unknown or not targets:
        wrong = f"Unknown adapter target '{unknown[0]}'" if unknown else "adapter.targets is empty"
        raise ConfigError(f"{wrong}; choose among {', '.join(TARGETS)}.")
    names = [name for name, _ in backbone.named_modules()]
    found: list[str] = []
    for target in targets:
        suffixes = tuple(f".{layer}" for layer in TARGETS[target])
        layers = [name for name in names if name.endswith(suffixes)]
        if not layers:
            hint = "; set network.backbone_args.qkv_fused=false" if any(n.endswith("attn.qkv") for n in names) else ""
            raise ConfigError(f"The backbone has no layers for the adapter target '{target}'{hint}.")
        found.extend(layers)
    return sorted(found, key=names.index)


def adapter_tensors(classifier: MitosisClassifier) -> dict[str, torch.Tensor]:
    """What training changed of an adapted classifier: adapters, head, running statistics; on the CPU."""
    changed = changing(classifier)
    return {name: changed[name].detach().cpu().contiguous() for name in classifier.state_dict() if name in changed}


def load_adapter_tensors(classifier: MitosisClassifier, tensors: dict[str, torch.Tensor], source: Path) -> None:
    """Puts what `adapter_tensors` gave into a freshly adapted classifier, in place.

    Args:
        classifier: after `add_adapters`.
        tensors: by name.
        source: their file, for the error.

    Raises:
        ConfigError: the tensors are others than those of the classifier's adapters and head, or not finite.
    """
    if difference := misfit(tensors, adapter_tensors(classifier)):
        raise ConfigError(
            f"{source} does not fit its own training.yaml: {difference}; copy the adapter's folder again."
        )
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ConfigError(f"{source} cannot be merged: {name} is not finite.")
    classifier.load_state_dict(tensors, strict=False)


def backbone_sha256(classifier: MitosisClassifier) -> str:
    """SHA-256 of the frozen tensors of an adapted classifier, by which a merge knows the backbone it was trained on."""
    digest = hashlib.sha256()
    frozen = {
        name.replace(".base_layer", ""): tensor
        for name, tensor in classifier.backbone.named_parameters()
        if not tensor.requires_grad
    }
    for name in sorted(frozen):
        digest.update(name.encode())
        digest.update(frozen[name].detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def merge_adapters(classifier: MitosisClassifier) -> MitosisClassifier:
    """Merges the adapters into the backbone, in place, which is then as it was but for its weights.

    Returns:
        The classifier.

    Raises:
        ConfigError: a merged weight is not finite.
    """
    backbone = classifier.backbone
    if isinstance(backbone, PeftModel):
        try:
            classifier.backbone = backbone.merge_and_unload(safe_merge=True)
        except ValueError as error:
            raise ConfigError(f"The adapters cannot be merged: {error}") from error
    for name, parameter in classifier.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ConfigError(f"The adapters cannot be merged: {name} is not finite.")
        parameter.requires_grad_(True)
    return classifier
