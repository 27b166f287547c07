"""What `import model` offers, and that it costs nothing before."""

import subprocess
import sys

import pytest
from helpers import REPOSITORY

import model


def test_importing_the_package_imports_no_library() -> None:
    code = "import sys, model; print(sorted({'torch', 'numpy', 'timm', 'tifffile', 'SimpleITK'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.strip() == "[]"


def test_it_offers_the_predictor_the_reader_and_the_loader() -> None:
    from model import Predictor, load, read_crops
    from model.images.read import read_crops as reader
    from model.network.weights import load as loader
    from model.predictor import Predictor as Class

    assert (Predictor, load, read_crops) == (Class, loader, reader)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = model.nothing
