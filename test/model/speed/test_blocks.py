"""Leaner transformer blocks change no probability."""

import copy
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.network.calibration import Calibration, calibrate
from model.network.classifier import MitosisClassifier
from model.network.preprocessing import Preprocessing
from model.network.weights import save
from model.network.weights_config import Network, WeightsConfig
from model.predictor import Predictor, ViewAverage
from model.speed.blocks import _Block, streamline

SIDE = 96
APART = {"qkv_fused": False}


def random_network(backbone: str, pooling: str = "token", **arguments: object) -> MitosisClassifier:
    """With biases and branches that count, which fresh ones do not."""
    torch.manual_seed(0)
    network = MitosisClassifier(backbone, pooling, {"depth": 3} | arguments).eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        if "gamma" in name:
            parameter.uniform_(0.5, 1.5)
        elif "bias" in name:
            parameter.normal_(0, 0.3)
        elif parameter.ndim > 1:
            parameter.mul_(2)
    return network


def lean(network: MitosisClassifier, side: int = SIDE) -> MitosisClassifier:
    streamlined = copy.deepcopy(network)
    streamline(streamlined.backbone, side)
    return streamlined


def blocks(network: nn.Module) -> int:
    return sum(isinstance(module, _Block) for module in network.modules())


@pytest.mark.parametrize(
    ("backbone", "arguments"),
    [
        ("vit_small_patch16_dinov3", {}),
        ("vit_small_patch16_dinov3", APART),
        ("vit_small_patch16_dinov3_qkvb", {}),
        ("vit_small_plus_patch16_dinov3_qkvb", APART),
        ("vit_small_plus_patch16_dinov3", APART | {"scale_attn_inner": True}),
        ("vit_small_plus_patch16_dinov3", APART | {"init_values": None}),
    ],
)
@pytest.mark.parametrize("side", [SIDE, 64])
def test_the_features_are_the_same(backbone: str, arguments: dict, side: int) -> None:
    network = random_network(backbone, **arguments)
    streamlined = lean(network, side)
    assert blocks(streamlined) == 3 and blocks(network) == 0
    for count in (3, 1):
        images = torch.randn(count, 3, side, side)
        with torch.inference_mode():
            expected = network.features(images)
            torch.testing.assert_close(streamlined.features(images), expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_they_are_no_further_from_float32(dtype: torch.dtype) -> None:
    """Than timm's own blocks are, which rotate in float32."""
    network, images = random_network("vit_small_plus_patch16_dinov3", **APART), torch.randn(8, 3, SIDE, SIDE)
    expected = network.features(images)
    half = copy.deepcopy(network)
    half.backbone.to(dtype)
    streamlined = lean(half)
    assert blocks(streamlined) == 3
    plain, found = (
        (network.features(images.to(dtype)) - expected).square().mean().sqrt().item() for network in (half, streamlined)
    )
    assert 0 < found < 1.1 * plain


class BytesMoved(TorchDispatchMode):
    """Counts what is read and written by operations other than matrix products, convolutions and attention."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        name = function.name().partition("::")[2]
        if not function.is_view and not name.startswith(
            ("linear", "mm", "addmm", "conv", "_scaled", "scaled", "dropout")
        ):
            tensors = tree_leaves((arguments, keywords, result))
            self.count += sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))
        return result


def test_half_as_many_bytes_are_moved_between_the_products() -> None:
    half = random_network("vit_small_plus_patch16_dinov3", **APART)
    half.backbone.bfloat16()
    images, moved = torch.randn(4, 3, SIDE, SIDE, dtype=torch.bfloat16), []
    for network in (half, lean(half)):
        with torch.inference_mode(), BytesMoved() as bytes_moved:
            network.features(images)
        moved.append(bytes_moved.count)
    assert 0 < moved[1] < 0.6 * moved[0]


@pytest.mark.parametrize(
    ("backbone", "arguments"),
    [
        ("test_vit", {"img_size": SIDE}),
        ("eva02_tiny_patch14_224", {"img_size": 98}),
        ("vit_small_patch16_rope_224", {"img_size": SIDE}),
        ("vit_small_patch16_dinov3", {"qk_norm": True}),
    ],
)
def test_other_networks_are_left_alone(backbone: str, arguments: dict, caplog: pytest.LogCaptureFixture) -> None:
    network = random_network(backbone, "avg", **arguments)
    assert blocks(lean(network)) == 0 and not caplog.text, "that is no news"
    side = arguments.get("img_size", SIDE)
    images = torch.randn(1, 3, side, side)
    assert torch.equal(lean(network, side)(images), network(images))


def test_where_a_block_would_say_something_else_none_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    network, factors = random_network("vit_small_patch16_dinov3"), [1.0, 1.5]
    network.backbone.blocks[0].mlp.register_forward_hook(lambda mlp, inputs, output: output * factors.pop())
    streamline(network.backbone, SIDE)
    assert blocks(network) == 0 and not factors and "they run as they are" in caplog.text


def test_where_timm_has_other_blocks_none_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    network = random_network("vit_small_patch16_dinov3")
    del network.backbone.blocks[0].attn.proj
    network.backbone.blocks[0].attn.projection = nn.Identity()
    streamline(network.backbone, SIDE)
    assert blocks(network) == 0 and "they run as they are" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "largest"), [(torch.float32, 1e-5), (torch.bfloat16, 0.01), (torch.float16, 0.01)])
def test_real_crops_keep_their_probabilities(
    real_crops: tuple, tmp_path: Path, dtype: torch.dtype, largest: float
) -> None:
    """The predictor against the network as it is stored, in float32; random weights, P spread over (0, 1)."""
    crops = real_crops[0][:24]
    network = random_network("vit_small_plus_patch16_dinov3", **APART)
    preprocessing = Preprocessing(78, SIDE, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    fields, cpu = preprocessing.cut_out(crops), torch.device("cpu")
    logits = ViewAverage(network, preprocessing, "rot4", 8, cpu).logits(fields)
    calibration = Calibration(1 / logits.std(), -np.median(logits) / logits.std())
    expected = calibrate(logits, calibration)
    about = Network("vit_small_plus_patch16_dinov3", "token", APART | {"depth": 3})
    config = WeightsConfig("random", "0", about, preprocessing, calibration, "float32", "")
    save(tmp_path, network, config)
    predictor = Predictor(tmp_path, "cpu", "rot4", dtype=dtype)
    streamline(predictor.network.backbone, SIDE)  # as it does by itself on a GPU
    assert blocks(predictor.network) == 3
    found = predictor(crops)
    assert np.abs(found - expected).max() <= largest
    clear = np.abs(expected - 0.5) > largest
    assert clear.sum() >= 20 and np.array_equal((found >= 0.5)[clear], (expected >= 0.5)[clear])


@pytest.mark.parametrize("message", ["CUDA out of memory.", "CUDA error: out of memory"])
def test_a_full_memory_is_no_reason_to_leave_blocks_as_they_are(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever called knows what to say of it."""

    def full(*_: object) -> bool:
        raise RuntimeError(message)

    monkeypatch.setattr("model.speed.blocks._same", full)
    with pytest.raises(RuntimeError, match="out of memory"):
        streamline(random_network("vit_small_patch16_dinov3").backbone, SIDE)


def test_a_gated_mlp_needs_half_of_the_memory() -> None:
    """Of what is as wide as its middle, two tensors are alive at a time instead of four."""
    network = random_network("vit_small_plus_patch16_dinov3")
    plain, lean_one = network.backbone.blocks[0].mlp, lean(network).backbone.blocks[0].mlp
    tokens = torch.randn(2, 20, network.head.in_features)
    live = []
    with torch.inference_mode():
        for mlp in (plain, lean_one):
            with MiddleTensors(2 * 20 * plain.fc2.in_features) as middle:
                found = mlp(tokens)
            live.append(middle.most)
        torch.testing.assert_close(found, plain(tokens), rtol=1e-5, atol=1e-5)
    assert live == [4, 2]


class MiddleTensors(TorchDispatchMode):
    """The most tensors of one size that are alive at a time."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.alive, self.most = size, weakref.WeakSet(), 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        if isinstance(result, torch.Tensor) and result.numel() == self.size:
            storage = result.untyped_storage()
            self.alive.add(storage)
            self.most = max(self.most, len(self.alive))
        return result


def test_images_that_timm_pads_are_looked_at_whole() -> None:
    network = random_network("vit_small_patch16_dinov3", dynamic_img_pad=True)
    images = torch.randn(2, 3, 100, 100)
    with torch.inference_mode():
        found = lean(network, 100).features(images)
        torch.testing.assert_close(found, network.features(images), rtol=1e-5, atol=1e-5)
