"""Weights are shipped only when they say, read again, what the network says."""

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers import config_for

from model.errors import WeightsError
from model.network.calibration import Calibration
from model.predictor import Predictor
from training.config import Config
from training.fitting.predict import Inference
from training.network.classifier import TrainableClassifier, build_network, preprocessing_of
from training.weights import Stored, save_checked, weights_config


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Of a small network, to be stored in bfloat16."""
    return config_for(tmp_path, tmp_path, "stored_dtype=bfloat16")


@pytest.fixture
def network(config: Config) -> TrainableClassifier:
    """With random weights."""
    torch.manual_seed(0)
    return build_network(config).eval()


def test_stored_weights_say_what_the_network_says(
    config: Config, network: TrainableClassifier, tmp_path: Path, crops: list[np.ndarray]
) -> None:
    weights = weights_config(config, Calibration(2.0, 0.1), {"overall": {}, "crops": 5})
    stored = save_checked(tmp_path / "weights", Stored(network, weights, network.state_dict()), crops, Accelerator())
    assert stored["dtype"] == "bfloat16" and stored["crops"] == 5 and stored["classes_changed"] == 0
    assert 0 < stored["largest_change"] < 0.01
    logits = Inference(Accelerator(), preprocessing_of(config), "d4").logits(network, crops)
    expected = 1 / (1 + np.exp(-2 * logits - 0.1))
    np.testing.assert_allclose(Predictor(tmp_path / "weights", "cpu")(crops), expected, atol=0.01)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["weights"], "nothing unchecked is left"


def test_tensors_that_half_precision_spoils_are_not_shipped(
    config: Config,
    network: TrainableClassifier,
    tmp_path: Path,
    crops: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("training.weights.LARGEST_PROBABILITY_CHANGE", 0.0)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("earlier weights")
    weights = weights_config(config, Calibration(), {"overall": {}, "crops": 5})
    with pytest.raises(WeightsError, match=r"Stored in bfloat16, .* use stored_dtype=float32"):
        save_checked(tmp_path / "weights", Stored(network, weights, network.state_dict()), crops, Accelerator())
    assert [file.name for file in tmp_path.iterdir()] == ["weights"]
    assert [file.name for file in (tmp_path / "weights").iterdir()] == ["config.json"]
    assert (tmp_path / "weights" / "config.json").read_text() == "earlier weights"
