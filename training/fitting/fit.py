"""Fits one network: set-up, epochs, validation after each, a checkpoint to go on from."""

import logging
import math
from dataclasses import replace

import cv2
import numpy as np
import torch
from accelerate import Accelerator
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from model.network.classifier import MitosisClassifier
from training.config import Config, ConfigError
from training.data.crops import BalancedSampler, LabelledCrops, TrainingCrops
from training.fitting.epoch import DivergedError, train_epoch
from training.fitting.losses import targets_and_weights
from training.fitting.predict import Inference
from training.fitting.run import Run
from training.fitting.state import Fit
from training.network.adapters import add_adapters
from training.network.classifier import TrainableClassifier, build_network, preprocessing_of
from training.network.pretrained import load_first_weights

logger = logging.getLogger(__name__)


def fit_network(
    run: Run, crops: LabelledCrops, name: str, seed: int, validation: LabelledCrops | None = None
) -> MitosisClassifier:
    """Trains one network, or goes on with one that was interrupted.

    Args:
        run: recipe, accelerator and folder.
        crops: to train on.
        name: of the fit, and of its folder in the run's, where the checkpoint and the TensorBoard log go.
        seed: of this fit.
        validation: crops that are only looked at, to log their ROC AUC after each epoch.

    Returns:
        The network with averaged weights, in evaluation mode; adapters are still apart from it.

    Raises:
        ConfigError: the processes cannot share a batch evenly.
        DivergedError: the loss is not finite.
        PretrainedError: the pretrained weights cannot be had.
    """
    config, accelerator, optimisation = run.config, run.accelerator, run.config.optimisation
    _forget_earlier_fits(accelerator)
    torch.manual_seed(seed)  # every process builds the same network
    phases = sorted({name for sample in crops.samples for name in sample.phases}) if config.loss.phases > 0 else []
    network = _first_network(config, len(phases))
    sampler = BalancedSampler(crops.labels, optimisation.balance, seed)
    dataset = TrainingCrops(crops.crops, *targets_and_weights(config, crops.samples, phases), config.augmentation, seed)
    batches = accelerator.prepare(_loader(dataset, sampler, run))
    steps = optimisation.epochs * math.ceil(len(batches) / optimisation.accumulation)
    fit = Fit.begin(config, accelerator, network, steps)

    folder = run.folder / name
    checkpoint = folder / "checkpoint.pt"
    first_epoch = fit.resume(checkpoint)
    writer = SummaryWriter(str(folder), purge_step=first_epoch + 1) if accelerator.is_main_process else None
    for epoch in range(first_epoch, optimisation.epochs):
        sampler.epoch = epoch
        # The network's own randomness comes from here alone, so an interrupted fit goes on with the same numbers.
        torch.manual_seed(_epoch_seed(seed, epoch, accelerator.process_index))
        loss = train_epoch(fit, batches, crops.names)
        fit.average.synchronise()
        figures = {"loss/train": loss, "learning_rate": fit.schedule.get_last_lr()[0]}
        if validation is not None:
            figures["roc_auc/validation"] = _roc_auc(fit, validation)
        text = "  ".join(f"{key} {value:.4g}" for key, value in figures.items())
        logger.info("%s epoch %d/%d  %s", name, epoch + 1, optimisation.epochs, text)
        if writer is not None:
            for key, value in figures.items():
                writer.add_scalar(key, value, epoch + 1)
            fit.save(checkpoint, epoch + 1)
    if writer is not None:
        writer.close()
    accelerator.wait_for_everyone()
    fit.average.copy_to(network)
    network.phase_head = None
    accelerator.free_memory()
    return network.eval()


def _forget_earlier_fits(accelerator: Accelerator) -> None:
    accelerator.free_memory()
    if accelerator.scaler is not None:
        accelerator.scaler = torch.amp.GradScaler(accelerator.device.type)


def _first_network(config: Config, phases: int) -> TrainableClassifier:
    network = build_network(config, phases)
    if config.network.pretrained:
        load_first_weights(network, config)
    if config.adapter.rank > 0:
        add_adapters(network, config.adapter)
    return network


def _loader(dataset: TrainingCrops, sampler: BalancedSampler, run: Run) -> DataLoader:
    batch_size, processes = run.config.optimisation.batch_size, run.accelerator.num_processes
    if batch_size % processes:
        raise ConfigError(
            f"optimisation.batch_size is {batch_size}, which {processes} processes cannot share evenly; choose a "
            "multiple of their number."
        )
    return DataLoader(
        dataset,
        batch_size=batch_size // processes,
        sampler=sampler,
        num_workers=run.config.data.workers,
        worker_init_fn=_one_thread,
        drop_last=len(dataset) > batch_size,
    )


def _one_thread(_: int) -> None:
    """Leaves the other processors to the training process: a crop is too small to be worth several threads."""
    cv2.setNumThreads(0)


def _roc_auc(fit: Fit, validation: LabelledCrops) -> float:
    """Of the averaged weights, at one field of view, without further views, in the precision of training."""
    preprocessing = replace(preprocessing_of(fit.config), scales=(1.0,))
    network = fit.plain_network
    with fit.average.applied_to(network):
        logits = Inference(fit.accelerator, preprocessing, exact=False).logits(network, validation.crops)
    if not np.isfinite(logits).all():
        raise DivergedError("The validation's logits are not finite; lower optimisation.learning_rate.")
    return float(roc_auc_score(validation.labels, logits))


def _epoch_seed(seed: int, epoch: int, process: int) -> int:
    return int(np.random.SeedSequence([seed, epoch, process]).generate_state(1, np.uint64)[0] >> 1)
