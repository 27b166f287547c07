"""Folds, crops in memory, the class-balanced sampler, the dataset."""

from collections.abc import Iterator, Sequence

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold
from torch.utils.data import Dataset, Sampler

from model.errors import CropError
from model.images.read import read_crops
from training.config import AugmentationConfig
from training.data.augmentation import Draw, degrade, draw
from training.data.manifest import DataError, Sample


def assign_folds(samples: Sequence[Sample], split: str, folds: int, seed: int) -> np.ndarray:
    """The fold in which each sample is held out: (N,) int from 0; whole slides in any case.

    Args:
        samples: all of them.
        split: `slides` spreads the slides over the folds, with the labels' shares kept alike; `domains` and `sources`
            hold out one domain or data set after the other, in alphabetical order.
        folds: their number; only for `slides`.
        seed: of the spreading.

    Raises:
        DataError: there are fewer slides, or fewer crops of a class, than folds; or a domain to be held out lacks a
            class, or leaves none of it.
    """
    labels = np.array([sample.label for sample in samples])
    groups = np.array([sample.group for sample in samples])
    if split != "slides":
        names, held_out = np.unique([getattr(sample, split[:-1]) for sample in samples], return_inverse=True)
        for fold, name in enumerate(names):
            if len({*labels[held_out == fold]}) < 2 or len({*labels[held_out != fold]}) < 2:
                raise DataError(
                    f"The {split[:-1]} '{name}' cannot be held out: it or the rest lacks a class; leave it out of the "
                    "manifest, or change data.split and data.shift_split."
                )
        return held_out
    if folds < 2 or len(set(groups)) < folds or min(np.sum(labels == 0), np.sum(labels == 1)) < folds:
        raise DataError(
            f"{len(set(groups))} slides with {np.sum(labels == 0)} normal and {np.sum(labels == 1)} atypical crops "
            f"cannot be split into {folds} folds; give more data or another data.folds."
        )
    held_out = np.empty(len(samples), dtype=int)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for fold, (_, validation) in enumerate(splitter.split(labels, labels, groups)):
        held_out[validation] = fold
    return held_out


def load_crops(samples: Sequence[Sample], smallest: int = 1) -> list[np.ndarray]:
    """The crops, (H, W, 3) uint8 RGB; a hundred thousand of 128 x 128 pixels are 5 GB of memory.

    Args:
        samples: whose files to read.
        smallest: least height and width, the network's field of view.

    Raises:
        DataError: a file cannot be read, holds more than one crop, one too small, or one of another size than the rest.
    """
    crops = []
    for sample in samples:
        try:
            pages = read_crops(sample.path)
        except CropError as error:
            raise DataError(str(error)) from error
        if len(pages) != 1:
            raise DataError(f"{sample.path} holds {len(pages)} crops; training needs one crop a file.")
        crops.append(pages[0])
        if min(pages[0].shape[:2]) < smallest or pages[0].shape != crops[0].shape:
            height, width = pages[0].shape[:2]
            raise DataError(
                f"{sample.path} is {width} x {height} pixels; training needs crops of one size, at least {smallest} "
                "pixels a side."
            )
    return crops


class TrainingCrops(Dataset):
    """Degraded crops with the random numbers of their augmentation.

    An item's randomness depends on seed, epoch and its place in the epoch alone, so it is the same with any number of
    workers or processes, and after a restart.

    Args:
        crops: N arrays (H, W, 3) uint8, all of one size.
        targets: (N, T) what the network is to say, 0 to 1.
        weights: (N,) weight of each crop in the loss.
        augmentation: how far crops are altered.
        seed: of the run.
    """

    def __init__(
        self,
        crops: Sequence[np.ndarray],
        targets: Sequence[Sequence[float]],
        weights: Sequence[float],
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

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, np.ndarray | np.float32 | Draw | int]:
        """What there is to a crop.

        Args:
            key: (epoch, place in the epoch, index).

        Returns:
            crop: (H, W, 3) uint8; target; weight; index; numbers: for `training.data.augmentation.augment`.
        """
        epoch, place, index = key
        random = np.random.default_rng([self.seed, epoch, place])
        numbers = draw(random, self.augmentation)
        crop = degrade(self.crops[index], random, self.augmentation)
        return {
            "crop": crop, "target": self.targets[index], "weight": self.weights[index], "index": index,
            "numbers": numbers,
        }  # fmt: skip


class BalancedSampler(Sampler[tuple[int, int, int]]):
    """Draws N crops an epoch, with replacement, the classes as often as `balance` says.

    Args:
        labels: (N,) 0 or 1.
        balance: 0 draws in the data's own proportion, 1 both classes equally often.
        seed: of the run.
    """

    def __init__(self, labels: Sequence[int], balance: float, seed: int) -> None:
        self.labels = np.asarray(labels)
        self.balance = balance
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Keys of `TrainingCrops` for epoch `self.epoch`.

        Every class is gone through in random order before any of its crops comes again.
        """
        random = np.random.default_rng([self.seed, self.epoch])
        count = len(self.labels)
        share = self.labels.mean() * (1 - self.balance) + 0.5 * self.balance
        atypical = round(count * share)
        drawn = np.concatenate(
            [_cycle(np.flatnonzero(self.labels == label), wanted, random)
             for label, wanted in ((1, atypical), (0, count - atypical))]
        )  # fmt: skip
        random.shuffle(drawn)
        return iter([(self.epoch, place, int(index)) for place, index in enumerate(drawn)])


def _cycle(indices: np.ndarray, wanted: int, random: np.random.Generator) -> np.ndarray:
    rounds = -(-wanted // len(indices)) if wanted else 0
    orders = [random.permutation(indices) for _ in range(rounds)]
    return np.concatenate(orders)[:wanted] if orders else indices[:0]
