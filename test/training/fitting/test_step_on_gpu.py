"""A training step on an emulated GPU: what it waits for, and what it copies."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from emulated_gpu import OnGpu, emulated_gpu
from helpers import config_for
from torch import Tensor, nn

from training.data import augmentation
from training.data.crops import TrainingCrops, stack
from training.fitting.averaging import WeightAverage
from training.fitting.epoch import train_epoch
from training.fitting.state import Fit
from training.network.adapters import add_adapters
from training.network.classifier import build_network
from training.network.frozen import halve_frozen
from training.network.rotation import kept_rotation

STEPS = 3


class Stub:
    """What an epoch asks of Accelerate, without its backward pass: PyTorch's engine looks for a real GPU.

    The gradients are ones instead.
    """

    device, scaler, sync_gradients = torch.device("cuda"), None, True

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def accumulate(self, _: nn.Module) -> Any:
        return nullcontext()

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Of a GPU; the class that does it refuses where there is none."""
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        torch.set_autocast_enabled("cuda", True)
        try:
            yield
        finally:
            torch.set_autocast_enabled("cuda", False)

    def backward(self, loss: Tensor) -> None:
        assert loss.grad_fn is not None
        for parameter in self.network.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.ones_like(parameter)

    def clip_grad_norm_(self, parameters: Any, limit: float) -> Tensor:
        return torch.nn.utils.clip_grad_norm_(parameters, limit)

    def reduce(self, tensor: Tensor) -> Tensor:
        return tensor

    def unwrap_model(self, network: nn.Module) -> nn.Module:
        return network


class Schedule:
    def step(self) -> None: ...


def batches(count: int, *, elastic: float, mixed: float) -> list[dict[str, Any]]:
    crops = list(np.random.default_rng(0).integers(0, 256, (8, 128, 128, 3), dtype=np.uint8))
    changes = {"elastic": elastic, "mixup": 0.4, "cutmix": 0.4, "mixed": mixed}
    config = augmentation.AugmentationConfig(**changes)
    dataset = TrainingCrops(crops, np.arange(8)[:, None] % 2, np.ones(8), config, 0)
    return [stack([dataset[(number, place, place)] for place in range(4)]) for number in range(count)]


def moved(batch: Any) -> Any:
    """A batch on the GPU, where Accelerate puts it from pinned memory."""
    return {name: moved(value) for name, value in batch.items()} if isinstance(batch, dict) else batch.to("cuda")


@pytest.fixture(autouse=True)
def no_constants() -> Iterator[None]:
    """Those of an emulated GPU are of no use afterwards."""
    caches = [augmentation._stain_matrices, augmentation._yiq_matrices, augmentation._on]
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize(("elastic", "mixed"), [(1.0, 1.0), (0.0, 0.0)])
def test_a_step_waits_once_and_copies_nothing(elastic: float, mixed: float, data: Path, tmp_path: Path) -> None:
    config = config_for(
        data,
        tmp_path,
        "network.backbone=vit_small_plus_patch16_dinov3",
        "network.backbone_args={qkv_fused: false, depth: 1}",
        "network.pooling=token",
        "adapter.rank=2",
    )
    network = build_network(config)
    add_adapters(network, config.adapter)
    halve_frozen(network, "bf16")
    prepared = batches(STEPS + 1, elastic=elastic, mixed=mixed)
    assert [("elastic" in batch["numbers"], "own_share" in batch["numbers"]) for batch in prepared] == [
        (elastic > 0, mixed > 0)
    ] * len(prepared)
    with emulated_gpu((9, 0)) as record:
        network.to("cuda")
        trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trainable, fused=True)
        average = WeightAverage(network, 0.9)
        fit = Fit(config, cast(Any, Stub(network)), network, average, optimizer, cast(Any, Schedule()))
        there = [moved(batch) for batch in prepared]
        before = trainable[0].inner.clone()
        with kept_rotation(network):
            train_epoch(fit, there[:1], [])  # constants are copied once
            record.clear()
            loss = train_epoch(fit, there[1:], [])
        products = record.dtypes("aten::mm") + record.dtypes("aten::addmm")
    assert np.isfinite(loss) and not torch.equal(trainable[0].inner, before)
    assert len(record.to_cpu) == STEPS, "the loss and the gradient's norm, together"
    assert len(record.to_gpu) == len(record.waits) == 1, "the epoch's loss, to the other processes and from them"
    assert products and any({*dtypes} == {torch.bfloat16} for dtypes in products)
    assert all(isinstance(tensor, OnGpu) for tensor in average.tensors.values())
