from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import default_collate

from model.network.preprocessing import Preprocessing
from training.config import AugmentationConfig
from training.data.augmentation import augment, mix
from training.data.crops import BalancedSampler, TrainingCrops, stack
from training.fitting import loading
from training.fitting.loading import MOST_WORKERS, count_workers, loader

LABELS = np.arange(20) % 2


def dataset(**changes: float) -> TrainingCrops:
    crops = list(np.random.default_rng(0).integers(0, 256, (20, 48, 48, 3), dtype=np.uint8))
    return TrainingCrops(crops, LABELS[:, None], np.ones(20), AugmentationConfig(**cast(Any, changes)), 0)


def test_numbers_of_what_is_done_to_no_crop_are_left_out() -> None:
    items = dataset(elastic=1.0, mixup=0.4, cutmix=0.4)
    bent = stack([items[(0, place, place)] for place in range(20)])
    assert {"elastic", "own_share", "rectangle"} <= bent["numbers"].keys()
    plain = stack([dataset()[(0, place, place)] for place in range(20)])
    assert not {"elastic", "own_share", "rectangle"} & plain["numbers"].keys()
    assert plain["crop"].shape == (20, 48, 48, 3) and plain["index"].tolist() == list(range(20))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_one_crop_that_is_mixed_is_enough(kind: str) -> None:
    items = [dataset(**{kind: 0.4, "mixed": 0.1})[(0, place, place)] for place in range(20)]
    is_mixed = [item["numbers"]["own_share"] < 1 or item["numbers"]["rectangle"].any() for item in items]
    mixed, others = ([item for item, is_ in zip(items, is_mixed, strict=True) if is_ == wanted] for wanted in (1, 0))
    assert mixed and others
    assert "own_share" in stack([*others, mixed[0]])["numbers"] and "own_share" not in stack(others)["numbers"]


def test_what_is_left_out_would_have_changed_nothing() -> None:
    """Bit for bit, so a batch is what it was when the network's device was asked whether to skip it."""
    items = [dataset()[(0, place, place)] for place in range(6)]
    preprocessing = Preprocessing(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    found = []
    for collate in (stack, default_collate):
        batch = collate(items)
        images = augment(batch["crop"], batch["numbers"], preprocessing)
        found.append(mix(images, batch["target"], batch["weight"], batch["numbers"]))
    assert all(torch.equal(left, right) for left, right in zip(*found, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_stay_and_every_epoch_has_its_own_crops(workers: int) -> None:
    accelerator, sampler = Accelerator(cpu=True), BalancedSampler(LABELS, 1.0, 0)
    batches = accelerator.prepare(loader(dataset(), sampler, 4, workers, accelerator))
    epochs = []
    for epoch in (0, 1, 0):
        sampler.epoch = epoch
        epochs.append(torch.cat([batch["crop"] for batch in batches]))
    assert torch.equal(epochs[0], epochs[2]) and not torch.equal(epochs[0], epochs[1])
    assert len(epochs[0]) == 20
    expected = [dataset()[key]["crop"] for key in BalancedSampler(LABELS, 1.0, 0)]
    assert np.array_equal(epochs[0].numpy(), expected)


def test_memory_is_pinned_for_a_gpu_alone() -> None:
    sampler = BalancedSampler(LABELS, 1.0, 0)
    for kind, pinned in (("cuda", True), ("cpu", False)):
        accelerator = cast(Accelerator, SimpleNamespace(device=torch.device(kind), num_processes=2))
        batches = loader(dataset(), sampler, 8, 1, accelerator)
        assert batches.pin_memory is pinned and batches.batch_size == 4 and batches.persistent_workers


@pytest.mark.parametrize(
    ("wanted", "cores", "processes", "fits", "workers"),
    [
        (-1, 2, 1, 1, 1),
        (-1, 1, 1, 1, 1),
        (-1, 16, 1, 1, 8),
        (-1, 64, 1, 1, MOST_WORKERS),
        (-1, 16, 8, 1, 1),
        (-1, 16, 1, 10, 1),
        (-1, 64, 2, 4, 4),
        (3, 2, 1, 1, 3),
        (3, 2, 1, 8, 3),
        (0, 64, 1, 1, 0),
    ],
)
def test_workers_follow_the_cores(
    wanted: int, cores: int, processes: int, fits: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading.os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setenv(loading.SIDE_BY_SIDE, str(fits))
    assert count_workers(wanted) == workers
