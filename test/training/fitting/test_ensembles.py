"""Fits made one: what is averaged is what the fits were."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers import config_for
from pages import check_page

from model.network.classifier import MitosisClassifier
from model.network.weights import load as load_weights
from model.predictor import Predictor
from training.config import Config, ConfigError
from training.data.crops import LabelledCrops
from training.data.sample import Sample
from training.fitting.cross_validation import hold_out
from training.fitting.ensembles import members, soup
from training.fitting.fit import fit_network, read_fitted
from training.fitting.run import Run
from training.network.adapters import merge_adapters
from training.run_folder import open_run
from training.train import train, train_only

pytestmark = pytest.mark.usefixtures("one_thread", "few_resamples")

TRANSFORMER = [
    "network.backbone=vit_tiny_patch16_dinov3_qkvb",
    "network.pooling=token",
    "network.backbone_args={qkv_fused: false, depth: 2, init_values: 0.5}",
    "adapter.rank=3",
    "adapter.dropout=0",
    "optimisation.epochs=1",
    "optimisation.learning_rate=1e-2",
]
CONVOLUTIONAL = ["optimisation.epochs=1"]
RECIPES = {
    "adapters": TRANSFORMER,
    "rsLoRA": [*TRANSFORMER, "adapter.rslora=true"],
    "pointwise": [*CONVOLUTIONAL, "adapter.rank=2", "adapter.targets=[pointwise]", "adapter.others=true"],
    "full": CONVOLUTIONAL,
}


def fits(config: Config, folder: Path, crops: list[np.ndarray]) -> tuple[Run, list[str], list[MitosisClassifier]]:
    """A run with three fits that began alike, and their merged networks."""
    samples = [Sample(Path(f"{i}.png"), i % 2, "scanner", f"slide {i}") for i in range(40)]
    labelled = LabelledCrops(samples, crops * 8)
    run = Run(config, Accelerator(), labelled, folder)
    torch.manual_seed(0)
    first = {
        name: 0.05 * torch.randn(parameter.shape)
        for name, parameter in MitosisClassifier(
            config.network.backbone, config.network.pooling, config.network.backbone_args
        )
        .backbone.state_dict()
        .items()
    }
    start = folder / "start.pth"
    torch.save({name: tensor.abs() if "var" in name else tensor for name, tensor in first.items()}, start)
    config.network.pretrained = f"file:{start}"
    names = [f"slides_{number}" for number in range(3)]
    for seed, name in enumerate(names):
        fit_network(run, labelled.subset(range(seed, 40)), name, seed)
    return run, names, [merge_adapters(read_fitted(run, name)) for name in names]


@pytest.mark.parametrize("recipe", RECIPES)
def test_members_are_the_fits(recipe: str, data: Path, tmp_path: Path, crops: list[np.ndarray]) -> None:
    config = config_for(data, tmp_path, *RECIPES[recipe])
    run, names, networks = fits(config, tmp_path, crops)
    ensemble, tensors = members(run, names)
    images = torch.randn(6, 3, 32, 32)
    with torch.inference_mode():
        each = torch.stack([network(images) for network in networks])
        assert each.std(dim=0).max() > 1e-3
        torch.testing.assert_close(ensemble(images), each.mean(dim=0), rtol=1e-4, atol=1e-4)
    own = sum(tensor.numel() for name, tensor in tensors.items() if name.startswith("members."))
    alone = sum(tensor.numel() for tensor in networks[0].state_dict().values())
    assert (own < 0.05 * alone) == (recipe in ("adapters", "rsLoRA")), "a backbone that training left is stored once"


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_soup_has_the_average_of_the_merged_weights(
    recipe: str, data: Path, tmp_path: Path, crops: list[np.ndarray]
) -> None:
    """Of all but the batch norms' running statistics, which are those of the soup on the crops."""
    config = config_for(data, tmp_path, *RECIPES[recipe])
    run, names, networks = fits(config, tmp_path, crops)
    network, adapted = soup(run, names, run.crops)
    assert adapted.adapter.rank == 3 * config.adapter.rank and config.adapter.rank in (0, 2, 3)
    found = merge_adapters(network).state_dict()
    states = [one.state_dict() for one in networks]
    changed = 0
    for name, tensor in found.items():
        if "running_" in name:
            assert not torch.equal(tensor, torch.stack([state[name] for state in states]).mean(dim=0))
        elif tensor.is_floating_point():
            mean = torch.stack([state[name] for state in states]).mean(dim=0)
            torch.testing.assert_close(tensor, mean, rtol=1e-4, atol=1e-5)
            changed += not torch.equal(states[0][name], mean)
    assert changed > 4


@pytest.mark.slow
@pytest.mark.parametrize("ensemble", ["soup", "members"])
def test_a_recipe_s_folds_become_the_weights(
    ensemble: str, data: Path, tmp_path: Path, crops: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a run without ensemble no fit is done again; and the other way there is one more, `final`."""
    config = config_for(data, tmp_path, *TRANSFORMER, "optimisation.epochs=6", f"ensemble={ensemble}")
    train(config)
    assert not (tmp_path / "run" / "final").exists()
    _, about = load_weights(tmp_path / "weights")
    assert about.network.members == (2 if ensemble == "members" else 1)
    assert (tmp_path / "weights-adapter").exists() == (ensemble == "soup")
    page = check_page(tmp_path / "weights" / "report.html")
    assert "what is beside this page is made of these networks" in page.text
    card = " ".join((tmp_path / "weights" / "README.md").read_text().split())
    assert ("average of the measured networks' weights" in card) == (ensemble == "soup")
    assert json.loads((tmp_path / "weights" / "metrics.json").read_text())["logit_spread"]["final"] > 0
    called = Predictor(tmp_path / "weights", "cpu")(crops)
    assert called.shape == (5,) and np.isfinite(called).all()
    with pytest.raises(ConfigError, match="no fit 'final'; there are: slides_0, slides_1"):
        train_only(config, "final")


@pytest.mark.slow
def test_a_trial_holds_slides_out_of_the_whole_ensemble(data: Path, tmp_path: Path) -> None:
    """Its members are fitted without a fold each of what is left."""
    config = config_for(data, tmp_path, *TRANSFORMER, "ensemble=soup")
    with open_run(config) as run:
        fit = run.splits[0].fits[0]
        logits = hold_out(run, fit, "soup")
        assert logits.shape == (fit.held_out.sum(), 2) and np.isfinite(logits).all()
        made = sorted(path.name for path in run.folder.iterdir() if path.is_dir())
        assert made == ["slides_0", "slides_0_without_slides_0", "slides_0_without_slides_1"]
    with open_run(config) as run:  # it goes on, where an earlier start has ended
        other = hold_out(run, fit, "members")
        assert not np.array_equal(other, logits) and np.array_equal(hold_out(run, fit, "soup"), logits)


def test_ensembles_of_what_cannot_be_put_side_by_side_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ensemble puts adapters side by side, which DoRA's magnitudes do not allow"):
        config_for(data, tmp_path, *TRANSFORMER, "adapter.dora=true", "ensemble=soup")
    with pytest.raises(ConfigError, match=r"ensemble is 'mean'; choose among '' \(none\), soup, members"):
        config_for(data, tmp_path, "ensemble=mean")
