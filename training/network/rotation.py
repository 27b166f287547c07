"""DINOv3's rotary position embedding, computed once in a fit instead of at every step.

timm builds its coordinates on the CPU and copies them to the GPU with every batch, for which the program waits until
the GPU has done all that it was asked for.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from model.speed.imports import timm


@contextmanager
def kept_rotation(network: nn.Module) -> Iterator[None]:
    """Keeps, for the time of a `with` block, what the rotary embeddings of a network give for a size of images.

    Args:
        network: stays on its device meanwhile; embeddings that are altered at random in training are left alone.
    """
    ropes: list[Any] = [
        module
        for module in network.modules()
        if type(module) is timm.layers.RotaryEmbeddingDinoV3 and not module.aug_active
    ]
    for rope in ropes:
        rope._create_embed = _kept(rope._create_embed)
    try:
        yield
    finally:
        for rope in ropes:
            del rope._create_embed


def _kept(create: Callable[[Sequence[int]], Tensor]) -> Callable[..., Tensor]:
    known: dict[tuple[int, ...], Tensor] = {}

    def create_once(shape: Sequence[int], *_: object, **__: object) -> Tensor:
        if tuple(shape) not in known:
            with torch.inference_mode(False), torch.no_grad():
                known[tuple(shape)] = create(shape)
        return known[tuple(shape)]

    return create_once
