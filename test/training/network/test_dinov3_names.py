"""DINOv3 weights of every format into timm, against transformers' independent implementation."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from model.speed.imports import timm
from training.network.dinov3_names import PretrainedError, recognise
from training.network.pretrained import load_pretrained

PLAIN = {"backbone": "vit_small_patch16_dinov3_qkvb", "gated": False}
GATED = {"backbone": "vit_small_plus_patch16_dinov3_qkvb", "gated": True}
DEPTH = 3
"""Blocks; the published models' twelve and more have the same names."""


@pytest.fixture(scope="module", params=[PLAIN, GATED], ids=["plain MLP", "gated MLP"])
def hugging_face(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str, nn.Module]:
    """A random DINOv3 of transformers, saved; the timm name of its architecture."""
    torch.manual_seed(0)
    config = DINOv3ViTConfig(num_hidden_layers=DEPTH, num_register_tokens=4, use_gated_mlp=request.param["gated"])
    config.hidden_act = "silu" if request.param["gated"] else "gelu"
    reference = DINOv3ViTModel(config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():  # nothing may be left at a value that hides a mistake
            parameter.add_(0.05 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("hub") / "dinov3"
    reference.save_pretrained(folder)
    return folder, request.param["backbone"], reference


def build(name: str, fused: bool) -> nn.Module:
    return timm.create_model(name, num_classes=0, global_pool="token", qkv_fused=fused, depth=DEPTH).eval()


def agreement(backbone: nn.Module, reference: nn.Module) -> float:
    """Largest difference of the pooled tokens, relative to their largest value."""
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = reference(images).pooler_output
        return ((backbone(images) - expected).abs().max() / expected.abs().max()).item()


def to_meta(tensors: dict[str, Tensor], gated: bool) -> dict[str, Tensor]:
    """Hugging Face's tensors under Meta's original names, written out here independently of the code under test."""
    meta = {
        "cls_token": tensors["embeddings.cls_token"],
        "storage_tokens": tensors["embeddings.register_tokens"],
        "mask_token": tensors["embeddings.mask_token"][0],
        "patch_embed.proj.weight": tensors["embeddings.patch_embeddings.weight"],
        "patch_embed.proj.bias": tensors["embeddings.patch_embeddings.bias"],
        "rope_embed.periods": torch.ones(16),
        "norm.weight": tensors["norm.weight"],
        "norm.bias": tensors["norm.bias"],
        "local_cls_norm.weight": tensors["norm.weight"],
    }
    layers = (
        {"gate_proj": "w1", "up_proj": "w2", "down_proj": "w3"} if gated else {"up_proj": "fc1", "down_proj": "fc2"}
    )
    for block in range(DEPTH):
        old, new = f"layer.{block}.", f"blocks.{block}."
        query, key, value = (f"{old}attention.{part}_proj." for part in "qkv")
        meta[f"{new}attn.qkv.weight"] = torch.cat([tensors[f"{part}weight"] for part in (query, key, value)])
        masked = torch.full_like(tensors[f"{query}bias"], torch.nan)
        meta[f"{new}attn.qkv.bias"] = torch.cat([tensors[f"{query}bias"], masked, tensors[f"{value}bias"]])
        meta[f"{new}attn.qkv.bias_mask"] = torch.ones(3 * len(masked))
        for kind in ("weight", "bias"):
            meta[f"{new}attn.proj.{kind}"] = tensors[f"{old}attention.o_proj.{kind}"]
            for norm in ("norm1", "norm2"):
                meta[f"{new}{norm}.{kind}"] = tensors[f"{old}{norm}.{kind}"]
            for layer, name in layers.items():
                meta[f"{new}mlp.{name}.{kind}"] = tensors[f"{old}mlp.{layer}.{kind}"]
        for number in (1, 2):
            meta[f"{new}ls{number}.gamma"] = tensors[f"{old}layer_scale{number}.lambda1"]
    return {name: tensor.clone() for name, tensor in meta.items()}


@pytest.mark.parametrize("fused", [True, False])
def test_a_hugging_face_folder_gives_the_same_tokens(hugging_face: tuple, fused: bool) -> None:
    folder, name, reference = hugging_face
    backbone = build(name, fused)
    load_pretrained(backbone, f"file:{folder}")
    assert agreement(backbone, reference) < 1e-4


@pytest.mark.parametrize("fused", [True, False])
def test_metas_own_file_gives_the_same_tokens(hugging_face: tuple, tmp_path: Path, fused: bool) -> None:
    folder, name, reference = hugging_face
    meta = to_meta(load_file(folder / "model.safetensors"), "plus" in name)
    assert recognise(meta) == "meta"
    torch.save(meta, tmp_path / "dinov3.pth")
    backbone = build(name, fused)
    load_pretrained(backbone, f"file:{tmp_path / 'dinov3.pth'}")
    assert agreement(backbone, reference) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("saved_fused", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_timms_own_file_in_either_layout(hugging_face: tuple, tmp_path: Path, saved_fused: bool, fused: bool) -> None:
    folder, name, reference = hugging_face
    saved = build(name, saved_fused)
    load_pretrained(saved, f"file:{folder}")
    save_file(saved.state_dict() | {"head.weight": torch.zeros(10, 384)}, tmp_path / "timm.safetensors")
    backbone = build(name, fused)
    load_pretrained(backbone, f"file:{tmp_path / 'timm.safetensors'}")
    assert agreement(backbone, reference) < 1e-4


def test_biases_that_are_not_zero_need_a_network_with_biases(hugging_face: tuple, tmp_path: Path) -> None:
    folder, name, _ = hugging_face
    tensors = load_file(folder / "model.safetensors")
    without = build(name.removesuffix("_qkvb"), False)
    with pytest.raises(PretrainedError, match=r"q_proj\.bias that is not zero, .* _qkvb"):
        load_pretrained(without, f"file:{folder}")
    for key in tensors:
        if key.endswith(("q_proj.bias", "v_proj.bias")):
            tensors[key].zero_()
    save_file(tensors, tmp_path / "zero.safetensors")
    load_pretrained(without, f"file:{tmp_path / 'zero.safetensors'}")
    with_biases = build(name, False)
    save_file(without.state_dict(), tmp_path / "none.safetensors")
    load_pretrained(with_biases, f"file:{tmp_path / 'none.safetensors'}")
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(with_biases(images), without(images), atol=1e-5)


def test_another_size_is_refused_with_the_first_tensor_and_both_shapes(hugging_face: tuple) -> None:
    folder, _, _ = hugging_face
    with pytest.raises(PretrainedError, match=r"tensor cls_token is \(1, 1, 384\) in the file and \(1, 1, 768\)"):
        load_pretrained(build("vit_base_patch16_dinov3_qkvb", False), f"file:{folder}")


def test_another_models_settings_are_refused(hugging_face: tuple, tmp_path: Path) -> None:
    folder, name, _ = hugging_face
    text = (folder / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"rope_theta": 100.0', '"rope_theta": 10000.0'))
    with pytest.raises(PretrainedError, match=r"has rope_theta 10000\.0, but DINOv3 has 100\.0"):
        load_pretrained(build(name, False), f"file:{tmp_path}")


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth", "weights.onnx", "nowhere.pth"])
def test_files_that_are_no_weights_are_refused(tmp_path: Path, name: str) -> None:
    if name != "nowhere.pth":
        (tmp_path / name).write_bytes(b"no tensors" * 10)
    with pytest.raises(PretrainedError, match=name):
        load_pretrained(nn.Identity(), f"file:{tmp_path / name}")


def test_a_file_that_would_execute_code_is_not_loaded(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "harmed",))

    torch.save({"cls_token": Harmful()}, tmp_path / "harmful.pth")
    with pytest.raises(PretrainedError, match=r"harmful\.pth"):
        load_pretrained(nn.Identity(), f"file:{tmp_path / 'harmful.pth'}")
    assert not (tmp_path / "harmed").exists()
