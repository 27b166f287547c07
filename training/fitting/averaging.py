"""The exponential moving average of the weights, which is what a fit keeps."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.utils import broadcast
from torch import Tensor, nn


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
            _copy(own, network)

    def copy_to(self, network: nn.Module) -> None:
        """Gives a network the averaged weights."""
        _copy(self.tensors, network)

    def synchronise(self) -> None:
        """Gives every process the first one's average: running statistics are of the crops a process has seen."""
        broadcast(self.tensors)

    def state_dict(self) -> dict[str, Tensor | int]:
        """For a checkpoint."""
        return self.tensors | {"updates": self.updates}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """From a checkpoint."""
        self.updates = int(state["updates"])
        for name, tensor in self.tensors.items():
            tensor.copy_(state[name])  # type: ignore[arg-type]


class ChangingState:
    """What of a network goes into a checkpoint: its trainable parameters and buffers.

    Args:
        network: the network being trained.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def state_dict(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return changing(self.network)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """From a checkpoint."""
        _copy(state, self.network)


def changing(network: nn.Module) -> dict[str, Tensor]:
    """What training changes of a network: its trainable parameters and its buffers, by name."""
    parameters = {name: tensor for name, tensor in network.named_parameters() if tensor.requires_grad}
    return parameters | dict(network.named_buffers())


@torch.no_grad()
def _copy(tensors: dict[str, Tensor], network: nn.Module) -> None:
    for name, tensor in changing(network).items():
        tensor.copy_(tensors[name])
