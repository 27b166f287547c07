"""From labelled crops to a weights folder: folds, calibration on what they held out, final fit on everything.

training/train.sh compact data.root=DIR            # sets up .venv, then runs this
python -m training.train compact data.root=DIR optimisation.epochs=3
"""

import argparse
import dataclasses
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import HfApi
from omegaconf import MISSING
from torch import Tensor

from model.errors import UserError
from model.network.calibration import Calibration
from model.network.ensemble import Classifier, MitosisEnsemble
from training.config import Config, ConfigError, load_config, to_yaml
from training.data.overview import draw_augmented, fold_table
from training.evaluation.calibration import fit_calibration
from training.evaluation.held_out import read_predictions
from training.evaluation.model_card import model_card
from training.evaluation.report import About, report_held_out
from training.evaluation.scores import report_run
from training.fitting.cross_validation import cross_validate, fit_seed, hold_out
from training.fitting.ensembles import members, soup
from training.fitting.fit import fit_network, logit_spread, measure_spread
from training.fitting.predict import Inference
from training.fitting.run import Run
from training.hub import parse_address
from training.network.classifier import network_of, preprocessing_of
from training.network.cost import describe
from training.push import push
from training.run_folder import LOG, open_run
from training.side_by_side import fit_side_by_side
from training.weights import Adapter, Stored, merge_checked, save_checked, weights_config

logger = logging.getLogger(__name__)

CONFIGS = Path(__file__).parent / "configs"

FINAL = "final"
"""The fit to all crops, and its folder in the run folder."""

LARGEST_SPREAD_RATIO = 1.3
"""Of the final network's logits to the folds', either way, before that is said."""

LATER = 5
"""Seconds that further processes wait with a sentence which may be the first one's."""


def train(config: Config, replace: bool = False, smoke: bool = False) -> dict[str, Any]:
    """Runs a recipe and writes its weights folder; what an interrupted run finished is not done again.

    Args:
        config: the recipe.
        replace: replace weights that another run has left in the recipe's `output`.
        smoke: a dry run, see `smoke_config`.

    Returns:
        The metrics as written beside the weights.

    Raises:
        UserError: with a sentence for the user.
    """
    with open_run(config, replace, smoke) as run:
        _show_data(run)
        tables = [cross_validate(run, split) for split in run.splits]
        metrics = report_run(tables, config.seed)
        logger.info("Held out: %s", json.dumps(metrics["overall"]))
        calibration = _calibrate_on_all(tables)
        product = _fit_final(run, [fit.name for fit in run.splits[0].fits])
        folds = [logit_spread(run, fit.name) for split in run.splits for fit in split.fits]
        own = measure_spread(run, product.network, run.crops) if config.ensemble else logit_spread(run, FINAL)
        metrics["logit_spread"] = _compare_spreads(own, folds)
        _write(run, product, metrics, calibration)
        if run.accelerator.is_main_process:
            shutil.copyfile(run.folder / LOG, Path(config.output) / LOG)
            _write_page(run, tables, metrics)
    return metrics


def smoke_config(config: Config) -> Config:
    """A recipe as a dry run: all that it does, but one epoch on a few crops, in a run folder and an output beside."""
    run = f"{config.run}-smoke"
    optimisation = dataclasses.replace(config.optimisation, epochs=1)
    return dataclasses.replace(
        config, name=f"{config.name}-smoke", run=run, output=f"{run}/weights", optimisation=optimisation
    )


def train_only(config: Config, name: str, replace: bool = False) -> None:
    """One fit of a recipe; `train` on the same run folder finds it done. So fits can run side by side.

    Args:
        config: the recipe.
        name: of the fit and of its folder in the run folder: a split and a fold, such as `slides_0`, or `final`.
        replace: as for `train`.

    Raises:
        UserError: with a sentence for the user.
    """
    with open_run(config, replace) as run:
        fits = {fit.name: fit for split in run.splits for fit in split.all_fits}
        if name not in (names := fit_names(run)):
            raise ConfigError(f"The recipe has no fit '{name}'; there are: {', '.join(names)}.")
        if name in fits:
            hold_out(run, fits[name])
        else:
            fit_network(run, run.crops, FINAL, fit_seed(config.seed, FINAL))


