"""Training from a folder of crops to a weights folder, with a small network and an easy task."""

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers import OVERRIDES

from model.errors import WeightsError
from model.network import weights as checkpoint
from model.predictor import Predictor
from training.config import Config, ConfigError, load_config
from training.data.manifest import Sample
from training.fitting import fit as fit_module
from training.fitting.epoch import DivergedError, parameter_groups, warmup_cosine
from training.fitting.fit import build_network, fit, targets_and_weights
from training.train import CONFIGS, main, train, train_only

pytestmark = pytest.mark.usefixtures("few_resamples")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The network is so small that threads spend their time waiting for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def recipe(data: Path, folder: Path, *overrides: str) -> list[str]:
    return [f"data.root={data}", f"run={folder / 'run'}", f"output={folder / 'weights'}", *OVERRIDES, *overrides]


def config_for(data: Path, folder: Path, *overrides: str) -> Config:
    return load_config(CONFIGS / "compact.yaml", recipe(data, folder, *overrides))


def fit_one(config: Config, folder: Path, crops: list[np.ndarray]) -> dict[str, torch.Tensor]:
    labels = [0, 1, 0, 0, 1] * 8
    phases = [("a",), ("b",), ("a", "b"), (), ("b",)] * 8
    samples = [
        Sample(Path(f"{i}.png"), label, "scanner", f"slide {i}", phases=phases[i]) for i, label in enumerate(labels)
    ]
    network = fit(config, Accelerator(), crops * 8, samples, (crops, np.array(labels[:5])), folder, seed=1)
    return network.state_dict()


