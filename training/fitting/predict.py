"""What a network says of crops, by the container's own code."""

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from model.device import choose_dtype
from model.network.ensemble import Classifier
from model.network.preprocessing import Preprocessing
from model.network.running import ViewAverage, place
from model.predictor import GPU_VIEWS
from model.speed.folding import fold
from training.network.adapters import has_adapters

logger = logging.getLogger(__name__)

BATCH = 32
"""Views in one forward pass."""

EXACT, TRAINING, CONTAINER = "exact", "training", "container"
"""Precisions: float32 without TensorFloat-32; that of the fit; the container's own on this device."""


@dataclass(frozen=True)
class Inference:
    """How networks are asked: the container's own code, on the processes that train.

    Attributes:
        accelerator: where networks run; every process takes its share of the crops.
        preprocessing: the one that they were trained with.
        view_set: one of `model.constants.VIEW_SETS`.
        precision: `EXACT`, `TRAINING` or `CONTAINER`; on the CPU the last is the first.
    """

    accelerator: Accelerator
    preprocessing: Preprocessing
    view_set: str = "none"
    precision: str = EXACT

    def logits(self, network: Classifier, crops: Sequence[np.ndarray]) -> np.ndarray:
        """View-averaged logits of crops; batch norms are folded and blocks replaced where the container does that.

        Args:
            network: in evaluation mode afterwards; without adapters where the precision is the container's.
            crops: N arrays (H, W, 3) uint8 RGB.

        Returns:
            (N,) float64.
        """
        accelerator = self.accelerator
        network.eval()
        logits = torch.zeros(len(crops), dtype=torch.float64, device=accelerator.device)
        share = range(accelerator.process_index, len(crops), accelerator.num_processes)
        if len(share):
            fields = self.preprocessing.cut_out([crops[i] for i in share])
            logits[list(share)] = torch.as_tensor(self._own(network, fields), dtype=logits.dtype, device=logits.device)
        return accelerator.reduce(logits).cpu().numpy()

    def _own(self, network: Classifier, fields: Tensor) -> np.ndarray:
        """Logits of this process's crops."""
        accelerator, preprocessing, exact = self.accelerator, self.preprocessing, self.precision != TRAINING
        if self.precision == CONTAINER and accelerator.device.type == "cuda":
            found = self._as_container(network, fields)
            if np.isfinite(found).all():
                return found
            logger.warning("A logit is not a finite number in half precision; predicting in float32, as then later.")
        forward: Callable[[Tensor], Tensor] = network
        if accelerator.device.type == "cpu" and accelerator.mixed_precision == "no":
            forward = plain = accelerator.unwrap_model(network)
            if not has_adapters(plain):  # which are between a convolution and its batch norm
                forward = fold(plain, preprocessing.channels, preprocessing.input_size)
        elif exact:
            # Accelerate gives the instance a `forward` in mixed precision; the class's own is the container's.
            own_forward: Any = type(network).forward
            forward = partial(own_forward, network)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=not exact):
            return ViewAverage(forward, preprocessing, self.view_set, BATCH, accelerator.device).logits(fields)

    def _as_container(self, network: Classifier, fields: Tensor) -> np.ndarray:
        device, preprocessing = self.accelerator.device, self.preprocessing
        copied = copy.deepcopy(network).cpu()
        copied.__dict__.pop("forward", None)  # Accelerate's, which is the original's
        dtype = choose_dtype(device)
        ready = place(copied, preprocessing, device, dtype)
        return ViewAverage(ready, preprocessing, self.view_set, GPU_VIEWS, device, dtype).logits(fields)
