"""Training from a folder of crops to a weights folder, with a small network and an easy task."""

import json
import logging
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import config_for, recipe

from model.network import weights as weights_folder
from model.predictor import Predictor
from training.config import load_config
from training.fitting import fit as fit_module
from training.train import main, train, train_only

pytestmark = pytest.mark.usefixtures("few_resamples", "one_thread")


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
        "README.md",
        "config.json",
        "metrics.json",
        "model.safetensors",
        "training.log",
        "training.yaml",
    ]
    assert "final epoch 10/10  loss/train" in (weights / "training.log").read_text()
    assert json.loads((weights / "metrics.json").read_text()) == metrics
    assert load_config(weights / "training.yaml", ["data.root=."]).optimisation.epochs == 10
    assert "It is no medical device" in " ".join((weights / "README.md").read_text().split())
    crops = [cv2.imread(str(data / f"{i}.png"))[..., ::-1] for i in range(30)]
    called = Predictor(weights, "cpu")(crops) >= 0.5
    assert np.mean(called == (np.arange(30) % 3 == 0)) > 0.8


@pytest.mark.slow
def test_adapters_learn_from_random_weights_and_are_merged(data: Path, tmp_path: Path) -> None:
    """The recipe of the large network at a size that learns here."""
    config = config_for(
        data,
        tmp_path,
        "network.backbone=vit_tiny_patch16_dinov3_qkvb",
        "network.pooling=token",
        "network.backbone_args={qkv_fused: false, init_values: 0.5}",
        "adapter.rank=8",
        "optimisation.learning_rate=3e-3",
        "optimisation.gradient_checkpointing=true",
        "optimisation.accumulation=2",
        "optimisation.epochs=6",
    )
    metrics = train(config)
    assert metrics["overall"]["roc_auc"]["value"] > 0.9
    written = weights_folder.load(tmp_path / "weights")[0]
    assert not any("lora" in name for name in written.state_dict())
    assert sorted(file.name for file in (tmp_path / "weights-adapter").iterdir()) == [
        "README.md",
        "adapter.safetensors",
        "config.json",
        "training.yaml",
    ]


@pytest.mark.slow
def test_several_fields_of_view_are_looked_at_and_data_sets_held_out_whole(data: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(data, tmp_path / "data"))
    manifest = (copied / "manifest.csv").read_text().splitlines()
    manifest[1:49] = [line.replace("MIDOG21", "TUPAC16") for line in manifest[1:49]]
    (copied / "manifest.csv").write_text("\n".join(manifest))
    metrics = train(config_for(copied, tmp_path, "network.scales=[1.0,0.8]", "data.shift_split=sources"))
    assert metrics["held_out_sources"]["crops"] == 96 and metrics["held_out_sources"]["overall"] != metrics["overall"]
    assert weights_folder.read_config(tmp_path / "weights").preprocessing.scales == (1.0, 0.8)
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


@pytest.mark.slow
def test_a_recipe_with_every_option_learns(data: Path, tmp_path: Path) -> None:
    metrics = train(
        config_for(
            data,
            tmp_path,
            "loss.domain_weighted=true",
            "loss.phases=0.3",
            "augmentation.mixup=0.2",
            "augmentation.cutmix=1.0",
            "augmentation.mixed=0.3",
            "augmentation.elastic=1.0",
            "optimisation.accumulation=2",
            "optimisation.epochs=12",
        )
    )
    assert metrics["overall"]["roc_auc"]["value"] > 0.8


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for(data, tmp_path)
    train(config)
    expected = weights_folder.read_config(tmp_path / "weights")
    monkeypatch.setattr(fit_module, "train_epoch", None)
    train(config)
    assert weights_folder.read_config(tmp_path / "weights") == expected


def test_command_line_ends_with_a_sentence(data: Path, tmp_path: Path) -> None:
    for name in ("slides_2", ""):
        with pytest.raises(SystemExit, match=f"no fit '{name}'; there are: slides_0, slides_1, final"):
            main(["compact", *recipe(data, tmp_path / "only"), "--only", name])
    with pytest.raises(SystemExit, match=r"manifest\.csv cannot be read .*; give a folder of crops"):
        main(["compact", *recipe(tmp_path / "nowhere", tmp_path)])
    with pytest.raises(SystemExit, match="There is no recipe"):
        main(["unheard_of"])
