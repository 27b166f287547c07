"""A weights folder with another operating point."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from model.images.read import read_crops
from model.network import weights as weights_folder
from model.network.calibration import Calibration
from model.network.classifier import MitosisClassifier
from model.network.preprocessing import Preprocessing
from model.network.weights_config import Network, WeightsConfig
from model.predictor import Predictor
from training.recalibrate import main

pytestmark = pytest.mark.usefixtures("few_resamples", "one_thread")


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


@pytest.fixture
def doubtful(data: Path, tmp_path: Path) -> Path:
    """The crops of `data`, every eleventh with the other label: no threshold has all of them right."""
    copied = Path(shutil.copytree(data, tmp_path / "data"))
    lines = (copied / "manifest.csv").read_text().splitlines()
    for number in range(1, len(lines), 11):
        here, other = ("normal", "atypical") if ",normal," in lines[number] else ("atypical", "normal")
        lines[number] = (
            lines[number].replace(f",{here},", f",{other},").replace("NMF metaphase", "").replace("AMF other", "")
        )
    (copied / "manifest.csv").write_text("\n".join(lines))
    return copied


@pytest.fixture
def dark(data: Path, tmp_path: Path) -> Path:
    """Weights that see how dark a crop is, which tells the classes of `data` apart, with a useless operating point."""
    torch.manual_seed(0)
    classifier = MitosisClassifier("test_efficientnet", "avg", {}).eval()
    preprocessing = Preprocessing(78, 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    crops = [read_crops(data / f"{i}.png")[0] for i in range(96)]
    labels = torch.tensor([float(i % 3 == 0) for i in range(96)])
    with torch.inference_mode():
        features = classifier.features(preprocessing.network_input(preprocessing.cut_out(crops))).squeeze(1)
    centred = features - features.mean(dim=0)
    ridge = 1e-2 * centred.square().sum() * torch.eye(centred.shape[1])
    direction = torch.linalg.solve(centred.T @ centred + ridge, centred.T @ (labels - labels.mean()))
    with torch.no_grad():
        classifier.head.weight.copy_(direction / (centred @ direction).std())
        classifier.head.bias.fill_(6.0)
    weights = WeightsConfig(
        name="dark",
        version="1.0",
        network=Network("test_efficientnet", "avg", {}),
        preprocessing=preprocessing,
        calibration=Calibration(),
        dtype="float32",
        sha256="",
        training={"held_out": {}},
    )
    folder = tmp_path / "dark"
    weights_folder.save(folder, classifier, weights)
    (folder / "README.md").write_text("# dark 1.0\n\nA card.\n")
    (folder / "metrics.json").write_text('{"crops": 5}')
    return folder


def test_the_operating_point_is_fitted_and_all_else_kept(
    data: Path, doubtful: Path, dark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(dark)
    main([str(dark), f"data.root={doubtful}", "--output", str(tmp_path / "new"), "--device", "cpu"])
    printed = capsys.readouterr().out
    assert digests(dark) == before and digests(tmp_path / "new")["model.safetensors"] == before["model.safetensors"]
    crops, labels = [read_crops(data / f"{i}.png")[0] for i in range(96)], np.arange(96) % 3 == 0
    called = [Predictor(folder, "cpu")(crops) >= 0.5 for folder in (dark, tmp_path / "new")]
    accuracies = [(answers[labels].mean() + 1 - answers[~labels].mean()) / 2 for answers in called]
    assert accuracies[0] < 0.6 and accuracies[1] > 0.8
    config = weights_folder.read_config(tmp_path / "new")
    about = config.training["recalibration"]
    assert config.version == "1.0+recalibrated" and about["crops"] == 96 and about["slides"] == 8
    assert about["old"]["balanced_accuracy"]["value"] < about["new"]["balanced_accuracy"]["value"]
    assert about["old_calibration"] == {"scale": 1.0, "bias": 0.0} and "held_out" in config.training
    assert json.loads((tmp_path / "new" / "metrics.json").read_text()) == {"crops": 5, "recalibration": about}
    card = (tmp_path / "new" / "README.md").read_text()
    assert card.startswith("# dark 1.0\n\n> **Recalibrated.**") and card.endswith("\n\nA card.\n")
    assert "old operating point" in printed and "of 8 slides the operating point" in printed
    assert not list(tmp_path.glob(".*"))


def test_weights_are_changed_only_when_asked_and_noted_once(doubtful: Path, dark: Path, tmp_path: Path) -> None:
    before = digests(dark)
    for arguments, sentence in (
        ([], "Say where the new weights go"),
        (["--output", str(dark)], "is there already"),
        (["--output", str(doubtful), "--replace"], "is no weights folder, and is not replaced"),
    ):
        with pytest.raises(SystemExit, match=sentence):
            main([str(dark), f"data.root={doubtful}", *arguments])
    assert digests(dark) == before
    main([str(dark), f"data.root={doubtful}", "--replace"])
    first = weights_folder.read_config(dark)
    main([str(dark), f"data.root={doubtful}", "--replace"])
    second = weights_folder.read_config(dark)
    assert first.version == second.version == "1.0+recalibrated"
    assert second.calibration.bias == pytest.approx(first.calibration.bias, rel=0.05)
    assert (dark / "README.md").read_text().count("**Recalibrated.**") == 1
    assert digests(dark)["model.safetensors"] == before["model.safetensors"]


def test_an_interrupted_replacement_is_mended(
    doubtful: Path, dark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between its two renames, the weights are there under another name alone."""
    earlier = dark.with_name(f".{dark.name}.earlier")
    dark.rename(earlier)
    main([str(dark), f"data.root={doubtful}", "--replace"])
    assert weights_folder.read_config(dark).version == "1.0+recalibrated" and not earlier.exists()
    shutil.copytree(dark, earlier)  # killed a moment later
    main([str(dark), f"data.root={doubtful}", "--replace"])
    assert not earlier.exists()
    before, rename = digests(dark), Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(SystemExit, match="cannot be written"):
        main([str(dark), f"data.root={doubtful}", "--replace"])
    assert digests(dark) == before and not list(dark.parent.glob(".*"))


def test_the_folder_that_one_is_in_can_be_recalibrated(
    doubtful: Path, dark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(dark)
    main([".", f"data.root={doubtful}", "--replace"])
    assert weights_folder.read_config(dark).version == "1.0+recalibrated"


def test_crops_of_one_class_change_nothing(data: Path, dark: Path, tmp_path: Path) -> None:
    normal = Path(shutil.copytree(data, tmp_path / "normal"))
    lines = (normal / "manifest.csv").read_text().splitlines()
    (normal / "manifest.csv").write_text("\n".join([lines[0], *(line for line in lines if ",normal," in line)]))
    with pytest.raises(SystemExit, match="None of the 64 crops is labelled atypical"):
        main([str(dark), f"data.root={normal}", "--output", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()
