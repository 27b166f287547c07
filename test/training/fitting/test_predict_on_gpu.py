"""Held-out predictions on an emulated GPU: in the container's own precision, by its leaner blocks."""

import copy
import logging
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from emulated_gpu import emulated_gpu
from helpers import config_for
from torch import Tensor, nn

from model.network import running
from model.network.classifier import MitosisClassifier
from model.speed.blocks import _Block
from training.config import AdapterConfig, Config
from training.fitting.predict import CONTAINER, EXACT, Inference
from training.network.adapters import add_adapters
from training.network.classifier import build_network, preprocessing_of


class Stub:
    """What predicting asks of Accelerate."""

    process_index, num_processes, mixed_precision = 0, 1, "bf16"

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)

    def reduce(self, tensor: Tensor) -> Tensor:
        return tensor

    def unwrap_model(self, network: nn.Module) -> nn.Module:
        return network


@pytest.fixture
def config(data: Path, tmp_path: Path) -> Config:
    backbone = ["network.backbone=vit_small_plus_patch16_dinov3", "network.backbone_args={depth: 2}"]
    return config_for(data, tmp_path, *backbone, "network.pooling=token")


@pytest.fixture
def network(config: Config) -> MitosisClassifier:
    torch.manual_seed(0)
    network = build_network(config).eval()
    for name, parameter in network.named_parameters():
        if "gamma" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return network


@pytest.mark.parametrize(("capability", "dtype"), [((9, 0), torch.bfloat16), ((7, 5), torch.float16)])
def test_they_are_the_containers(
    capability: tuple[int, int],
    dtype: torch.dtype,
    config: Config,
    network: MitosisClassifier,
    crops: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    preprocessing, placed = preprocessing_of(config), []
    expected = Inference(cast(Any, Stub("cpu")), preprocessing, "rot4").logits(network, crops)

    def noting(*given: Any) -> Any:
        placed.append(running.place(*given))
        return placed[-1]

    monkeypatch.setattr("training.fitting.predict.place", noting)
    with emulated_gpu(capability) as record:
        network.to("cuda")
        network.forward = lambda *_: pytest.fail("Accelerate's forward was used")
        found = Inference(cast(Any, Stub("cuda")), preprocessing, "rot4", CONTAINER).logits(network, crops)
    [ready] = placed
    assert sum(isinstance(module, _Block) for module in ready.modules()) == 2
    assert {parameter.dtype for parameter in ready.backbone.parameters()} == {dtype}
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}, "the network is left as it was"
    assert not any(isinstance(module, _Block) for module in network.modules())
    assert any({*dtypes} == {dtype} for dtypes in record.dtypes("aten::linear"))
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_where_half_precision_overflows_they_are_float32(
    config: Config, network: MitosisClassifier, crops: list[np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    preprocessing = preprocessing_of(config)
    expected = Inference(cast(Any, Stub("cpu")), preprocessing).logits(network, crops)

    def overflow(_: nn.Module, inputs: object, features: Tensor) -> Tensor:
        return features if features.dtype == torch.float32 else features * 1e6 * 1e6

    network.backbone.norm.register_forward_hook(overflow)
    with emulated_gpu((7, 5)):
        network.to("cuda")
        found = Inference(cast(Any, Stub("cuda")), preprocessing, precision=CONTAINER).logits(network, crops)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert "predicting in float32" in caplog.text


def test_on_the_cpu_nothing_is_different(config: Config, network: MitosisClassifier, crops: list[np.ndarray]) -> None:
    found = [
        Inference(cast(Any, Stub("cpu")), preprocessing_of(config), "rot4", precision).logits(network, crops)
        for precision in (EXACT, CONTAINER)
    ]
    assert np.array_equal(*found)


def test_adapters_on_convolutions_are_not_folded_into_batch_norms(
    config: Config, crops: list[np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    """Which would fail, be logged after every epoch, and take its time."""
    adapted = MitosisClassifier("tf_efficientnet_lite0")
    plain = copy.deepcopy(adapted).eval()
    add_adapters(adapted, AdapterConfig(rank=4, targets=["pointwise"], dropout=0))
    alone = Stub("cpu")
    alone.mixed_precision = "no"
    inference = Inference(cast(Any, alone), preprocessing_of(config))
    with caplog.at_level(logging.INFO):
        found = inference.logits(adapted, crops)
    assert not caplog.records
    np.testing.assert_allclose(found, inference.logits(plain, crops), atol=1e-4)
