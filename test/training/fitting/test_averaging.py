import torch

from model.network.classifier import MitosisClassifier
from training.config import AdapterConfig
from training.fitting.averaging import WeightAverage
from training.network.adapters import add_adapters


def test_the_average_holds_only_what_changes_and_follows_its_definition() -> None:
    torch.manual_seed(0)
    classifier = MitosisClassifier("vit_tiny_patch16_dinov3_qkvb", "token", {"qkv_fused": False})
    add_adapters(classifier, AdapterConfig(rank=4))
    average = WeightAverage(classifier, decay=0.9)
    assert not any("base_layer" in name for name in average.tensors)
    expected = None
    for _ in range(4):
        with torch.no_grad():
            for name, parameter in classifier.named_parameters():
                if ".lora_" in name:
                    parameter.add_(0.02 * torch.randn_like(parameter))
        average.update(classifier)
        current = classifier.state_dict()
        name = next(name for name in average.tensors if ".lora_B" in name)
        expected = current[name].clone() if expected is None else 0.9 * expected + 0.1 * current[name]
    torch.testing.assert_close(average.tensors[name], expected)
    own = classifier.state_dict()[name].clone()
    with average.applied_to(classifier):
        torch.testing.assert_close(classifier.state_dict()[name], expected)
    assert torch.equal(classifier.state_dict()[name], own)
