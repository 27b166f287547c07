"""A run's folder: whose it is, its log, and what an interrupted run finds there.

RUN/config.yaml, data.sha256    what the run is of
RUN/training.log                what it said; added to when it goes on
RUN/SPLIT_FOLD/, RUN/final/     one fit each: checkpoint, TensorBoard log, logits of the crops held out
RUN/held_out_SPLIT.csv          predictions of all crops (see `training.evaluation.held_out`)
"""

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator

from training.config import Config, ConfigError, to_yaml
from training.data.crops import LabelledCrops, load_crops, without_duplicates
from training.data.folds import splits_of
from training.data.manifest import read_manifest
from training.fitting.run import Run, accelerator_for
from training.network.classifier import preprocessing_of

logger = logging.getLogger(__name__)

LOG = "training.log"
"""What the first process of a run says, in the run's folder and beside the weights."""


@contextmanager
def open_run(config: Config) -> Iterator[Run]:
    """A recipe's run, after a look whether its folder is of the same recipe and crops; a log is written meanwhile.

    Raises:
        UserError: with a sentence for the user.
    """
    folder = Path(config.run)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made: {error.strerror}; give another run=DIR.") from error
    accelerator = accelerator_for(config)
    note, text, otherwise = folder / "config.yaml", to_yaml(config), "another configuration"
    refuse_another_run(note, text, otherwise)
    with _logging_to(folder / LOG, accelerator):
        samples = read_manifest(Path(config.data.root))
        crops = without_duplicates(load_crops(samples, preprocessing_of(config).largest_side))
        splits_of(config, crops.samples)  # what cannot be split is refused before the folder is noted to be this run's
        check_same_run(note, text, otherwise, accelerator)
        check_same_run(folder / "data.sha256", fingerprint(crops), "other data", accelerator)
        if config.loss.phases > 0:
            known = sum(bool(sample.phases) for sample in crops.samples)
            logger.info("Of %d of the %d crops a phase of mitosis is known (loss.phases).", known, len(crops))
        yield Run(config, accelerator, crops, folder)


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
    refuse_another_run(path, text, otherwise)
    known = path.is_file()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and not known:
        partial = path.with_suffix(f".{os.getpid()}.partial")  # fits that start side by side each write theirs
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)


def refuse_another_run(path: Path, text: str, otherwise: str) -> None:
    """Raises as `check_same_run`, and notes nothing."""
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise ConfigError(f"{path.parent} belongs to a run with {otherwise}; remove it, or give run=DIR.")


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
