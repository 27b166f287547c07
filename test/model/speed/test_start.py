import subprocess
import sys
from pathlib import Path

from helpers import DEFAULT_WEIGHTS, REPOSITORY

START = f"""
import sys
from pathlib import Path
import numpy as np
from model.speed import start as lean_start
from model.speed.start import lean_start as start
def deferred():
    return {{name for name in lean_start.DEFERRED if isinstance(sys.modules[name], lean_start._Deferred)}}
def load():
    from model.predictor import Predictor
    return Predictor(Path({str(DEFAULT_WEIGHTS)!r}), "cpu")
crop = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
"""
PREDICTION = """
with start():
    predictor = load()
found = predictor([crop])
assert deferred() == set(lean_start.DEFERRED)
assert not {"torch._prims", "torch.ao.quantization", "huggingface_hub"} & set(sys.modules)
print(repr(found[0]))
"""
LATER = """
with start():
    import torch
import torch.export._tree_utils
from torch.export import Dim
assert callable(torch.export.export) and Dim is torch.export.Dim
assert callable(torch.quantization.quantize_dynamic)
assert deferred() == {lean_start.META_FUNCTIONS}
import huggingface_hub
"""
BUILDING = """
with start():
    import torch
    from model.network import weights as checkpoint
    from model.network.classifier import MitosisClassifier
    network = checkpoint.Network("swinv2_tiny_window8_256")
    tensors = MitosisClassifier(network.backbone).state_dict()
    assert lean_start.META_FUNCTIONS in deferred()
    try:
        checkpoint._without_tensors(network)
    except NotImplementedError:
        pass
    else:
        raise AssertionError("choose an architecture that needs them")
    checkpoint.build(network, tensors, Path("folder/file"))
assert lean_start.META_FUNCTIONS not in deferred()
"""
FOLDER = """
import process
assert process.main(["folder", sys.argv[1], sys.argv[2], "--device", "cpu", "--views", "none"]) == 0
assert deferred() == set(lean_start.DEFERRED)
"""
SERVER = """
import model.modes.server
assert "torch" not in sys.modules
"""
USUAL = """
import torch
with start():
    predictor = load()
assert not deferred()
print(repr(predictor([crop])[0]))
"""


def run(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", START + code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_prediction_leaves_out_what_it_does_not_use_and_is_the_same() -> None:
    assert run(PREDICTION) == run(USUAL) != ""


def test_every_mode_starts_like_that(tmp_path: Path) -> None:
    run(FOLDER, str(REPOSITORY / "test" / "input"), str(tmp_path / "out"))
    run(SERVER)


def test_what_was_deferred_is_there_when_it_is_used() -> None:
    run(LATER)


def test_an_architecture_that_needs_what_was_deferred_is_built() -> None:
    run(BUILDING)
