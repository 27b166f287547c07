"""The processes that prepare crops while the network trains on others."""

import os

import cv2
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from training.data.crops import BalancedSampler, TrainingCrops, stack

MOST_WORKERS = 8
"""That prepare crops for one training process, where the recipe leaves it open."""

SIDE_BY_SIDE = "FITS_SIDE_BY_SIDE"
"""The environment's word for how many fits share this machine (`training.side_by_side`)."""


def loader(
    dataset: TrainingCrops, sampler: BalancedSampler, batch_size: int, workers: int, accelerator: Accelerator
) -> DataLoader:
    """Batches of an epoch, again and again; a last one that is not full is left out unless it is the only one.

    Args:
        dataset: what is prepared.
        sampler: which of it an epoch has; its `epoch` may be changed between epochs.
        batch_size: crops a batch of all training processes, which share it evenly.
        workers: processes, which stay from one epoch to the next; 0 for none.
        accelerator: where batches go, once it has prepared what is returned.
    """
    return DataLoader(
        dataset,
        batch_size=batch_size // accelerator.num_processes,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        # Of its own: from the common one it would take a number when it starts workers, in a fit's first epoch and in
        # the first one after an interruption.
        generator=torch.Generator(),
        collate_fn=stack,
        pin_memory=accelerator.device.type == "cuda",  # so that nothing waits for the copies to the GPU
        worker_init_fn=_one_thread,
        drop_last=len(dataset) > batch_size,
    )


def count_workers(wanted: int) -> int:
    """How many processes prepare crops for this one.

    Args:
        wanted: the recipe's `data.workers`.
    """
    if wanted >= 0:
        return wanted
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) * int(os.environ.get(SIDE_BY_SIDE, "1"))
    return min(MOST_WORKERS, max(1, len(os.sched_getaffinity(0)) // sharing // 2))


def _one_thread(_: int) -> None:
    """Leaves the other processors to the training process: a crop is too small to be worth several threads."""
    cv2.setNumThreads(0)
