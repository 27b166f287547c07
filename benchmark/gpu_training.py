"""A training step of DINOv3 ViT-H+/16 with adapters, as `training/` does it, against a plain float32 loop.

Part of `python -m benchmark.gpu`. Random weights and drawn crops; batches of 16 at 224 px, rank-8 adapters on query and
value, everything else frozen. The plain loop has the same network, adapters and loss, but computes in float32 without
TensorFloat-32, keeps all activations, and gets its batches for nothing: random images that are on the device already.
"""

import gc
import importlib.util
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import yaml

from benchmark.measuring import attempt, draw_crops

RECIPE = Path(__file__).parent.parent / "training" / "configs" / "dinov3_hplus.yaml"
GIB = 2**30


def training_steps(trial: bool, steps: int) -> dict:
    """Seconds a step, peak memory and share of the time spent waiting for batches, of each way to train.

    Args:
        trial: a tiny network on the CPU, to try the script out.
        steps: how many to time, after three that are not.
    """
    _do_without_omegaconf()
    figures: dict = {"steps": steps}
    for name, checkpointing, half in (
        ("bf16", False, True),
        ("bf16_checkpointing", True, True),
        ("bf16_frozen_weights_in_float32", False, False),
        ("bf16_frozen_weights_in_float32_checkpointing", True, False),
    ):
        figures[name] = attempt(partial(_adapted, trial, steps, checkpointing, half))
    figures["plain_float32"] = attempt(partial(_plain, trial, steps))
    plain = figures["plain_float32"].get("seconds_a_step")
    for figure in figures.values():
        if plain and isinstance(figure, dict) and "seconds_a_step" in figure:
            figure["times_faster_than_plain"] = round(plain / figure["seconds_a_step"], 2)
    figures["frozen_weights_in_half_precision"] = attempt(partial(_change_of_logits, trial))
    return figures


def _do_without_omegaconf() -> None:
    """A stand-in where it is not installed: it only reads recipes' files, which is done here."""
    if importlib.util.find_spec("omegaconf") is None:
        package, errors = ModuleType("omegaconf"), ModuleType("omegaconf.errors")
        vars(package).update(MISSING="???", OmegaConf=None)
        vars(errors).update(OmegaConfBaseException=Exception)
        sys.modules |= {"omegaconf": package, "omegaconf.errors": errors}


def _config(trial: bool, checkpointing: bool):
    from training.config import Config

    config, recipe = Config(), yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    for section in ("network", "adapter", "augmentation", "optimisation"):
        for key, value in recipe.get(section, {}).items():
            setattr(getattr(config, section), key, value)
    config.optimisation.learning_rate = float(config.optimisation.learning_rate)
    config.optimisation.gradient_checkpointing = checkpointing
    if trial:
        config.network.backbone, config.network.input_size, config.optimisation.batch_size = (
            "vit_small_patch16_dinov3",
            64,
            2,
        )
        config.network.backbone_args["depth"] = 2
    return config


class _Timed:
    """Batches, with the seconds that were spent waiting for them."""

    def __init__(self, batches) -> None:
        self.batches, self.waited = batches, 0.0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator:
        iterator = iter(self.batches)
        while True:
            start = time.perf_counter()
            batch = next(iterator, None)
            self.waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch


def _network(config, device: torch.device):
    from training.network.adapters import add_adapters
    from training.network.classifier import build_network

    with device:
        network = build_network(config)
    add_adapters(network, config.adapter)
    to_device: Any = network.to  # whose types do not know of memory formats
    return to_device(device, memory_format=network.memory_format)


def _adapted(trial: bool, steps: int, checkpointing: bool, half: bool) -> dict:
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration

    from training.data.crops import BalancedSampler, TrainingCrops
    from training.fitting.epoch import train_epoch
    from training.fitting.loading import count_workers, loader
    from training.fitting.state import Fit
    from training.network.frozen import halve_frozen
    from training.network.rotation import kept_rotation

    config, warm = _config(trial, checkpointing), 3
    optimisation = config.optimisation
    accelerator = Accelerator(
        mixed_precision="bf16", cpu=trial, dataloader_config=DataLoaderConfiguration(non_blocking=True)
    )
    network = _network(config, accelerator.device)
    if half:
        halve_frozen(network, accelerator.mixed_precision)
    _start_counting()  # here, as a fit halves them on the CPU
    fit = Fit.begin(config, accelerator, network, warm + steps)

    def epoch(count: int) -> _Timed:
        labels = np.arange(count * optimisation.batch_size) % 2
        crops, weights = draw_crops(64) * (len(labels) // 64 + 1), np.ones(len(labels))
        dataset = TrainingCrops(crops, labels[:, None], weights, config.augmentation, 0)
        sampler, workers = BalancedSampler(labels, 1.0, 0), count_workers(config.data.workers)
        batches = _Timed(accelerator.prepare(loader(dataset, sampler, optimisation.batch_size, workers, accelerator)))
        with kept_rotation(network):
            train_epoch(fit, batches, [f"crop {i}" for i in range(len(labels))])
        return batches

    epoch(warm)
    start, batches = time.perf_counter(), epoch(steps)
    seconds = time.perf_counter() - start
    accelerator.free_memory()
    return _figures(seconds, steps) | {"loading_share": round(batches.waited / seconds, 3)}


def _plain(trial: bool, steps: int) -> dict:
    from training.fitting.losses import classification_loss

    config = _config(trial, False)
    device = torch.device("cpu" if trial else "cuda")
    _start_counting()
    network = _network(config, device).train()
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.1)
    size, side = config.optimisation.batch_size, config.network.input_size
    images = torch.randn(size, 3, side, side, device=device)
    targets = (torch.arange(size, device=device) % 2 * 1.0).unsqueeze(1)
    start = 0.0
    for step in range(steps + 3):
        if step == 3:
            start = time.perf_counter()
        loss = classification_loss(network(images), targets, config.loss).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
    return _figures(time.perf_counter() - start, steps)


def _change_of_logits(trial: bool) -> dict:
    """How far storing frozen weights in half precision moves the logits of autocast; the adapters have done nothing."""
    from training.network.frozen import halve_frozen

    config = _config(trial, False)
    device = torch.device("cpu" if trial else "cuda")
    network = _network(config, device).eval()
    images = torch.randn(config.optimisation.batch_size, 3, config.network.input_size, config.network.input_size)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
        expected = network(images.to(device))
    halve_frozen(network, "bf16")
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
        found = network(images.to(device))
    return {"largest_change": float((found - expected).abs().max()), "largest_logit": float(expected.abs().max())}


def _start_counting() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _figures(seconds: float, steps: int) -> dict:
    peak = torch.cuda.max_memory_allocated() / GIB if torch.cuda.is_available() else float("nan")
    return {"seconds_a_step": round(seconds / steps, 4), "peak_gib": round(peak, 2)}
