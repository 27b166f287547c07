"""What a network says of crops, by the container's own code."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from model.network.ensemble import Classifier
from model.network.preprocessing import Preprocessing
from model.predictor import ViewAverage
from model.speed.folding import fold

BATCH = 32
"""Views in one forward pass."""


@dataclass(frozen=True)
class Inference:
    """How networks are asked: the container's own code, on the processes that train.

    Attributes:
        accelerator: where networks run; every process takes its share of the crops.
        preprocessing: the one that they were trained with.
        view_set: one of `model.constants.VIEW_SETS`.
        exact: in float32, without TensorFloat-32; otherwise in the precision of training.
    """

    accelerator: Accelerator
    preprocessing: Preprocessing
    view_set: str = "none"
    exact: bool = True

    def logits(self, network: Classifier, crops: Sequence[np.ndarray]) -> np.ndarray:
        """View-averaged logits of crops; on the CPU batch norms are folded, as in the container.

        Args:
            network: in evaluation mode afterwards.
            crops: N arrays (H, W, 3) uint8 RGB.

        Returns:
            (N,) float64.
        """
        accelerator, preprocessing = self.accelerator, self.preprocessing
        network.eval()
        forward: Callable[[Tensor], Tensor] = network
        if accelerator.device.type == "cpu" and accelerator.mixed_precision == "no":
            forward = fold(accelerator.unwrap_model(network), preprocessing.channels, preprocessing.input_size)
        elif self.exact:
            # Accelerate gives the instance a `forward` in mixed precision; the class's own is the container's.
            own_forward: Any = type(network).forward
            forward = partial(own_forward, network)
        logits = torch.zeros(len(crops), dtype=torch.float64, device=accelerator.device)
        share = range(accelerator.process_index, len(crops), accelerator.num_processes)
        if len(share):
            fields = preprocessing.cut_out([crops[i] for i in share])
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=not self.exact):
                average = ViewAverage(forward, preprocessing, self.view_set, BATCH, accelerator.device)
                own = average.logits(fields)
            logits[list(share)] = torch.as_tensor(own, dtype=logits.dtype, device=logits.device)
        return accelerator.reduce(logits).cpu().numpy()
