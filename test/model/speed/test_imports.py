import subprocess
import sys
from pathlib import Path

import pytest
from helpers import DEFAULT_WEIGHTS, REPOSITORY

START = f"""
import sys
from pathlib import Path
import numpy as np
from model.speed import imports
from model.speed.imports import lean_start
def deferred():
    return {{name for name in imports.DEFERRED if isinstance(sys.modules[name], imports._Deferred)}}
def load():
    from model.predictor import Predictor
    return Predictor(Path({str(DEFAULT_WEIGHTS)!r}), "cpu")
crop = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
"""
PREDICTION = """
with lean_start():
    predictor = load()
found = predictor([crop])
assert deferred() == set(imports.DEFERRED)
assert not {"torch._prims", "torch.ao.quantization", "huggingface_hub"} & set(sys.modules)
print(repr(found[0]))
"""
LATER = """
with lean_start():
    import torch
import torch.export._tree_utils
from torch.export import Dim
assert callable(torch.export.export) and Dim is torch.export.Dim
assert callable(torch.quantization.quantize_dynamic)
assert deferred() == {imports.META_FUNCTIONS}
import huggingface_hub
"""
BUILDING = """
with lean_start():
    import torch
    from model.network.weights import build
    from model.network.weights_config import Network
    from model.network.classifier import MitosisClassifier
    from model.speed.initialisation import _on_meta
    network = Network("swinv2_tiny_window8_256")
    tensors = MitosisClassifier(network.backbone).state_dict()
    assert imports.META_FUNCTIONS in deferred()
    try:
        _on_meta(lambda: MitosisClassifier(network.backbone))
    except NotImplementedError:
        pass
    else:
        raise AssertionError("choose an architecture that needs them")
    build(network, tensors, Path("folder/file"))
assert imports.META_FUNCTIONS not in deferred()
"""
FOLDER = """
import process
assert process.main(["folder", sys.argv[1], sys.argv[2], "--device", "cpu", "--views", "none"]) == 0
assert deferred() == set(imports.DEFERRED)
"""
SERVER = """
import model.modes.server
assert "torch" not in sys.modules
"""
USUAL = """
import torch
with lean_start():
    predictor = load()
assert not deferred()
print(repr(predictor([crop])[0]))
"""


NEITHER = f"""
import sys
from pathlib import Path
import numpy as np
from model.predictor import Predictor
crop = np.full((128, 128, 3), 200, np.uint8)
before = Predictor(Path({str(DEFAULT_WEIGHTS)!r}), "cpu")([crop])
assert not [name for name in sys.modules if name.startswith(("torchvision", "torch._dynamo"))]
from torchvision.transforms import functional
import torch
assert functional.hflip(torch.tensor([[1, 2]])).tolist() == [[2, 1]], "the real torchvision is imported later"
assert torch.compiler.disable is not None and "function" in str(torch.compiler.disable)
assert (Predictor(Path({str(DEFAULT_WEIGHTS)!r}), "cpu")([crop]) == before).all()
"""
TRANSFORMER = """
import sys
from pathlib import Path
import torch
from model.network.weights import build
from model.network.weights_config import Network
from model.network.classifier import MitosisClassifier
from model.speed.initialisation import uninitialised
network = Network("vit_small_patch16_dinov3", "token", {"qkv_fused": False, "depth": 2})
shapes = uninitialised(lambda: MitosisClassifier(network.backbone, network.pooling, network.backbone_args)).state_dict()
tensors = {name: torch.zeros(tensor.shape) for name, tensor in shapes.items()}
build(network, tensors, Path("folder/file"))
assert not [name for name in sys.modules if name in ("torchvision", "torch._dynamo", "sympy")]
"""
FULL = f"""
import sys
sys.path.insert(0, {str(REPOSITORY)!r})
import torchvision
import timm, torch
from model.speed.imports import timm as lean
assert lean is timm
"""


def run(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_prediction_leaves_out_what_it_does_not_use_and_is_the_same() -> None:
    assert run(START + PREDICTION) == run(START + USUAL) != ""


def test_every_mode_starts_like_that(tmp_path: Path) -> None:
    run(START + FOLDER, str(REPOSITORY / "test" / "input"), str(tmp_path / "out"))
    run(START + SERVER)


def test_what_was_deferred_is_there_when_it_is_used() -> None:
    run(START + LATER)


@pytest.mark.slow
def test_an_architecture_that_needs_what_was_deferred_is_built() -> None:
    run(START + BUILDING)


def test_a_prediction_imports_neither_torchvision_nor_the_compiler_and_leaves_both_usable() -> None:
    run(NEITHER)


@pytest.mark.slow
def test_building_a_transformer_imports_neither_the_compiler_nor_symbolic_algebra() -> None:
    run(TRANSFORMER)


@pytest.mark.slow
def test_where_torchvision_is_there_it_is_used() -> None:
    run(FULL)
