"""Crops in, P(atypical) out: batches, precision, and what to do when the accelerator's memory runs out."""

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from model.constants import DEFAULT_VIEWS
from model.errors import PredictionError, first_line
from model.network import views
from model.network.calibration import calibrate
from model.network.ensemble import Classifier, members_of
from model.network.preprocessing import Preprocessing
from model.network.weights import load
from model.speed.blocks import streamline
from model.speed.folding import fold
from model.speed.memory import keep_freed_memory

logger = logging.getLogger(__name__)

GPU_VIEWS = 128
"""Views that go through the network together on a GPU: a whole case of 16 crops with eight views."""

CPU_IMAGES = 16
"""Images, of which a view has one for each field of view, that go through the network together on the CPU; more of them
take more memory and no less time. So many are the eight views of a crop with two fields of view."""

CROPS_A_COPY = 1024
"""Fields of view copied to the device at once: tens of megabytes."""


class Predictor:
    """A network with everything around it; build it once, then call it for every stack.

    Args:
        folder: a weights folder.
        device: `cuda`, `cpu`, or `auto` for the GPU when there is one.
        view_set: test-time augmentation, one of `model.constants.VIEW_SETS`.
        batch_size: views in one forward pass; None for the device's default.
        dtype: precision to run in; None for the device's, see `choose_dtype`.

    Raises:
        WeightsError: the weights folder cannot be used.
        PredictionError: `cuda` was asked for and there is none, or its memory does not hold the network.
        ValueError: `view_set` is unknown or `batch_size` is below one.
    """

    def __init__(
        self,
        folder: Path,
        device: str = "auto",
        view_set: str = DEFAULT_VIEWS,
        batch_size: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.folder = folder
        self.device = choose_device(device)
        self.dtype = dtype or choose_dtype(self.device)
        self.view_set = view_set
        self.view_count = views.count(view_set)
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"The batch size must be at least 1, not {batch_size}.")
        network, self.config = load(folder)
        preprocessing = self.config.preprocessing
        on_cpu = max(1, CPU_IMAGES // len(preprocessing.scales))
        self.batch_size = batch_size or (on_cpu if self.device.type == "cpu" else GPU_VIEWS)
        if self.device.type == "cpu":
            keep_freed_memory()
            network.float()
            if self.dtype == torch.float32:
                network = fold(network, preprocessing.channels, preprocessing.input_size)
        try:
            self.network = place(network, self.device, self.dtype)
            if self.device.type == "cuda":
                for member in members_of(self.network):
                    streamline(member.backbone, preprocessing.input_size)
        except torch.OutOfMemoryError as error:
            raise PredictionError(
                "The GPU's memory does not hold the network; free it, or run with --device cpu."
            ) from error

    def __call__(self, crops: Sequence[np.ndarray], progress: bool = False) -> np.ndarray:
        """P(atypical) of crops.

        Args:
            crops: N arrays (H, W, 3), uint8 RGB, at 0.25 µm per pixel, each centred on a mitotic figure.
            progress: show a progress bar on stderr.

        Returns:
            (N,) float64 in [0, 1], in the order of the crops.

        Raises:
            CropError: a crop is smaller than the network's field of view.
            PredictionError: the network does not run, a logit is not a finite number, or the GPU's memory does not
                hold one view.
        """
        return self.predict_fields(self.config.preprocessing.cut_out(crops), progress)

    def fingerprint(self) -> str:
        """SHA-256 of what the weights are and do: `WeightsConfig.fingerprint`."""
        return self.config.fingerprint()

    def responds(self) -> bool:
        """Whether the device still computes; after some of a GPU's errors it no longer does, in this process."""
        try:
            _compute_on(self.device)
        except RuntimeError:
            return False
        return True

    def warm_up(self) -> None:
        """Runs the network once, on a blank crop, so that what is wrong shows before the first case.

        Raises:
            PredictionError: the logit is not a finite number.
        """
        side = self.config.preprocessing.largest_side
        self([np.full((side, side, 3), 255, dtype=np.uint8)])

    def predict_fields(self, fields: Tensor, progress: bool = False) -> np.ndarray:
        """`__call__` for fields of view that `preprocessing.cut_out` has already cut out, (N, F, F, 3) uint8."""
        return calibrate(self._view_logits(fields, progress).mean(dim=1).numpy(), self.config.calibration)

    def predict_with_spread(self, fields: Tensor, progress: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """`predict_fields`, and how far the views of a crop disagree.

        Args:
            fields: (N, F, F, 3) uint8, from `preprocessing.cut_out`.
            progress: show a progress bar on stderr.

        Returns:
            P(atypical), and the standard deviation over the views of what each view alone gives as P(atypical), in
            [0, 0.5]; both (N,) float64.

        Raises:
            PredictionError: as `__call__` does.
        """
        logits = self._view_logits(fields, progress)
        spread = calibrate(logits.numpy(), self.config.calibration).std(axis=1)
        return calibrate(logits.mean(dim=1).numpy(), self.config.calibration), spread

    def _view_logits(self, fields: Tensor, progress: bool = False) -> Tensor:
        """The logit of each view of each crop, (N, V) float64 on the CPU; with smaller batches where memory is full."""
        if not len(fields):
            return torch.zeros(0, self.view_count, dtype=torch.float64)
        while True:
            try:
                average = ViewAverage(
                    self.network, self.config.preprocessing, self.view_set, self.batch_size, self.device, self.dtype
                )
                logits = average.view_logits(fields, progress).cpu()
                break
            except torch.OutOfMemoryError as error:
                if self.batch_size == 1:
                    raise PredictionError(
                        "The GPU's memory does not even hold one view; free it, or run with --device cpu."
                    ) from error
                self.batch_size = max(1, self.batch_size // 2)
                logger.warning("The GPU's memory is full; going on with batches of %d views.", self.batch_size)
                torch.cuda.empty_cache()
            except Exception as error:  # whatever an architecture says to images that it is not made for
                side = self.config.preprocessing.input_size
                reason = first_line(error)
                raise PredictionError(
                    f"The network does not run on images of {side} x {side} pixels ({reason}); check backbone_args, "
                    "pooling and input_size in the weights' config.json, or the GPU."
                ) from error
        not_finite = np.flatnonzero(~np.isfinite(logits.numpy()).all(axis=1))
        if len(not_finite):
            raise PredictionError(
                f"The network's logit of crop {not_finite[0] + 1} is not a finite number; nothing was written."
            )
        return logits


def place(network: Classifier, device: torch.device, dtype: torch.dtype) -> Classifier:
    """Moves a network to a device, in place: backbones in a precision, heads in float32.

    Raises:
        torch.OutOfMemoryError: the device's memory does not hold it.
    """
    # First to the device, as it is stored: what converts it there would take the processor seconds.
    network.to(device)
    for member in members_of(network):
        to_precision: Any = member.backbone.to  # torch declares no memory format, but takes one
        to_precision(dtype, memory_format=torch.channels_last)
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


def choose_device(name: str) -> torch.device:
    """The device named `auto`, `cpu` or `cuda`; `auto` is the GPU when PyTorch sees one.

    Raises:
        PredictionError: `cuda` was asked for and there is none that works.
    """
    if name == "cpu":
        return torch.device("cpu")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    # A driver that is missing is no news on a machine without a GPU; one that is there and unfit is.
    problem = next((str(entry.message) for entry in caught if "driver" in str(entry.message)), "")
    if available:
        try:
            _compute_on(torch.device("cuda"))
            return torch.device("cuda")
        except RuntimeError as error:
            problem = str(error)
    problem = problem.strip().partition("\n")[0].rstrip(".")
    if name == "cuda":
        raise PredictionError(
            f"A GPU was asked for, but {f'it does not work ({problem})' if problem else 'PyTorch sees none'}; check "
            "the driver, or run with --device cpu."
        )
    if problem:
        logger.warning("The GPU does not work (%s); running on the CPU.", problem)
    return torch.device("cpu")


def _compute_on(device: torch.device) -> None:
    """Adds one and one.

    Raises:
        RuntimeError: the device cannot.
    """
    torch.ones(1, device=device).add_(1).cpu()


def choose_dtype(device: torch.device) -> torch.dtype:
    """Precision to run in: bfloat16 from compute capability 8.0, float16 on 7.x, float32 on older GPUs and the CPU."""
    if device.type != "cuda":
        return torch.float32
    major, _ = torch.cuda.get_device_capability(device)
    return torch.bfloat16 if major >= 8 else torch.float16 if major == 7 else torch.float32
