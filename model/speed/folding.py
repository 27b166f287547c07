"""The same numbers with fewer operations, for convolutional networks.

In evaluation mode a batch norm multiplies and shifts every channel by constants, which the convolution before it can do
as well. That is all that is done for a GPU. On the CPU, where TensorFlow's `same` padding adds one row more below than
above, timm first copies the feature map into a larger one; symmetric padding, and a row of zeros on top of the kernel,
give the same sums without the copy. And oneDNN applies an activation while it writes a convolution's output, and can
lay out kernels beforehand.
"""

import copy
import logging
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from model.speed import PLAIN
from model.speed.imports import timm

logger = logging.getLogger(__name__)

Network = TypeVar("Network", bound=nn.Module)

TOLERANCE = 1e-4
"""By how much the folded network's logit may differ, as a fraction of the logit and 1; more, and nothing is folded."""

# Subclasses may do more with their weights than to convolve with them.
_CONVOLUTIONS = (nn.Conv2d, timm.layers.Conv2dSame)
_NORMS = (nn.BatchNorm2d, timm.layers.BatchNormAct2d)

_ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.Identity: ("none", []),
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.SiLU: ("swish", []),
    nn.Hardswish: ("hardswish", []),
}
"""What oneDNN calls them, and their numbers."""

_USUAL_BATCH = 16
"""That kernels are laid out for; other batches give the same numbers."""


@torch.no_grad()
def fold(network: Network, channels: int, side: int, norms_alone: bool = False) -> Network:
    """A network that gives the same logits faster; it is for inference only, and for images of this size only.

    What follows what is seen by running the network; a batch norm that does not follow a convolution directly stays.

    Args:
        network: gives (N,) logits of (N, C, S, S) images; on the CPU, in evaluation mode; where there is something to
            fold it is converted to float32 in place.
        channels: C.
        side: S, in pixels.
        norms_alone: fold batch norms and nothing else, which leaves a network for any device and precision.

    Returns:
        A folded copy; unless `norms_alone`, it must stay on the CPU in float32: kernels are no longer among its
        parameters. Or the network itself, where there is nothing to fold or the copy would give another logit.
    """
    if PLAIN or not any(type(module) in _NORMS for module in network.modules()):
        return network
    image = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(0))
    folded = copy.deepcopy(network.float())
    try:
        expected, inputs, pairs = _watch(folded, image)
        _replace(folded, inputs, pairs, norms_alone)
        same = torch.allclose(folded(image), expected, rtol=TOLERANCE, atol=TOLERANCE)
    except Exception as error:  # whatever an architecture does with its own layers
        logger.debug("Folding failed.", exc_info=error)
        same = False
    if same:
        return folded
    logger.info("The layers of this network cannot be folded into each other; it runs as it is.")
    return network


def _replace(
    folded: nn.Module,
    inputs: dict[nn.Conv2d, torch.Size],
    pairs: dict[nn.Conv2d, nn.BatchNorm2d],
    norms_alone: bool,
) -> None:
    """Folds, in place, what `_watch` found."""
    names = {module: name for name, module in folded.named_modules()}
    for convolution, shape in inputs.items():
        norm, plain = pairs.get(convolution), convolution
        if norm is not None:
            _absorb(convolution, norm)
        if norms_alone:
            if norm is not None:
                folded.set_submodule(names[norm], getattr(norm, "act", nn.Identity()))
            continue
        if isinstance(convolution, timm.layers.Conv2dSame):
            plain = _padded_symmetrically(convolution, *shape[2:])
        if norm is not None:
            activation = getattr(norm, "act", nn.Identity())
            if _FusedConvolution.takes(plain, activation):
                folded.set_submodule(names[convolution], _FusedConvolution(plain, activation, shape))
                folded.set_submodule(names[norm], nn.Identity())
                continue
            folded.set_submodule(names[norm], activation)
        folded.set_submodule(names[convolution], plain)


