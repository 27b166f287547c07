"""Folding batch norms into convolutions changes no probability."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import DEFAULT_WEIGHTS
from torch import nn

from model.network.calibration import calibrate
from model.network.classifier import MitosisClassifier
from model.network.weights import load
from model.network.weights_folder import TENSOR_FILE, file_sha256
from model.predictor import Predictor, ViewAverage
from model.speed.folding import _FusedConvolution, fold
from training.config import AdapterConfig
from training.network.adapters import add_adapters

SIDE = 96


def random_network(backbone: str, **arguments: object) -> MitosisClassifier:
    """With batch norms that do something, which fresh ones do not."""
    torch.manual_seed(0)
    network = MitosisClassifier(backbone, "avg", arguments).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.2)
    return network


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(
    ("backbone", "left"),
    [
        ("test_efficientnet", 0),
        ("tf_efficientnet_lite2", 0),  # `same` padding, on even and odd sides
        ("mobilenetv3_small_050", 0),
        ("resnet18", 0),
        ("regnetx_002", 0),
        ("densenet121", 62),  # norm, activation, convolution: half of them follow no convolution
    ],
)
@pytest.mark.parametrize("side", [SIDE, SIDE + 1])
def test_the_logits_are_the_same(backbone: str, left: int, side: int) -> None:
    network = random_network(backbone)
    folded = fold(network, 3, side)
    assert folded is not network and norms(folded) == left and norms(network) > left
    for count in (3, 1, 16):
        images = torch.randn(count, 3, side, side)
        with torch.inference_mode():
            expected = network(images)
            torch.testing.assert_close(folded(images), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0


@pytest.mark.parametrize("backbone", ["test_efficientnet", "tf_efficientnet_lite2", "resnet18"])
def test_for_a_gpu_batch_norms_are_folded_and_nothing_else(backbone: str) -> None:
    """What is left has kernels of the same shapes, and can be moved and converted."""
    network, images = random_network(backbone), torch.randn(3, 3, SIDE, SIDE)
    folded = fold(network, 3, SIDE, norms_alone=True)
    assert norms(network) > 0 and norms(folded) == 0 and not fused(folded)
    shapes = [
        [(type(module), module.weight.shape) for module in each.modules() if isinstance(module, nn.Conv2d)]
        for each in (network, folded)
    ]
    assert shapes[0] == shapes[1]
    with torch.inference_mode():
        expected = network(images)
        torch.testing.assert_close(folded(images), expected, rtol=1e-4, atol=1e-4)
        half = folded.bfloat16()(images.bfloat16()).float()
    assert half.isfinite().all() and (half - expected).abs().max() < 0.2 * expected.abs().max()


def fused(network: nn.Module) -> list[str]:
    return [module.activation[0] for module in network.modules() if isinstance(module, _FusedConvolution)]


def test_activations_are_fused() -> None:
    folded = fold(random_network("tf_efficientnet_lite2"), 3, SIDE)
    assert len(fused(folded)) == 64 and fused(folded).count("hardtanh") == 43
    assert not any(isinstance(module, nn.ReLU6) for module in folded.modules())


def test_without_onednn_the_logits_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    network, images = random_network("tf_efficientnet_lite2"), torch.randn(2, 3, SIDE, SIDE)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    folded = fold(network, 3, SIDE)
    assert norms(folded) == 0 and not fused(folded)
    torch.testing.assert_close(folded(images), network(images), rtol=1e-4, atol=1e-4)


def test_layers_whose_weights_others_look_at_are_no_hindrance() -> None:
    """XCiT asks a convolution without batch norm for its device; adapters ask theirs for their type."""
    network = random_network("xcit_nano_12_p8_224", img_size=SIDE)
    assert norms(fold(network, 3, SIDE)) < norms(network)
    adapted = random_network("tf_efficientnet_lite2").requires_grad_(True)
    add_adapters(adapted, AdapterConfig(rank=2, targets=["pointwise"]))
    adapted.eval().requires_grad_(False)
    images = torch.randn(2, 3, SIDE, SIDE)
    torch.testing.assert_close(fold(adapted, 3, SIDE)(images), adapted(images), rtol=1e-4, atol=1e-4)


def test_a_network_without_batch_norms_is_left_alone() -> None:
    network = random_network("test_vit", img_size=SIDE)
    assert fold(network, 3, SIDE) is network


class Branching(nn.Module):
    """What comes out of the convolution goes to the batch norm, and past it."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.norm.running_var.fill_(9.0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.convolution(images)
        return (self.norm(features) + features).mean((1, 2, 3))


def test_where_folding_would_change_the_logit_it_is_not_done(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    network = Branching().eval()
    assert fold(network, 3, SIDE) is network and "runs as it is" in caplog.text


def test_a_layer_that_runs_twice_is_not_folded() -> None:
    shared = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))
    network = nn.Sequential(shared, shared, nn.Flatten(), nn.Linear(3 * SIDE**2, 1), nn.Flatten(0)).eval()
    assert norms(fold(network, 3, SIDE)) == 1


@pytest.mark.slow
def test_real_crops_keep_their_probabilities(real_crops: tuple) -> None:
    """The predictor against the network as it is stored, in float32."""
    crops, _ = real_crops
    network, config = load(DEFAULT_WEIGHTS)
    preprocessing = config.preprocessing
    average = ViewAverage(network.float(), preprocessing, "d4", 8, torch.device("cpu"))
    plain = average.logits(preprocessing.cut_out(crops))
    expected = calibrate(plain, config.calibration)
    predictor = Predictor(DEFAULT_WEIGHTS, "cpu")
    assert norms(network) == 64 and norms(predictor.network) == 0
    found = predictor(crops)
    assert np.abs(found - expected).max() <= 1e-5
    assert np.array_equal(found >= 0.5, expected >= 0.5)


def test_the_weights_folder_is_not_touched(small_weights: Path) -> None:
    before = file_sha256(small_weights / TENSOR_FILE)
    Predictor(small_weights, "cpu")
    assert file_sha256(small_weights / TENSOR_FILE) == before
