"""What is promised of the weights that are shipped."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from helpers import DEFAULT_WEIGHTS, REPOSITORY

from model.network.weights import load
from model.predictor import Predictor
from training.config import load_config


def test_they_are_small_and_complete() -> None:
    network, config = load(DEFAULT_WEIGHTS)
    assert sum(parameter.numel() for parameter in network.parameters()) < 12e6
    assert sum(file.stat().st_size for file in DEFAULT_WEIGHTS.iterdir()) < 25e6
    assert config.training["held_out"]["roc_auc"]["value"] >= 0.935
    assert config.training["held_out"]["balanced_accuracy"]["value"] >= 0.86
    assert "It is no medical device" in " ".join((DEFAULT_WEIGHTS / "README.md").read_text().split())


@pytest.fixture
def metrics() -> dict[str, Any]:
    return json.loads((DEFAULT_WEIGHTS / "metrics.json").read_text())


def test_they_find_atypical_figures_in_every_domain(metrics: dict[str, Any]) -> None:
    """Lymphoma above all, also by a network that saw nothing but breast cancer."""
    assert all(domain["sensitivity"] >= 0.85 for domain in metrics["domains"].values())
    assert metrics["held_out_sources"]["domains"]["canine lymphoma"]["sensitivity"] >= 0.80


def test_they_are_of_the_recipe_as_it_is() -> None:
    recipe = load_config(REPOSITORY / "training" / "configs" / "compact.yaml", ["data.root=."])
    fitted = load_config(DEFAULT_WEIGHTS / "training.yaml", ["data.root=.", "data.about=''"])
    assert fitted == recipe


def test_the_readme_says_what_was_measured(metrics: dict[str, Any]) -> None:
    readme = " ".join((REPOSITORY / "README.md").read_text().split())
    assert set(metrics["overall"]) == {"roc_auc", "balanced_accuracy", "sensitivity", "specificity"}
    for name, entry in metrics["overall"].items():
        low, high = entry["interval_95"]
        label = name.replace("_", " ").replace("roc auc", "ROC AUC")
        assert f"| {label} | {entry['value']:.3f} | {low:.3f} to {high:.3f} |" in readme
    found = metrics["held_out_sources"]["overall"]
    roc_auc, accuracy = (
        f"{found[name]['value']:.3f} ({' to '.join(f'{end:.3f}' for end in found[name]['interval_95'])})"
        for name in ("roc_auc", "balanced_accuracy")
    )
    assert f"ROC AUC is {roc_auc} and balanced accuracy {accuracy}." in readme
    specificity = metrics["overall"]["specificity"]["value"]
    assert f"(specificity {specificity:.3f})" in (REPOSITORY / "docs" / "slides.md").read_text()


@pytest.mark.slow
def test_half_precision_keeps_the_classes_of_the_default_weights(real_crops: tuple) -> None:
    """bfloat16 on the CPU stands in for the GPU's: same rounding of weights and activations."""
    crops = real_crops[0][::2]  # few crops and views: where the CPU has no such numbers, it is very slow
    expected = Predictor(DEFAULT_WEIGHTS, "cpu", "rot4")(crops)
    half = Predictor(DEFAULT_WEIGHTS, "cpu", "rot4", dtype=torch.bfloat16)(crops)
    clear = np.abs(expected - 0.5) > 0.05
    assert clear.mean() > 0.8
    assert np.array_equal((half >= 0.5)[clear], (expected >= 0.5)[clear])


@pytest.mark.slow
def test_in_half_precision_too_neighbours_do_not_matter(real_crops: tuple) -> None:
    crops = real_crops[0][:8]
    predictor = Predictor(DEFAULT_WEIGHTS, "cpu", "rot4", batch_size=128, dtype=torch.bfloat16)
    together = predictor(crops)
    alone = [predictor([crop])[0] for crop in crops]
    np.testing.assert_allclose(alone, together, atol=1e-3)
    np.testing.assert_allclose(predictor(crops[::-1]), together[::-1], atol=1e-3)


def test_a_black_margin_hardly_moves_p(real_crops: tuple) -> None:
    """Crops of figures at an image's edge have one; at 48 pixels it covers 16 to 32 of what the network sees."""
    crops = real_crops[0][::4]
    predictor = Predictor(DEFAULT_WEIGHTS, "cpu")
    expected = predictor(crops)
    for width in (24, 40, 48):
        framed = [crop.copy() for crop in crops]
        for number, crop in enumerate(framed):
            np.rot90(crop, number)[:width] = 0
        assert np.median(np.abs(predictor(framed) - expected)) <= 0.05, width
