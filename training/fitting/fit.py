"""Fits one network: set-up, epochs, validation after each, a checkpoint to go on from, and what is left in the end."""

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from model.modes.writing import lock
from model.network.classifier import MitosisClassifier
from model.network.ensemble import Classifier
from model.network.weights import misfit
from training.config import Config, ConfigError, flat
from training.data.crops import BalancedSampler, LabelledCrops, TrainingCrops, some_of
from training.fitting.epoch import DivergedError, train_epoch
from training.fitting.loading import count_workers, loader
from training.fitting.losses import focal_loss, targets_and_weights
from training.fitting.predict import TRAINING, Inference
from training.fitting.run import Run, note_fit, progress_bar
from training.fitting.saving import damaged, whole_file
from training.fitting.state import Fit
from training.network.adapters import add_adapters
from training.network.classifier import TrainableClassifier, build_network, changing, copy_changing, preprocessing_of
from training.network.frozen import halve_frozen, restore
from training.network.pretrained import load_first_weights
from training.network.rotation import kept_rotation

logger = logging.getLogger(__name__)

FITTED = "fitted.safetensors"
"""What training changed, in the folder of a finished fit; the checkpoint, five times as large, is removed for it."""

SPREAD = "logit_spread"
"""Its metadata's key for `logit_spread`."""

SEEN_CROPS = 256
"""Number of its own crops that a fitted network is asked for, to compare how far its logits spread."""


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
        CaseError: another process makes this fit.
        ConfigError: the processes cannot share a batch evenly, or what an interrupted fit has left is damaged.
        DivergedError: the loss is not finite.
        PretrainedError: the pretrained weights cannot be had.
    """
    folder = run.folder / name
    if (folder / FITTED).is_file():
        return read_fitted(run, name)
    held = lock(folder) if run.accelerator.is_main_process else None
    try:
        return _fit(run, crops, name, seed, validation)
    finally:
        if held is not None:
            os.close(held)


def _fit(run: Run, crops: LabelledCrops, name: str, seed: int, validation: LabelledCrops | None) -> MitosisClassifier:
    """`fit_network`, where there is something to do."""
    config, accelerator, optimisation = run.config, run.accelerator, run.config.optimisation
    folder = run.folder / name
    _forget_earlier_fits(accelerator)
    torch.manual_seed(seed)  # every process builds the same network
    phases = sorted({name for sample in crops.samples for name in sample.phases}) if config.loss.phases > 0 else []
    network = first_network(config, len(phases))
    sampler = BalancedSampler(crops.labels, optimisation.balance, seed)
    dataset = TrainingCrops(crops.crops, *targets_and_weights(config, crops.samples, phases), config.augmentation, seed)
    batches = accelerator.prepare(_loader(dataset, sampler, run))
    steps = optimisation.epochs * math.ceil(len(batches) / optimisation.accumulation)
    originals = halve_frozen(network, accelerator.mixed_precision)
    fit = Fit.begin(config, accelerator, network, steps)

    checkpoint = folder / "checkpoint.pt"
    first_epoch = fit.resume(checkpoint)
    writer = SummaryWriter(str(folder), purge_step=first_epoch + 1) if accelerator.is_main_process else None
    figures: dict[str, float] = {}
    with (
        progress_bar(run, name, optimisation.epochs, len(batches), first_epoch) as bar,
        kept_rotation(network),
    ):
        for epoch in range(first_epoch, optimisation.epochs):
            sampler.epoch = epoch
            # The network's own randomness comes from here alone, so an interrupted fit goes on with the same numbers.
            torch.manual_seed(_epoch_seed(seed, epoch, accelerator.process_index))
            torch.empty((), dtype=torch.int64).random_()  # a loader took it once: fits begun then go on with the same
            loss = train_epoch(fit, batches, crops.names, bar)
            fit.average.synchronise()
            figures = {"loss/train": loss, "learning_rate": float(fit.schedule.get_last_lr()[0])}
            if validation is not None:
                figures |= _validate(fit, validation)
            text = "  ".join(f"{key} {value:.4g}" for key, value in figures.items())
            logger.info("%s epoch %d/%d  %s", name, epoch + 1, optimisation.epochs, text)
            if writer is not None:
                for key, value in figures.items():
                    writer.add_scalar(key, value, epoch + 1)
                note_fit(folder, run.identity)
                fit.save(checkpoint, epoch + 1)
    if writer is not None:
        writer.add_hparams(_hyperparameters(config), {f"last/{key}": figures[key] for key in figures}, run_name=".")
        writer.close()
    accelerator.wait_for_everyone()
    fit.average.copy_to(network)
    network.phase_head = None
    accelerator.free_memory()
    restore(network, originals)
    network.eval()
    spread = measure_spread(run, network, crops)
    if accelerator.is_main_process:
        _save_fitted(folder, network, spread)
        checkpoint.unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    return network


def read_fitted(run: Run, name: str) -> MitosisClassifier:
    """The network of a finished fit, as `fit_network` gave it.

    Raises:
        ConfigError: what the fit has left is damaged.
        PretrainedError: the pretrained weights, of which adapters leave most as they are, cannot be had.
    """
    network = first_network(run.config, 0)
    copy_changing(fitted_tensors(run, name, changing(network)), network)
    to_device: Any = network.to  # torch declares no memory format, but takes one
    return to_device(run.accelerator.device, memory_format=network.memory_format).eval()


def fitted_tensors(run: Run, name: str, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a finished fit changed (see `training.network.classifier.changing`), of the names and shapes expected.

    Raises:
        ConfigError: what the fit has left is damaged.
    """
    path = run.folder / name / FITTED
    try:
        tensors = load_file(path)
        if difference := misfit(tensors, expected):
            raise ValueError(difference)
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(path, path.parent, error) from error
    return tensors


