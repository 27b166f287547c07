from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from helpers import config_for
from torch import nn

from training.config import AdapterConfig, Config
from training.data.crops import LabelledCrops
from training.data.sample import Sample
from training.fitting import fit as fit_module
from training.fitting.fit import fit_network, read_fitted
from training.fitting.run import Run
from training.fitting.state import Fit
from training.network import frozen
from training.network.adapters import add_adapters, backbone_sha256, merge_adapters
from training.network.classifier import TrainableClassifier, build_network
from training.network.frozen import halve_frozen, restore

OVERRIDES = [
    "network.backbone=vit_small_plus_patch16_dinov3",
    "network.backbone_args={qkv_fused: false, depth: 2}",
    "network.pooling=token",
    "adapter.rank=2",
    "optimisation.epochs=2",
    "loss.phases=0",
]


def adapted(config: Config, **changes: object) -> TrainableClassifier:
    torch.manual_seed(0)
    network = build_network(config)
    add_adapters(network, AdapterConfig(**{"rank": 2, "dropout": 0.0} | changes))
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    return network


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_logits_are_those_of_autocast_bit_for_bit(precision: str, data: Path, tmp_path: Path) -> None:
    """Which casts the same numbers to the same type, with every batch."""
    network = adapted(config_for(data, tmp_path, *OVERRIDES))
    images, dtype = torch.randn(3, 3, 32, 32), frozen.HALVES[precision]
    found = []
    for half in (False, True):
        if half:
            originals = halve_frozen(network, precision)
        network.zero_grad()
        with torch.autocast("cpu", dtype):
            logits = network.eval()(images)
        logits.sum().backward()
        gradients = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
        found.append([logits.detach(), *gradients])
    assert len(found[0]) > 8 and all(torch.equal(left, right) for left, right in zip(*found, strict=True))
    assert found[0][0].abs().max() > 0.01
    linear = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert (
        sum(module.weight.dtype == dtype for module in linear)
        == 2 * 7 + 1
        == len(originals) - sum(name.endswith("bias") for name in originals)
    )
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters() if parameter.requires_grad)


def test_nothing_is_done_without_mixed_precision_or_frozen_weights(data: Path, tmp_path: Path) -> None:
    config = config_for(data, tmp_path, *OVERRIDES)
    assert not halve_frozen(adapted(config), "no") and not halve_frozen(build_network(config), "bf16")


def test_weights_that_are_read_otherwise_stay_as_they_are(data: Path, tmp_path: Path) -> None:
    """DoRA takes the norms of the weights that it is on; an adapted kernel is added to before it is cast."""
    config = config_for(data, tmp_path, *OVERRIDES)
    dora = halve_frozen(adapted(config, dora=True), "bf16")
    assert dora and not any("q_proj" in name or "v_proj" in name for name in dora)
    kernels = adapted(config_for(data, tmp_path), targets=["pointwise"])
    changed = halve_frozen(kernels, "bf16")
    assert changed and not any("base_layer" in name for name in changed)


def test_the_merge_is_of_the_originals(data: Path, tmp_path: Path) -> None:
    config = config_for(data, tmp_path, *OVERRIDES)
    network, other = adapted(config), adapted(config)
    expected, digest = merge_adapters(other).state_dict(), backbone_sha256(network)
    originals = halve_frozen(network, "bf16")
    assert backbone_sha256(network) != digest
    restore(network, originals)
    assert backbone_sha256(network) == digest
    found = merge_adapters(network).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.fixture
def fresh_state() -> Iterator[None]:
    """An accelerator's precision is its process's."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("fresh_state")
def test_a_fit_trains_on_halves_and_leaves_the_originals(
    data: Path, tmp_path: Path, crops: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frozen weights after a fit, and after one that was interrupted, are those before it."""
    config = config_for(data, tmp_path, *OVERRIDES)
    torch.manual_seed(0)
    backbone = build_network(config).backbone.state_dict()
    monkeypatch.setattr(fit_module, "load_first_weights", lambda network, _: network.backbone.load_state_dict(backbone))
    config.network.pretrained = "weights:somewhere"
    samples = [Sample(Path(f"{i}.png"), i % 2, "", f"{i % 5}") for i in range(40)]
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    run = Run(config, accelerator, LabelledCrops(samples, crops * 8), tmp_path)
    train_epoch, seen = fit_module.train_epoch, []

    def noting(fit: Fit, *arguments: Any) -> float:
        projection = dict(fit.network.named_parameters())[
            "backbone.base_model.model.blocks.0.attn.q_proj.base_layer.weight"
        ]
        seen.append(projection.dtype)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return train_epoch(fit, *arguments)

    monkeypatch.setattr(fit_module, "train_epoch", noting)
    with pytest.raises(KeyboardInterrupt):
        fit_network(run, run.crops, "fit", seed=0)
    fitted = fit_network(run, run.crops, "fit", seed=0)
    assert seen == [torch.bfloat16] * 3
    for network in (fitted, read_fitted(run, "fit")):
        frozen_ones = {n: p for n, p in network.backbone.named_parameters() if not p.requires_grad}
        assert len(frozen_ones) > 30
        for name, parameter in frozen_ones.items():
            plain = name.replace("base_model.model.", "").replace(".base_layer", "")
            assert torch.equal(parameter, backbone[plain]), name
