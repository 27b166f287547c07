"""When the weights are read and the network is built: reading begins early, PyTorch is imported late."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import PredictionError, one_line
from model.network.weights_folder import begin_reading, choose_weights
from model.speed.imports import lean_start

if TYPE_CHECKING:  # PyTorch takes seconds to import: what is wrong with a case is said before that
    from model.predictor import Predictor


logger = logging.getLogger(__name__)


class Loader:
    """Makes the predictor, once.

    Args:
        weights: weights folder; None for the one that `choose_weights` finds.
        device: `auto`, `cpu` or `cuda`.
        view_set: one of `model.constants.VIEW_SETS`.
    """

    def __init__(self, weights: Path | None, device: str, view_set: str) -> None:
        self.weights, self.device, self.view_set = weights, device, view_set
        self._folder: Path | None = None
        self._predictor: Predictor | None = None

    def begin(self) -> None:
        """Chooses the weights folder and begins to read it in the background, so that it is in memory when needed.

        Raises:
            WeightsError: there is none.
        """
        if self._folder is None:
            self._folder = choose_weights(self.weights)
            begin_reading(self._folder)

    def predictor(self, every_gpu: bool = False) -> Predictor:
        """The predictor; the first call imports PyTorch and builds the network.

        Args:
            every_gpu: give it copies on all further GPUs.

        Raises:
            WeightsError: the weights folder cannot be used.
            PredictionError: the device cannot be used, or does not hold the network.
        """
        if self._predictor is None:
            self.begin()
            assert self._folder is not None
            with lean_start():
                from model.predictor import Predictor

                self._predictor = Predictor(self._folder, self.device, self.view_set)
                if every_gpu:
                    self._predictor.copies = self._copies(self._predictor)
        return self._predictor

    def _copies(self, first: Predictor) -> list[Predictor]:
        """The same network on all further GPUs that hold it."""
        from model.device import further_gpus
        from model.predictor import Predictor

        assert self._folder is not None
        copies = []
        for gpu in further_gpus(first.device):
            try:
                copies.append(Predictor(self._folder, str(gpu), self.view_set))
            except PredictionError as error:  # as where somebody else's job fills its memory
                logger.warning("%s is left out: %s", gpu, one_line(error))
        return copies