class _FusedConvolution(nn.Module):
    """A convolution and the activation after it in one operation of oneDNN, the one that PyTorch's compiler uses.

    Args:
        convolution: with numbers for its padding, in float32 on the CPU.
        activation: one of `_ACTIVATIONS`.
        shape: of the input, whose batch size does not count.
    """

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module, shape: torch.Size) -> None:
        super().__init__()
        self.bias = convolution.bias
        self.activation = _ACTIVATIONS[type(activation)]
        self.geometry = (
            *(list(sides) for sides in (convolution.padding, convolution.stride, convolution.dilation)),
            convolution.groups,
        )
        self.kernel = torch.ops.mkldnn._reorder_convolution_weight(
            convolution.weight.detach(), *self.geometry, [_USUAL_BATCH, *shape[1:]]
        )

    @staticmethod
    def takes(convolution: nn.Conv2d, activation: nn.Module) -> bool:
        """Whether this can be done with them here."""
        return (
            type(convolution) is nn.Conv2d
            and convolution.padding_mode == "zeros"
            and not isinstance(convolution.padding, str)
            and type(activation) in _ACTIVATIONS
            and torch.backends.mkldnn.is_available()
            and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        )

    def forward(self, images: Tensor) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(
            images, self.kernel, self.bias, *self.geometry, *self.activation, ""
        )


def _watch(
    network: nn.Module, image: Tensor
) -> tuple[Tensor, dict[nn.Conv2d, torch.Size], dict[nn.Conv2d, nn.BatchNorm2d]]:
    """Runs a network; returns its logit, the convolutions with their inputs' shapes, and the batch norm after each."""
    shapes: dict[nn.Conv2d, torch.Size] = {}
    pairs: dict[nn.Conv2d, nn.BatchNorm2d] = {}
    sources: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # keeps the tensors, so that no other one gets the same id
    runs: list[nn.Module] = []

    def note_convolution(convolution: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> None:
        runs.append(convolution)
        shapes[convolution] = inputs[0].shape
        sources[id(output)] = convolution, output

    def note_norm(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        runs.append(norm)
        if id(inputs[0]) in sources:
            pairs[sources[id(inputs[0])][0]] = norm

    def hooks() -> Iterator[torch.utils.hooks.RemovableHandle]:
        for module in network.modules():
            if type(module) in _CONVOLUTIONS:
                yield module.register_forward_hook(note_convolution)
            elif type(module) in _NORMS and module.running_mean is not None:
                yield module.register_forward_pre_hook(note_norm)

    handles = list(hooks())
    logit = network(image)
    for handle in handles:
        handle.remove()
    shapes = {convolution: shape for convolution, shape in shapes.items() if runs.count(convolution) == 1}
    return logit, shapes, {c: norm for c, norm in pairs.items() if c in shapes and runs.count(norm) == 1}


def _absorb(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Puts a batch norm's factors and shifts into the convolution before it, in place; computed in float64."""
    tensors: list[Any] = [
        None if values is None else values.double()
        for values in (
            convolution.weight,
            convolution.bias,
            norm.running_mean,
            norm.running_var,
            norm.weight,
            norm.bias,
        )
    ]
    kernel, bias, mean, variance, factor, shift = tensors
    weight, bias = fuse_conv_bn_weights(kernel, bias, mean, variance, norm.eps, factor, shift)
    convolution.weight, convolution.bias = _parameter(weight), _parameter(bias)


def _padded_symmetrically(convolution: nn.Conv2d, height: int, width: int) -> nn.Conv2d:
    """A convolution with `same` padding as a plain one for inputs of one size; itself where that is not possible."""
    geometry: Any = convolution  # pairs of numbers, which torch declares as tuples of any length
    kernel, stride, dilation = geometry.kernel_size, geometry.stride, geometry.dilation
    totals = [
        timm.layers.get_same_padding(side, kernel[axis], stride[axis], dilation[axis])
        for axis, side in enumerate((height, width))
    ]
    odd = [total % 2 for total in totals]
    if any(odd) and dilation != (1, 1):
        return convolution
    plain = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        (kernel[0] + odd[0], kernel[1] + odd[1]),
        stride,
        ((totals[0] + 1) // 2, (totals[1] + 1) // 2),
        dilation,
        convolution.groups,
        device="meta",
    )
    plain.weight = _parameter(nn.functional.pad(convolution.weight, (odd[1], 0, odd[0], 0)))
    plain.bias = convolution.bias
    return plain.eval()


def _parameter(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.float(), requires_grad=False)
