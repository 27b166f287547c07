"""The path of a GPU, emulated: what is where, in which precision, and when the program waits."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from emulated_gpu import OnGpu, Record, emulated_gpu
from helpers import DEFAULT_WEIGHTS
from torch import nn

from model.errors import PredictionError
from model.network.calibration import Calibration
from model.network.classifier import MitosisClassifier
from model.network.preprocessing import Preprocessing
from model.network.weights import save
from model.network.weights_config import Network, WeightsConfig
from model.predictor import Predictor
from model.speed import blocks

HALVES = [((9, 0), torch.bfloat16), ((8, 0), torch.bfloat16), ((7, 5), torch.float16)]
SIDE = 64


def dinov3(folder: Path, fused: bool) -> Path:
    """Weights of a small DINOv3 whose probabilities spread."""
    torch.manual_seed(0)
    about = Network("vit_small_plus_patch16_dinov3", "token", {"depth": 2, "qkv_fused": fused})
    network = MitosisClassifier(about.backbone, about.pooling, about.backbone_args).eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        if "gamma" in name:
            parameter.uniform_(0.5, 1.5)
        elif parameter.ndim > 1:
            parameter.mul_(2)
    preprocessing = Preprocessing(78, SIDE, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    config = WeightsConfig("tiny", "0", about, preprocessing, Calibration(0.5, 0.0), "float32", "")
    save(folder, network, config)
    return folder


def modules(predictor: Predictor, kind: type[nn.Module]) -> list[nn.Module]:
    return [module for module in predictor.network.modules() if isinstance(module, kind)]


def check(predictor: Predictor, record: Record, crops: list[np.ndarray], dtype: torch.dtype) -> np.ndarray:
    """What must hold of every network on a GPU; returns the probabilities of crops."""
    assert predictor.device.type == "cuda" and predictor.dtype == dtype
    tensors = [*predictor.network.parameters(), *predictor.network.buffers()]
    assert tensors and all(isinstance(tensor, OnGpu) for tensor in tensors), "all tensors are on the GPU"
    heads = {tensor.dtype for tensor in predictor.network.head.parameters()}
    assert heads == {torch.float32}, "the head's precision"
    backbone = {parameter.dtype for parameter in predictor.network.backbone.parameters()}
    assert backbone == {dtype}, "the backbone's precision"
    predictor(crops[:1])  # constants are copied once
    record.clear()
    found = predictor(crops)
    assert len(record.to_gpu) == 1, "the crops, together"
    assert len(record.to_cpu) == 1, "the logits, together"
    assert not record.waits, "nothing else waits for the GPU"
    products = record.dtypes("aten::linear").count([torch.float32] * 3)
    assert products == -(-len(crops) * predictor.view_count // predictor.batch_size), "one a batch"
    return found


@pytest.mark.parametrize(("capability", "dtype"), HALVES)
def test_the_default_weights(capability: tuple[int, int], dtype: torch.dtype, crops: list[np.ndarray]) -> None:
    expected = Predictor(DEFAULT_WEIGHTS, "cpu", "none")(crops[:2])
    with emulated_gpu(capability) as record:
        predictor = Predictor(DEFAULT_WEIGHTS, view_set="none", batch_size=1)
        found = check(predictor, record, crops[:2], dtype)
        products = [dtypes for dtypes in record.dtypes("aten::conv2d") + record.dtypes("aten::convolution")]
    assert products and all(set(dtypes) == {dtype} for dtypes in products)
    assert not modules(predictor, nn.BatchNorm2d), "folded"
    kernels = [module.weight for module in modules(predictor, nn.Conv2d)]
    assert all(kernel.inner.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    np.testing.assert_allclose(found, expected, atol=0.03 if dtype == torch.bfloat16 else 0.004)


@pytest.mark.parametrize(("capability", "dtype"), HALVES)
@pytest.mark.parametrize("fused", [True, False])
def test_a_dinov3(
    capability: tuple[int, int], dtype: torch.dtype, fused: bool, tmp_path: Path, crops: list[np.ndarray]
) -> None:
    folder = dinov3(tmp_path, fused)
    expected = Predictor(folder, "cpu", "rot4")(crops)
    assert np.ptp(expected) > 0.1
    with emulated_gpu(capability) as record:
        predictor = Predictor(folder, view_set="rot4", batch_size=8)
        found = check(predictor, record, crops, dtype)
        products = record.dtypes("aten::linear")
    assert len(products) > 20 and all(len(set(dtypes)) == 1 for dtypes in products)
    assert len(modules(predictor, blocks._Block)) == 2, "leaner blocks"
    patches = modules(predictor, nn.Conv2d)[0].weight.inner
    assert patches.is_contiguous() and not patches.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(found, expected, atol=0.02 if dtype == torch.bfloat16 else 0.003)


def left_on_the_cpu(predictor: Predictor) -> None:
    rotation = predictor.network.backbone.rope
    rotation.table = rotation.table.cpu()


def in_another_precision(predictor: Predictor) -> None:
    block = predictor.network.backbone.blocks[1]
    block.projection.float()


def head_in_half_precision(predictor: Predictor) -> None:
    predictor.network.head.to(predictor.dtype)


def looked_at(predictor: Predictor) -> None:
    predictor.network.backbone.norm.register_forward_hook(lambda _, inputs, output: output * (output.max().item() > 0))


def branched_on(predictor: Predictor) -> None:
    predictor.network.backbone.blocks[0].register_forward_hook(
        lambda _, inputs, output: output if output.isfinite().all() else output * 0
    )


def constant_of_each_batch(predictor: Predictor) -> None:
    predictor.network.backbone.norm.register_forward_hook(
        lambda _, inputs, output: output * torch.ones(1, dtype=output.dtype).to(output.device)
    )


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (left_on_the_cpu, "all tensors are on the GPU"),
        (in_another_precision, "the backbone's precision"),
        (head_in_half_precision, "the head's precision"),
        (looked_at, "nothing else waits"),
        (branched_on, "nothing else waits"),
        (constant_of_each_batch, "the crops, together"),
    ],
)
def test_planted_faults_are_seen(
    fault: Callable[[Predictor], None], reason: str, tmp_path: Path, crops: list[np.ndarray]
) -> None:
    """By the checks above, which pass without."""
    folder = dinov3(tmp_path, fused=False)
    with emulated_gpu((9, 0)) as record:
        predictor = Predictor(folder, view_set="none")
        check(predictor, record, crops, torch.bfloat16)
        fault(predictor)
        with pytest.raises(AssertionError, match=reason):
            check(predictor, record, crops, torch.bfloat16)


@pytest.mark.parametrize(("fault", "said"), [(left_on_the_cpu, "same device"), (in_another_precision, "dtype")])
def test_what_a_gpu_would_refuse_is_refused(
    fault: Callable[[Predictor], None], said: str, tmp_path: Path, crops: list[np.ndarray]
) -> None:
    folder = dinov3(tmp_path, fused=False)
    with emulated_gpu((9, 0)):
        predictor = Predictor(folder, view_set="none")
        fault(predictor)
        with pytest.raises(PredictionError, match=said):
            predictor(crops)
