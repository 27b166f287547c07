"""A weights folder on a folder of labelled crops, through the container's own predictor."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.constants import CLASSES, MICROMETRES_PER_PIXEL
from model.errors import CropError, UserError, WeightsError
from model.files import read_bounded, write_whole
from model.images.read import read_stack
from model.images.resampling import rescale, resolution
from model.modes.grand_challenge import result
from model.network.weights_folder import CONFIG_FILE
from model.predictor import Predictor
from training.data.crops import LabelledCrops, without_duplicates
from training.data.manifest import read_manifest
from training.data.sample import DataError, Sample
from training.evaluation.answers import Answers, in_parts, remarks, with_intervals
from training.evaluation.report import About, Crops, write_evaluation
from training.evaluation.scores import reliability

METRICS, PREDICTIONS = "metrics.json", "predictions.csv"
LARGEST_METRICS = 1 << 24
"""Bytes of a weights folder's metrics.json that are read."""

COLUMNS = ("file", "label", "domain", "source", "group", "class", "confidence")

MAYBE_SEEN = (
    "Whether the weights were trained on some of these crops, or on others of their slides, cannot be told from the "
    "folder; if they were, the figures flatter them. Say --unseen if they were not."
)


@dataclass(frozen=True)
class Classified:
    """Labelled crops and what a weights folder says of them.

    Attributes:
        samples: N, what is known of the crops.
        probabilities: (N,) P(atypical), unrounded.
    """

    samples: Sequence[Sample]
    probabilities: np.ndarray

    def names(self, attribute: str) -> list[str]:
        """`domain`, `source` or `group` of each sample."""
        return [getattr(sample, attribute) for sample in self.samples]

    @property
    def labels(self) -> np.ndarray:
        """(N,) 1 for atypical, 0 for normal."""
        return np.array([sample.label for sample in self.samples], dtype=int)

    @property
    def answers(self) -> Answers:
        """The classes and confidences that the container writes of them: the class is decided after rounding."""
        entries = result(self.probabilities)
        called = np.array([CLASSES.index(entry["class"]) for entry in entries], dtype=int)
        confidences = np.array([entry["confidence"] for entry in entries])
        return Answers(self.labels, called, confidences, np.array(self.names("group")))


def classify(predictor: Predictor, root: Path, progress: bool = False) -> Classified:
    """Classifies the crops of a manifest as the container's mode for folders does: rescaled where they say so.

    A picture that is there several times counts once (`training.data.crops.without_duplicates`).

    Args:
        predictor: of the weights.
        root: folder with `manifest.csv`.
        progress: show a progress bar on stderr.

    Raises:
        UserError: the manifest or a crop cannot be used, or the network does not run.
    """
    samples = read_manifest(root)
    fields = [_field_of_view(sample.path, predictor) for sample in samples]
    crops = without_duplicates(LabelledCrops(samples, fields))
    if not len(crops):
        raise DataError(f"No crop of {root} is left: all are there with both labels; correct the labels.")
    probabilities = predictor.predict_fields(torch.from_numpy(np.stack(crops.crops)), progress)
    return Classified(crops.samples, probabilities)


def _field_of_view(path: Path, predictor: Predictor) -> np.ndarray:
    """What the network sees of a file's one crop, (F, F, 3) uint8.

    Raises:
        DataError: it cannot be read, holds more than one crop, or is too small.
    """
    try:
        stack = read_stack(path)
        if len(stack.crops) != 1:
            raise DataError(f"{path} holds {len(stack.crops)} crops; a manifest needs one crop a file.")
        mpp = resolution(None, stack.mpp)
        crop = stack.crops[0] if mpp == MICROMETRES_PER_PIXEL else rescale(stack.crops[0], mpp)
        height, width = crop.shape[:2]
        side = predictor.config.preprocessing.largest_side
        if min(height, width) < side:
            raise DataError(
                f"{path} is {width} x {height} pixels of {MICROMETRES_PER_PIXEL} µm, but the network looks at {side} x "
                f"{side}; cut larger crops."
            )
        return predictor.config.preprocessing.cut_out([crop])[0].numpy()
    except CropError as error:
        raise DataError(str(error)) from error


