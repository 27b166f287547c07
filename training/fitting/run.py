"""A run: what every fit of a recipe has in common."""

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from training.config import Config
from training.data.crops import LabelledCrops


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
    """What fits of a recipe run on: this process alone, or this one with those that it was launched with."""
    return Accelerator(
        mixed_precision=choose_precision(config.optimisation.precision),
        gradient_accumulation_steps=config.optimisation.accumulation,
    )


def choose_precision(name: str) -> str:
    """`auto` resolved for this machine: `bf16` from compute capability 8.0, `fp16` below, `no` without a GPU."""
    if name != "auto":
        return name
    if not torch.cuda.is_available():
        return "no"
    return "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"