def measure_spread(run: Run, network: Classifier, crops: LabelledCrops) -> float:
    """Standard deviation of a network's logits of some of the crops that it was fitted to, one view each."""
    inference = Inference(run.accelerator, preprocessing_of(run.config))
    return float(inference.logits(network, some_of(crops.crops, SEEN_CROPS)).std())


def logit_spread(run: Run, name: str) -> float:
    """`measure_spread` of a finished fit, as it was noted then; raises as `read_fitted`."""
    path = run.folder / name / FITTED
    try:
        with safe_open(path, "pt") as file:
            return float(file.metadata()[SPREAD])
    except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
        raise damaged(path, path.parent, error) from error


def _hyperparameters(config: Config) -> dict[str, bool | str | float | int]:
    """The recipe as TensorBoard takes it, lists and mappings as text."""
    return {
        key: value if isinstance(value, bool | str | float | int) else str(value) for key, value in flat(config).items()
    }


def _save_fitted(folder: Path, network: MitosisClassifier, spread: float) -> None:
    """Writes what training changed, whole or not at all."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in changing(network).items()}
    with whole_file(folder / FITTED) as partial:
        save_file(tensors, partial, {SPREAD: repr(spread)})


def _forget_earlier_fits(accelerator: Accelerator) -> None:
    accelerator.free_memory()
    if accelerator.scaler is not None:
        accelerator.scaler = torch.amp.GradScaler(accelerator.device.type)


def first_network(config: Config, phases: int) -> TrainableClassifier:
    """A recipe's network before its first step: with the weights that it starts from, and adapters.

    Raises:
        UserError: the weights cannot be had, or the adapters do not fit.
    """
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
    return loader(dataset, sampler, batch_size, count_workers(run.config.data.workers), run.accelerator)


def _validate(fit: Fit, validation: LabelledCrops) -> dict[str, float]:
    """Figures of the averaged weights, at one field of view, without further views, in the precision of training."""
    preprocessing = replace(preprocessing_of(fit.config), scales=(1.0,))
    network, config = fit.plain_network, fit.config.loss
    with fit.average.applied_to(network):
        logits = Inference(fit.accelerator, preprocessing, precision=TRAINING).logits(network, validation.crops)
    if not np.isfinite(logits).all():
        raise DivergedError("The validation's logits are not finite; lower optimisation.learning_rate.")
    loss = focal_loss(torch.as_tensor(logits), torch.as_tensor(validation.labels, dtype=torch.float64), config.gamma)
    return {
        "roc_auc/validation": float(roc_auc_score(validation.labels, logits)),
        "balanced_accuracy/validation": float(balanced_accuracy_score(validation.labels, logits >= 0)),
        "loss/validation": float(loss.mean()),
    }


def _epoch_seed(seed: int, epoch: int, process: int) -> int:
    return int(np.random.SeedSequence([seed, epoch, process]).generate_state(1, np.uint64)[0] >> 1)
