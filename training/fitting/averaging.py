"""The exponential moving average of the weights, which is what a fit keeps."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import broadcast
from torch import nn

from training.network.classifier import changing, copy_changing


class WeightAverage:
    """Average of what training changes: the trainable parameters, and the buffers (running statistics).

    Frozen parameters are not copied: under adapters they are nearly all of the network. Starts as a copy of the first
    weights it is updated with.

    Args:
        network: the network being trained.
        decay: share of the old average that an update keeps.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.tensors = {name: tensor.detach().clone() for name, tensor in changing(network).items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Moves the average towards the network's weights."""
        current = changing(network)
        averaged = [name for name, tensor in current.items() if tensor.is_floating_point() and self.updates]
        if averaged:
            torch._foreach_lerp_(
                [self.tensors[name] for name in averaged], [current[name].detach() for name in averaged], 1 - self.decay
            )
        for name in current.keys() - set(averaged):
            self.tensors[name].copy_(current[name])
        self.updates += 1

    @contextmanager
    def applied_to(self, network: nn.Module) -> Iterator[None]:
        """Gives a network the averaged weights for the time of a `with` block."""
        own = {name: tensor.detach().clone() for name, tensor in changing(network).items()}
        self.copy_to(network)
        try:
            yield
        finally:
            copy_changing(own, network)

    def copy_to(self, network: nn.Module) -> None:
        """Gives a network the averaged weights."""
        copy_changing(self.tensors, network)

    def synchronise(self) -> None:
        """Gives every process the first one's average: running statistics are of the crops a process has seen."""
        broadcast(self.tensors)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: the averaged tensors by name, and the number of updates."""
        return {**self.tensors, "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        self.updates = int(state["updates"])
        for name, tensor in self.tensors.items():
            tensor.copy_(state[name])
