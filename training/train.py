"""From labelled crops to a weights folder: folds, calibration on what they held out, final fit on everything.

training/train.sh compact data.root=DIR            # sets up .venv, then runs this
python -m training.train compact data.root=DIR optimisation.epochs=3
"""

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING

from model.errors import UserError
from model.network.calibration import Calibration
from model.network.classifier import MitosisClassifier
from training.config import Config, ConfigError, load_config, to_yaml
from training.data.folds import splits_of
from training.evaluation.calibration import fit_calibration
from training.evaluation.held_out import read_predictions
from training.evaluation.model_card import model_card
from training.evaluation.scores import report_table
from training.fitting.cross_validation import cross_validate, fit_name, fit_seed, hold_out
from training.fitting.fit import fit_network
from training.fitting.predict import Inference
from training.fitting.run import Run
from training.network.cost import describe
from training.run_folder import LOG, open_run
from training.weights import merge_checked, save_adapter, save_checked, weights_config

logger = logging.getLogger(__name__)

CONFIGS = Path(__file__).parent / "configs"

FINAL = "final"
"""The fit to all crops, and its folder in the run folder."""


def train(config: Config) -> dict[str, Any]:
    """Runs a recipe and writes its weights folder; what an interrupted run finished is not done again.

    Returns:
        The metrics as written beside the weights.

    Raises:
        UserError: with a sentence for the user.
    """
    with open_run(config) as run:
        metrics, calibration = _hold_out_all(run)
        network = _fit_final(run)
        _write(run, network, metrics, calibration)
        if run.accelerator.is_main_process:
            shutil.copyfile(run.folder / LOG, Path(config.output) / LOG)
    return metrics


def train_only(config: Config, name: str) -> None:
    """One fit of a recipe; `train` on the same run folder finds it done. So fits can run side by side.

    Args:
        config: the recipe.
        name: of the fit and of its folder in the run folder: a split and a fold, such as `slides_0`, or `final`.

    Raises:
        UserError: with a sentence for the user.
    """
    with open_run(config) as run:
        fits = {
            fit_name(split, fold): (split, folds, fold)
            for split, folds in _splits(run).items()
            for fold in range(folds.max() + 1)
        }
        if name in fits:
            hold_out(run, *fits[name])
        elif name == FINAL:
            _fit_final(run)
        else:
            raise ConfigError(f"The recipe has no fit '{name}'; there are: {', '.join([*fits, FINAL])}.")


def _splits(run: Run) -> dict[str, np.ndarray]:
    """The splits to predict held-out crops of, and the fold (N,) that each crop is held out in, for each of them."""
    return splits_of(run.config, run.crops.samples)


def _hold_out_all(run: Run) -> tuple[dict[str, Any], Calibration]:
    """Figures on crops that were held out, and the calibration fitted on all predictions of them."""
    config = run.config
    tables = [cross_validate(run, split, folds) for split, folds in _splits(run).items()]
    metrics = report_table(tables[0], config.seed, *tables[1:])
    if len(tables) > 1:
        metrics[f"held_out_{config.data.shift_split}"] = report_table(tables[1], config.seed, tables[0])
    held_out = [read_predictions(table) for table in tables]
    logits, labels = (np.concatenate([getattr(t, name) for t in held_out]) for name in ("logits", "labels"))
    calibration = fit_calibration(logits, labels)
    logger.info("Held out: %s", json.dumps(metrics["overall"]))
    return metrics, calibration


def _fit_final(run: Run) -> MitosisClassifier:
    """The network fitted to all crops; adapters are not merged yet."""
    return fit_network(run, run.crops, FINAL, fit_seed(run.config.seed, FINAL))


def _write(run: Run, network: MitosisClassifier, metrics: dict[str, Any], calibration: Calibration) -> None:
    """Writes the weights folder, and an adapter's beside it; adds to the metrics what storing changed."""
    config, accelerator, crops = run.config, run.accelerator, run.crops.crops
    output = Path(config.output)
    weights = weights_config(config, calibration, metrics)
    anywhere = replace(config, data=replace(config.data, root=MISSING))  # the weights travel, the folder does not
    texts = {"training.yaml": to_yaml(anywhere), "README.md": model_card(config, metrics, calibration)}
    if config.adapter.rank > 0:
        if accelerator.is_main_process:
            save_adapter(output.with_name(f"{output.name}-adapter"), network, weights, texts)
        network = merge_checked(network, crops, Inference(accelerator, weights.preprocessing))
    metrics["stored"] = save_checked(output, network, weights, crops, accelerator)
    if accelerator.is_main_process:
        for name, text in (texts | {"metrics.json": json.dumps(metrics, indent=2) + "\n"}).items():
            (output / name).write_text(text, encoding="utf-8")
    logger.info("Wrote %s.", output)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: a recipe's name and `key=value` overrides."""
    parser = argparse.ArgumentParser(
        prog="training/train.sh",
        description="Train a recipe and write its weights folder.",
        epilog="Example: training/train.sh compact data.root=DIR optimisation.epochs=12",
    )
    parser.add_argument("recipe", help=f"one of {', '.join(sorted(p.stem for p in CONFIGS.glob('*.yaml')))}")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values of training/config.py")
    parser.add_argument("--only", metavar="FIT", help="run one fit, such as slides_0 or final, beside others; and stop")
    parser.add_argument("--describe", action="store_true", help="print what the recipe costs as JSON, and stop")
    parsed = parser.parse_intermixed_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    path = CONFIGS / f"{parsed.recipe}.yaml"
    try:
        if parsed.describe:
            print(json.dumps(describe(load_config(path, ["data.root=.", *parsed.overrides])), indent=2))
        elif parsed.only is not None:
            train_only(load_config(path, parsed.overrides), parsed.only)
        else:
            train(load_config(path, parsed.overrides))
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
