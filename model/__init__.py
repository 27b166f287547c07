"""What the container needs to run, and nothing else: no training dependency is imported from here.

    from model import Predictor, read_crops
    probabilities = Predictor(folder)(read_crops(path))

`Predictor`, `read_crops` and `load` (a weights folder's network and configuration) are imported when asked for.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.images.read import read_crops
    from model.network.weights import load
    from model.predictor import Predictor

__all__ = ["Predictor", "load", "read_crops"]

_MODULES = {"Predictor": "model.predictor", "load": "model.network.weights", "read_crops": "model.images.read"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
