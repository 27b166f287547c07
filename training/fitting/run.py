"""A run: what every fit of a recipe has in common."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from model.device import try_gpu
from model.files import write_whole
from training.config import Config, ConfigError
from training.data.crops import LabelledCrops
from training.data.folds import Split

NOTE = "fit.json"
"""In the folder of each fit that has a checkpoint: what it is of."""

LAUNCHER_VARIABLES = {"RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}
"""By which processes find one another, of `torch.distributed.run`."""


@dataclass(frozen=True)
class Run:
    """What every fit of a recipe has in common.

    Attributes:
        config: the recipe.
        accelerator: where and in which precision fits run.
        crops: all of them.
        folder: where a fit has a folder of its name; what is found there is not done again.
        identity: what tells fits of one run from those of another: the values of the recipe that change a fit, by
            dotted key, and `data`, the SHA-256 of the crops and of what is known of them.
        splits: what is held out, of the crops.
        smoke: whether this is a dry run, whose networks have learnt nothing.
    """

    config: Config
    accelerator: Accelerator
    crops: LabelledCrops
    folder: Path
    identity: dict[str, Any] = field(default_factory=dict)
    splits: Sequence[Split] = ()
    smoke: bool = False


def note_fit(folder: Path, identity: dict[str, Any]) -> None:
    """Notes in a fit's folder what the fit is of (`Run.identity`), unless that is noted already."""
    if not (folder / NOTE).is_file():
        write_whole(folder / NOTE, json.dumps(identity, indent=2) + "\n")


@contextmanager
def progress_bar(run: Run, name: str, epochs: int, batches: int, first_epoch: int = 0) -> Iterator[tqdm]:
    """A bar of a fit's batches with rate and time left, on a terminal; what is logged meanwhile stands above it."""
    hidden = not (run.accelerator.is_main_process and sys.stderr.isatty())
    bar = tqdm(
        desc=name, total=epochs * batches, initial=first_epoch * batches, unit="batch", leave=False, disable=hidden
    )
    with nullcontext() if hidden else logging_redirect_tqdm(), bar:
        yield bar


def accelerator_for(config: Config) -> Accelerator:
    """What fits of a recipe run on: this process alone, or this one with those that it was launched with.

    Raises:
        ConfigError: there are fewer GPUs than processes on this machine, a GPU is there and does not work, or the
            processes do not find one another.
    """
    launched, here = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if 0 < torch.cuda.device_count() < here:
        raise ConfigError(
            f"PROCESSES={here} needs {here} GPUs on this machine, which has {torch.cuda.device_count()}; give at most "
            "as many, or CUDA_VISIBLE_DEVICES='' to train on the CPU."
        )
    check_gpu()
    apart = ConfigError(
        f"WORLD_SIZE says that {launched} processes train together, but they do not know of one another; start them "
        f"as PROCESSES={launched} training/train.sh, or unset WORLD_SIZE."
    )
    if launched > 1 and not os.environ.keys() >= LAUNCHER_VARIABLES:
        raise apart
    accelerator = Accelerator(
        cpu=launched > 1 and not torch.cuda.is_available(),  # otherwise it takes each process for the only one
        mixed_precision=choose_precision(config.optimisation.precision),
        gradient_accumulation_steps=config.optimisation.accumulation,
        dataloader_config=DataLoaderConfiguration(non_blocking=True),  # which pinned memory makes possible
    )
    if accelerator.num_processes != launched:
        raise apart
    return accelerator


def check_gpu() -> None:
    """Refuses a GPU that is there and does not work: to train on the CPU instead would take weeks.

    Raises:
        ConfigError: this process's GPU does not work.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return
    works, problem = try_gpu(torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))))
    if not works and (problem or torch.cuda.device_count() > 0):
        raise ConfigError(
            f"The GPU does not work ({problem or 'PyTorch counts it, but cannot use it'}); check the driver, or give "
            "CUDA_VISIBLE_DEVICES='' to train on the CPU."
        )


def choose_precision(name: str) -> str:
    """`auto` resolved for this machine: `bf16` from compute capability 8.0, `fp16` below, `no` without a GPU."""
    if name != "auto":
        return name
    if not torch.cuda.is_available():
        return "no"
    return "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"
