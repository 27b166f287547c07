"""Makes the predictor as late as it is needed, and reads its weights from the disk before that.

This module imports no PyTorch, which takes seconds: what is wrong with a command line or a case is said before that.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from model.network.weights_folder import TENSOR_FILE, begin_sha256, choose_weights
from model.speed.start import lean_start

if TYPE_CHECKING:
    from model.predictor import Predictor


class Loader:
    """Builds one predictor, once.

    Args:
        weights: the weights folder that the command line names, if any; see `choose_weights`.
        device: `cuda`, `cpu`, or `auto`.
        view_set: test-time augmentation, one of `model.constants.VIEW_SETS`.
    """

    def __init__(self, weights: Path | None, device: str, view_set: str) -> None:
        self._argument = weights
        self._device = device
        self._view_set = view_set
        self._folder: Path | None = None
        self._predictor: Predictor | None = None

    def begin(self) -> Path:
        """Chooses the weights folder and starts to read its tensors in the background; a second call does nothing.

        Returns:
            The weights folder.

        Raises:
            WeightsError: there is none.
        """
        if self._folder is None:
            self._folder = choose_weights(self._argument)
            begin_sha256(self._folder / TENSOR_FILE)
        return self._folder

    @property
    def predictor(self) -> Predictor:
        """The predictor; the first use waits until it is built.

        Raises:
            WeightsError: the weights cannot be used.
            PredictionError: the device cannot be used, or its memory does not hold the network.
        """
        if self._predictor is None:
            folder = self.begin()
            with lean_start():
                from model.predictor import Predictor

                self._predictor = Predictor(folder, self._device, self._view_set)
        return self._predictor
