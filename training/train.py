"""From labelled crops to a weights folder: folds, calibration on what they held out, final fit on everything.

training/train.sh compact data.root=DIR            # sets up .venv, then runs this
python -m training.train compact data.root=DIR optimisation.epochs=3
"""

import argparse
import hashlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from omegaconf import MISSING

from model.errors import UserError
from model.network.calibration import Calibration
from model.network.classifier import MitosisClassifier
from model.network.weights_config import Network, WeightsConfig
from training.config import Config, ConfigError, load_config, to_yaml
from training.data.crops import assign_folds, load_crops
from training.data.manifest import Sample, read_manifest
from training.evaluate import read_predictions, report_table
from training.evaluation.calibration import fit_calibration
from training.evaluation.model_card import model_card
from training.fitting.cross_validation import cross_validate, hold_out
from training.fitting.fit import fit, preprocessing_of
from training.network.cost import describe
from training.weights import merge_checked, save_adapter, save_checked

logger = logging.getLogger(__name__)

CONFIGS = Path(__file__).parent / "configs"

FINAL = "final"
"""The fit to all crops, and its folder in the run folder."""


def train(config: Config) -> dict:
    """Runs a recipe and writes its weights folder; what an interrupted run finished is not done again.

    Returns:
        The metrics as written beside the weights.

    Raises:
        UserError: with a sentence for the user.
    """
    run, output = Path(config.run), Path(config.output)
    accelerator, samples, crops = begin(config)
    splits = _splits(config, samples)
    tables = [cross_validate(config, accelerator, samples, crops, run, *split) for split in splits.items()]
    metrics = report_table(tables[0], config.seed, *tables[1:])
    if len(tables) > 1:
        metrics[f"held_out_{config.data.shift_split}"] = report_table(tables[1], config.seed, tables[0])
    held_out = [read_predictions(table) for table in tables]
    calibration = fit_calibration(
        np.concatenate([of.logits for of in held_out]), np.concatenate([of.labels for of in held_out])
    )
    logger.info("Held out: %s", json.dumps(metrics["overall"]))

    network = _fit_final(config, accelerator, samples, crops)
    weights = weights_config(config, calibration, metrics)
    anywhere = replace(config, data=replace(config.data, root=MISSING))  # the weights travel, the folder does not
    texts = {"training.yaml": to_yaml(anywhere), "README.md": model_card(config, metrics, calibration)}
    if config.adapter.rank > 0:
        if accelerator.is_main_process:
            save_adapter(output.with_name(f"{output.name}-adapter"), network, weights, texts)
        network = merge_checked(network, weights.preprocessing, crops, accelerator)
    metrics["stored"] = save_checked(output, network, weights, crops, accelerator)
    if accelerator.is_main_process:
        for name, text in (texts | {"metrics.json": json.dumps(metrics, indent=2) + "\n"}).items():
            (output / name).write_text(text, encoding="utf-8")
    logger.info("Wrote %s.", output)
    return metrics


def train_only(config: Config, name: str) -> None:
    """One fit of a recipe; `train` on the same run folder finds it done. So fits can run side by side.

    Args:
        config: the recipe.
        name: of the fit and of its folder in the run folder: a split and a fold, such as `slides_0`, or `final`.

    Raises:
        UserError: with a sentence for the user.
    """
    accelerator, samples, crops = begin(config)
    folder = Path(config.run) / name
    folds = {
        f"{split}_{fold}": (held_out, fold)
        for split, held_out in _splits(config, samples).items() for fold in range(held_out.max() + 1)
    }  # fmt: skip
    if name in folds:
        hold_out(config, accelerator, samples, crops, *folds[name], folder)
    elif name == FINAL:
        _fit_final(config, accelerator, samples, crops)
    else:
        raise ConfigError(f"The recipe has no fit '{name}'; there are: {', '.join([*folds, FINAL])}.")


