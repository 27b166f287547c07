"""The recipe `convnext_base` end to end, with few and narrow layers that start from random numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from helpers import check_result, write_case
from safetensors.torch import save_file

import process
from model.images.read import read_crops
from model.network import weights as weights_folder
from training.config import Config, load_config
from training.network.pretrained import load_pretrained
from training.train import CONFIGS, train

pytestmark = pytest.mark.usefixtures("few_resamples", "one_thread")

SMALL = [
    "network.backbone_args={depths: [1, 1, 2, 1], dims: [16, 24, 32, 48], drop_path_rate: 0}",
    "network.pretrained=''",
    "network.input_size=64",
    "network.dropout=0",
    "data.folds=2",
    "data.workers=0",
    "optimisation.batch_size=8",
    "optimisation.learning_rate=3e-3",
    "optimisation.average_decay=0.9",
    "stored_dtype=float32",
]


def small(data: Path, folder: Path, *overrides: str) -> Config:
    places = [f"data.root={data}", f"run={folder / 'run'}", f"output={folder / 'weights'}"]
    return load_config(CONFIGS / "convnext_base.yaml", [*places, *SMALL, *overrides])


def test_the_recipe_is_the_one_that_is_documented() -> None:
    config = load_config(CONFIGS / "convnext_base.yaml", ["data.root=."])
    assert config.data.folds == 5 and config.network.field_of_view == round(0.6 * 128)
    name = config.network.pretrained.removeprefix("hub:")
    about = timm.get_pretrained_cfg(name)
    assert about is not None and about.license == "apache-2.0"
    assert about.architecture == config.network.backbone
    assert (list(about.mean), list(about.std)) == (config.network.mean, config.network.std)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [[], ["adapter.rank=8", "adapter.targets=[mlp]"]], ids=["whole", "adapted"])
def test_it_trains_is_stored_and_runs(data: Path, tmp_path: Path, adapter: list[str]) -> None:
    metrics = train(small(data, tmp_path, "optimisation.epochs=6", *adapter))
    assert metrics["overall"]["roc_auc"]["value"] > 0.8
    stored = weights_folder.load(tmp_path / "weights")[0].state_dict()
    assert not any("lora" in name for name in stored)
    assert (tmp_path / "weights-adapter").is_dir() == bool(adapter)
    crops = [read_crops(data / f"{i}.png")[0] for i in range(12)]
    write_case(tmp_path / "case", crops)
    arguments = ["--input", str(tmp_path / "case"), "--output", str(tmp_path / "out"), "--weights"]
    assert process.main([*arguments, str(tmp_path / "weights"), "--device", "cpu"]) == 0
    entries = check_result(tmp_path / "out", 12)
    called = np.array([entry["class"] == "atypical" for entry in entries])
    assert np.mean(called == (np.arange(12) % 3 == 0)) > 0.7
    assert json.loads((tmp_path / "weights" / "metrics.json").read_text()) == metrics


def test_the_weights_of_the_hub_have_the_names_of_the_backbone(tmp_path: Path) -> None:
    """Those have a classifier, and are stored under timm's names."""
    arguments = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
    torch.manual_seed(0)
    published = timm.create_model("convnext_base", num_classes=10, **arguments)
    save_file(published.state_dict(), tmp_path / "published.safetensors")
    backbone = timm.create_model("convnext_base", num_classes=0, **arguments).eval()
    load_pretrained(backbone, f"file:{tmp_path / 'published.safetensors'}")
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = published.eval().forward_head(published.forward_features(image), pre_logits=True)
        torch.testing.assert_close(backbone(image), expected)