def read_metrics(folder: Path) -> dict[str, Any]:
    """What metrics.json of a weights folder, or of an adapter's, says; nothing where there is none that can be read."""
    try:
        content = json.loads(read_bounded(folder / METRICS, LARGEST_METRICS))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def maybe_seen(classified: Classified, folder: Path) -> str:
    """What can be said of whether weights were trained on crops: which of their domains the weights' metrics.json has.

    Args:
        classified: the crops.
        folder: of the weights.
    """
    domains = read_metrics(folder).get("domains")
    shared = sorted(set(domains) & set(classified.names("domain"))) if isinstance(domains, dict) else []
    if not shared:
        return MAYBE_SEEN
    return f"The weights were trained on crops of domains that are here, too: {', '.join(shared)}. {MAYBE_SEEN}"


def report(classified: Classified, predictor: Predictor, said: Sequence[str]) -> dict[str, Any]:
    """What `metrics.json` says.

    Args:
        classified: of a manifest.
        predictor: of the weights.
        said: further remarks, such as `maybe_seen`; none if the user says that none of the slides was trained on.
    """
    answers, config = classified.answers, predictor.config
    overall = with_intervals(answers)
    both = 0 < overall["atypical"] < overall["crops"]
    return {
        "weights": {"name": config.name, "version": config.version, "sha256": config.sha256},
        "views": predictor.view_set,
        "device": str(predictor.device),
        "unseen": "not known" if said else "said to be",
        "overall": overall,
        "reliability": reliability(answers.labels, answers.probabilities) if both else [],
        "domains": in_parts(answers, classified.names("domain")),
        "sources": in_parts(answers, classified.names("source")),
        "remarks": [*remarks(overall), *said],
    }


def write_page(output: Path, classified: Classified, metrics: Mapping[str, Any], root: Path) -> Path:
    """Writes the page to look at; its path.

    Args:
        output: folder.
        classified: of a manifest.
        metrics: of `report`.
        root: the manifest's folder.

    Raises:
        ReportError: it cannot be written.
    """
    weights = metrics["weights"]
    name = f"{weights['name']} {weights['version']}"
    about = About(
        title=f"Evaluation of {name}",
        sentence=f"{name} on {metrics['overall']['crops']} crops of {root}, views {metrics['views']}.",
        remarks=metrics["remarks"],
        settings=json.dumps({key: metrics[key] for key in ("weights", "views", "device", "unseen")}, indent=2),
    )
    samples = classified.samples

    def picture(index: int) -> np.ndarray | None:
        try:
            return read_stack(samples[index].path).crops[0]
        except CropError:  # which was read before: it was removed since
            return None

    known = Crops(
        [sample.path.name for sample in samples],
        classified.names("domain"),
        [sample.agreement for sample in samples],
        picture,
    )
    return write_evaluation(output, about, classified.answers, known, (metrics["overall"], metrics["domains"]))


def predictions_table(classified: Classified) -> str:
    """What `predictions.csv` says: a row for each crop."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for sample, entry in zip(classified.samples, result(classified.probabilities), strict=True):
        about = (sample.path, CLASSES[sample.label], sample.domain, sample.source, sample.group)
        writer.writerow([*about, entry["class"], f"{entry['confidence']:.6f}"])
    return text.getvalue()


def write_report(output: Path, metrics: dict[str, Any], predictions: str = "") -> None:
    """Writes `metrics.json` and `predictions.csv`, each whole or not at all.

    Args:
        output: folder, made when missing.
        metrics: the first's content.
        predictions: the second's, which is not written if it is empty.

    Raises:
        UserError: it cannot be written to.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        texts = {PREDICTIONS: predictions} if predictions else {}
        for name, text in (texts | {METRICS: json.dumps(metrics, indent=2) + "\n"}).items():
            write_whole(output / name, text)
    except OSError as error:
        raise UserError(f"{output} cannot be written to ({error.strerror}); give another --output.") from error


def check_output(output: Path) -> None:
    """Refuses to write a report into a weights folder, whose own metrics.json it would replace.

    Raises:
        WeightsError: it is one.
    """
    if (output / CONFIG_FILE).exists():
        raise WeightsError(f"{output} is a weights folder, whose metrics.json would be lost; give another --output.")
