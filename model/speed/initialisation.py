"""A network without the random numbers that trained ones replace: of 840 million parameters, that takes ten seconds."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from model.speed import PLAIN
from model.speed.imports import import_meta_functions

Network = TypeVar("Network", bound=nn.Module)


def uninitialised(make: Callable[[], Network]) -> Network:
    """What `make` makes, on PyTorch's meta device, where tensors have a shape and no numbers.

    Its state is to be loaded with `assign=True`, its other buffers with `compute_buffers`.
    """
    if PLAIN:
        return make()
    try:
        return _on_meta(make)
    except NotImplementedError:
        import_meta_functions()
        return _on_meta(make)


def compute_buffers(network: nn.Module) -> None:
    """Fills the buffers that are in no file, such as the periods of a rotary embedding, as their modules define them.

    Raises:
        LookupError: a module of timm has no definition apart from its construction.
    """
    for name, module in network.named_modules():
        missing = {key: buffer for key, buffer in module.named_buffers(recurse=False) if buffer.is_meta}
        if not missing:
            continue
        define = getattr(module, "init_non_persistent_buffers", None)
        if define is None:
            raise LookupError(f"the buffer {next(iter(missing))} of {name} is in no file")
        for key, buffer in missing.items():
            module.register_buffer(key, torch.empty(buffer.shape, dtype=buffer.dtype), persistent=False)
        define()


def _on_meta(make: Callable[[], Network]) -> Network:
    with torch.device("meta"), _NoInitialisation():
        return make()


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
