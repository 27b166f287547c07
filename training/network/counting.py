"""Counts what a GPU would do, on tensors without numbers: kernels, their operations and bytes, and the memory used."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

FREE = ("empty", "detach", "alias", "lift_fresh", "_unsafe_view", "new_empty", "_reshape_alias")
"""Operations that start no kernel, besides views, as they begin."""

ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"
"""The CPU's operation, which reads, writes and keeps what the GPU's does."""


@dataclass(frozen=True)
class Kernel:
    """One operation.

    Attributes:
        name: PyTorch's.
        flops: floating-point operations of a matrix product, convolution or attention, an addition being one; else 0.
        moved: bytes of all inputs and outputs: what is read and written when no cache holds them.
        single: whether it computes in float32.
    """

    name: str
    flops: int
    moved: int
    single: bool


@dataclass
class Counts:
    """What was done.

    Attributes:
        kernels: in order; one an operation, which is what PyTorch starts.
        alive: bytes of all tensors that are there now.
        peak: the most that `alive` was.
    """

    kernels: list[Kernel] = field(default_factory=list)
    alive: int = 0
    peak: int = 0

    def begin(self) -> None:
        """Forgets what was done so far, but for what is there."""
        self.kernels.clear()
        self.peak = self.alive


@contextmanager
def counting() -> Iterator[Counts]:
    """Counts what is done in a `with` block, in which every tensor is without numbers; those on the meta device may be
    brought in, to `to_empty(device="cpu")`."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        counter = _Counter()
        with counter:
            yield counter.counts


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()
        self.known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        name = function.name().partition("::")[2].partition(".")[0]
        if function.namespace == "aten" and function._overloadpacket not in flop_registry and name != ATTENTION:
            with self:
                parts = function.decompose(*arguments, **keywords)
            if parts is not NotImplemented:
                return parts
        result = function(*arguments, **keywords)
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        for tensor in outputs:
            self._note(tensor)
        if not function.is_view and not name.startswith(FREE) and outputs:
            inputs = [leaf for leaf in tree_leaves((arguments, keywords)) if isinstance(leaf, Tensor)]
            moved = sum(tensor.nbytes for tensor in (*inputs, *outputs))
            flops = _flops(function, name, arguments, keywords, result)
            single = any(tensor.dtype == torch.float32 for tensor in inputs)
            self.counts.kernels.append(Kernel(name, flops, moved, single))
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return
        size, counts = storage.nbytes(), self.counts
        self.known.add(key)
        counts.alive += size
        counts.peak = max(counts.peak, counts.alive)

        def forget() -> None:
            self.known.discard(key)
            counts.alive -= size

        weakref.finalize(storage, forget)


def _flops(function: Any, name: str, arguments: Any, keywords: Any, result: Any) -> int:
    if function._overloadpacket in flop_registry:
        return int(flop_registry[function._overloadpacket](*arguments, **keywords, out_val=result))
    if name == ATTENTION:
        query, key, value = arguments[:3]
        return int(sdpa_flop_count(query.shape, key.shape, value.shape))
    if name == f"{ATTENTION}_backward":
        gradient, query, key, value = arguments[:4]
        return int(sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape))
    return 0
