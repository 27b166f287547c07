"""The network: a timm backbone, its pooled features, one logit."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from model.lean_timm import timm


class BackbonePerScale(nn.Module):
    """Backbones of which each sees another field of view of a crop, their features side by side.

    Args:
        members: timm backbones without classifier, in the order of the scales.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.head_hidden_size = sum(member.head_hidden_size for member in members)

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, F1 + F2 + ...) of images (N, 3 K, S, S), three channels for each of the K members."""
        parts = images.split(3, dim=1)
        return torch.cat(
            [member(_channels_last(part)) for member, part in zip(self.members, parts, strict=True)], dim=1
        )


class MitosisClassifier(nn.Module):
    """One logit a crop: positive leans to atypical, negative to normal (before calibration).

    The backbone starts from random numbers; `model.checkpoint` and training put trained ones in.

    Args:
        backbone: name of a timm architecture, convolutional or transformer.
        pooling: what becomes of the last feature map or tokens: timm's `global_pool` (`avg`, `token`, ...).
        backbone_args: further arguments of `timm.create_model`.
        dropout: probability of dropping a pooled feature in training.
        members: number of such backbones: 1 for all fields of view, or one for each.

    Raises:
        RuntimeError: timm knows no such architecture.
    """

    def __init__(
        self,
        backbone: str,
        pooling: str = "avg",
        backbone_args: dict[str, Any] | None = None,
        dropout: float = 0.0,
        members: int = 1,
    ) -> None:
        super().__init__()
        backbones = [
            timm.create_model(backbone, pretrained=False, num_classes=0, global_pool=pooling, **(backbone_args or {}))
            for _ in range(members)
        ]
        self.backbone = backbones[0] if members == 1 else BackbonePerScale(backbones)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.backbone.head_hidden_size, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of crops: the mean over their fields of view.

        The head runs in its own precision also under autocast: a logit rounded to bfloat16 keeps two to three digits.

        Args:
            images: (N, 3 K, S, S), normalised, K fields of view of each crop (see `model.preprocessing`).

        Returns:
            (N,), of the type of the head's weights.
        """
        features = self.features(images)
        with torch.autocast(images.device.type, enabled=False):
            return self.head(self.dropout(features)).squeeze(2).mean(dim=1)

    def features(self, images: Tensor) -> Tensor:
        """What the head sees of crops.

        Args:
            images: (N, 3 K, S, S), as for `forward`.

        Returns:
            (N, K, F), of the type of the head's weights; (N, 1, K F) where each field of view has its own backbone.
        """
        if isinstance(self.backbone, BackbonePerScale):
            apart, features = 1, self.backbone(images)
        else:
            apart = images.shape[1] // 3
            features = self.backbone(_channels_last(images.unflatten(1, (-1, 3)).flatten(0, 1)))
        return features.to(self.head.weight.dtype).unflatten(0, (-1, apart))


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)