def begin(config: Config) -> tuple[Accelerator, list[Sample], list[np.ndarray]]:
    """What runs a recipe, its samples and their crops, after a look whether the run folder is of the same ones.

    Raises:
        UserError: with a sentence for the user.
    """
    run = Path(config.run)
    run.mkdir(parents=True, exist_ok=True)
    accelerator = accelerator_for(config)
    check_same_run(run / "config.yaml", to_yaml(config), "another configuration", accelerator)
    samples = read_manifest(Path(config.data.root))
    crops = load_crops(samples, preprocessing_of(config).largest_side)
    check_same_run(run / "data.sha256", _fingerprint(samples, crops), "other data", accelerator)
    if config.loss.phases > 0:
        known = sum(bool(sample.phases) for sample in samples)
        logger.info("Of %d of the %d crops a phase of mitosis is known (loss.phases).", known, len(samples))
    return accelerator, samples, crops


def _splits(config: Config, samples: Sequence[Sample]) -> dict[str, np.ndarray]:
    """The splits to predict held-out crops of, and the fold (N,) that each crop is held out in, for each of them."""
    splits = [config.data.split]
    if config.data.shift_split:
        names = {getattr(sample, config.data.shift_split.removesuffix("s")) for sample in samples}
        if len(names) > 1:
            splits.append(config.data.shift_split)
        else:
            logger.info("Only one of the %s: none is held out whole.", config.data.shift_split)
    return {split: assign_folds(samples, split, config.data.folds, config.seed) for split in splits}


def _fit_final(
    config: Config, accelerator: Accelerator, samples: Sequence[Sample], crops: Sequence[np.ndarray]
) -> MitosisClassifier:
    """The network fitted to all crops; adapters are not merged yet."""
    seed = config.seed + config.data.folds  # the folds have those before it
    return fit(config, accelerator, crops, samples, None, Path(config.run) / FINAL, seed)


def accelerator_for(config: Config) -> Accelerator:
    """What runs a recipe: this process alone, or with those that it was launched with."""
    accelerator = Accelerator(
        mixed_precision=choose_precision(config.optimisation.precision),
        gradient_accumulation_steps=config.optimisation.accumulation,
    )
    if not accelerator.is_main_process:
        logging.getLogger().setLevel(logging.WARNING)
    return accelerator


def choose_precision(name: str) -> str:
    """`auto` resolved for this machine: `bf16` from compute capability 8.0, `fp16` below, `no` without a GPU."""
    if name != "auto":
        return name
    if not torch.cuda.is_available():
        return "no"
    return "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"


def check_same_run(path: Path, text: str, otherwise: str, accelerator: Accelerator) -> None:
    """Notes what a run is of, so that it is not gone on with for anything else.

    Args:
        path: of the note, in the run's folder.
        text: what is noted.
        otherwise: what the run would be with, were it begun with another text.
        accelerator: its first process writes.

    Raises:
        ConfigError: another text is noted.
    """
    known = path.is_file()
    if known and path.read_text(encoding="utf-8") != text:
        raise ConfigError(f"{path.parent} belongs to a run with {otherwise}; remove it, or give run=DIR.")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and not known:
        partial = path.with_suffix(f".{os.getpid()}.partial")  # fits that start side by side each write theirs
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)


def _fingerprint(samples: Sequence[Sample], crops: Sequence[np.ndarray]) -> str:
    """SHA-256 of what is trained on: names, labels, votes, slides, domains, phases and pixels, in order."""
    digest = hashlib.sha256()
    for sample, crop in zip(samples, crops, strict=True):
        of = (
            sample.path.name, sample.label, sample.agreement, sample.group, sample.domain, sample.source,
            *sample.phases,
        )  # fmt: skip
        digest.update(("\0".join(map(str, of)) + "\0").encode())
        digest.update(crop.tobytes())
    return digest.hexdigest()


def weights_config(config: Config, calibration: Calibration, metrics: dict) -> WeightsConfig:
    """What config.json of the weights folder says, but for the tensors' SHA-256."""
    return WeightsConfig(
        name=config.name,
        version=config.version,
        network=Network(config.network.backbone, config.network.pooling, config.network.backbone_args),
        preprocessing=preprocessing_of(config),
        calibration=calibration,
        dtype=config.stored_dtype,
        sha256="",
        training={"held_out": metrics["overall"], "crops": metrics["crops"], "seed": config.seed},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: a recipe's name and `key=value` overrides."""
    parser = argparse.ArgumentParser(
        prog="training/train.sh", description="Train a recipe and write its weights folder.",
        epilog="Example: training/train.sh compact data.root=DIR optimisation.epochs=12",
    )  # fmt: skip
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
