from pathlib import Path

import pytest
import torch

from model.network.classifier import MitosisClassifier
from training.config import AdapterConfig, ConfigError
from training.network.adapters import (
    adapter_tensors,
    add_adapters,
    backbone_sha256,
    load_adapter_tensors,
    merge_adapters,
    target_modules,
)

BACKBONE = "vit_tiny_patch16_dinov3_qkvb"


def adapted(**options: object) -> MitosisClassifier:
    """A small DINOv3 with adapters that are not at their neutral start."""
    torch.manual_seed(0)
    classifier = MitosisClassifier(BACKBONE, "token", {"qkv_fused": False})
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    add_adapters(classifier, AdapterConfig(**({"rank": 4} | options)))
    return classifier.eval()


def stir(classifier: MitosisClassifier) -> None:
    with torch.no_grad():
        for name, parameter in classifier.named_parameters():
            if ".lora_" in name:
                parameter.add_(0.02 * torch.randn_like(parameter))


def test_only_adapters_and_head_are_trained() -> None:
    classifier = adapted()
    trained = {name for name, parameter in classifier.named_parameters() if parameter.requires_grad}
    assert all(".lora_" in name or name.startswith("head.") for name in trained)
    assert sum(".lora_A" in name for name in trained) == 2 * 12
    assert not any("k_proj" in name for name in trained)


def test_fresh_adapters_change_nothing() -> None:
    classifier = adapted()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        before = classifier(images)
        torch.testing.assert_close(merge_adapters(classifier)(images), before)


@pytest.mark.parametrize(
    "options",
    [{}, {"rslora": True}, {"dora": True}, {"targets": ["q", "k", "v", "proj"]}, {"targets": ["mlp"], "rank": 2}],
    ids=str,
)
def test_the_merged_network_is_the_adapted_one(options: dict) -> None:
    classifier = adapted(**options)
    images = torch.randn(4, 3, 64, 64)
    with torch.inference_mode():
        neutral = classifier(images)
        stir(classifier)
        expected = classifier(images)
        assert (expected - neutral).abs().max() > 1e-2
        merged = merge_adapters(classifier)
        torch.testing.assert_close(merged(images), expected, rtol=1e-4, atol=1e-4)
    plain = MitosisClassifier(BACKBONE, "token", {"qkv_fused": False})
    assert merged.state_dict().keys() == plain.state_dict().keys()


def test_pointwise_convolutions_can_be_adapted() -> None:
    torch.manual_seed(0)
    classifier = MitosisClassifier("tf_efficientnet_lite2")
    add_adapters(classifier, AdapterConfig(rank=4, targets=["pointwise"]))
    classifier.eval()
    stir(classifier)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = classifier(images)
        torch.testing.assert_close(merge_adapters(classifier)(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapted_convolution_in_one_step_is_that_of_peft(rslora: bool) -> None:
    """The same logits, and the same gradients of all that is trained."""
    torch.manual_seed(0)
    classifier = MitosisClassifier("tf_efficientnet_lite2")
    add_adapters(classifier, AdapterConfig(8, dropout=0, targets=["pointwise"], rslora=rslora, others=True))
    stir(classifier.double())  # in single precision the order of additions alone moves gradients by a hundredth
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    found = []
    for own_step in (True, False):
        if not own_step:
            assert sum(module.__dict__.pop("forward", None) is not None for module in classifier.modules()) > 20
        classifier.zero_grad()
        logits = classifier.eval()(images)
        logits.sum().backward()
        gradients = {name: p.grad.clone() for name, p in classifier.named_parameters() if p.grad is not None}
        found.append((logits.detach(), gradients))
    (logits, gradients), (expected, expected_gradients) = found
    torch.testing.assert_close(logits, expected)
    assert any(".lora_A." in name for name in gradients) and not any(".base_layer.weight" in name for name in gradients)
    torch.testing.assert_close(gradients, expected_gradients)


@pytest.mark.parametrize("options", [{"rslora": True}, {"dora": True}], ids=str)
def test_what_has_no_adapter_can_be_trained_in_full(options: dict) -> None:
    """All but the adapted kernels; those stay as they are, and the merged network is the adapted one."""
    torch.manual_seed(0)
    classifier = MitosisClassifier("tf_efficientnet_lite2")
    kernels = {name: parameter.clone() for name, parameter in classifier.backbone.named_parameters()}
    add_adapters(classifier, AdapterConfig(rank=4, targets=["pointwise"], others=True, **options))
    frozen = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): parameter
        for name, parameter in classifier.backbone.named_parameters()
        if not parameter.requires_grad
    }
    assert frozen and frozen.keys() == {name for name in kernels if ".conv_pw" in name}
    assert classifier.backbone.get_base_model().conv_stem.weight.requires_grad
    with torch.no_grad():
        for parameter in classifier.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    assert all(torch.equal(parameter, kernels[name]) for name, parameter in frozen.items())
    tensors = adapter_tensors(classifier)
    again = MitosisClassifier("tf_efficientnet_lite2")
    again.backbone.load_state_dict(kernels, strict=False)
    add_adapters(again, AdapterConfig(rank=4, targets=["pointwise"], others=True, **options))
    assert backbone_sha256(again) == backbone_sha256(classifier)
    load_adapter_tensors(again, tensors, Path("adapter.safetensors"))
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = classifier.eval()(images)
        torch.testing.assert_close(merge_adapters(classifier)(images), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(merge_adapters(again.eval())(images), expected, rtol=1e-4, atol=1e-4)


def test_a_tensor_that_is_not_finite_is_not_merged() -> None:
    classifier = adapted()
    with torch.no_grad():
        next(p for name, p in classifier.named_parameters() if ".lora_B" in name)[0, 0] = torch.nan
    with pytest.raises(ConfigError, match="cannot be merged"):
        merge_adapters(classifier)


def test_targets_that_are_not_there_are_refused() -> None:
    fused = MitosisClassifier(BACKBONE, "token")
    with pytest.raises(ConfigError, match=r"no layers for the adapter target 'q'; set .*qkv_fused=false"):
        target_modules(fused.backbone, ["q"])
    with pytest.raises(ConfigError, match="Unknown adapter target 'key'; choose among q, k, v"):
        target_modules(fused.backbone, ["key"])
