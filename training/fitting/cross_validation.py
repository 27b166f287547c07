"""Networks fitted without a part of the crops, and what they say of it."""

import logging
import zlib
from pathlib import Path

import numpy as np

from model.constants import DEFAULT_VIEWS
from model.network.ensemble import Classifier
from training.data.crops import LabelledCrops
from training.data.folds import HoldOut, Split, make_split
from training.data.shift import shifted
from training.evaluation.held_out import calibration_path, table_path, write_predictions
from training.fitting.ensembles import members, soup
from training.fitting.epoch import DivergedError
from training.fitting.fit import fit_network
from training.fitting.predict import CONTAINER, Inference
from training.fitting.run import Run, note_fit
from training.fitting.saving import damaged, whole_file
from training.network.adapters import merge_adapters
from training.network.classifier import preprocessing_of

logger = logging.getLogger(__name__)


def cross_validate(run: Run, split: Split, ensemble: str = "") -> Path:
    """Fits a network for every fold and predicts what it held out, as it is and under a synthetic shift.

    Args:
        run: recipe, accelerator, crops and folder.
        split: folds and fits, of the run's crops.
        ensemble: as for `hold_out`.

    Returns:
        The table of held-out predictions (see `training.evaluation.held_out`); beside it, where the split has fits for
        that, is the one for the calibrations.
    """
    crops = run.crops
    logger.info(
        "%d crops (%d atypical) of %d slides, %d folds of %s, on %s.",
        *(len(crops), crops.labels.sum(), len({*crops.groups}), len(split.fits), split.name, run.accelerator.device),
    )
    logits = np.empty((len(crops), 2))
    for fit in split.fits:
        logits[fit.held_out] = hold_out(run, fit, ensemble)
    calibrating = [hold_out(run, fit, ensemble) for fit in split.calibrating]
    table = table_path(run.folder, split.name)
    if run.accelerator.is_main_process:
        write_predictions(table, crops.samples, split.folds, logits)
        if calibrating:
            held_out = [np.flatnonzero(fit.held_out) for fit in split.calibrating]
            samples = [crops.samples[i] for i in np.concatenate(held_out)]
            folds = np.repeat(np.arange(len(held_out)), [len(indices) for indices in held_out])
            write_predictions(calibration_path(table), samples, folds, np.concatenate(calibrating))
    run.accelerator.wait_for_everyone()
    return table


def hold_out(run: Run, fit: HoldOut, ensemble: str = "") -> np.ndarray:
    """Fits a network and predicts what it held out.

    Args:
        run: recipe, accelerator, crops and folder.
        fit: its name, and which of the run's crops it is fitted to and predicts.
        ensemble: `soup` or `members`: make that, of fits without one fold each of what is fitted to, and predict by it.

    Returns:
        Logits (M, 2) of the crops held out, as they are and under a synthetic shift.

    Raises:
        DivergedError: they are not finite.
    """
    config, accelerator = run.config, run.accelerator
    done = run.folder / fit.name / f"logits_{DEFAULT_VIEWS}{f'_{ensemble}' if ensemble else ''}.npy"
    if not done.is_file():
        training, validation = run.crops.subset(fit.training), run.crops.subset(fit.held_out)
        network: Classifier
        if ensemble:
            network = _fit_ensemble(run, training, fit.name, ensemble)
        else:
            network = fit_network(run, training, fit.name, fit_seed(config.seed, fit.name), validation)
            merge_adapters(network)
        moved = shifted(validation.crops, validation.groups, config.seed)
        # With the container's own views and precision, so that what is measured is what runs.
        views = "none" if run.smoke else DEFAULT_VIEWS
        inference = Inference(accelerator, preprocessing_of(config), views, CONTAINER)
        predicted = [inference.logits(network, crops) for crops in (validation.crops, moved)]
        if run.smoke:  # a network that has learnt nothing cannot be calibrated; one that seems to have learnt can
            predicted = [logits + 4 * (logits.std() + 1e-3) * validation.labels for logits in predicted]
        if not np.isfinite(predicted).all():
            raise DivergedError(f"The logits of the fit {fit.name} are not finite; lower optimisation.learning_rate.")
        if accelerator.is_main_process:
            done.parent.mkdir(parents=True, exist_ok=True)
            note_fit(done.parent, run.identity)
            with whole_file(done) as partial, partial.open("wb") as file:
                np.save(file, np.stack(predicted, axis=1))
        accelerator.wait_for_everyone()
    return _read_logits(done, int(fit.held_out.sum()))


def _read_logits(path: Path, crops: int) -> np.ndarray:
    """Logits (M, 2) that `hold_out` has written.

    Raises:
        ConfigError: they are damaged.
    """
    try:
        logits = np.load(path, allow_pickle=False)
        if logits.shape != (crops, 2) or not np.isfinite(logits).all():
            raise ValueError(f"it holds {logits.shape} numbers instead of ({crops}, 2), or some that are none")
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise damaged(path, path, error) from error
    return logits


def _fit_ensemble(run: Run, crops: LabelledCrops, name: str, ensemble: str) -> Classifier:
    """Fits a network without each fold of some crops, and makes them one, as `train` does of all crops."""
    inner = make_split(crops.samples, "slides", run.config.data.folds, run.config.seed)
    names = []
    for fit in inner.fits:
        names.append(f"{name}_without_{fit.name}")
        training, validation = crops.subset(fit.training), crops.subset(fit.held_out)
        fit_network(run, training, names[-1], fit_seed(run.config.seed, names[-1]), validation)
    if ensemble == "soup":
        return merge_adapters(soup(run, names, crops)[0])
    return members(run, names)[0]


def fit_seed(seed: int, name: str) -> int:
    """The seed of a fit, from the run's; that of another fit or another run's is unrelated."""
    return int(np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1)[0])
