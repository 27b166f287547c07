"""Labelled crops: the manifest, the grouped folds, the class-balanced sampler, the dataset."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold
from torch.utils.data import Dataset, Sampler

from model.constants import CLASSES
from model.crops import read_crops
from model.errors import CropError, UserError
from training.augmentation import Draw, degrade, draw
from training.config import AugmentationConfig


class DataError(UserError):
    """The training data cannot be used."""


@dataclass(frozen=True)
class Sample:
    """One labelled crop.

    Attributes:
        path: image file.
        label: 1 for atypical, 0 for normal.
        domain: scanner and centre.
        group: slide; crops of one slide are never split between training and validation.
    """

    path: Path
    label: int
    domain: str
    group: str


_LABELS = {name: label for label, name in enumerate(CLASSES)}
_COLUMNS = ("file", "label", "dataset", "slide")


def read_manifest(root: Path) -> list[Sample]:
    """Reads `manifest.csv` (columns file, label, dataset, slide) of a folder of crops.

    Raises:
        DataError: the manifest or a crop it names is missing, or a row cannot be understood.
    """
    path = root / "manifest.csv"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}); give a folder of crops as data.root=DIR."
        ) from error
    except ValueError as error:
        raise DataError(f"{path} is no UTF-8 text ({error}); save it as CSV in UTF-8.") from error
    missing = [column for column in _COLUMNS if not rows or column not in rows[0]]
    if missing:
        raise DataError(f"{path} has no rows with a column {missing[0]}; it needs {', '.join(_COLUMNS)}.")
    samples = []
    for line, row in enumerate(rows, start=2):
        if None in (row[column] for column in _COLUMNS):
            raise DataError(f"{path}, line {line} has too few columns; it needs {', '.join(_COLUMNS)}.")
        if row["label"] not in _LABELS:
            raise DataError(f"{path}, line {line}: the label is '{row['label']}'; write normal or atypical.")
        file = root / row["file"]
        if not file.is_file():
            raise DataError(f"{path}, line {line}: there is no file {file}.")
        group = f"{row['dataset']}/{row['slide']}"
        samples.append(Sample(file, _LABELS[row["label"]], domain_of(row["dataset"], row["slide"]), group))
    return samples


def domain_of(dataset: str, slide: str) -> str:
    """Scanner and centre of an AMi-Br slide, from the slide ranges that MIDOG 2021 and TUPAC16 publish.

    Args:
        dataset: `MIDOG21` or `TUPAC16`; any other is a domain of its own.
        slide: file name that starts with the slide's number, such as `051.tiff` or `24_stitched1.tif`.
    """
    digits = slide.split(".")[0].split("_")[0]
    if not digits.isdigit():
        return dataset
    number = int(digits)
    if dataset == "MIDOG21" and 1 <= number <= 150:
        return ("Hamamatsu XR", "Hamamatsu S360", "Aperio CS2")[(number - 1) // 50]
    if dataset == "TUPAC16" and 1 <= number <= 73:
        return "Aperio XT" if number <= 23 else "Leica SCN400"
    return dataset


def assign_folds(samples: Sequence[Sample], folds: int, seed: int) -> np.ndarray:
    """The fold in which each sample is held out: (N,) int; whole slides, with the labels' shares kept alike.

    Raises:
        DataError: there are fewer slides, or fewer crops of a class, than folds.
    """
    labels = np.array([sample.label for sample in samples])
    groups = np.array([sample.group for sample in samples])
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
        labels: (N,) 0 or 1.
        augmentation: how far crops are altered.
        seed: of the run.
    """

    def __init__(
        self, crops: Sequence[np.ndarray], labels: Sequence[int], augmentation: AugmentationConfig, seed: int
    ) -> None:
        self.crops = crops
        self.labels = labels
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[np.ndarray, np.float32, Draw]:
        """The crop of (epoch, place in the epoch, index): uint8 (H, W, 3), label, numbers for `augment`."""
        epoch, place, index = key
        random = np.random.default_rng([self.seed, epoch, place])
        numbers = draw(random, self.augmentation)
        return degrade(self.crops[index], random, self.augmentation), np.float32(self.labels[index]), numbers


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
