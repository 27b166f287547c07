"""What a look before the first epoch shows: what each fold holds, and what training does to crops."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from model.constants import CLASSES
from model.network.preprocessing import Preprocessing
from training.config import Config
from training.data.augmentation import augment, degrade, draw
from training.data.crops import LabelledCrops
from training.data.folds import Split
from training.data.sample import Sample
from training.data.text import aligned

SHOWN, VARIANTS = 8, 7
"""Crops on the page, and how often each of them is altered."""


def fold_table(split: Split, samples: Sequence[Sample]) -> str:
    """Crops held out in each fold, by domain and class, in aligned columns."""
    folds = range(len(split.fits))
    counts = Counter(
        (sample.domain, sample.label, int(fold)) for sample, fold in zip(samples, split.folds, strict=True)
    )
    rows: list[Sequence[object]] = [["domain", "class", *(f"fold {fold}" for fold in folds)]]
    for domain in sorted({sample.domain for sample in samples}):
        for label, name in enumerate(CLASSES):
            rows.append([domain, name, *(counts[domain, label, fold] for fold in folds)])
    return aligned(rows)


def draw_augmented(path: Path, crops: LabelledCrops, config: Config, preprocessing: Preprocessing) -> None:
    """Draws some crops and, to the right of each, what training makes of it: the network's input.

    Args:
        path: of the PNG to write.
        crops: atypical and normal ones are shown in turn, of slides as different as there are.
        config: the recipe, whose seed decides what is drawn.
        preprocessing: the recipe's.
    """
    trained = replace(preprocessing, scales=(1.0,))
    random = np.random.default_rng(config.seed)
    orders = [random.permutation(np.flatnonzero(crops.labels == label)) for label in (1, 0)]
    chosen = [int(order[i]) for i in range(SHOWN // 2) for order in orders if i < len(order)]
    rows = []
    for index in chosen:
        crop = crops.crops[index]
        drawn = [draw(random, config.augmentation) for _ in range(VARIANTS)]
        numbers = {key: torch.as_tensor(np.stack([one[key] for one in drawn])) for key in drawn[0]}
        degraded = np.stack([degrade(crop, random, config.augmentation) for _ in range(VARIANTS)])
        altered = augment(torch.from_numpy(degraded), numbers, preprocessing)
        mean, std = (altered.new_tensor(v).view(1, 3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
        pictures = ((altered * std + mean).clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).numpy()
        side = preprocessing.input_size
        field = trained.cut_out([crop])[0].numpy()
        rows.append(np.hstack([cv2.resize(field, (side, side)), *pictures]))
    cv2.imwrite(str(path), np.vstack(rows)[..., ::-1])
