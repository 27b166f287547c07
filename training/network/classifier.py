"""A recipe's network as training needs it: a second head, and what of it training changes."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from model.network.classifier import MitosisClassifier
from model.network.preprocessing import Preprocessing
from model.network.weights_config import Network
from training.config import Config, ConfigError, NetworkConfig


class TrainableClassifier(MitosisClassifier):
    """The network with a second head that only training needs: for the phases of mitosis.

    Args:
        config: the network's.
        phases: how many; 0 for no second head.
    """

    def __init__(self, config: NetworkConfig, phases: int = 0) -> None:
        super().__init__(config.backbone, config.pooling, config.backbone_args, config.dropout)
        self.phase_head = nn.Linear(self.head.in_features, phases) if phases else None

    def forward(self, images: Tensor) -> Tensor:
        """Logits as `MitosisClassifier.forward` gives them, (N,); in training (N, 1 + P), the class first.

        Args:
            images: (N, 3 K, S, S); in training K is 1.
        """
        if not self.training:
            return super().forward(images)
        features = self.features(images).squeeze(1)
        heads = [self.head] if self.phase_head is None else [self.head, self.phase_head]
        with torch.autocast(images.device.type, enabled=False):
            return torch.cat([head(self.dropout(features)) for head in heads], dim=1)


def build_network(config: Config, phases: int = 0) -> TrainableClassifier:
    """A recipe's network before any weights are loaded or adapters added, with a head for so many phases.

    Whether `optimisation.gradient_checkpointing=auto` is yes or no is to be decided before: here it is no.
    """
    classifier = TrainableClassifier(config.network, phases)
    if config.optimisation.gradient_checkpointing is True:
        backbone: Any = classifier.backbone
        backbone.set_grad_checkpointing()
    return classifier


def network_of(config: Config, members: int = 1) -> Network:
    """What config.json of a weights folder says of a recipe's network, or of so many as an ensemble."""
    return Network(config.network.backbone, config.network.pooling, config.network.backbone_args, members)


def preprocessing_of(config: Config) -> Preprocessing:
    """The preprocessing that a recipe's network is trained for.

    Raises:
        ConfigError: a size is not positive, or mean and std are not of three channels.
    """
    network = config.network
    mean, std = (cast(tuple[float, float, float], tuple(values)) for values in (network.mean, network.std))
    try:
        return Preprocessing(network.field_of_view, network.input_size, mean, std, tuple(network.scales))
    except ValueError as error:
        raise ConfigError(f"The settings of network contradict each other: {error}") from error


def changing(network: nn.Module) -> dict[str, Tensor]:
    """What training changes of a network: its trainable parameters and its buffers, by name."""
    parameters: dict[str, Tensor] = {name: p for name, p in network.named_parameters() if p.requires_grad}
    return parameters | dict(network.named_buffers())


@torch.no_grad()
def copy_changing(tensors: Mapping[str, Tensor], network: nn.Module) -> None:
    """Puts what `changing` gave into a network of the same kind, in place."""
    for name, tensor in changing(network).items():
        tensor.copy_(tensors[name])
