"""The predictor is built once, as late as it is needed."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import REPOSITORY

from model.errors import WeightsError
from model.modes.loader import Loader
from model.network import weights_folder

REFUSED = """
import sys
import process
try:
    status = process.main(sys.argv[1:])
except SystemExit as stopped:
    status = stopped.code
assert "torch" not in sys.modules
sys.exit(status)
"""


def test_the_predictor_is_built_once_and_its_weights_chosen_once(
    small_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    loader = Loader(small_weights, "cpu", "none")
    loader.begin()
    loader.begin()
    assert small_weights in weights_folder._begun
    predictor = loader.predictor()
    loader.begin()
    assert loader.predictor() is predictor
    assert small_weights not in weights_folder._begun and caplog.text.count("Weights: ") == 1


def test_it_begins_by_itself(small_weights: Path) -> None:
    assert Loader(small_weights, "cpu", "rot4").predictor().view_count == 4


def test_weights_that_are_not_there_are_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nowhere is no weights folder"):
        Loader(tmp_path / "nowhere", "cpu", "none").predictor()


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["--views", "d5"], 2, "invalid choice"),
        (["--input", "nowhere", "--output", "out"], 1, "nowhere/inputs.json cannot be read"),
        (["serve", "--port", "70000"], 1, "cannot listen"),
    ],
)
def test_what_is_wrong_is_said_before_pytorch_is_imported(
    tmp_path: Path, arguments: list[str], status: int, sentence: str
) -> None:
    command = [sys.executable, "-c", REFUSED, *arguments]
    environment = {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == status, done.stderr
    assert sentence in done.stderr and "Traceback" not in done.stderr
