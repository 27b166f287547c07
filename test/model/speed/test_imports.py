import subprocess
import sys

from helpers import DEFAULT_WEIGHTS, REPOSITORY

CODE = f"""
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
from model.network import weights as checkpoint
from model.network.classifier import MitosisClassifier
network = checkpoint.Network("vit_small_patch16_dinov3", "token", {"qkv_fused": False, "depth": 2})
with torch.device("meta"), checkpoint._NoInitialisation():
    shapes = MitosisClassifier(network.backbone, network.pooling, network.backbone_args).state_dict()
tensors = {name: torch.zeros(tensor.shape) for name, tensor in shapes.items()}
checkpoint.build(network, tensors, Path("folder/file"))
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


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr


def test_a_prediction_imports_neither_torchvision_nor_the_compiler_and_leaves_both_usable() -> None:
    run(CODE)


def test_building_a_transformer_imports_neither_the_compiler_nor_symbolic_algebra() -> None:
    run(TRANSFORMER)


def test_where_torchvision_is_there_it_is_used() -> None:
    run(FULL)
