"""One epoch of training."""

import math
from collections.abc import Iterable, Sequence

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from model.errors import UserError
from model.network.preprocessing import Preprocessing
from training.config import LossConfig, OptimisationConfig
from training.data.augmentation import augment, mix
from training.fitting.averaging import WeightAverage
from training.fitting.losses import classification_loss


class DivergedError(UserError):
    """The loss is not finite any more."""


def train_epoch(
    network: nn.Module,
    average: WeightAverage,
    batches: Iterable,
    preprocessing: Preprocessing,
    loss_config: LossConfig,
    optimisation: OptimisationConfig,
    optimizer: Optimizer,
    schedule: LRScheduler,
    accelerator: Accelerator,
    names: Sequence[str],
) -> float:
    """Goes through all batches once, changing the weights and their average after every `accumulation` of them.

    Args:
        network: gives (N, T) logits for T targets; prepared by `accelerator`, like `batches` and `optimizer`.
        average: the average of the weights, updated with every change.
        batches: of the items of `training.data.crops.TrainingCrops`.
        names: of the crops, for the sentence of the error.

    Returns:
        Mean loss over the crops of all processes.

    Raises:
        DivergedError: the loss of a batch is not a finite number; tells the names of its crops.
    """
    network.train()
    losses, crops_seen = torch.zeros(2, device=accelerator.device)
    for batch in batches:
        numbers = batch["numbers"]
        images = augment(batch["crop"], numbers, preprocessing)
        images, targets, weights = mix(images, batch["target"], batch["weight"], numbers)
        with accelerator.accumulate(network):
            with accelerator.autocast():
                logits = network(images)
            loss = classification_loss(logits.float(), targets, loss_config)
            loss = (loss * weights).mean()
            value = loss.item()
            _check_finite("loss", value, batch, names)
            accelerator.backward(loss)
            if accelerator.sync_gradients and optimisation.gradient_clip > 0:
                norm = accelerator.clip_grad_norm_(network.parameters(), optimisation.gradient_clip)
                if accelerator.scaler is None:  # a scaler leaves such steps out and lowers its scale
                    _check_finite("gradient's norm", float(norm), batch, names)
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            schedule.step()
            average.update(accelerator.unwrap_model(network))
        losses += value * len(targets)
        crops_seen += len(targets)
    losses, crops_seen = accelerator.reduce(torch.stack([losses, crops_seen]))
    return float(losses / crops_seen)


def _check_finite(what: str, value: float, batch: dict, names: Sequence[str]) -> None:
    if not math.isfinite(value):
        of_batch = ", ".join(names[index] for index in batch["index"].tolist())
        raise DivergedError(
            f"The {what} became {value}; look at the crops of this batch ({of_batch}) or lower "
            "optimisation.learning_rate."
        )


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
