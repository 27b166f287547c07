"""From labelled crops to a weights folder: folds, calibration on what they held out, final fit on everything.

training/train.sh compact data.root=DIR            # sets up .venv, then runs this
python -m training.train compact data.root=DIR optimisation.epochs=3
"""

import argparse
import csv
import hashlib
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from omegaconf import MISSING

from model.checkpoint import Calibration, Network, WeightsConfig
from model.classifier import MitosisClassifier
from model.constants import CLASSES
from model.errors import UserError
from training.adapters import merge_adapters
from training.calibrate import fit_calibration
from training.config import Config, ConfigError, load_config, to_yaml
from training.datasets import assign_folds, load_crops
from training.describe import describe
from training.evaluate import read_predictions, report_table
from training.fit import fit, join, predict, preprocessing_of
from training.manifest import Sample, read_manifest
from training.model_card import model_card
from training.shift import shifted
from training.weights import merge_checked, save_adapter, save_checked

logger = logging.getLogger(__name__)

CONFIGS = Path(__file__).parent / "configs"
VIEWS = "rot4"
"""Views that held-out predictions are averaged over: half of the container's default, in half of the time."""


def train(config: Config) -> dict:
    """Runs a recipe and writes its weights folder; what an interrupted run finished is not done again.

    Returns:
        The metrics as written beside the weights.

    Raises:
        UserError: with a sentence for the user.
    """
    run, output = Path(config.run), Path(config.output)
    run.mkdir(parents=True, exist_ok=True)
    accelerator = accelerator_for(config)
    keep(run / "config.yaml", to_yaml(config), "another configuration", accelerator)
    samples, crops = read_data(config, run, accelerator)
    splits = _splits(config, samples)
    tables = [cross_validate(config, accelerator, samples, crops, run, split) for split in splits]
    metrics = report_table(tables[0], config.seed, *tables[1:])
    if len(tables) > 1:
        metrics[f"held_out_{splits[1]}"] = report_table(tables[1], config.seed, tables[0])
    held_out = [read_predictions(table) for table in tables]
    calibration = fit_calibration(
        np.concatenate([of.logits for of in held_out]), np.concatenate([of.labels for of in held_out])
    )
    logger.info("Held out: %s", json.dumps(metrics["overall"]))

    network = _fit_final(config, accelerator, samples, crops, run)
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


def _splits(config: Config, samples: Sequence[Sample]) -> list[str]:
    """The splits to predict held-out crops of, after a look whether they can be made: before hours of training."""
    splits = [config.data.split]
    if config.data.shift_split:
        names = {getattr(sample, config.data.shift_split.removesuffix("s")) for sample in samples}
        if len(names) > 1:
            splits.append(config.data.shift_split)
        else:
            logger.info("Only one of the %s: none is held out whole.", config.data.shift_split)
    for split in splits:
        assign_folds(samples, split, config.data.folds, config.seed)
    return splits


def _fit_final(
    config: Config, accelerator: Accelerator, samples: Sequence[Sample], crops: Sequence[np.ndarray], run: Path
) -> MitosisClassifier:
    """The network fitted to all crops; adapters are not merged yet."""
    seed = config.seed + config.data.folds
    if not config.network.backbone_per_scale or len(config.network.scales) == 1:
        return fit(config, accelerator, crops, samples, None, run / "final", seed)
    members = []
    for number, scale in enumerate(config.network.scales):
        side = preprocessing_of(config).side(scale)
        of_scale = replace(config, network=replace(config.network, field_of_view=side, scales=[1.0]))
        members.append(fit(of_scale, accelerator, crops, samples, None, run / f"final_{side}", seed + number))
    return join(members)


def accelerator_for(config: Config) -> Accelerator:
    """What runs a recipe: this process alone, or with those that it was launched with."""
    accelerator = Accelerator(
        mixed_precision=choose_precision(config.optimisation.precision),
        gradient_accumulation_steps=config.optimisation.accumulation,
    )
    if not accelerator.is_main_process:
        logging.getLogger().setLevel(logging.WARNING)
    return accelerator


def read_data(config: Config, run: Path, accelerator: Accelerator) -> tuple[list[Sample], list[np.ndarray]]:
    """A recipe's samples and their crops, after a look whether the run was begun with the same ones.

    Raises:
        UserError: with a sentence for the user.
    """
    samples = read_manifest(Path(config.data.root))
    crops = load_crops(samples, preprocessing_of(config).largest_side)
    keep(run / "data.sha256", _fingerprint(samples, crops), "other data", accelerator)
    return samples, crops


