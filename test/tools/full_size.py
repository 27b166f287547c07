"""The large recipe at its true size with random weights: transformers' network, training, merge, weights folder.

    .venv/bin/python test/tools/full_size.py DIR --output runs/random-hplus [--size small]

DIR holds crops and manifest.csv. Makes a random DINOv3 ViT-H+/16 of transformers (840 M parameters) and saves it as the
Hugging Face folder that a user downloads; loads that through `network.pretrained` and compares the pooled tokens; takes
three optimisation steps of the recipe on real crops; saves the adapter, merges it, compares and stores the weights;
merges the saved adapter a second time as another machine would, and compares the bytes. Needs 12 GB of memory, 8 GB of
disk, and on two cores three minutes; a small network (22 M parameters), which tries the script out, a minute. Prints
JSON. The weights know nothing; they are for running, not for use.
"""

import argparse
import json
import logging
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel

sys.path.insert(0, str(Path(__file__).parents[2]))

from model.network.calibration import Calibration
from model.network.weights_config import read_config
from model.network.weights_folder import TENSOR_FILE
from model.speed.imports import timm
from training.config import load_config, to_yaml
from training.data.crops import load_crops
from training.data.manifest import read_manifest, write_manifest
from training.fitting.fit import fit_network
from training.fitting.predict import Inference
from training.fitting.run import Run, accelerator_for
from training.merge import merge
from training.network.cost import describe
from training.network.pretrained import load_pretrained
from training.train import CONFIGS
from training.weights import Adapter, Stored, merge_checked, save_checked, weights_config

SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "full": (
        "vit_huge_plus_patch16_dinov3_qkvb",
        {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
        | {"use_gated_mlp": True, "hidden_act": "silu"},
    ),
    "small": (
        "vit_small_patch16_dinov3_qkvb",
        {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 6},
    ),
}
"""timm's and transformers' description of a network."""

STEPS, BATCH = 3, 2


def write_random_model(folder: Path, shape: dict[str, Any]) -> torch.Tensor:
    """Saves a random network as Hugging Face does; returns the pooled token (1, width) of `noise_image`."""
    torch.manual_seed(0)
    reference = DINOv3ViTModel(DINOv3ViTConfig(num_register_tokens=4, **shape)).eval()
    with torch.no_grad():
        for parameter in reference.parameters():  # nothing may be left at a value that hides a mistake
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
        for name, parameter in reference.named_parameters():  # blocks that matter, a stream that stays in range
            if "layer_scale" in name:
                parameter.fill_(0.2)
    reference.save_pretrained(folder)
    with torch.inference_mode():
        return reference(noise_image()).pooler_output.clone()


def noise_image() -> torch.Tensor:
    """Noise of the size that the recipe sees."""
    return torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def token_difference(folder: Path, backbone_name: str, expected: torch.Tensor) -> float:
    """Largest difference of timm's pooled token, relative to the largest value of transformers'."""
    backbone = timm.create_model(backbone_name, num_classes=0, global_pool="token", qkv_fused=False).eval()
    load_pretrained(backbone, f"file:{folder}")
    with torch.inference_mode():
        return float((backbone(noise_image()) - expected).abs().max() / expected.abs().max())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DIR", help="folder with manifest.csv and the crops")
    parser.add_argument("--output", type=Path, required=True, help="weights folder to write")
    parser.add_argument("--size", choices=SIZES, default="full", help="of the network (default: %(default)s)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    backbone, shape = SIZES[arguments.size]
    figures: dict[str, Any] = {}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.output.parent) as name:
        scratch = Path(name)
        figures["token_difference"] = token_difference(
            scratch / "hf", backbone, write_random_model(scratch / "hf", shape)
        )
        config = load_config(
            CONFIGS / "dinov3_hplus.yaml",
            [
                f"data.root={arguments.data}",
                f"network.backbone={backbone}",
                f"network.pretrained=file:{scratch / 'hf'}",
                "data.workers=0",
                f"optimisation.batch_size={BATCH}",
                "optimisation.epochs=1",
                f"output={arguments.output}",
                f"run={scratch}",
            ],
        )
        figures |= {key: describe(config)[key] for key in ("total_parameters", "lora_parameters")}
        samples = read_manifest(arguments.data)
        chosen = [s for s in samples if s.label][:STEPS] + [s for s in samples if not s.label][:STEPS]
        crops = load_crops(chosen)
        start = time.perf_counter()
        accelerator = accelerator_for(config)
        network = fit_network(Run(config, accelerator, crops, scratch), crops, "final", seed=0)
        figures["seconds_training"] = round(time.perf_counter() - start)
        moved = [p for name, p in network.named_parameters() if ".lora_B" in name]
        figures["adapters_moved"] = all(bool(parameter.abs().max() > 0) for parameter in moved)
        weights = weights_config(config, Calibration(), {"overall": {}, "crops": len(crops)})
        texts = {"training.yaml": to_yaml(config), "README.md": "Random weights of the true size; for running only.\n"}
        adapter = scratch / "adapter"
        Adapter.of(network, weights, texts).save(adapter)
        figures["adapter_mib"] = round(sum(file.stat().st_size for file in adapter.iterdir()) / 2**20, 1)
        network = merge_checked(network, crops.crops, Inference(accelerator, weights.preprocessing))
        figures["stored"] = save_checked(
            arguments.output, Stored(network, weights, network.state_dict()), crops.crops, accelerator
        )
        del network
        for file, text in texts.items():
            (arguments.output / file).write_text(text, encoding="utf-8")
        write_manifest(scratch, chosen[:1])
        merge(adapter, f"file:{scratch / 'hf'}", scratch / "again", None, scratch)
        hashes = [read_config(folder).sha256 for folder in (arguments.output, scratch / "again")]
        figures["merged_again_is_equal"] = hashes[0] == hashes[1]
        shutil.rmtree(scratch / "again")
    figures["weights_mib"] = round((arguments.output / TENSOR_FILE).stat().st_size / 2**20)
    figures["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