def fit_names(run: Run) -> list[str]:
    """The fits of a run, the one to all crops, which takes longest, first."""
    held_out = [fit.name for split in run.splits for fit in split.all_fits]
    return held_out if run.config.ensemble else [FINAL, *held_out]


def train_side_by_side(config: Config, command: Sequence[str], jobs: int, replace: bool = False) -> None:
    """`train`, but several fits at a time, each in a process of its own (`training.side_by_side`).

    Args:
        config: the recipe.
        command: what `train_only` is reached by, without `--only`.
        jobs: how many fits at a time.
        replace: as for `train`.

    Raises:
        UserError: with a sentence for the user.
    """
    if jobs < 1:
        raise ConfigError(f"--jobs is {jobs}; give the number of fits to run at a time.")
    if jobs > 1:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError(f"--jobs {jobs} runs fits side by side, PROCESSES one fit in several; give one of them.")
        with open_run(config, replace) as run:
            fits = fit_names(run)
        fit_side_by_side(command, fits, jobs)
    train(config, replace)


def _show_data(run: Run) -> None:
    """Says what each fold holds, and draws some crops as training alters them."""
    if run.accelerator.is_main_process:
        for split in run.splits:
            logger.info("Crops held out in each fold of %s:\n%s", split.name, fold_table(split, run.crops.samples))
        page = run.folder / "augmented.png"
        draw_augmented(page, run.crops, run.config, preprocessing_of(run.config))
        logger.info("What training alters crops to: %s", page)


def _calibrate_on_all(tables: Sequence[Path]) -> Calibration:
    """The calibration fitted on all predictions of crops that were held out."""
    held_out = [read_predictions(table) for table in tables]
    logits, labels = (np.concatenate([getattr(t, name) for t in held_out]) for name in ("logits", "labels"))
    return fit_calibration(logits, labels)


@dataclasses.dataclass(frozen=True)
class _Product:
    """What a run comes to.

    Attributes:
        network: in evaluation mode, on the accelerator's device; adapters are apart from it unless there are tensors.
        config: the recipe that builds its like.
        tensors: of an ensemble's members, as they are stored; None for one network.
    """

    network: Classifier
    config: Config
    tensors: dict[str, Tensor] | None = None


def _fit_final(run: Run, folds: Sequence[str]) -> _Product:
    """A network fitted to all crops, or made of those of the folds."""
    config = run.config
    if config.ensemble == "soup":
        return _Product(*soup(run, folds, run.crops))
    if config.ensemble == "members":
        network, tensors = members(run, folds)
        return _Product(network, config, tensors)
    return _Product(fit_network(run, run.crops, FINAL, fit_seed(config.seed, FINAL)), config)


def _compare_spreads(final: float, folds: Sequence[float]) -> dict[str, Any]:
    """How far the final network's logits spread beside those of the folds' networks, which the calibration is from.

    Where they spread otherwise, the calibration fits the final network less well, which is said.
    """
    ratio = final / max(float(np.mean(folds)), 1e-12)
    if not 1 / LARGEST_SPREAD_RATIO <= ratio <= LARGEST_SPREAD_RATIO:
        logger.warning(
            "The final network's logits spread %.2f times as far as those of the networks that the calibration was "
            "fitted on: P(atypical) and the operating point are less sure than the figures say.",
            ratio,
        )
    return {"folds": [round(spread, 4) for spread in folds], "final": round(final, 4), "ratio": round(ratio, 3)}


