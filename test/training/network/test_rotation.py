from pathlib import Path

import pytest
import torch
from helpers import config_for

from training.network.classifier import TrainableClassifier, build_network
from training.network.rotation import kept_rotation


def network(data: Path, folder: Path, arguments: str = "depth: 2") -> TrainableClassifier:
    torch.manual_seed(0)
    backbone = ["network.backbone=vit_small_patch16_dinov3", f"network.backbone_args={{{arguments}}}"]
    return build_network(config_for(data, folder, *backbone, "network.pooling=token", "network.dropout=0"))


def test_the_logits_are_the_same_and_the_embedding_is_computed_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = network(data, tmp_path).train()
    rope = classifier.backbone.rope
    computed, create = [], type(rope)._create_embed
    monkeypatch.setattr(
        type(rope), "_create_embed", lambda *given, **named: computed.append(1) or create(*given, **named)
    )
    small, large = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 64, 48)
    expected, embeddings = (
        [classifier(small), classifier(large)],
        [rope.get_embed(shape=(2, 2)), rope.get_embed((4, 3))],
    )
    computed.clear()
    with kept_rotation(classifier):
        with torch.inference_mode():  # as a validation does, whose tensors autograd refuses
            classifier(small)
        found = [classifier(images) for images in (small, large, small)]
        found[0].sum().backward()
        kept = [rope.get_embed(shape=(2, 2)), rope.get_embed((4, 3))]
    assert len(computed) == 2
    assert all(torch.equal(left, right) for left, right in zip(kept, embeddings, strict=True))
    torch.testing.assert_close(found, [*expected, expected[0]], rtol=1e-4, atol=1e-4)
    classifier(small)
    assert len(computed) == 3 and "_create_embed" not in vars(rope)


def test_an_embedding_that_is_altered_at_random_is_left_alone(data: Path, tmp_path: Path) -> None:
    classifier = network(data, tmp_path)
    classifier.backbone.rope.aug_active = True
    with kept_rotation(classifier):
        assert "_create_embed" not in vars(classifier.backbone.rope)
