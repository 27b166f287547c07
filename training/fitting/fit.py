"""Fits one network: set-up, epochs, validation after each, a checkpoint to go on from."""

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from accelerate import Accelerator
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from model.network.classifier import MitosisClassifier
from model.network.preprocessing import Preprocessing
from model.predictor import ViewAverage
from model.speed.folding import fold
from training.config import Config, ConfigError, NetworkConfig
from training.data.crops import BalancedSampler, TrainingCrops
from training.data.manifest import Sample
from training.fitting.averaging import ChangingState, WeightAverage
from training.fitting.epoch import DivergedError, parameter_groups, train_epoch, warmup_cosine
from training.fitting.losses import domain_weights
from training.network.adapters import add_adapters
from training.network.pretrained import load_pretrained

logger = logging.getLogger(__name__)

VALIDATION_BATCH = 32


class TrainableClassifier(MitosisClassifier):
    """The network with a second head that only training needs: for the phases of mitosis.

    Args:
        config: the network's.
        phases: how many; 0 for no second head.
    """

    def __init__(self, config: NetworkConfig, phases: int = 0) -> None:
        super().__init__(config.backbone, config.pooling, config.backbone_args, config.dropout)
        self.phase_head = nn.Linear(self.backbone.head_hidden_size, phases) if phases else None

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


def preprocessing_of(config: Config) -> Preprocessing:
    """The preprocessing that a recipe's network is trained for."""
    network = config.network
    return Preprocessing(
        network.field_of_view, network.input_size, tuple(network.mean), tuple(network.std), tuple(network.scales)
    )


def build_network(config: Config, phases: int = 0) -> TrainableClassifier:
    """A recipe's network before any weights are loaded or adapters added, with a head for so many phases."""
    classifier = TrainableClassifier(config.network, phases)
    if config.optimisation.gradient_checkpointing:
        classifier.backbone.set_grad_checkpointing()
    return classifier


def fit(
    config: Config,
    accelerator: Accelerator,
    crops: Sequence[np.ndarray],
    samples: Sequence[Sample],
    validation: tuple[Sequence[np.ndarray], np.ndarray] | None,
    folder: Path,
    seed: int,
) -> MitosisClassifier:
    """Trains one network, or goes on with one that was interrupted.

    Args:
        config: the recipe.
        accelerator: where and in which precision it runs.
        crops: N training crops (H, W, 3) uint8, of one size.
        samples: what is known of them.
        validation: crops and labels that are only looked at, to log their ROC AUC after each epoch.
        folder: where the checkpoint and the TensorBoard log go.
        seed: of this fit.

    Returns:
        The network with averaged weights, in evaluation mode; adapters are still apart from it.

    Raises:
        ConfigError: the processes cannot share a batch evenly.
        DivergedError: the loss is not finite.
        PretrainedError: the pretrained weights cannot be had.
    """
    accelerator.free_memory()  # of the fit before
    if accelerator.scaler is not None:
        accelerator.scaler = torch.amp.GradScaler(accelerator.device.type)
    torch.manual_seed(seed)  # every process builds the same network
    optimisation, preprocessing = config.optimisation, preprocessing_of(config)
    phases = sorted({name for sample in samples for name in sample.phases}) if config.loss.phases > 0 else []
    network = build_network(config, len(phases))
    if config.network.pretrained:
        load_pretrained(network.backbone, config.network.pretrained)
    if config.adapter.rank > 0:
        add_adapters(network, config.adapter)
    network = network.to(accelerator.device, memory_format=torch.channels_last)
    average = WeightAverage(network, optimisation.average_decay)

    labels = np.array([sample.label for sample in samples])
    if optimisation.batch_size % accelerator.num_processes:
        raise ConfigError(
            f"optimisation.batch_size is {optimisation.batch_size}, which {accelerator.num_processes} processes cannot "
            "share evenly; choose a multiple of their number."
        )
    sampler = BalancedSampler(labels, optimisation.balance, seed)
    batches = DataLoader(
        TrainingCrops(crops, *targets_and_weights(config, samples, phases), config.augmentation, seed),
        batch_size=optimisation.batch_size // accelerator.num_processes,
        sampler=sampler,
        num_workers=config.data.workers,
        worker_init_fn=_one_thread,
        drop_last=len(labels) > optimisation.batch_size,
    )
    optimizer = torch.optim.AdamW(
        parameter_groups(network, optimisation.weight_decay), lr=optimisation.learning_rate, fused=True
    )
    network, optimizer, batches = accelerator.prepare(network, optimizer, batches)
    steps = optimisation.epochs * math.ceil(len(batches) / optimisation.accumulation)
    schedule = warmup_cosine(optimizer, steps, optimisation.warmup)

    checkpoint = folder / "checkpoint.pt"
    plain = accelerator.unwrap_model(network)
    state = {"network": ChangingState(plain), "average": average, "optimizer": optimizer, "schedule": schedule}
    if accelerator.scaler is not None:
        state["scaler"] = accelerator.scaler
    first_epoch = _resume(checkpoint, state) if checkpoint.is_file() else 0
    writer = SummaryWriter(str(folder), purge_step=first_epoch) if accelerator.is_main_process else None
    names = [sample.path.name for sample in samples]
    for epoch in range(first_epoch, optimisation.epochs):
        sampler.epoch = epoch
        # The network's own randomness comes from here alone, so an interrupted fit goes on with the same numbers.
        torch.manual_seed(_epoch_seed(seed, epoch, accelerator.process_index))
        loss = train_epoch(
            network, average, batches, preprocessing, config.loss, optimisation, optimizer, schedule, accelerator, names
        )
        average.synchronise()
        figures = {"loss/train": loss, "learning_rate": schedule.get_last_lr()[0]}
        if validation is not None:
            with average.applied_to(plain):
                one_scale = replace(preprocessing, scales=(1.0,))
                logits = predict(plain, one_scale, validation[0], "none", accelerator, exact=False)
            if not np.isfinite(logits).all():
                raise DivergedError("The validation's logits are not finite; lower optimisation.learning_rate.")
            figures["roc_auc/validation"] = float(roc_auc_score(validation[1], logits))
        logger.info(
            "%s epoch %d/%d  %s",
            folder.name, epoch + 1, optimisation.epochs, "  ".join(f"{k} {v:.4g}" for k, v in figures.items()),
        )  # fmt: skip
        if writer is not None:
            for name, value in figures.items():
                writer.add_scalar(name, value, epoch + 1)
            _save(checkpoint, state, epoch + 1)
    if writer is not None:
        writer.close()
    accelerator.wait_for_everyone()
    average.copy_to(plain)
    plain.phase_head = None
    accelerator.free_memory()
    return plain.eval()


