"""One trial of a change to a recipe, and the table of all trials.

python -m training.trial NAME compact data.root=DIR data.split=sources augmentation.mixup=0.4    # adds a row
python -m training.trial --compare BASELINE NAME                    # what the change did, with an interval

A trial cross-validates and fits nothing else. The table is `training/trials.csv`; predictions stay in `runs/trials/`.
"""

import argparse
import csv
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.errors import UserError
from training.config import load_config
from training.data.crops import assign_folds
from training.evaluate import Predictions, read_predictions, report_table, scores
from training.evaluation.calibration import cross_calibrate
from training.fitting.cross_validation import cross_validate
from training.train import CONFIGS, begin

TABLE = Path(__file__).parent / "trials.csv"
RUNS = Path("runs/trials")
COLUMNS = (
    "trial", "recipe", "changes", "split", "seed", "roc_auc", "roc_auc_95", "domain_roc_auc", "balanced_accuracy",
    "balanced_accuracy_95", "shifted_roc_auc", "shifted_balanced_accuracy", "minutes",
)  # fmt: skip
RESAMPLES = 1000


def run_trial(name: str, recipe: str, overrides: Sequence[str]) -> dict[str, str]:
    """Cross-validates a recipe with changes.

    Args:
        name: of the trial; its run folder is `runs/trials/NAME`.
        recipe: of `training/configs/`.
        overrides: `key=value`.

    Returns:
        The row of the table: `COLUMNS`. The recipe's version says what the changes are from, domain_roc_auc is the
        mean of the domains' own, and shifted is `training.data.shift`.

    Raises:
        UserError: with a sentence for the user.
    """
    run = RUNS / name
    config = load_config(CONFIGS / f"{recipe}.yaml", ["data.shift_split=''", *overrides, f"run={run}"])
    start = time.perf_counter()
    accelerator, samples, crops = begin(config)
    held_out = assign_folds(samples, config.data.split, config.data.folds, config.seed)
    table = cross_validate(config, accelerator, samples, crops, run, config.data.split, held_out)
    metrics = report_table(table, config.seed)
    overall = metrics["overall"]
    changes = [o for o in overrides if not o.startswith(("data.root=", "data.split=", "seed=", "data.workers="))]
    domain_roc_auc = np.mean([domain["roc_auc"] for domain in metrics["domains"].values()])
    values = (
        name, f"{config.name} {config.version}", " ".join(changes), config.data.split, config.seed,
        overall["roc_auc"]["value"], _interval(overall["roc_auc"]), f"{domain_roc_auc:.4f}",
        overall["balanced_accuracy"]["value"], _interval(overall["balanced_accuracy"]),
        metrics["shifted"]["roc_auc"]["value"], metrics["shifted"]["balanced_accuracy"]["value"],
        f"{(time.perf_counter() - start) / 60:.1f}",
    )  # fmt: skip
    return dict(zip(COLUMNS, map(str, values), strict=True))


def compare(first: Predictions, second: Predictions, seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """Differences second - first of two trials on the same samples, resampling their slides together.

    Returns:
        For each figure the difference and its 95 % interval.
    """
    figures = []
    for trial in (first, second):
        calibrated = cross_calibrate(trial.logits, trial.labels, trial.folds)
        figures.append((calibrated, cross_calibrate(trial.logits, trial.labels, trial.folds, trial.shifted_logits)))
    random = np.random.default_rng(seed)
    members = [np.flatnonzero(first.groups == group) for group in np.unique(first.groups)]
    chosen = [np.arange(len(first.labels))]
    chosen += [np.concatenate([members[i] for i in random.integers(len(members), size=len(members))])
               for _ in range(RESAMPLES)]  # fmt: skip
    differences = np.array([_differences(first, figures, indices) for indices in chosen])
    low, high = np.percentile(differences[1:], [2.5, 97.5], axis=0)
    names = ("roc_auc", "domain_roc_auc", "balanced_accuracy", "shifted_roc_auc", "shifted_balanced_accuracy")
    return {name: (differences[0, i], low[i], high[i]) for i, name in enumerate(names)}


def _differences(samples: Predictions, figures: list[tuple[np.ndarray, np.ndarray]], chosen: np.ndarray) -> list[float]:
    labels, domains = samples.labels[chosen], samples.domains[chosen]
    values = []
    for calibrated, moved in figures:
        plain, under_shift = scores(labels, calibrated[chosen]), scores(labels, moved[chosen])
        by_domain = [
            scores(labels[domains == d], calibrated[chosen][domains == d])["roc_auc"]
            for d in np.unique(domains)
            if len({*labels[domains == d]}) == 2
        ]
        values.append(
            [plain["roc_auc"], np.mean(by_domain), plain["balanced_accuracy"], under_shift["roc_auc"],
             under_shift["balanced_accuracy"]]
        )  # fmt: skip
    return list(np.subtract(values[1], values[0]))


def _table_of(trial: str) -> Path:
    tables = sorted((RUNS / trial).glob("held_out_*.csv"))
    if tables:
        return tables[0]
    raise UserError(f"{RUNS / trial} holds no predictions; run the trial first.")


def _interval(entry: dict) -> str:
    return "{}-{}".format(*entry["interval_95"])


def _add_row(row: dict[str, str]) -> None:
    rows = []
    if TABLE.is_file():
        with TABLE.open(newline="", encoding="utf-8") as file:
            rows = [old for old in csv.DictReader(file) if old["trial"] != row["trial"]]
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, row])


def main() -> None:
    """Command line: a trial, or the comparison of two."""
    parser = argparse.ArgumentParser(prog="python -m training.trial", description="Try a change to a recipe.")
    parser.add_argument("--compare", action="store_true", help="compare two finished trials instead")
    parser.add_argument("name", help="of the trial; with --compare, of the baseline")
    parser.add_argument("recipe", help="one of training/configs/; with --compare, the other trial's name")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values of training/config.py")
    arguments = parser.parse_intermixed_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        if not arguments.compare:
            _add_row(run_trial(arguments.name, arguments.recipe, arguments.overrides))
            return
        tables = [_table_of(name) for name in (arguments.name, arguments.recipe)]
        first, second = map(read_predictions, tables)
        if not (np.array_equal(first.labels, second.labels) and np.array_equal(first.groups, second.groups)):
            raise UserError(f"{tables[0]} and {tables[1]} are of other crops; compare trials on the same data.")
        for name, (value, low, high) in compare(first, second).items():
            print(f"{name:28} {value:+.4f}  ({low:+.4f} to {high:+.4f})")
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
