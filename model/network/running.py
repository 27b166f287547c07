"""A network on its device: put there, and asked for several views of each crop."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from model.network import views
from model.network.ensemble import Classifier, members_of
from model.network.preprocessing import Preprocessing
from model.speed.blocks import streamline
from model.speed.folding import fold

CROPS_A_COPY = 1024
"""Fields of view copied to the device at once: tens of megabytes."""


def place(network: Classifier, preprocessing: Preprocessing, device: torch.device, dtype: torch.dtype) -> Classifier:
    """Makes a network ready to predict on a device, with what `model.speed` has for it there.

    Args:
        network: on the CPU, in evaluation mode, in any precision; may be changed in place, and is not to be used after.
        preprocessing: what its input is.
        device: where it goes.
        dtype: precision of its backbones; the heads' is float32.

    Returns:
        The network to predict with; for images of this preprocessing alone.

    Raises:
        torch.OutOfMemoryError: the device's memory does not hold it; `model.device.memory_is_full` knows the
            other errors that say so.
    """
    if device.type == "cpu":
        network.float()
        if dtype == torch.float32:
            network = fold(network, preprocessing.channels, preprocessing.input_size)
        return move(network, device, dtype)
    network = move(fold(network, preprocessing.channels, preprocessing.input_size, norms_alone=True), device, dtype)
    for member in members_of(network):
        streamline(member.backbone, preprocessing.input_size)
    return network


def move(network: Classifier, device: torch.device, dtype: torch.dtype) -> Classifier:
    """Moves a network to a device, in place: backbones in a precision, heads in float32."""
    # First to the device, as it is stored: what converts it there would take the processor seconds.
    network.to(device)
    for member in members_of(network):
        to_precision: Any = member.backbone.to  # torch declares no memory format, but takes one
        to_precision(dtype, memory_format=member.memory_format)
        member.head.float()
    return network


@dataclass(frozen=True)
class ViewAverage:
    """A network asked for several views of each crop.

    Attributes:
        network: gives (B,) logits of the images of `preprocessing.network_input`; in evaluation mode, on `device`.
        preprocessing: the one the network was trained with.
        view_set: one of `model.constants.VIEW_SETS`.
        batch_size: views in one forward pass.
        device: where preprocessing, views and network run.
        dtype: precision of the network's input.
    """

    network: Callable[[Tensor], Tensor]
    preprocessing: Preprocessing
    view_set: str
    batch_size: int
    device: torch.device
    dtype: torch.dtype = torch.float32

    def logits(self, fields: Tensor, progress: bool = False) -> np.ndarray:
        """Logits averaged over views, before calibration.

        Args:
            fields: (N, F, F, 3) uint8, from `preprocessing.cut_out`.
            progress: show a progress bar on stderr.

        Returns:
            (N,) float64.
        """
        return self.view_logits(fields, progress).mean(dim=1).cpu().numpy()

    @torch.inference_mode()
    def view_logits(self, fields: Tensor, progress: bool = False) -> Tensor:
        """Logits of each view, before calibration: (N, V) float64 on the device, for arguments as of `logits`."""
        crops_per_batch = max(1, self.batch_size // views.count(self.view_set))
        found = []
        with tqdm(total=len(fields), unit="crop", leave=False, disable=not progress) as bar:
            # A copy to the GPU waits for what the GPU is doing, so there is one for many batches.
            for part in fields.split(CROPS_A_COPY):
                for crops in part.to(self.device).split(crops_per_batch):
                    images = self.preprocessing.network_input(crops).to(self.dtype)
                    batches = views.expand(images, self.view_set).split(self.batch_size)
                    logits = torch.cat([self.network(batch) for batch in batches])
                    found.append(views.apart(logits.double(), self.view_set))
                    bar.update(len(crops))
        return torch.cat(found)
