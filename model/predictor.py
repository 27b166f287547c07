"""Crops in, P(atypical) out: batches, precision, and what to do when the accelerator's memory runs out."""

import ctypes
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from model.constants import DEFAULT_VIEWS
from model.errors import PredictionError
from model.network import views
from model.network import weights as checkpoint
from model.network.classifier import MitosisClassifier
from model.network.preprocessing import Preprocessing
from model.network.weights import Calibration
from model.speed.blocks import streamline
from model.speed.folding import fold

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
        self.device = choose_device(device)
        self.dtype = dtype or choose_dtype(self.device)
        self.view_set = view_set
        self.view_count = views.count(view_set)
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"The batch size must be at least 1, not {batch_size}.")
        network, self.config = checkpoint.load(folder)
        preprocessing = self.config.preprocessing
        on_cpu = max(1, CPU_IMAGES // len(preprocessing.scales))
        self.batch_size = batch_size or (on_cpu if self.device.type == "cpu" else GPU_VIEWS)
        if self.device.type == "cpu":
            keep_freed_memory()
            network = network.float()
            if self.dtype == torch.float32:
                network = fold(network, preprocessing.channels, preprocessing.input_size)
        try:
            self.network = place(network, self.device, self.dtype)
            if self.device.type == "cuda":
                streamline(self.network.backbone, preprocessing.input_size)
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
            PredictionError: a logit is not a finite number, or the GPU's memory does not hold one view.
        """
        return self.predict_fields(self.config.preprocessing.cut_out(crops), progress)

    def warm_up(self) -> None:
        """Runs the network once, on a blank crop, so that what is wrong shows before the first case.

        Raises:
            PredictionError: the logit is not a finite number.
        """
        side = self.config.preprocessing.largest_side
        self([np.full((side, side, 3), 255, dtype=np.uint8)])

    def predict_fields(self, fields: Tensor, progress: bool = False) -> np.ndarray:
        """`__call__` for fields of view that `preprocessing.cut_out` has already cut out, (N, F, F, 3) uint8."""
        if not len(fields):
            return np.zeros(0)
        while True:
            try:
                logits = view_averaged_logits(
                    self.network, self.config.preprocessing, fields, self.view_set, self.batch_size,
                    self.device, self.dtype, progress,
                )  # fmt: skip
                break
            except torch.OutOfMemoryError as error:
                if self.batch_size == 1:
                    raise PredictionError(
                        "The GPU's memory does not even hold one view; free it, or run with --device cpu."
                    ) from error
                self.batch_size = max(1, self.batch_size // 2)
                logger.warning("The GPU's memory is full; going on with batches of %d views.", self.batch_size)
                torch.cuda.empty_cache()
        not_finite = np.flatnonzero(~np.isfinite(logits))
        if len(not_finite):
            raise PredictionError(
                f"The network's logit of crop {not_finite[0] + 1} is not a finite number; nothing was written."
            )
        return calibrate(logits, self.config.calibration)


def place(network: MitosisClassifier, device: torch.device, dtype: torch.dtype) -> MitosisClassifier:
    """Moves a network to a device, in place: the backbone in a precision, the head in float32.

    Raises:
        torch.OutOfMemoryError: the device's memory does not hold it.
    """
    # First to the device, as it is stored: what converts it there would take the processor seconds.
    network.to(device)
    network.backbone.to(dtype, memory_format=torch.channels_last)
    network.head.float()
    return network


@torch.inference_mode()
def view_averaged_logits(
    network: Callable[[Tensor], Tensor],
    preprocessing: Preprocessing,
    fields: Tensor,
    view_set: str,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    progress: bool = False,
) -> np.ndarray:
    """Logits averaged over views, before calibration.

    Args:
        network: gives (B,) logits of the images of `preprocessing.network_input`; in evaluation mode, on `device`.
        preprocessing: the one the network was trained with.
        fields: (N, F, F, 3) uint8, from `preprocessing.cut_out`.
        view_set: one of `model.constants.VIEW_SETS`.
        batch_size: views in one forward pass.
        device: where preprocessing, views and network run.
        dtype: precision of the network's input.
        progress: show a progress bar on stderr.

    Returns:
        (N,) float64.
    """
    views_per_crop = views.count(view_set)
    crops_per_batch = max(1, batch_size // views_per_crop)
    averaged = []
    with tqdm(total=len(fields), unit="crop", leave=False, disable=not progress) as bar:
        # A copy to the GPU waits for what the GPU is doing, so there is one for many batches.
        for chunk in (chunk for some in fields.split(CROPS_A_COPY) for chunk in some.to(device).split(crops_per_batch)):
            images = preprocessing.network_input(chunk).to(dtype)
            parts = views.expand(images, view_set).split(batch_size)
            logits = torch.cat([network(part) for part in parts])
            averaged.append(views.average(logits.double(), view_set))
            bar.update(len(chunk))
    return torch.cat(averaged).cpu().numpy()


def keep_freed_memory() -> None:
    """Tells the C library to keep the memory of one layer's output for the next instead of giving it back.

    Otherwise every layer gets fresh pages from the system, one by one: a third of the time of a small network.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return  # a C library other than glibc
    mallopt(_M_MMAP_MAX, 0)  # also that of large outputs, which would otherwise get pages of their own
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


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
            _try_gpu()
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


def _try_gpu() -> None:
    torch.ones(1, device="cuda").add_(1).cpu()


def choose_dtype(device: torch.device) -> torch.dtype:
    """Precision to run in: bfloat16 from compute capability 8.0, float16 on 7.x, float32 on older GPUs and the CPU."""
    if device.type != "cuda":
        return torch.float32
    major, _ = torch.cuda.get_device_capability(device)
    return torch.bfloat16 if major >= 8 else torch.float16 if major == 7 else torch.float32


def calibrate(logits: np.ndarray, calibration: Calibration) -> np.ndarray:
    """P(atypical) of view-averaged logits, both (N,)."""
    return sigmoid(calibration.scale * logits + calibration.bias)


def sigmoid(values: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), elementwise, without overflow."""
    return np.exp(-np.logaddexp(0.0, -values))
