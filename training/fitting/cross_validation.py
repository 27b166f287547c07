"""Networks fitted without a part of the crops, and what they say of it."""

import csv
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from model.constants import CLASSES, DEFAULT_VIEWS
from training.config import Config
from training.data.manifest import Sample
from training.data.shift import shifted
from training.fitting.fit import fit, predict, preprocessing_of
from training.network.adapters import merge_adapters

logger = logging.getLogger(__name__)


def cross_validate(
    config: Config,
    accelerator: Accelerator,
    samples: Sequence[Sample],
    crops: Sequence[np.ndarray],
    run: Path,
    split: str,
    held_out: np.ndarray,
) -> Path:
    """Fits a network for every fold and predicts what it held out, as it is and under a synthetic shift.

    Args:
        config: the recipe.
        accelerator: where it runs.
        samples: N, all of them.
        crops: theirs.
        run: its folder; what is found there is not done again.
        split: what a fold is made of.
        held_out: the fold that each is held out in, (N,), from `training.data.crops.assign_folds`.

    Returns:
        The table `held_out_SPLIT.csv`, a row for each sample: file, label, domain, group, fold, logit, shifted_logit.
    """
    labels = np.array([sample.label for sample in samples])
    logger.info(
        "%d crops (%d atypical) of %d slides, %d folds of %s, on %s.",
        len(samples), labels.sum(), len({s.group for s in samples}), held_out.max() + 1, split,
        accelerator.device,
    )  # fmt: skip
    logits = np.empty((len(samples), 2))
    for fold in range(held_out.max() + 1):
        logits[held_out == fold] = hold_out(
            config, accelerator, samples, crops, held_out, fold, run / f"{split}_{fold}"
        )
    table = run / f"held_out_{split}.csv"
    if accelerator.is_main_process:
        _write_table(table, samples, held_out, logits)
    accelerator.wait_for_everyone()
    return table


def hold_out(
    config: Config,
    accelerator: Accelerator,
    samples: Sequence[Sample],
    crops: Sequence[np.ndarray],
    held_out: np.ndarray,
    fold: int,
    folder: Path,
) -> np.ndarray:
    """Fits a network to the other folds and predicts one fold.

    Args:
        config: the recipe.
        accelerator: where it runs.
        samples: N, all of them.
        crops: theirs.
        held_out: the fold that each is held out in, (N,).
        fold: which one to predict.
        folder: of the fit; what is found there is not done again.

    Returns:
        Logits (M, 2) of the fold's crops, as they are and under a synthetic shift.
    """
    done = folder / f"logits_{DEFAULT_VIEWS}.npy"
    if not done.is_file():
        inside, outside = np.flatnonzero(held_out != fold), np.flatnonzero(held_out == fold)
        labels = np.array([samples[i].label for i in outside])
        training, validation = ([crops[i] for i in indices] for indices in (inside, outside))
        network = fit(
            config, accelerator, training, [samples[i] for i in inside], (validation, labels), folder,
            config.seed + fold,
        )  # fmt: skip
        merge_adapters(network)
        moved = shifted(validation, [samples[i].group for i in outside], config.seed)
        predicted = [  # with the container's own views, so that what is measured is what runs
            predict(network, preprocessing_of(config), of, DEFAULT_VIEWS, accelerator) for of in (validation, moved)
        ]
        if accelerator.is_main_process:
            partial = done.with_suffix(".partial.npy")
            np.save(partial, np.stack(predicted, axis=1))
            partial.replace(done)
        accelerator.wait_for_everyone()
    return np.load(done, allow_pickle=False)


def _write_table(path: Path, samples: Sequence[Sample], held_out: np.ndarray, logits: np.ndarray) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "domain", "group", "fold", "logit", "shifted_logit"])
        for sample, fold, pair in zip(samples, held_out, logits, strict=True):
            label, both = CLASSES[sample.label], [f"{logit:.6f}" for logit in pair]
            writer.writerow([sample.path.name, label, sample.domain, sample.group, fold, *both])
