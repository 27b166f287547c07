"""A GPU where there is none: tensors that say they are on it, refuse to meet others, and compute on the CPU.

What a GPU would refuse (tensors of two devices) is refused, what would make the program wait for it is noted, and the
numbers are the CPU's, in the GPU's precision. Speed, memory and the GPU's own kernels are not emulated.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from model.network import preprocessing

CPU = torch.device("cpu")
MOVES = ("aten::copy_", "aten::to", "aten::_to_copy", "aten::_local_scalar_dense")
"""Operations that may have tensors of two devices."""

DEPENDENT = (torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output)
"""Tags of operations whose result on the CPU, or whose shape, depends on numbers."""


class OnGpu(torch.Tensor):
    """A tensor that says it is on `cuda:0`; its numbers are those of `inner`, on the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "OnGpu":
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device="cuda:0",
        )

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    def __tensor_flatten__(self) -> tuple[list[str], None]:  # with the next one, Module.to swaps parameters for these
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, torch.Tensor], *_: object) -> "OnGpu":
        return OnGpu(inner["inner"])

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        return _run(function, arguments, keywords or {})


@dataclass
class Call:
    """An operation: its name, and the precisions of the tensors on the GPU that it was given."""

    name: str
    dtypes: Sequence[torch.dtype]


@dataclass
class Record:
    """What was done.

    Attributes:
        calls: operations, in order.
        to_gpu: copies to the GPU, as sizes in bytes.
        to_cpu: copies to the CPU, likewise; each waits for the GPU.
        waits: other operations that wait for the GPU.
    """

    calls: list[Call] = field(default_factory=list)
    to_gpu: list[int] = field(default_factory=list)
    to_cpu: list[int] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)

    def clear(self) -> None:
        """Forgets it."""
        for part in (self.calls, self.to_gpu, self.to_cpu, self.waits):
            part.clear()

    def dtypes(self, name: str) -> list[Sequence[torch.dtype]]:
        """Of each call of an operation."""
        return [call.dtypes for call in self.calls if call.name == name]


class _Mode(TorchDispatchMode):
    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        result = _run(function, arguments, keywords)
        name = function.name().partition(".")[0]
        inputs = [leaf for leaf in tree_leaves((arguments, keywords)) if isinstance(leaf, torch.Tensor)]
        there = [tensor for tensor in inputs if isinstance(tensor, OnGpu)]
        self.record.calls.append(Call(name, [tensor.dtype for tensor in there]))
        if there and _waits(function, inputs, result):
            self.record.waits.append(name)
        elif name in MOVES:
            source, target = (inputs[1], inputs[0]) if name == "aten::copy_" else (inputs[0], result)
            if isinstance(target, OnGpu) and not isinstance(source, OnGpu):
                self.record.to_gpu.append(source.nbytes)
            elif isinstance(source, OnGpu) and not isinstance(target, OnGpu):
                self.record.to_cpu.append(source.nbytes)
        return result


def _waits(function: Any, inputs: Sequence[torch.Tensor], result: Any) -> bool:
    """Whether a GPU has to be waited for to know an operation's result or its shape."""
    if function.name().startswith("aten::index"):  # by numbers it has a known shape
        return any(tensor.dtype == torch.bool for tensor in inputs[1:])
    return isinstance(result, bool | int | float) or any(tag in function.tags for tag in DEPENDENT)


def _run(function: Any, arguments: Any, keywords: Any) -> Any:
    both, name = (arguments, keywords), function.name().partition(".")[0]
    tensors = [leaf for leaf in tree_leaves(both) if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, OnGpu)]
    devices = [leaf for leaf in tree_leaves(both) if isinstance(leaf, torch.device)]
    if there and name not in MOVES and any(tensor.ndim for tensor in tensors if not isinstance(tensor, OnGpu)):
        raise RuntimeError(f"Expected all tensors to be on the same device, but {name} has some on cuda:0 and the cpu")
    plain = tree_map_only(OnGpu, lambda tensor: tensor.inner, both)
    plain_arguments, plain_keywords = tree_map_only(torch.device, lambda _: CPU, plain)
    result = function(*plain_arguments, **plain_keywords)
    if isinstance(result, bool | int | float) or not (devices[0].type == "cuda" if devices else there):
        return result
    known = {}
    if function._schema.is_mutable:
        known = {id(tensor.inner if isinstance(tensor, OnGpu) else tensor): tensor for tensor in tensors}
    view_of_other = function.is_view and there and not there[0].is_inference()
    with torch.inference_mode(torch.is_inference_mode_enabled() and not view_of_other):
        return tree_map_only(
            torch.Tensor, lambda tensor: known[id(tensor)] if id(tensor) in known else OnGpu(tensor), result
        )


@contextmanager
def emulated_gpu(capability: tuple[int, int]) -> Iterator[Record]:
    """PyTorch with a GPU of a compute capability, for the time of a `with` block; gives what is done there."""
    torch._C._ensureCUDADeviceGuardSet()
    answers = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_capability": lambda *_: capability,
        "_lazy_init": lambda: None,
        "empty_cache": lambda: None,
        "synchronize": lambda *_: None,
        "is_current_stream_capturing": lambda: False,
    }
    preprocessing._channels.cache_clear()
    torch._C._set_only_lift_cpu_tensors(True)
    record = Record()
    try:
        with patch.multiple(torch.cuda, **answers), _Mode(record):
            yield record
    finally:
        torch._C._set_only_lift_cpu_tensors(False)
        preprocessing._channels.cache_clear()
