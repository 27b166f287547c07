"""Crops in memory with what is known of them, the class-balanced sampler, the dataset."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from torch.utils.data import Dataset, Sampler, default_collate

from model.constants import MICROMETRES_PER_PIXEL, is_expected
from model.errors import CropError
from model.images.read import read_stack
from training.config import AugmentationConfig
from training.data.augmentation import degrade, draw
from training.data.duplicates import find_duplicates, pixels_digest
from training.data.sample import DataError, Sample
from training.data.text import listing

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledCrops:
    """Crops and what is known of them.

    Attributes:
        samples: N, what is known.
        crops: N arrays (H, W, 3) uint8 RGB, of one size.
    """

    samples: Sequence[Sample]
    crops: Sequence[np.ndarray]

    def __len__(self) -> int:
        return len(self.samples)

    def subset(self, indices: ArrayLike) -> Self:
        """Some of the crops, whose pixels are shared.

        Args:
            indices: (M,) which of them, in this order; or (N,) bool, true for those to take.
        """
        chosen = np.arange(len(self))[np.asarray(indices)]
        return replace(self, samples=[self.samples[i] for i in chosen], crops=[self.crops[i] for i in chosen])

    @cached_property
    def labels(self) -> np.ndarray:
        """(N,) 1 for atypical, 0 for normal."""
        return np.array([sample.label for sample in self.samples], dtype=int)

    @property
    def groups(self) -> list[str]:
        """The slide of each crop."""
        return [sample.group for sample in self.samples]

    @property
    def names(self) -> list[str]:
        """The file name of each crop."""
        return [sample.path.name for sample in self.samples]


def load_crops(samples: Sequence[Sample], smallest: int = 1) -> LabelledCrops:
    """Reads the crops of samples; a hundred thousand of 128 x 128 pixels are 5 GB of memory.

    Args:
        samples: whose files to read.
        smallest: least height and width, the network's field of view.

    Raises:
        DataError: a file cannot be read, holds more than one crop, one too small, one of another size than the rest,
            or states another resolution than 0.25 µm per pixel.
    """
    crops: list[np.ndarray] = []
    for sample in samples:
        try:
            stack = read_stack(sample.path)
        except CropError as error:
            raise DataError(str(error)) from error
        if stack.mpp is not None and not is_expected(stack.mpp):
            raise DataError(
                f"{sample.path} states {stack.mpp:.3g} µm per pixel, but the network learns from crops of "
                f"{MICROMETRES_PER_PIXEL}: resample it, or remove what it states if that is wrong."
            )
        pages = stack.crops
        if len(pages) != 1:
            raise DataError(f"{sample.path} holds {len(pages)} crops; training needs one crop a file.")
        crops.append(pages[0])
        if min(pages[0].shape[:2]) < smallest or pages[0].shape != crops[0].shape:
            height, width = pages[0].shape[:2]
            raise DataError(
                f"{sample.path} is {width} x {height} pixels; training needs crops of one size, at least {smallest} "
                "pixels a side."
            )
    return LabelledCrops(samples, crops)


def without_duplicates(crops: LabelledCrops) -> LabelledCrops:
    """Every picture once, as `find_duplicates` says; what is left out is logged."""
    duplicates = find_duplicates(crops.samples, [pixels_digest(crop) for crop in crops.crops])
    if not duplicates:
        return crops
    what = "crops are left out, another one having the same pixels (where labels differ, that of the most is used)"
    logger.warning("%s", listing(what, [duplicate.sentence for duplicate in duplicates]))
    wanted = np.ones(len(crops), dtype=bool)
    wanted[[duplicate.index for duplicate in duplicates]] = False
    return crops.subset(wanted)


Key = tuple[int, int, int]
"""What an item of an epoch is asked for by: epoch, place in the epoch, index of the crop."""


def some_of(crops: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """Up to so many of the crops, from the first to the last in even steps."""
    return [crops[i] for i in np.unique(np.linspace(0, len(crops) - 1, count).astype(int))]


class TrainingCrops(Dataset[dict[str, Any]]):
    """Degraded crops with the random numbers of their augmentation.

    An item's randomness depends on seed, epoch and its place in the epoch alone, so it is the same with any number of
    workers or processes, and after a restart.

    Args:
        crops: N arrays (H, W, 3) uint8, all of one size.
        targets: (N, T) what the network is to say, 0 to 1.
        weights: (N,) weight of each crop in the loss.
        augmentation: how far crops are altered.
        seed: of the fit.
    """

    def __init__(
        self,
        crops: Sequence[np.ndarray],
        targets: ArrayLike,
        weights: ArrayLike,
        augmentation: AugmentationConfig,
        seed: int,
    ) -> None:
        self.crops = crops
        self.targets = np.asarray(targets, dtype=np.float32)
        self.weights = np.asarray(weights, dtype=np.float32)
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """What there is to a crop.

        Args:
            key: epoch, place in the epoch, index.

        Returns:
            crop: (H, W, 3) uint8; target; weight; index; numbers: for `training.data.augmentation.augment`.
        """
        epoch, place, index = key
        random = np.random.default_rng([self.seed, epoch, place])
        numbers = draw(random, self.augmentation)
        return {
            "crop": degrade(self.crops[index], random, self.augmentation),
            "target": self.targets[index],
            "weight": self.weights[index],
            "index": index,
            "numbers": numbers,
        }


def stack(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch of items of `TrainingCrops`, without the numbers of what is done to none of its crops.

    What is done to none is decided here, on the CPU: to ask the GPU would be to wait for it at every step.

    Returns:
        The items' tensors, stacked; of `numbers`, `elastic` only where a crop is bent, and `own_share` and `rectangle`
        only where one is mixed.
    """
    batch: dict[str, Any] = default_collate(list(items))
    numbers = batch["numbers"]
    left, top, right, bottom = numbers["rectangle"].unbind(1)
    if not numbers["elastic"].any():
        del numbers["elastic"]
    if (numbers["own_share"] == 1).all() and not ((right > left) & (bottom > top)).any():
        del numbers["own_share"], numbers["rectangle"]
    return batch


class BalancedSampler(Sampler[Key]):
    """Draws N crops an epoch, with replacement, the classes as often as `balance` says.

    Args:
        labels: (N,) 0 or 1.
        balance: 0 draws in the data's own proportion, 1 both classes equally often.
        seed: of the fit.
    """

    def __init__(self, labels: ArrayLike, balance: float, seed: int) -> None:
        self.labels = np.asarray(labels)
        self.balance = balance
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Key]:
        """Keys of `TrainingCrops` for epoch `self.epoch`.

        Every class is gone through in random order before any of its crops comes again.
        """
        random = np.random.default_rng([self.seed, self.epoch])
        count = len(self.labels)
        share = self.labels.mean() * (1 - self.balance) + 0.5 * self.balance
        atypical = round(count * share)
        wanted = {1: atypical, 0: count - atypical}
        drawn = [_cycle(np.flatnonzero(self.labels == label), number, random) for label, number in wanted.items()]
        order = np.concatenate(drawn)
        random.shuffle(order)
        return iter([(self.epoch, place, int(index)) for place, index in enumerate(order)])


def _cycle(indices: np.ndarray, wanted: int, random: np.random.Generator) -> np.ndarray:
    rounds = -(-wanted // len(indices)) if wanted else 0
    orders = [random.permutation(indices) for _ in range(rounds)]
    return np.concatenate(orders)[:wanted] if orders else indices[:0]
