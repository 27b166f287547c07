"""`config.json` of a weights folder: everything needed to rebuild and run its network."""

import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from model.checks import check_list, check_text, check_whole
from model.constants import CLASSES, THRESHOLD
from model.errors import WeightsError
from model.files import read_bounded
from model.network.calibration import Calibration
from model.network.preprocessing import Preprocessing
from model.network.weights_folder import CONFIG_FILE

MOST_MEMBERS = 32
"""Of an ensemble."""

LARGEST_CONFIG = 1 << 20
"""Bytes of a config.json that are read; ours have a few thousand."""

FORMAT_VERSION = 3
"""Raised when a folder written today could not be read rightly by yesterday's container. What has no part in the change
is written in the older version: 3 is for ensembles alone, 2 for all else."""

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Network:
    """What rebuilds the architecture: the arguments of `MitosisClassifier`, and how many of them are an ensemble.

    Raises:
        ValueError: one is of another type.
    """

    backbone: str
    pooling: str = "avg"
    backbone_args: dict[str, Any] = field(default_factory=dict)
    members: int = 1

    def __post_init__(self) -> None:
        check_text("backbone", self.backbone)
        check_text("pooling", self.pooling)
        check_whole("members", self.members, 1, MOST_MEMBERS)
        if not isinstance(self.backbone_args, dict):
            raise ValueError(f"backbone_args must be an object, not {self.backbone_args!r}")


@dataclass(frozen=True)
class WeightsConfig:
    """`config.json` of a weights folder.

    Attributes:
        name: name of the recipe that made the weights.
        version: version of the weights, for people.
        network: the architecture.
        preprocessing: how crops become its input.
        calibration: how logits become P(atypical).
        dtype: precision in which matrices and kernels are stored; vectors are float32.
        sha256: of the tensor file, hexadecimal.
        training: data, split, seed and metrics, for people.
        classes: class names by label.
        threshold: confidence from which a crop is atypical.
        format_version: version of this layout.
    """

    name: str
    version: str
    network: Network
    preprocessing: Preprocessing
    calibration: Calibration
    dtype: str
    sha256: str
    training: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, str] = CLASSES
    threshold: float = THRESHOLD
    format_version: int = 2

    def fingerprint(self) -> str:
        """SHA-256 of what is said of the tensors, and of what is done before and after the network."""
        config = replace(self, training={})  # which is for people
        return hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode()).hexdigest()


def read_config(folder: Path) -> WeightsConfig:
    """Reads and checks `config.json` of a weights folder.

    Raises:
        WeightsError: the file is missing, is not JSON, lacks or misspells a field, or is of a newer format.
    """
    path = folder / CONFIG_FILE
    try:
        content = json.loads(read_bounded(path, LARGEST_CONFIG))
    except FileNotFoundError as error:
        raise WeightsError(f"{folder} is no weights folder: it has no {CONFIG_FILE}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be read as JSON ({error}); copy the weights folder again.") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} must hold a JSON object; copy the weights folder again.")
    version = content.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise WeightsError(
            f"{path} has format version {version!r}, but this program reads up to {FORMAT_VERSION}; use a newer one."
        )
    try:
        network = _part(content, "network")
        if version < 3 and network.pop("members", 1) != 1:
            raise WeightsError(f"{path} is of several backbones in one, which this program no longer runs; train anew.")
        config = WeightsConfig(
            **content
            | {
                "network": Network(**_whole(network, Network, may_lack={"members"})),
                "preprocessing": Preprocessing(
                    # version 1 knew one field of view
                    **_whole(_part(content, "preprocessing"), Preprocessing, {"scales"} if version == 1 else ())
                ),
                "calibration": Calibration(**_whole(_part(content, "calibration"), Calibration)),
                "classes": tuple(check_list("classes", content.get("classes"), 2, 2)),
            }
        )
        for name in ("name", "version", "dtype", "sha256"):
            check_text(name, getattr(config, name))
        if not isinstance(config.training, dict):
            raise ValueError("training must be an object")
    except (TypeError, ValueError) as error:  # a missing or an unknown key is a TypeError
        raise WeightsError(f"{path} does not describe a network ({error}); copy the weights folder again.") from error
    if config.dtype not in DTYPES or config.classes != CLASSES or config.threshold != THRESHOLD:
        raise WeightsError(
            f"{path} must have a dtype among {', '.join(DTYPES)}, classes {list(CLASSES)} and threshold {THRESHOLD}."
        )
    return config


def _part(content: dict[str, Any], name: str) -> dict[str, Any]:
    """A copy of one of the objects in config.json.

    Raises:
        ValueError: it is missing, or no object.
    """
    part = content.get(name)
    if not isinstance(part, dict):
        raise ValueError(f"{name} must be an object")
    return dict(part)


def _whole(part: dict[str, Any], kind: type, may_lack: Collection[str] = ()) -> dict[str, Any]:
    """One of the objects, if it has all that the program writes: what is missing must not become a default in silence.

    Raises:
        ValueError: it lacks something.
    """
    for each in fields(kind):
        if each.name not in part and each.name not in may_lack:
            raise ValueError(f"{kind.__name__.lower()} has no {each.name}")
    return part


def write_config(folder: Path, config: WeightsConfig) -> None:
    """Writes `config.json`."""
    content = asdict(config)
    if config.network.members == 1:  # in version 2 there are no others
        del content["network"]["members"]
    else:
        content["format_version"] = FORMAT_VERSION
    (folder / CONFIG_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
