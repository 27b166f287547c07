"""A run's folder: whose it is, its log, and what an interrupted run finds there.

RUN/config.yaml                 the settings it was last started with, for people
RUN/training.log                what it said; added to when it goes on
RUN/augmented.png               some crops as training alters them, for people
RUN/SPLIT_FOLD/, RUN/final/     one fit each: fit.json says of what; checkpoint, or what was fitted; TensorBoard log;
                                logits of the crops held out
RUN/held_out_SPLIT.csv          predictions of all crops (see `training.evaluation.held_out`)

Only a fit that has a checkpoint binds the folder: a start that failed before, on whatever, can be corrected.
"""

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator

from model.files import read_bounded, write_whole
from model.network.weights_folder import CONFIG_FILE
from training.config import Config, ConfigError, flat, to_yaml
from training.data.crops import LabelledCrops, load_crops, without_duplicates
from training.data.folds import few_of_each, splits_of
from training.data.manifest import read_manifest
from training.fitting.run import NOTE, Run, accelerator_for
from training.network.classifier import preprocessing_of
from training.network.cost import check_network, choose_checkpointing

logger = logging.getLogger(__name__)

LOG = "training.log"
"""What the first process of a run says, in the run's folder and beside the weights."""

CONFIG = "config.yaml"
LARGEST_CONFIG = 1 << 20
"""Bytes of it that are read; ours has some thousand."""

WITHOUT_EFFECT = frozenset(
    {
        *("name", "version", "output", "run", "stored_dtype", "ensemble"),
        *("data.root", "data.about", "data.workers", "data.split", "data.shift_split"),
        "optimisation.gradient_checkpointing",
    }
)
"""Keys of the configuration that change no fit: a run goes on under other values of them."""


@contextmanager
def open_run(config: Config, replace: bool = False, smoke: bool = False) -> Iterator[Run]:
    """A recipe's run, after all that can be checked beforehand; a log is written meanwhile.

    Args:
        config: the recipe.
        replace: replace weights that another run has left in the recipe's `output`.
        smoke: for a dry run, whose folder is emptied first and which has a few crops of each kind.

    Raises:
        UserError: with a sentence for the user.
    """
    folder = Path(config.run)
    begun = {} if smoke else notes(folder)
    settings = identity(config)
    for path, note in begun.items():
        _refuse_others(path, {key: note.get(key) for key in settings}, settings)
    _check_output(Path(config.output), replace or smoke or (bool(begun) and _is_of(folder, Path(config.output))))
    accelerator = accelerator_for(config)
    check_network(config)
    config = choose_checkpointing(config, accelerator.device, accelerator.num_processes)
    _make_folders(config, smoke, accelerator)
    with _logging_to(folder / LOG, accelerator):
        samples = read_manifest(Path(config.data.root))
        if smoke:
            samples = few_of_each(samples, config)
        crops = without_duplicates(load_crops(samples, preprocessing_of(config).largest_side))
        splits = splits_of(config, crops.samples)  # what cannot be split is refused before anything is fitted
        settings |= {"data": fingerprint(crops)}
        for path, note in begun.items():
            _refuse_others(path, note, settings)
        if accelerator.is_main_process:
            write_whole(folder / CONFIG, to_yaml(config))
        if config.loss.phases > 0:
            known = sum(bool(sample.phases) for sample in crops.samples)
            logger.info("Of %d of the %d crops a phase of mitosis is known (loss.phases).", known, len(crops))
        yield Run(config, accelerator, crops, folder, settings, splits, smoke)


def _check_output(output: Path, replace: bool) -> None:
    """Refuses a folder of other things than weights, and one of weights unless they are to be replaced."""
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not (output / CONFIG_FILE).is_file():
        raise ConfigError(f"{output} holds other things than weights; give another output=DIR.")
    if not replace:
        raise ConfigError(f"{output} holds the weights of another run; give another output=DIR, or --replace them.")


def _is_of(run: Path, output: Path) -> bool:
    """Whether weights are of a run, or to replace them has been asked for when it was begun."""
    begun_for, made_by = _value(run / CONFIG, "output"), _value(output / "training.yaml", "run")
    return output.resolve() == begun_for or run.resolve() == made_by


def _value(file: Path, key: str) -> Path | None:
    """A path that a recipe's file says; None where it says none."""
    try:
        content = yaml.safe_load(read_bounded(file, LARGEST_CONFIG))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None
    path = content.get(key) if isinstance(content, dict) else None
    return Path(path).resolve() if isinstance(path, str) else None


def _make_folders(config: Config, smoke: bool, accelerator: Accelerator) -> None:
    """The run's folder, emptied for a dry run, and the one that the weights' folder will be in; both can be written to.

    Raises:
        ConfigError: they cannot be made.
    """
    folder, parent = Path(config.run), Path(config.output).parent
    try:
        if smoke and accelerator.is_main_process and folder.exists():
            if any(folder.iterdir()) and not (folder / LOG).is_file():
                raise ConfigError(f"{folder} is in the way of the dry run, and of none before it; move it.")
            shutil.rmtree(folder)
        accelerator.wait_for_everyone()
        for made in (folder, parent):
            made.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=made):
                pass
    except OSError as error:
        where = error.filename or folder
        raise ConfigError(f"{where} cannot be made ({error.strerror}); give another run or output.") from error


def identity(config: Config) -> dict[str, Any]:
    """The values of a recipe that change a fit, by dotted key."""
    return {key: value for key, value in flat(config).items() if key not in WITHOUT_EFFECT}


def notes(folder: Path) -> dict[Path, dict[str, Any]]:
    """What the fits in a run's folder are of, by their folders.

    Raises:
        ConfigError: of a fit it is not known.
    """
    found = {}
    defaults = identity(Config())
    for path in sorted({file.parent for kind in FIT_FILES for file in folder.glob(f"*/{kind}")}):
        try:
            note = json.loads((path / NOTE).read_text(encoding="utf-8"))
            if not isinstance(note, dict):
                raise ValueError("no object")
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{path} holds a fit, but its {NOTE}, which says of what, cannot be read ({error}); remove {path}, or "
                "give another run=DIR."
            ) from error
        found[path] = defaults | note  # what a key does that came later is, by default, what was done before
    return found


FIT_FILES = (NOTE, "checkpoint.pt", "fitted.safetensors", "logits_*.npy")
"""Of which a folder with a fit has at least one."""


def _refuse_others(path: Path, note: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raises a ConfigError that names the first key in which a fit's note differs from a run's settings."""
    for key in sorted({*note, *settings}):
        was, is_ = note.get(key), settings.get(key)
        if was == is_:
            continue
        what = "on other crops or labels" if key == "data" else f"with {key}={was} instead of {is_}"
        raise ConfigError(f"{path} holds a fit {what}; go on with that, give another run=DIR, or remove {path.parent}.")


def fingerprint(crops: LabelledCrops) -> str:
    """SHA-256 of what is trained on: names, labels, votes, slides, domains, phases and pixels, in order."""
    digest = hashlib.sha256()
    for sample, crop in zip(crops.samples, crops.crops, strict=True):
        facts = [sample.path.name, sample.label, sample.agreement, sample.group, sample.domain, sample.source]
        digest.update(("\0".join(map(str, [*facts, *sample.phases])) + "\0").encode())
        digest.update(crop.tobytes())
    return digest.hexdigest()


@contextmanager
def _logging_to(path: Path, accelerator: Accelerator) -> Iterator[None]:
    """Lets the first process alone speak, and adds what it says to a file."""
    root = logging.getLogger()
    if not accelerator.is_main_process:
        root.setLevel(logging.WARNING)
        yield
        return
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
