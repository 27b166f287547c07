"""What `model` offers, and that it costs nothing before it is asked for."""

import subprocess
import sys

import pytest
from helpers import REPOSITORY

import model
from model.images.read import read_crops
from model.network.weights import load
from model.predictor import Predictor

LAZY = """
import sys
import model
assert not {"torch", "numpy"} & set(sys.modules)
from model import read_crops
assert "torch" not in sys.modules and callable(read_crops)
"""


def test_importing_it_imports_neither_pytorch_nor_numpy() -> None:
    done = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr


def test_it_offers_what_others_need() -> None:
    assert [getattr(model, name) for name in model.__all__] == [Predictor, load, read_crops]
    with pytest.raises(AttributeError, match="no attribute 'Network'"):
        model.__getattr__("Network")
    with pytest.raises(ImportError, match="cannot import name 'predict'"):
        exec("from model import predict")