def cross_validate(
    config: Config,
    accelerator: Accelerator,
    samples: Sequence[Sample],
    crops: Sequence[np.ndarray],
    run: Path,
    split: str,
) -> Path:
    """Fits a network for every fold and predicts what it held out, as it is and under a synthetic shift.

    Args:
        config: the recipe.
        accelerator: where it runs.
        samples: all of them.
        crops: theirs.
        run: its folder; what is found there is not done again.
        split: what a fold is made of (see `training.datasets.assign_folds`).

    Returns:
        The table `held_out_SPLIT.csv`, a row for each sample: file, label, domain, group, fold, logit, shifted_logit.
    """
    labels = np.array([sample.label for sample in samples])
    held_out = assign_folds(samples, split, config.data.folds, config.seed)
    logger.info(
        "%d crops (%d atypical) of %d slides, %d folds of %s, on %s.",
        len(samples), labels.sum(), len({s.group for s in samples}), held_out.max() + 1, split,
        accelerator.device,
    )  # fmt: skip
    logits = np.empty((len(samples), 2))
    for fold in np.unique(held_out):
        folder = run / f"{split}_{fold}"
        done = folder / "logits.npy"
        inside, outside = np.flatnonzero(held_out != fold), np.flatnonzero(held_out == fold)
        if not done.is_file():
            training, validation = ([crops[i] for i in indices] for indices in (inside, outside))
            network = fit(
                config, accelerator, training, [samples[i] for i in inside], (validation, labels[outside]), folder,
                config.seed + int(fold),
            )  # fmt: skip
            merge_adapters(network)
            moved = shifted(validation, [samples[i].group for i in outside], config.seed)
            predicted = [
                predict(network, preprocessing_of(config), of, VIEWS, accelerator) for of in (validation, moved)
            ]
            del network
            if accelerator.is_main_process:
                partial = done.with_suffix(".partial.npy")
                np.save(partial, np.stack(predicted, axis=1))
                partial.replace(done)
            accelerator.wait_for_everyone()
        logits[outside] = np.load(done, allow_pickle=False)
    table = run / f"held_out_{split}.csv"
    if accelerator.is_main_process:
        _write_table(table, samples, held_out, logits)
    accelerator.wait_for_everyone()
    return table


def choose_precision(name: str) -> str:
    """`auto` resolved for this machine: `bf16` from compute capability 8.0, `fp16` below, `no` without a GPU."""
    if name != "auto":
        return name
    if not torch.cuda.is_available():
        return "no"
    return "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"


def keep(path: Path, text: str, otherwise: str, accelerator: Accelerator) -> None:
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
        partial = path.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)


def _fingerprint(samples: Sequence[Sample], crops: Sequence[np.ndarray]) -> str:
    """SHA-256 of what is trained on: names, labels, votes, slides, domains and pixels, in order."""
    digest = hashlib.sha256()
    for sample, crop in zip(samples, crops, strict=True):
        of = (sample.path.name, sample.label, sample.agreement, sample.group, sample.domain, sample.source)
        digest.update(("\0".join(map(str, of)) + "\0").encode())
        digest.update(crop.tobytes())
    return digest.hexdigest()


def _write_table(path: Path, samples: Sequence[Sample], held_out: np.ndarray, logits: np.ndarray) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "domain", "group", "fold", "logit", "shifted_logit"])
        for sample, fold, pair in zip(samples, held_out, logits, strict=True):
            label, both = CLASSES[sample.label], [f"{logit:.6f}" for logit in pair]
            writer.writerow([sample.path.name, label, sample.domain, sample.group, fold, *both])


def weights_config(config: Config, calibration: Calibration, metrics: dict) -> WeightsConfig:
    """What config.json of the weights folder says, but for the tensors' SHA-256."""
    return WeightsConfig(
        name=config.name,
        version=config.version,
        network=Network(
            config.network.backbone,
            config.network.pooling,
            config.network.backbone_args,
            members=len(config.network.scales) if config.network.backbone_per_scale else 1,
        ),
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
    parser.add_argument("--describe", action="store_true", help="print what the recipe costs as JSON, and stop")
    parsed = parser.parse_intermixed_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    path = CONFIGS / f"{parsed.recipe}.yaml"
    try:
        if parsed.describe:
            print(json.dumps(describe(load_config(path, ["data.root=.", *parsed.overrides])), indent=2))
        else:
            train(load_config(path, parsed.overrides))
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
