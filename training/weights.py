"""What a run leaves: the merged weights that the container runs, and the adapter alone.

WEIGHTS/            config.json, model.safetensors, and with them README.md, metrics.json, training.yaml
WEIGHTS/../NAME-adapter/    config.json, adapter.safetensors and the same three: no tensor of the backbone
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from model.errors import WeightsError
from model.network import weights
from model.network.calibration import Calibration, calibrate
from model.network.classifier import MitosisClassifier
from model.network.ensemble import Classifier
from model.network.weights_config import WeightsConfig
from model.network.weights_folder import file_sha256
from training.config import Config
from training.data.crops import some_of
from training.fitting.predict import Inference
from training.network.adapters import adapter_tensors, backbone_sha256, merge_adapters
from training.network.classifier import network_of, preprocessing_of

logger = logging.getLogger(__name__)

ADAPTER_FILE = "adapter.safetensors"

LARGEST_LOGIT_CHANGE = 1e-4
"""By how much merging the adapters may move a logit, relative to the largest logit or 1."""

LARGEST_PROBABILITY_CHANGE = 0.01
"""By how much storing the tensors in half precision may move P(atypical) of a crop."""

SMALLEST_AGREEMENT = 0.999
"""Share of the crops that must keep their class when the tensors are stored in half precision."""

CHECKED_CROPS = 64
"""Number of crops on which the merged network is compared with the adapted one."""


def weights_config(config: Config, calibration: Calibration, metrics: dict[str, Any]) -> WeightsConfig:
    """What config.json of the weights folder says, but for the tensors' SHA-256."""
    return WeightsConfig(
        name=config.name,
        version=config.version,
        network=network_of(config),
        preprocessing=preprocessing_of(config),
        calibration=calibration,
        dtype=config.stored_dtype,
        sha256="",
        training={"held_out": metrics["overall"], "crops": metrics["crops"], "seed": config.seed},
    )


def merge_checked(network: MitosisClassifier, crops: Sequence[np.ndarray], inference: Inference) -> MitosisClassifier:
    """Merges the adapters in place, and compares logits before and after on up to `CHECKED_CROPS` crops.

    Raises:
        WeightsError: a logit moved by more than `LARGEST_LOGIT_CHANGE`.
        ConfigError: a merged tensor is not finite.
    """
    some = some_of(crops, CHECKED_CROPS)
    before = inference.logits(network, some)
    merged = merge_adapters(network).eval()
    after = inference.logits(merged, some)
    change = float(np.abs(after - before).max() / max(1.0, np.abs(before).max()))
    if not change <= LARGEST_LOGIT_CHANGE:
        raise WeightsError(
            f"Merging the adapters moves a logit by {change:.1e} of the largest; no weights were written."
        )
    logger.info("Merged the adapters: logits of %d crops move by at most %.1e of the largest.", len(some), change)
    return merged


@dataclass(frozen=True)
class Adapter:
    """Adapters and head alone, with all that `training.merge` needs besides the backbone.

    Attributes:
        tensors: of `training.network.adapters.adapter_tensors`.
        config: what config.json says of the merged network, and the backbone's SHA-256.
        texts: further files: README.md, metrics.json, training.yaml.
    """

    tensors: dict[str, torch.Tensor]
    config: WeightsConfig
    texts: dict[str, str]

    @classmethod
    def of(cls, network: MitosisClassifier, config: WeightsConfig, texts: dict[str, str]) -> Self:
        """That of an adapted network before its merge, which ends the adapters."""
        about = config.training | {"backbone_sha256": backbone_sha256(network)}
        tensors = {name: tensor.clone() for name, tensor in adapter_tensors(network).items()}
        return cls(tensors, replace(config, training=about), texts)

    def save(self, folder: Path) -> None:
        """Writes the folder, replaced as a whole."""
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        path = partial / ADAPTER_FILE
        save_file(self.tensors, path)
        path.chmod(0o644)  # safetensors writes for the owner alone
        weights.write_config(partial, replace(self.config, sha256=file_sha256(path)))
        for name, text in self.texts.items():
            (partial / name).write_text(text, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)


@dataclass(frozen=True)
class Stored:
    """A network and what is to be stored of it.

    Attributes:
        network: or ensemble, merged.
        config: what config.json says; its dtype is the precision that tensors are stored in.
        tensors: its state dictionary, or that of an ensemble as `model.network.ensemble` names it.
    """

    network: Classifier
    config: WeightsConfig
    tensors: Mapping[str, torch.Tensor]


def save_checked(
    folder: Path, product: Stored, crops: Sequence[np.ndarray], accelerator: Accelerator
) -> dict[str, Any]:
    """Writes config.json and model.safetensors when they, read again, say what the network says.

    Args:
        folder: made when missing; its older files stay until the new ones have been checked.
        product: the network, its configuration and tensors.
        crops: to compare on.
        accelerator: its first process writes.

    Returns:
        dtype, crops, classes_changed and largest_change (of P).

    Raises:
        WeightsError: too many classes differ, or a probability by more than `LARGEST_PROBABILITY_CHANGE`.
    """
    network, config = product.network, product.config
    unchecked = folder.with_name(f".{folder.name}.unchecked")
    if accelerator.is_main_process:
        weights.save(unchecked, product.tensors, config)
    accelerator.wait_for_everyone()
    stored = weights.load(unchecked)[0].float().to(accelerator.device)
    inference = Inference(accelerator, config.preprocessing)
    expected, found = (calibrate(inference.logits(either, crops), config.calibration) for either in (network, stored))
    change = float(np.abs(found - expected).max())
    differing = int(np.sum((found >= config.threshold) != (expected >= config.threshold)))
    if differing > (1 - SMALLEST_AGREEMENT) * len(crops) or not change <= LARGEST_PROBABILITY_CHANGE:
        accelerator.wait_for_everyone()
        shutil.rmtree(unchecked, ignore_errors=True)
        raise WeightsError(
            f"Stored in {config.dtype}, {differing} of {len(crops)} crops change class and P(atypical) moves by up to "
            f"{change:.4f}; use stored_dtype=float32."
        )
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        for file in unchecked.iterdir():
            file.replace(folder / file.name)
        unchecked.rmdir()
    accelerator.wait_for_everyone()
    return {"dtype": config.dtype, "crops": len(crops), "classes_changed": differing, "largest_change": change}
