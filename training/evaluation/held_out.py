"""The table of held-out predictions, `held_out_SPLIT.csv` of a run's folder.

It has a row for each crop: file, label, domain, group, fold, logit, shifted_logit.

`calibration_SPLIT.csv` beside it, where there is one, has the same columns: crops of the training side of each fold,
predicted by a network that saw neither them nor the fold's held-out crops. On them the fold is calibrated.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Self

import numpy as np

from model.constants import CLASSES
from training.data.csv_file import read_csv
from training.data.sample import DataError, Sample

COLUMNS = ("file", "label", "domain", "group", "fold", "logit", "shifted_logit")


@dataclass(frozen=True)
class Predictions:
    """Held-out predictions of N crops.

    Attributes:
        labels: (N,) 0 or 1.
        logits: (N,) view-averaged.
        shifted_logits: (N,) the same under a synthetic shift (see `training.data.shift`).
        folds: (N,) in which each was held out.
        groups: (N,) slides.
        domains: (N,).
        calibrating: predictions to calibrate each fold on, whose `folds` are the folds that they are for; without them
            a fold is calibrated on the other folds' predictions, by networks that it was trained on.
    """

    labels: np.ndarray
    logits: np.ndarray
    shifted_logits: np.ndarray
    folds: np.ndarray
    groups: np.ndarray
    domains: np.ndarray
    calibrating: "Predictions | None" = None

    def __len__(self) -> int:
        return len(self.labels)

    def of_same_crops(self, other: "Predictions") -> bool:
        """Whether labels and slides agree, crop by crop."""
        return np.array_equal(self.labels, other.labels) and np.array_equal(self.groups, other.groups)

    def subset(self, inside: np.ndarray) -> Self:
        """Those of some crops, without what to calibrate on.

        Args:
            inside: (N,) bool, true for those to take.
        """
        kept = {f.name: getattr(self, f.name)[inside] for f in fields(self) if f.name != "calibrating"}
        return replace(self, **kept, calibrating=None)


def table_path(run: Path, split: str) -> Path:
    """Where the table of a split is in a run's folder."""
    return run / f"held_out_{split}.csv"


def calibration_path(table: Path) -> Path:
    """Where the table for the calibrations of a table is."""
    return table.with_name("calibration_" + table.name.removeprefix("held_out_"))


def find_tables(run: Path) -> list[Path]:
    """The tables of a run's folder, sorted."""
    return sorted(run.glob("held_out_*.csv"))


def write_predictions(path: Path, samples: Sequence[Sample], folds: np.ndarray, logits: np.ndarray) -> None:
    """Writes the table, whole or not at all.

    Args:
        path: the file.
        samples: N.
        folds: (N,) in which each was held out.
        logits: (N, 2) of the crop as it is and under a synthetic shift; six decimals are kept.
    """
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for sample, fold, pair in zip(samples, folds, logits, strict=True):
            label, both = CLASSES[sample.label], [f"{logit:.6f}" for logit in pair]
            writer.writerow([sample.path.name, label, sample.domain, sample.group, fold, *both])
    partial.replace(path)


def read_predictions(path: Path) -> Predictions:
    """Reads the table, and the one for its calibrations where there is one beside it.

    Raises:
        DataError: it is missing, or is no such table.
    """
    predictions = _read(path)
    calibration = calibration_path(path)
    if calibration == path or not calibration.is_file():
        return predictions
    calibrating = _read(calibration)
    if missing := set(predictions.folds.tolist()) - set(calibrating.folds.tolist()):
        raise DataError(f"{calibration} has no rows for fold {min(missing)} of {path.name}; copy both of one run.")
    return replace(predictions, calibrating=calibrating)


def _read(path: Path) -> Predictions:
    rows = read_csv(path, "a training run writes held_out_SPLIT.csv into its run folder").rows
    missing = [column for column in COLUMNS if not rows or column not in rows[0]]
    if missing:
        raise DataError(f"{path} has no rows with a column {missing[0]}; give the held_out_SPLIT.csv of a run.")
    try:
        return Predictions(
            labels=np.array([CLASSES.index(row["label"]) for row in rows]),
            logits=np.array([float(row["logit"]) for row in rows]),
            shifted_logits=np.array([float(row["shifted_logit"]) for row in rows]),
            folds=np.array([int(row["fold"]) for row in rows]),
            groups=np.array([row["group"] for row in rows]),
            domains=np.array([row["domain"] for row in rows]),
        )
    except (KeyError, ValueError) as error:
        raise DataError(f"{path} cannot be understood ({error}); give the held_out_SPLIT.csv of a run.") from error