def _write(run: Run, product: _Product, metrics: dict[str, Any], calibration: Calibration) -> None:
    """Writes the weights folder, and an adapter's beside it; adds to the metrics what storing changed."""
    network, config, accelerator, crops = product.network, product.config, run.accelerator, run.crops.crops
    output = Path(config.output)
    weights = weights_config(config, calibration, metrics)
    anywhere = dataclasses.replace(config, data=dataclasses.replace(config.data, root=MISSING))  # weights travel
    texts = {
        "training.yaml": to_yaml(anywhere),
        "README.md": model_card(config, metrics, calibration, run.crops.samples),
    }
    adapter = None
    if isinstance(network, MitosisEnsemble):
        weights = dataclasses.replace(weights, network=network_of(config, len(network.members)))
    elif config.adapter.rank > 0:
        adapter = Adapter.of(network, weights, texts | {"metrics.json": json.dumps(metrics, indent=2) + "\n"})
        network = merge_checked(network, crops, Inference(accelerator, weights.preprocessing))
    stored = Stored(network, weights, network.state_dict() if product.tensors is None else product.tensors)
    metrics["stored"] = save_checked(output, stored, crops, accelerator)
    if accelerator.is_main_process:
        for name, text in (texts | {"metrics.json": json.dumps(metrics, indent=2) + "\n"}).items():
            (output / name).write_text(text, encoding="utf-8")
        if adapter is not None:
            adapter.save(output.with_name(f"{output.name}-adapter"))
    logger.info("Wrote %s.", output)


def _write_page(run: Run, tables: Sequence[Path], metrics: dict[str, Any]) -> None:
    """Writes the page to look at beside the weights; it shows crops, so it is pushed nowhere."""
    config, output = run.config, Path(run.config.output)
    whose = "other networks of the same recipe than the one beside this page"
    if config.ensemble:
        whose = "the network of the fold that held each crop out; what is beside this page is made of these networks"
    about = About(
        title=f"Training of {config.name} {config.version}",
        sentence=f"Held-out predictions of {metrics['crops']} crops, calibrated on {metrics['calibrated_on']}, "
        f"by {whose}.",
        settings=(output / "training.yaml").read_text(encoding="utf-8"),
        log=run.folder / LOG,
    )
    logger.info("Wrote %s.", report_held_out(output, about, tables, metrics, run.crops))


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
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="fits to run side by side (default: 1)")
    parser.add_argument("--smoke", action="store_true", help="dry run: everything once, on a few crops, and stop")
    parser.add_argument("--replace", action="store_true", help="replace the weights that another run left in output")
    parser.add_argument("--push-to-hub", metavar="OWNER/NAME", help="push the weights, or the adapter alone")
    parser.add_argument("--describe", action="store_true", help="print what the recipe costs as JSON, and stop")
    parsed = parser.parse_intermixed_args(arguments)
    part = parsed.describe, parsed.only is not None, parsed.smoke
    if sum(part) > 1:
        parser.error("give one of --describe, --only and --smoke")
    if any(part) and (parsed.jobs != 1 or parsed.push_to_hub):
        parser.error("--jobs and --push-to-hub are for whole runs; leave them out with --describe, --only and --smoke")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    path = CONFIGS / f"{parsed.recipe}.yaml"
    try:
        if parsed.describe:
            print(json.dumps(describe(load_config(path, ["data.root=.", *parsed.overrides])), indent=2))
        elif parsed.only is not None:
            train_only(load_config(path, parsed.overrides), parsed.only, parsed.replace)
        elif parsed.smoke:
            train(smoke_config(load_config(path, parsed.overrides)), smoke=True)
            logger.info("The dry run came to its end; its figures and weights are of networks that learnt nothing.")
        else:
            config = load_config(path, parsed.overrides)
            if parsed.push_to_hub:
                parse_address(f"hf:{parsed.push_to_hub}")  # refused before anything is fitted
            replace = ["--replace"] if parsed.replace else []
            command = [sys.executable, "-m", "training.train", parsed.recipe, *parsed.overrides, *replace]
            train_side_by_side(config, command, parsed.jobs, parsed.replace)
            if parsed.push_to_hub and int(os.environ.get("RANK", "0")) == 0:
                output = Path(config.output)
                adapter = output.with_name(f"{output.name}-adapter")
                alone = config.adapter.rank > 0 and config.ensemble != "members"
                logger.info("Pushed %s.", push(adapter if alone else output, parsed.push_to_hub, HfApi()))
    except UserError as error:
        if (rank := int(os.environ.get("RANK", "0"))) > 0:
            time.sleep(LATER)  # what the first process says as well, it says alone: this one is ended with it
            sys.exit(f"Process {rank}: {error}")
        sys.exit(str(error))
    except OSError as error:
        where = error.filename or "A file of the run"
        sys.exit(
            f"{where}: {error.strerror or error}; mend that, and the same command goes on after the last whole epoch."
        )
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on after the last whole epoch.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
