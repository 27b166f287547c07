"""Networks fitted without a part of the crops, and what they say of it."""

import logging
import zlib
from pathlib import Path

import numpy as np

from model.constants import DEFAULT_VIEWS
from training.data.shift import shifted
from training.evaluation.held_out import table_path, write_predictions
from training.fitting.fit import fit_network
from training.fitting.predict import Inference
from training.fitting.run import Run
from training.network.adapters import merge_adapters
from training.network.classifier import preprocessing_of

logger = logging.getLogger(__name__)


def cross_validate(run: Run, split: str, folds: np.ndarray) -> Path:
    """Fits a network for every fold and predicts what it held out, as it is and under a synthetic shift.

    Args:
        run: recipe, accelerator, crops and folder.
        split: what a fold is made of.
        folds: the fold that each crop is held out in, (N,), from `training.data.folds.assign_folds`.

    Returns:
        The table of held-out predictions (see `training.evaluation.held_out`).
    """
    crops = run.crops
    logger.info(
        "%d crops (%d atypical) of %d slides, %d folds of %s, on %s.",
        *(len(crops), crops.labels.sum(), len(set(crops.groups)), folds.max() + 1, split, run.accelerator.device),
    )
    logits = np.empty((len(crops), 2))
    for fold in range(folds.max() + 1):
        logits[folds == fold] = hold_out(run, split, folds, fold)
    table = table_path(run.folder, split)
    if run.accelerator.is_main_process:
        write_predictions(table, crops.samples, folds, logits)
    run.accelerator.wait_for_everyone()
    return table


def hold_out(run: Run, split: str, folds: np.ndarray, fold: int) -> np.ndarray:
    """Fits a network to the other folds and predicts one fold.

    Args:
        run: recipe, accelerator, crops and folder.
        split: what a fold is made of.
        folds: the fold that each crop is held out in, (N,).
        fold: which one to predict.

    Returns:
        Logits (M, 2) of the fold's crops, as they are and under a synthetic shift.
    """
    config, accelerator, name = run.config, run.accelerator, fit_name(split, fold)
    done = run.folder / name / f"logits_{DEFAULT_VIEWS}.npy"
    if not done.is_file():
        training, validation = run.crops.subset(folds != fold), run.crops.subset(folds == fold)
        network = fit_network(run, training, name, fit_seed(config.seed, name), validation)
        merge_adapters(network)
        moved = shifted(validation.crops, validation.groups, config.seed)
        # With the container's own views, so that what is measured is what runs.
        inference = Inference(accelerator, preprocessing_of(config), DEFAULT_VIEWS)
        predicted = [inference.logits(network, crops) for crops in (validation.crops, moved)]
        if accelerator.is_main_process:
            partial = done.with_suffix(".partial.npy")
            np.save(partial, np.stack(predicted, axis=1))
            partial.replace(done)
        accelerator.wait_for_everyone()
    return np.load(done, allow_pickle=False)


def fit_seed(seed: int, name: str) -> int:
    """The seed of a fit, from the run's; that of another fit or another run's is unrelated."""
    return int(np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1)[0])


def fit_name(split: str, fold: int) -> str:
    """What the fit without a fold is called, such as `slides_0`."""
    return f"{split}_{fold}"
