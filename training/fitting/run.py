"""A run: what every fit of a recipe has in common."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from training.config import Config, ConfigError
from training.data.crops import LabelledCrops


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
    """

    config: Config
    accelerator: Accelerator
    crops: LabelledCrops
    folder: Path


def accelerator_for(config: Config) -> Accelerator:
    """What fits of a recipe run on: this process alone, or this one with those that it was launched with.

    Raises:
        ConfigError: there are fewer GPUs than processes on this machine, or the processes do not find one another.
    """
    launched, here = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if 0 < torch.cuda.device_count() < here:
        raise ConfigError(
            f"PROCESSES={here} needs {here} GPUs on this machine, which has {torch.cuda.device_count()}; give at most "
            "as many, or CUDA_VISIBLE_DEVICES='' to train on the CPU."
        )
    apart = ConfigError(
        f"WORLD_SIZE says that {launched} processes train together, but they do not know of one another; start them "
        f"as PROCESSES={launched} training/train.sh, or unset WORLD_SIZE."
    )
    if launched > 1 and not LAUNCHER_VARIABLES <= os.environ.keys():
        raise apart
    accelerator = Accelerator(
        cpu=launched > 1 and not torch.cuda.is_available(),  # otherwise it takes each process for the only one
        mixed_precision=choose_precision(config.optimisation.precision),
        gradient_accumulation_steps=config.optimisation.accumulation,
    )
    if accelerator.num_processes != launched:
        raise apart
    return accelerator


def choose_precision(name: str) -> str:
    """`auto` resolved for this machine: `bf16` from compute capability 8.0, `fp16` below, `no` without a GPU."""
    if name != "auto":
        return name
    if not torch.cuda.is_available():
        return "no"
    return "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"