def test_a_recipe_learns_and_writes_weights_that_the_container_runs(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        metrics = train(config_for(data, tmp_path, "optimisation.epochs=10"))
    losses = [float(r.getMessage().split("loss/train ")[1].split()[0]) for r in caplog.records if "loss/" in r.message]
    assert losses[9] < losses[0]
    assert metrics["overall"]["roc_auc"]["value"] > 0.9
    assert metrics["overall"]["balanced_accuracy"]["value"] > 0.8
    assert metrics["stored"]["classes_changed"] == 0
    weights = tmp_path / "weights"
    assert sorted(file.name for file in weights.iterdir()) == [
        "README.md", "config.json", "metrics.json", "model.safetensors", "training.yaml",
    ]  # fmt: skip
    assert json.loads((weights / "metrics.json").read_text()) == metrics
    assert load_config(weights / "training.yaml", ["data.root=."]).optimisation.epochs == 10
    assert "It is no medical device" in " ".join((weights / "README.md").read_text().split())
    crops = [cv2.imread(str(data / f"{i}.png"))[..., ::-1] for i in range(30)]
    called = Predictor(weights, "cpu")(crops) >= 0.5
    assert np.mean(called == (np.arange(30) % 3 == 0)) > 0.8


def test_the_same_seed_gives_the_same_weights(data: Path, tmp_path: Path, crops: list[np.ndarray]) -> None:
    config = config_for(data, tmp_path, "network.dropout=0.3")
    first, second = (fit_one(config, tmp_path / name, crops) for name in ("a", "b"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_interrupted_fit_goes_on_bit_for_bit(
    data: Path, tmp_path: Path, crops: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(data, tmp_path, "network.dropout=0.3", "loss.phases=0.3")
    expected = fit_one(config, tmp_path / "whole", crops)
    train_epoch, epochs = fit_module.train_epoch, iter(range(10))

    def stop_in_the_third(*arguments, **keywords) -> float:
        loss = train_epoch(*arguments, **keywords)
        if next(epochs) == 2:
            raise KeyboardInterrupt
        return loss

    monkeypatch.setattr(fit_module, "train_epoch", stop_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        fit_one(config, tmp_path / "broken", crops)
    torch.rand(7)
    monkeypatch.undo()
    resumed = fit_one(config, tmp_path / "broken", crops)
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_adapters_learn_from_random_weights_and_are_merged(data: Path, tmp_path: Path) -> None:
    """The recipe of the large network at a size that learns here."""
    config = config_for(
        data, tmp_path, "network.backbone=vit_tiny_patch16_dinov3_qkvb", "network.pooling=token",
        "network.backbone_args={qkv_fused: false, init_values: 0.5}", "adapter.rank=8",
        "optimisation.learning_rate=3e-3", "optimisation.gradient_checkpointing=true",
        "optimisation.accumulation=2", "optimisation.epochs=6",
    )  # fmt: skip
    metrics = train(config)
    assert metrics["overall"]["roc_auc"]["value"] > 0.9
    written = checkpoint.load(tmp_path / "weights")[0]
    assert not any("lora" in name for name in written.state_dict())
    assert sorted(file.name for file in (tmp_path / "weights-adapter").iterdir()) == [
        "README.md", "adapter.safetensors", "config.json", "training.yaml",
    ]  # fmt: skip


@pytest.mark.slow
def test_several_fields_of_view_are_looked_at_and_data_sets_held_out_whole(data: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(data, tmp_path / "data"))
    manifest = (copied / "manifest.csv").read_text().splitlines()
    manifest[1:49] = [line.replace("MIDOG21", "TUPAC16") for line in manifest[1:49]]
    (copied / "manifest.csv").write_text("\n".join(manifest))
    metrics = train(config_for(copied, tmp_path, "network.scales=[1.0,0.8]", "data.shift_split=sources"))
    assert metrics["held_out_sources"]["crops"] == 96 and metrics["held_out_sources"]["overall"] != metrics["overall"]
    assert checkpoint.read_config(tmp_path / "weights").preprocessing.scales == (1.0, 0.8)
    card = " ".join((tmp_path / "weights" / "README.md").read_text().split())
    assert "a whole data set held out" in card and "62, 78 pixels" in card


@pytest.mark.slow
def test_fits_run_one_by_one_are_not_run_again(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = config_for(data, tmp_path / "apart", "optimisation.epochs=2")
    for name in ("slides_1", "final"):
        train_only(config, name)
    caplog.set_level(logging.INFO)
    metrics = train(config)
    fitted = {record.getMessage().split()[0] for record in caplog.records if "loss/train" in record.getMessage()}
    assert fitted == {"slides_0"}
    expected = train(config_for(data, tmp_path / "together", "optimisation.epochs=2"))
    assert metrics == expected
    written, together = (tmp_path / way / "weights/model.safetensors" for way in ("apart", "together"))
    assert written.read_bytes() == together.read_bytes()


def test_votes_become_targets_and_rare_domains_weigh_more(data: Path, tmp_path: Path) -> None:
    samples = [Sample(Path(f"{i}.png"), i % 2, "ab"[i > 5], "slide", "x", 2 / 3 if i < 2 else 1.0) for i in range(8)]
    hard = config_for(data, tmp_path, "optimisation.balance=0")
    targets, weights = targets_and_weights(hard, samples)
    assert targets[:, 0].tolist() == [0, 1] * 4 and weights.tolist() == [1] * 8
    both = config_for(data, tmp_path, "optimisation.balance=0", "data.soft_labels=true", "loss.domain_weighted=true")
    targets, weights = targets_and_weights(both, samples)
    assert targets[:, 0].tolist() == pytest.approx([1 / 3, 2 / 3, *[0, 1] * 3])
    assert weights[7] > 1 > weights[0] and weights.mean() == pytest.approx(1)


def test_phases_are_a_second_task_in_training_alone(data: Path, tmp_path: Path, crops: list[np.ndarray]) -> None:
    named = [("a", "a"), ("a", "b"), ()]
    samples = [Sample(Path(f"{i}.png"), i % 2, "", "", phases=named[i]) for i in range(3)]
    config = config_for(data, tmp_path, "loss.phases=0.5")
    assert targets_and_weights(config, samples, ["a", "b"])[0].tolist() == [[0, 1, 0], [1, 0.5, 0.5], [0, 0, 0]]
    network = build_network(config, phases=2)
    assert network.train()(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    assert network.eval()(torch.zeros(2, 3, 32, 32)).shape == (2,)
    phases = [replace(sample, phases=("ab"[i % 2],)) for i, sample in enumerate(samples * 20)]
    fitted = fit(config, Accelerator(), crops * 12, phases, None, tmp_path / "fit", seed=0)
    assert fitted.state_dict().keys() == build_network(config).state_dict().keys()
    kept = torch.load(tmp_path / "fit" / "checkpoint.pt")["average"]
    assert kept["phase_head.weight"].shape == (2, fitted.head.in_features)


@pytest.mark.slow
def test_a_recipe_with_every_option_learns(data: Path, tmp_path: Path) -> None:
    metrics = train(
        config_for(
            data, tmp_path, "loss.domain_weighted=true", "loss.phases=0.3", "augmentation.mixup=0.2",
            "augmentation.cutmix=1.0", "augmentation.mixed=0.3", "augmentation.elastic=1.0",
            "optimisation.accumulation=2", "optimisation.epochs=12",
        )
    )  # fmt: skip
    assert metrics["overall"]["roc_auc"]["value"] > 0.8


def test_settings_that_contradict_each_other_are_refused_at_once(data: Path, tmp_path: Path) -> None:
    for overrides, sentence in (
        (["data.shift_split=slides"], r"data\.shift_split is slides; leave it empty"),
        (["optimisation.precision=fp32"], "choose among no, bf16, fp16, auto"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            config_for(data, tmp_path, *overrides)


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for(data, tmp_path)
    train(config)
    expected = checkpoint.read_config(tmp_path / "weights")
    monkeypatch.setattr(fit_module, "train_epoch", None)
    train(config)
    assert checkpoint.read_config(tmp_path / "weights") == expected


def test_a_run_folder_of_another_configuration_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("seed: 5\n")
    with pytest.raises(ConfigError, match="belongs to a run with another configuration"):
        train(config_for(data, tmp_path))


@pytest.mark.slow
def test_a_run_of_other_data_is_refused(data: Path, tmp_path: Path) -> None:
    """Corrected labels must not meet what was computed with the old ones."""
    copied = Path(shutil.copytree(data, tmp_path / "data"))
    train(config_for(copied, tmp_path))
    manifest = (copied / "manifest.csv").read_text()
    (copied / "manifest.csv").write_text(manifest.replace("1.png,normal", "1.png,atypical", 1))
    with pytest.raises(ConfigError, match="belongs to a run with other data"):
        train(config_for(copied, tmp_path))


def test_a_loss_that_is_not_finite_stops_training(data: Path, tmp_path: Path, crops: list[np.ndarray]) -> None:
    expected = r"The loss became (nan|inf); look at the crops of this batch \((\d+\.png, ){7}\d+\.png\) or lower"
    with pytest.raises(DivergedError, match=expected):
        fit_one(config_for(data, tmp_path, "optimisation.learning_rate=1e30"), tmp_path, crops)


@pytest.mark.slow
def test_tensors_that_half_precision_spoils_are_not_shipped(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.weights.LARGEST_PROBABILITY_CHANGE", 0.0)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("earlier weights")
    with pytest.raises(WeightsError, match=r"Stored in bfloat16, .* use stored_dtype=float32"):
        train(config_for(data, tmp_path, "stored_dtype=bfloat16"))
    assert [file.name for file in (tmp_path / "weights").iterdir()] == ["config.json"]
    assert (tmp_path / "weights" / "config.json").read_text() == "earlier weights"


def test_command_line_ends_with_a_sentence(data: Path, tmp_path: Path) -> None:
    for name in ("slides_2", ""):
        with pytest.raises(SystemExit, match=f"no fit '{name}'; there are: slides_0, slides_1, final"):
            main(["compact", *recipe(data, tmp_path / "only"), "--only", name])
    with pytest.raises(SystemExit, match=r"manifest\.csv cannot be read .*; give a folder of crops"):
        main(["compact", *recipe(tmp_path / "nowhere", tmp_path)])
    with pytest.raises(SystemExit, match="There is no recipe"):
        main(["unheard_of"])


def test_only_matrices_and_kernels_decay() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 1))
    network[2].weight.requires_grad_(False)
    decaying, free = parameter_groups(network, 0.1)
    assert decaying["weight_decay"] == 0.1 and [p.shape for p in decaying["params"]] == [(4, 3, 3, 3)]
    assert free["weight_decay"] == 0.0 and len(free["params"]) == 4


def test_learning_rate_rises_then_falls_to_zero() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = warmup_cosine(optimizer, steps=100, warmup=0.1)
    rates = []
    for _ in range(100):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[10] == pytest.approx(1.0)
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001 and schedule.get_last_lr()[0] == 0
