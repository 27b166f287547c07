"""One epoch of training.

A step waits for the GPU once, for its loss and the gradient's norm together; all else is asked for in advance.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from model.errors import UserError
from model.network import views
from training.config import LossConfig
from training.data.augmentation import augment, mix
from training.fitting.losses import classification_loss, consistency_loss
from training.fitting.state import Fit
from training.network.classifier import preprocessing_of

Batch = dict[str, Any]
"""As `training.data.crops.stack` gives it."""


class Batches(Protocol):
    """All batches of an epoch, such as a data loader has."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


class DivergedError(UserError):
    """The loss is not finite any more."""


def train_epoch(fit: Fit, batches: Batches, names: Sequence[str], progress: tqdm | None = None) -> float:
    """Goes through all batches once, changing the weights and their average after every `accumulation` of them.

    Args:
        fit: its network, average, optimizer and schedule are changed.
        batches: prepared by the fit's accelerator.
        names: of the crops, for the sentence of the error.
        progress: a bar to count batches with.

    Returns:
        Mean loss over the crops of all processes.

    Raises:
        DivergedError: the loss of a batch is not a finite number; tells the names of its crops.
    """
    accelerator, network, optimisation = fit.accelerator, fit.network, fit.config.optimisation
    preprocessing = preprocessing_of(fit.config)
    network.train()
    losses, crops_seen = torch.zeros(2)
    for number, batch in enumerate(batches):
        numbers = batch["numbers"]
        images = augment(batch["crop"], numbers, preprocessing)
        images, targets, weights = mix(images, batch["target"], batch["weight"], numbers)
        with accelerator.accumulate(network):
            shown = _with_another_view(images) if fit.config.loss.consistency > 0 else images
            with accelerator.autocast():
                logits = network(shown)
            loss = (_losses(logits.float(), targets, fit.config.loss) * weights).mean()
            accelerator.backward(loss * _share_made_up_for(number, len(batches), optimisation.accumulation))
            found = [loss.detach()]
            if accelerator.sync_gradients and optimisation.gradient_clip > 0:
                found.append(accelerator.clip_grad_norm_(network.parameters(), optimisation.gradient_clip))
            value, *norm = torch.stack(found).cpu().tolist()
            _check_finite("loss", value, batch, names)
            if norm and accelerator.scaler is None:  # a scaler leaves such steps out and lowers its scale
                _check_finite("gradient's norm", norm[0], batch, names)
            fit.optimizer.step()
            fit.optimizer.zero_grad()
        if accelerator.sync_gradients:
            fit.schedule.step()
            fit.average.update(fit.plain_network)
        losses += value * len(targets)
        crops_seen += len(targets)
        if progress is not None:
            progress.update()
    losses, crops_seen = accelerator.reduce(torch.stack([losses, crops_seen]).to(accelerator.device))
    return float(losses / crops_seen)


def _with_another_view(images: Tensor) -> Tensor:
    """(2 N, 3, S, S): images, and the same by one of the seven other symmetries of the square, drawn for the batch."""
    chosen = int(torch.randint(1, views.count("d4"), ()))
    both = torch.cat([images, views.one(images, "d4", chosen)])
    return both.contiguous(memory_format=torch.channels_last)


def _losses(logits: Tensor, targets: Tensor, config: LossConfig) -> Tensor:
    """The loss of each crop, of one view or, with `loss.consistency`, of two: (N,)."""
    of_views = logits.split(len(targets))
    classified = torch.stack([classification_loss(own, targets, config) for own in of_views]).mean(dim=0)
    return classified + config.consistency * consistency_loss(*of_views) if len(of_views) > 1 else classified


def _share_made_up_for(number: int, batches: int, accumulation: int) -> float:
    """Accelerate divides every loss by `accumulation`; the last group of batches may be shorter."""
    return accumulation / min(accumulation, batches - number // accumulation * accumulation)


def _check_finite(what: str, value: float, batch: Batch, names: Sequence[str]) -> None:
    if not math.isfinite(value):
        crops = ", ".join(names[index] for index in batch["index"].tolist())
        raise DivergedError(
            f"The {what} became {value}; look at the crops of this batch ({crops}) or lower optimisation.learning_rate."
        )
