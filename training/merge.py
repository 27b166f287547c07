"""From an adapter that may be shared to weights that the container runs: merges it into a backbone.

python -m training.merge --backbone file:dinov3-vith16plus-pretrain-lvd1689m --adapter model/weights/mine-adapter \
    --output model/weights/mine [--dtype bfloat16] [--data DIR]

The adapter's folder is what training writes beside the weights. The backbone is one of the sources of
`training.network.pretrained` and must be the one that the adapter was trained on. The merged network is compared with
the adapted one, and the stored one with both, on the crops of DIR, or on the example case where none are given.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # so that the file can be run by its path, too

from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file

from model.errors import UserError, WeightsError
from model.images.read import read_crops
from model.modes.grand_challenge import find_stack
from model.network.classifier import MitosisClassifier
from model.network.weights_config import DTYPES, WeightsConfig, read_config
from model.network.weights_folder import file_sha256
from training.config import load_config
from training.data.crops import load_crops
from training.data.manifest import read_manifest
from training.evaluation.weights_report import METRICS, read_metrics
from training.fitting.predict import Inference
from training.fitting.run import check_gpu
from training.network.adapters import add_adapters, backbone_sha256, load_adapter_tensors
from training.network.classifier import build_network
from training.network.pretrained import load_pretrained
from training.weights import ADAPTER_FILE, Stored, merge_checked, save_checked

logger = logging.getLogger(__name__)

TEXTS = ("README.md", "training.yaml")
EXAMPLE = Path(__file__).parent.parent / "test" / "input"


def read_adapter(folder: Path, backbone: str) -> tuple[MitosisClassifier, WeightsConfig]:
    """The adapted network of an adapter's folder on a backbone, in evaluation mode, on the CPU.

    Args:
        folder: with config.json, training.yaml and adapter.safetensors.
        backbone: a source of `training.network.pretrained`.

    Raises:
        UserError: the folder is incomplete or altered, or the backbone is not the one of the training.
    """
    for name in (ADAPTER_FILE, *TEXTS):
        if not (folder / name).is_file():
            raise WeightsError(f"{folder} holds no {name}; give the folder that training writes beside the weights.")
    weights = read_config(folder)
    path = folder / ADAPTER_FILE
    if file_sha256(path) != weights.sha256:
        raise WeightsError(f"{path} was altered: its SHA-256 is not the one in config.json; copy it again.")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path} cannot be read as safetensors ({error}); copy it again.") from error
    config = load_config(folder / "training.yaml", ["data.root=."])
    network = build_network(config)
    load_pretrained(network.backbone, backbone)
    add_adapters(network, config.adapter)
    if backbone_sha256(network) != weights.training.get("backbone_sha256"):
        raise WeightsError(
            f"{backbone} is not the backbone that {folder} was trained on (the SHA-256 of its tensors differs); give "
            f"the same weights, in the same precision, as {config.network.pretrained}."
        )
    load_adapter_tensors(network, tensors, path)
    return network.eval(), weights


def merge(adapter: Path, backbone: str, output: Path, dtype: str | None, data: Path | None) -> dict[str, Any]:
    """Writes the weights folder of an adapter and a backbone.

    Args:
        adapter: the adapter's folder.
        backbone: a source of `training.network.pretrained`.
        output: the weights folder to write, which is not there yet.
        dtype: `float32`, `bfloat16` or `float16`; None for the recipe's.
        data: folder of crops to compare on; None for the example case.

    Returns:
        How far the stored network is from the one in memory (see `training.weights.save_checked`).

    Raises:
        UserError: with a sentence for the user.
    """
    output = output.resolve()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise WeightsError(f"{output} is there already; give another --output, or remove it first.")
    crops = load_crops(read_manifest(data)).crops if data else read_crops(find_stack(EXAMPLE))
    network, weights = read_adapter(adapter, backbone)
    check_gpu()
    accelerator = Accelerator()
    network = network.to(accelerator.device)
    network = merge_checked(network, crops, Inference(accelerator, weights.preprocessing))
    weights = replace(weights, dtype=dtype or weights.dtype)
    stored = save_checked(output, Stored(network, weights, network.state_dict()), crops, accelerator)
    for name in TEXTS:
        (output / name).write_text((adapter / name).read_text(encoding="utf-8"), encoding="utf-8")
    if metrics := read_metrics(adapter):  # which adapters of earlier versions came without
        (output / METRICS).write_text(json.dumps(metrics | {"stored": stored}, indent=2) + "\n", encoding="utf-8")
    else:
        logger.warning("%s holds no %s, so nobody can tell how good these weights are.", adapter, METRICS)
    return stored


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.merge", description="Merge an adapter into a backbone.")
    parser.add_argument("--backbone", required=True, help="file:PATH, hub:NAME or weights:DIR, what it was trained on")
    parser.add_argument("--adapter", required=True, type=Path, metavar="DIR", help="the adapter's folder")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="weights folder to write")
    parser.add_argument("--dtype", choices=list(DTYPES), help="precision of the tensors (default: the recipe's)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="crops to compare on (default: the example case)")
    parsed = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        print(json.dumps(merge(parsed.adapter, parsed.backbone, parsed.output, parsed.dtype, parsed.data), indent=2))
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
