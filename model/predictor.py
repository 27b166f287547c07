"""Crops in, P(atypical) out: batches, precision, and what to do when the accelerator's memory runs out."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.constants import DEFAULT_VIEWS
from model.device import choose_device, choose_dtype, compute_on, memory_is_full
from model.errors import PredictionError, first_line
from model.network import views
from model.network.calibration import calibrate
from model.network.ensemble import Classifier
from model.network.running import ViewAverage, place
from model.network.weights import load
from model.speed.memory import keep_freed_memory

logger = logging.getLogger(__name__)

GPU_VIEWS = 128
"""Views that go through the network together on a GPU: a whole case of 16 crops with eight views."""

CPU_IMAGES = 16
"""Images, of which a view has one for each field of view, that go through the network together on the CPU; more of them
take more memory and no less time. So many are the eight views of a crop with two fields of view."""

A_CASE = 16
"""Up to so many crops, half of `CPU_IMAGES` go together: a case then takes 6 % less memory and 3 % more time."""

GOOD_CALLS = 20
"""After so many without a full memory, batches are as large again as they were: what filled it may be gone."""


class Predictor:
    """A network with everything around it; build it once, then call it for every stack.

    Args:
        folder: a weights folder.
        device: `cuda`, `cuda:N`, `cpu`, or `auto` for the GPU when there is one.
        view_set: test-time augmentation, one of `model.constants.VIEW_SETS`.
        batch_size: views in one forward pass; None for the device's default.
        dtype: precision to run in; None for the device's, see `choose_dtype`.

    Attributes:
        copies: predictors of the same weights on further GPUs, for the modes that use all; none unless they are added.

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
        self._usual_batch_size, self._good_calls = self.batch_size, 0
        self._halves_a_case = batch_size is None and self.device.type == "cpu"
        self.copies: list[Predictor] = []
        if self.device.type == "cpu":
            keep_freed_memory()
        self.network = self._placed(network, self.dtype)

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
            compute_on(self.device)
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
        """The logit of each view of each crop, (N, V) float64 on the CPU."""
        if not len(fields):
            return torch.zeros(0, self.view_count, dtype=torch.float64)
        logits = self._in_batches(fields, progress)
        if self.dtype != torch.float32 and not logits.isfinite().all():
            self._go_on_in_float32()
            logits = self._in_batches(fields, progress)
        not_finite = np.flatnonzero(~np.isfinite(logits.numpy()).all(axis=1))
        if len(not_finite):
            raise PredictionError(
                f"The network's logit of crop {not_finite[0] + 1} is not a finite number; nothing was written."
            )
        self._good_calls += 1
        if self._good_calls >= GOOD_CALLS and self.batch_size < self._usual_batch_size:
            self.batch_size = self._usual_batch_size
        return logits

    def _in_batches(self, fields: Tensor, progress: bool) -> Tensor:
        """The logits, with smaller batches where the GPU's memory is full."""
        while (logits := self._unless_memory_is_full(fields, progress)) is None:
            self.batch_size, self._good_calls = max(1, self.batch_size // 2), 0
            logger.warning("The GPU's memory is full; going on with batches of %d views.", self.batch_size)
            torch.cuda.empty_cache()  # here, where no error holds the tensors of the pass that failed any more
        return logits

    def _unless_memory_is_full(self, fields: Tensor, progress: bool) -> Tensor | None:
        """The logits; None where the GPU's memory is full and smaller batches may help."""
        preprocessing = self.config.preprocessing
        batch_size = self.batch_size
        if self._halves_a_case and len(fields) <= A_CASE:
            batch_size = max(1, batch_size // 2)
        average = ViewAverage(self.network, preprocessing, self.view_set, batch_size, self.device, self.dtype)
        try:
            return average.view_logits(fields, progress).cpu()
        except Exception as error:  # whatever an architecture says to images that it is not made for
            if memory_is_full(error) and self.batch_size > 1:
                return None
            if memory_is_full(error):
                raise PredictionError(
                    "The GPU's memory does not even hold one view; free it, or run with --device cpu."
                ) from error
            side = preprocessing.input_size
            raise PredictionError(
                f"The network does not run on images of {side} x {side} pixels ({first_line(error)}); check "
                "backbone_args, pooling and input_size in the weights' config.json, or the GPU."
            ) from error

    def _go_on_in_float32(self) -> None:
        """Takes the network into float32, from its folder: numbers may have been lost on the way to half precision.

        Raises:
            WeightsError: the weights folder cannot be used any more.
            PredictionError: it holds other weights now, or the GPU's memory does not hold them in float32.
        """
        logger.warning("A logit is not a finite number in %s; going on in float32, more slowly.", self.dtype)
        network, config = load(self.folder)
        if config != self.config:
            raise PredictionError(f"{self.folder} holds other weights than at the start; start again.")
        self.network, self.dtype = self._placed(network, torch.float32), torch.float32

    def _placed(self, network: Classifier, dtype: torch.dtype) -> Classifier:
        """The network on the device, in a precision."""
        try:
            return place(network, self.config.preprocessing, self.device, dtype)
        except RuntimeError as error:
            if not memory_is_full(error):
                raise
            raise PredictionError(
                "The GPU's memory does not hold the network; free it, or run with --device cpu."
            ) from error
