"""One trial of a change to a recipe, and the table of all trials.

python -m training.trial NAME compact data.root=DIR data.split=sources augmentation.mixup=0.4    # adds a row
python -m training.trial NAME compact data.root=DIR data.split=sources KEY=VALUE --only sources_0  # of one fold alone
python -m training.trial --compare BASELINE NAME                    # what the change did, with an interval
python -m training.trial --compare BASELINE NAME --only sources_0   # of one fold, where a trial has several tables

A trial cross-validates and fits nothing else, so its operating point is from the other folds' predictions; one fold
alone has none, and tells the ROC AUC at a third of the time or less. The table is `training/trials.csv`; predictions
stay in `runs/trials/`.
"""

import argparse
import csv
import dataclasses
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.errors import UserError
from training.config import ConfigError, load_config
from training.data.folds import Split
from training.evaluation.comparison import compare, trial_probabilities
from training.evaluation.held_out import find_tables, read_predictions, table_path, write_predictions
from training.evaluation.scores import domain_roc_auc, report_ranking, report_table
from training.fitting.cross_validation import cross_validate, hold_out
from training.fitting.run import Run
from training.run_folder import open_run
from training.train import CONFIGS

TABLE = Path(__file__).parent / "trials.csv"
RUNS = Path("runs/trials")
COLUMNS = (
    *("trial", "recipe", "changes", "split", "seed", "roc_auc", "roc_auc_95", "domain_roc_auc", "balanced_accuracy"),
    *("balanced_accuracy_95", "shifted_roc_auc", "shifted_balanced_accuracy", "minutes"),
)


def run_trial(name: str, recipe: str, overrides: Sequence[str], only: str = "") -> dict[str, str]:
    """Cross-validates a recipe with changes.

    Args:
        name: of the trial; its run folder is `runs/trials/NAME`.
        recipe: of `training/configs/`.
        overrides: `key=value`.
        only: the one fit to make, such as `sources_0`; empty for all of the split.

    Returns:
        The row of the table: `COLUMNS`. The recipe's version says what the changes are from, domain_roc_auc is the
        mean of the domains' own, and shifted is `training.data.shift`. Of one fit, balanced accuracies are empty.

    Raises:
        UserError: with a sentence for the user.
    """
    config = load_config(
        CONFIGS / f"{recipe}.yaml",
        ["data.shift_split=", *overrides, f"run={RUNS / name}", f"output={RUNS / name / 'none'}"],
    )
    start = time.perf_counter()
    with open_run(config) as run:
        split = dataclasses.replace(run.splits[0], calibrating=[])  # trials are compared with trials: half as many fits
        table = _one_fold(run, split, only) if only else cross_validate(run, split, config.ensemble)
    held_out = read_predictions(table)
    metrics = report_ranking(held_out, config.seed) if only else report_table(table, config.seed)
    probabilities, _ = trial_probabilities(held_out)
    overall, shifted = metrics["overall"], metrics["shifted"]
    changes = [o for o in overrides if not o.startswith(("data.root=", "data.split=", "seed=", "data.workers="))]
    row = {
        "trial": name,
        "recipe": f"{config.name} {config.version}",
        "changes": " ".join(changes),
        "split": only or config.data.split,
        "seed": config.seed,
        "roc_auc": overall["roc_auc"]["value"],
        "roc_auc_95": _interval(overall["roc_auc"]),
        "domain_roc_auc": f"{domain_roc_auc(held_out.labels, held_out.domains, probabilities):.4f}",
        "balanced_accuracy": "" if only else overall["balanced_accuracy"]["value"],
        "balanced_accuracy_95": "" if only else _interval(overall["balanced_accuracy"]),
        "shifted_roc_auc": shifted["roc_auc"]["value"],
        "shifted_balanced_accuracy": "" if only else shifted["balanced_accuracy"]["value"],
        "minutes": f"{(time.perf_counter() - start) / 60:.1f}",
    }
    return {column: str(row[column]) for column in COLUMNS}


def _one_fold(run: Run, split: Split, name: str) -> Path:
    """Makes one fit of a split and writes the table of what it holds out."""
    fits = {fit.name: fit for fit in split.fits}
    if name not in fits:
        raise ConfigError(f"The split has no fit '{name}'; there are: {', '.join(fits)}.")
    held_out = run.crops.subset(fits[name].held_out)
    table = table_path(run.folder, name)
    logits = hold_out(run, fits[name], run.config.ensemble)
    write_predictions(table, held_out.samples, np.zeros(len(held_out), dtype=int), logits)
    return table


def shared_tables(trials: Sequence[str], only: str = "") -> list[Path]:
    """The tables to compare of some trials, one each, of one name: of the same split, or the same fold of it.

    Args:
        trials: their names.
        only: the split or the fit whose tables they are, such as `sources_0`; empty for the one that all have.

    Raises:
        UserError: a trial has no table, not that one, or all have none or several in common.
    """
    found = {trial: [table.name for table in find_tables(RUNS / trial)] for trial in trials}
    for trial, names in found.items():
        if not names:
            raise UserError(f"{RUNS / trial} holds no predictions; run the trial first.")
    have = "; ".join(f"{RUNS / trial} has {', '.join(names)}" for trial, names in found.items())
    shared = sorted(set.intersection(*map(set, found.values())))
    if only:
        shared = [name for name in shared if name == table_path(RUNS, only).name]
    if not shared:
        raise UserError(f"The trials share no table{f' of {only}' * bool(only)}: {have}; compare trials of one split.")
    if len(shared) > 1:
        raise UserError(f"The trials share several tables: {have}; say by --only which to compare, such as sources_0.")
    return [RUNS / trial / shared[0] for trial in trials]


def _interval(entry: dict[str, Any]) -> str:
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
    parser.add_argument(
        "--only", metavar="FIT", default="", help="make, or compare, one fit of the split alone, such as sources_0"
    )
    parser.add_argument("name", help="of the trial; with --compare, of the baseline")
    parser.add_argument("recipe", help="one of training/configs/; with --compare, the other trial's name")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values of training/config.py")
    arguments = parser.parse_intermixed_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        if not arguments.compare:
            _add_row(run_trial(arguments.name, arguments.recipe, arguments.overrides, arguments.only))
            return
        tables = shared_tables([arguments.name, arguments.recipe], arguments.only)
        first, second = map(read_predictions, tables)
        for name, (value, low, high) in compare(first, second).items():
            print(f"{name:28} {value:+.4f}  ({low:+.4f} to {high:+.4f})")
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
