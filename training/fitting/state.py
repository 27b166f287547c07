"""The state of one fit: how it starts, and the checkpoint that an interrupted one goes on from."""

import logging
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from model.network.classifier import MitosisClassifier
from training.config import Config
from training.fitting.averaging import WeightAverage
from training.fitting.saving import damaged, whole_file
from training.network.classifier import changing, copy_changing

logger = logging.getLogger(__name__)

UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError)
"""What PyTorch raises of a checkpoint that is cut off, or is none; not of a disk that does not answer."""


@dataclass
class Fit:
    """The state of one fit.

    Attributes:
        config: the recipe.
        accelerator: where and in which precision it runs.
        network: prepared by the accelerator; gives (N, T) logits for T targets.
        average: of the network's weights.
        optimizer: prepared by the accelerator.
        schedule: of the learning rate.
    """

    config: Config
    accelerator: Accelerator
    network: nn.Module
    average: WeightAverage
    optimizer: Optimizer
    schedule: LRScheduler

    @classmethod
    def begin(cls, config: Config, accelerator: Accelerator, network: MitosisClassifier, steps: int) -> Self:
        """The state before the first step.

        Args:
            config: the recipe.
            accelerator: where the fit runs.
            network: with its first weights; it is moved to the accelerator's device.
            steps: changes of the weights in the whole fit.
        """
        optimisation = config.optimisation
        to_device: Any = network.to  # torch declares no memory format, but takes one
        to_device(accelerator.device, memory_format=network.memory_format)
        average = WeightAverage(network, optimisation.average_decay)
        groups = parameter_groups(network, optimisation.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=optimisation.learning_rate, fused=True)
        prepared, optimizer = accelerator.prepare(network, optimizer)
        schedule = warmup_cosine(optimizer, steps, optimisation.warmup)
        return cls(config, accelerator, prepared, average, optimizer, schedule)

    @property
    def plain_network(self) -> MitosisClassifier:
        """The network without what the accelerator puts around it."""
        return self.accelerator.unwrap_model(self.network)

    def save(self, path: Path, epochs_done: int) -> None:
        """Writes a checkpoint, whole or not at all.

        Raises:
            ConfigError: it cannot be written.
        """
        content = {name: part.state_dict() for name, part in self._parts().items()}
        content |= {"network": changing(self.plain_network), "epochs_done": epochs_done}
        with whole_file(path) as partial:
            torch.save(content, partial)

    def resume(self, path: Path) -> int:
        """Takes a checkpoint's state, if there is one; returns the number of epochs that are done.

        Raises:
            ConfigError: it is damaged.
        """
        if not path.is_file():
            return 0
        parts = self._parts()
        try:
            content: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            done = int(content["epochs_done"])
            if missing := {"network", *parts} - {"scaler"} - content.keys():
                raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        except UNREADABLE as error:
            raise damaged(path, path.parent, error) from error
        copy_changing(content["network"], self.plain_network)
        for name, part in parts.items():
            if name != "scaler" or name in content:  # a fit begun in another precision has no scaler
                part.load_state_dict(content[name])
        logger.info("Going on from %s after epoch %d.", path, done)
        return done

    def _parts(self) -> dict[str, Any]:
        """All that keeps a state of its own, by its name in a checkpoint."""
        parts = {"average": self.average, "optimizer": self.optimizer, "schedule": self.schedule}
        return parts if self.accelerator.scaler is None else parts | {"scaler": self.accelerator.scaler}


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict]:
    """The trainable parameters in two groups: matrices and kernels with weight decay; biases, norms, scales without."""
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]


def warmup_cosine(optimizer: Optimizer, steps: int, warmup: float) -> LRScheduler:
    """Linear warm-up over the share `warmup` of all `steps`, then half a cosine down to zero."""
    rise = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, steps - rise))))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
