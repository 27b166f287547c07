"""Frozen weights in half precision during a mixed-precision fit.

Autocast casts a float32 weight to half precision with every batch, and autograd keeps the copy: of DINOv3 ViT-H+/16
those are 224 casts a forward pass and 1.6 GiB. A weight that never changes can be stored as what it is cast to: the
products are the same, bit for bit. The float32 originals wait on the CPU; adapters are merged into these, and what is
stored, shared and compared is of these.
"""

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""What autocast computes in, by Accelerate's names of mixed precision."""


@torch.no_grad()
def halve_frozen(network: nn.Module, precision: str) -> dict[str, Tensor]:
    """Stores the frozen weights and biases of linear layers and convolutions in half precision, in place.

    Args:
        network: with its adapters.
        precision: of the fit: `bf16`, `fp16`; nothing is done under any other.

    Returns:
        The originals, by name, for `restore`.
    """
    originals: dict[str, Tensor] = {}
    if precision not in HALVES:
        return originals
    for name, parameter in _cast_by_autocast(network):
        originals[name] = parameter.data
        parameter.data = parameter.data.to(HALVES[precision])
    return originals


@torch.no_grad()
def restore(network: nn.Module, originals: dict[str, Tensor]) -> None:
    """Undoes `halve_frozen`, in place, on the device that the network is on."""
    parameters = dict(network.named_parameters())
    for name, original in originals.items():
        parameters[name].data = original.to(parameters[name].device)


def _cast_by_autocast(network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The frozen parameters that autocast would cast, and that nothing else reads."""
    used_otherwise: set[nn.Module] = set()
    for module in network.modules():
        if isinstance(module, LoraLayer) and (
            module.use_dora.get("default") or not isinstance(module.get_base_layer(), nn.Linear)
        ):  # DoRA takes the weights' norms; an adapted kernel is added to before it is cast
            used_otherwise.add(module.get_base_layer())
    return [
        (f"{name}.{leaf}", parameter)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and module not in used_otherwise
        for leaf, parameter in module.named_parameters(recurse=False)
        if not parameter.requires_grad
    ]