def targets_and_weights(
    config: Config, samples: Sequence[Sample], phases: Sequence[str] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """What the network is to say of each sample, and the sample's weight in the loss.

    Returns:
        (N, 1 + P): how atypical it is, and the share of the experts for each of P phases, 0 to 1; (N,).
    """
    labels = np.array([sample.label for sample in samples], dtype=float)
    atypical = [sample.soft_label for sample in samples] if config.data.soft_labels else labels
    shares = [[sample.phases.count(name) / max(1, len(sample.phases)) for name in phases] for sample in samples]
    targets = np.column_stack([atypical, np.reshape(shares, (len(samples), len(phases)))])
    if not config.loss.domain_weighted:
        return targets, np.ones(len(samples))
    domains = [sample.domain for sample in samples]
    return targets, domain_weights(labels, domains, config.optimisation.balance, config.loss.domain_smoothing)


def predict(
    network: MitosisClassifier,
    preprocessing: Preprocessing,
    crops: Sequence[np.ndarray],
    view_set: str,
    accelerator: Accelerator,
    exact: bool = True,
) -> np.ndarray:
    """View-averaged logits (N,) of crops, by the container's own code, which folds batch norms on the CPU.

    Every process takes its share.

    Args:
        network: in evaluation mode afterwards.
        preprocessing: the one it was trained with.
        crops: N arrays (H, W, 3) uint8.
        view_set: one of `model.constants.VIEW_SETS`.
        accelerator: where it runs.
        exact: in float32, without TensorFloat-32; otherwise in the precision of training.
    """
    network.eval()
    if accelerator.device.type == "cpu" and accelerator.mixed_precision == "no":
        forward = fold(accelerator.unwrap_model(network), preprocessing.channels, preprocessing.input_size)
    else:
        # Accelerate replaces the instance's `forward` by one in mixed precision; the class's own is the container's.
        forward = partial(type(network).forward, network) if exact else network
    logits = torch.zeros(len(crops), dtype=torch.float64, device=accelerator.device)
    share = range(accelerator.process_index, len(crops), accelerator.num_processes)
    if len(share):
        fields = preprocessing.cut_out([crops[i] for i in share])
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=not exact):
            average = ViewAverage(forward, preprocessing, view_set, VALIDATION_BATCH, accelerator.device)
            own = average.logits(fields)
        logits[list(share)] = torch.as_tensor(own, dtype=logits.dtype, device=logits.device)
    return accelerator.reduce(logits).cpu().numpy()


def _one_thread(_: int) -> None:
    """Leaves the other processors to the training process: a crop is too small to be worth several threads."""
    cv2.setNumThreads(0)


def _epoch_seed(seed: int, epoch: int, process: int) -> int:
    return int(np.random.SeedSequence([seed, epoch, process]).generate_state(1, np.uint64)[0] >> 1)


def _save(path: Path, state: dict, epochs_done: int) -> None:
    content = {name: part.state_dict() for name, part in state.items()} | {"epochs_done": epochs_done}
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    os.replace(partial, path)


def _resume(path: Path, state: dict) -> int:
    content = torch.load(path, map_location="cpu", weights_only=True)
    for name, part in state.items():
        if name in content:  # a fit begun in another precision has no scaler
            part.load_state_dict(content[name])
    logger.info("Going on from %s after epoch %d.", path, content["epochs_done"])
    return content["epochs_done"]
