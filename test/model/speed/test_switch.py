"""The switch that turns all of `model.speed` off, and that both ways give the same answers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import REPOSITORY

from model.modes.grand_challenge import RESULT_FILE

CODE = """
import sys
import process
process.main(["--device", "cpu", "--input", "test/input", "--output", sys.argv[1]])
import torch
from torch import nn
from model.predictor import Predictor
from model.network.weights_folder import BAKED
predictor = Predictor(BAKED, "cpu")
print("torchvision" in sys.modules, any(isinstance(module, nn.BatchNorm2d) for module in predictor.network.modules()))
"""


def entries(output: Path, plain: str) -> tuple[str, list[dict]]:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(output)],
        env=os.environ | {"ATYPICAL_MITOSIS_PLAIN": plain},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip(), json.loads((output / RESULT_FILE).read_text())


def test_both_ways_give_the_same_answers(tmp_path: Path) -> None:
    state, plain = entries(tmp_path / "plain", "1")
    assert state == "True True", "torchvision is imported and the batch norms are where they were"
    state, sooner = entries(tmp_path / "sooner", "")
    assert state == "False False"
    assert [entry["class"] for entry in plain] == [entry["class"] for entry in sooner] and len(plain) > 0
    for one, other in zip(plain, sooner, strict=True):
        assert one["confidence"] == pytest.approx(other["confidence"], abs=1e-5)
