"""The network: a timm backbone, its pooled features, one logit."""

from typing import Any

import torch
from torch import Tensor, nn

from model.speed.imports import timm


class MitosisClassifier(nn.Module):
    """One logit a crop: positive leans to atypical, negative to normal (before calibration).

    The backbone starts from random numbers; `model.network.weights` and training put trained ones in.

    Args:
        backbone: name of a timm architecture, convolutional or transformer.
        pooling: what becomes of the last feature map or tokens: timm's `global_pool` (`avg`, `token`, ...).
        backbone_args: further arguments of `timm.create_model`.
        dropout: probability of dropping a pooled feature in training.

    Raises:
        RuntimeError: timm knows no such architecture.
    """

    def __init__(
        self,
        backbone: str,
        pooling: str = "avg",
        backbone_args: dict[str, Any] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone = timm.create_model(
            backbone, pretrained=False, num_classes=0, global_pool=pooling, **(backbone_args or {})
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.backbone.head_hidden_size, 1)
        self.convolutional = sum(isinstance(module, nn.Conv2d) for module in self.backbone.modules()) > 1

    @property
    def memory_format(self) -> torch.memory_format:
        """How images lie in memory: channels last for convolutional networks, whose kernels are faster so.

        A transformer's only convolution cuts the image into patches, once.
        """
        return torch.channels_last if self.convolutional else torch.contiguous_format

    def forward(self, images: Tensor) -> Tensor:
        """Logits of crops: the mean over their fields of view.

        The head runs in its own precision also under autocast: a logit rounded to bfloat16 keeps two to three digits.

        Args:
            images: (N, 3 K, S, S), normalised, K fields of view of each crop (see `model.network.preprocessing`).

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
            (N, K, F), of the type of the head's weights.
        """
        apart = images.shape[1] // 3
        views = images.unflatten(1, (-1, 3)).flatten(0, 1).contiguous(memory_format=self.memory_format)
        return self.backbone(views).to(self.head.weight.dtype).unflatten(0, (-1, apart))
