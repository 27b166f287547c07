"""A run with adapters leaves them alone and merged; the merge can be done again on another machine."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers import config_for
from safetensors.torch import load_file, save_file

from model.errors import WeightsError
from model.network import weights as weights_folder
from model.network.calibration import Calibration
from model.network.preprocessing import Preprocessing
from model.network.weights_config import Network, WeightsConfig
from model.network.weights_folder import file_sha256
from model.predictor import Predictor
from training.config import AdapterConfig, Config, ConfigError, load_config, to_yaml
from training.fitting.predict import Inference
from training.merge import main, merge
from training.network.adapters import add_adapters, merge_adapters
from training.network.classifier import build_network
from training.network.pretrained import load_pretrained
from training.train import CONFIGS, train
from training.weights import ADAPTER_FILE, Adapter, Stored, merge_checked, save_checked

BACKBONE = "vit_tiny_patch16_dinov3_qkvb"


def adapted_run(folder: Path, seed: int = 0) -> tuple[Path, Path, Config]:
    """A backbone's file, an adapter's folder as training leaves it, and the recipe."""
    backbone = folder / "backbone.safetensors"
    config = load_config(
        CONFIGS / "dinov3_hplus.yaml",
        [
            f"network.backbone={BACKBONE}",
            "data.root=.",
            "network.input_size=64",
            "adapter.rank=4",
            "stored_dtype=float32",
            f"network.pretrained=file:{backbone}",
        ],
    )
    torch.manual_seed(seed)
    network = build_network(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    save_file(network.backbone.state_dict(), backbone)
    add_adapters(network, config.adapter)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".lora_" in name:
                parameter.add_(0.02 * torch.randn_like(parameter))
    weights = WeightsConfig(
        name="tiny",
        version="1",
        network=Network(BACKBONE, "token", {"qkv_fused": False}),
        preprocessing=Preprocessing(78, 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        calibration=Calibration(1.0, 0.0),
        dtype="float32",
        sha256="",
    )
    adapter = folder / "adapter"
    texts = {"training.yaml": to_yaml(config), "README.md": "card", "metrics.json": '{"crops": 7}'}
    Adapter.of(network, weights, texts).save(adapter)
    return backbone, adapter, config


def test_a_merge_elsewhere_gives_the_adapted_network(tmp_path: Path, crops: list[np.ndarray]) -> None:
    backbone, adapter, config = adapted_run(tmp_path)
    network = build_network(config)
    load_pretrained(network.backbone, f"file:{backbone}")
    add_adapters(network, config.adapter)
    network.load_state_dict(load_file(adapter / ADAPTER_FILE), strict=False)
    inference = Inference(Accelerator(), weights_folder.read_config(adapter).preprocessing, "d4")
    expected = inference.logits(network, crops)
    merge(adapter, f"file:{backbone}", tmp_path / "merged", None, None)
    predictor = Predictor(tmp_path / "merged", "cpu")
    found = predictor(crops)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-expected)), atol=1e-5)
    with network.backbone.disable_adapter():
        unadapted = inference.logits(network, crops)
    assert np.abs(unadapted - expected).max() > 1e-2
    plain = build_network(config)
    assert weights_folder.load(tmp_path / "merged")[0].state_dict().keys() == plain.state_dict().keys()
    assert (tmp_path / "merged" / "README.md").read_text() == "card"
    metrics = json.loads((tmp_path / "merged" / "metrics.json").read_text())
    assert metrics["crops"] == 7 and metrics["stored"]["dtype"] == "float32"


def test_an_adapter_without_figures_is_merged_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Training wrote none beside adapters up to version 3.1.0."""
    backbone, adapter, _ = adapted_run(tmp_path)
    (adapter / "metrics.json").unlink()
    merge(adapter, f"file:{backbone}", tmp_path / "merged", None, None)
    assert "holds no metrics.json" in caplog.text and not (tmp_path / "merged" / "metrics.json").exists()


def test_what_is_there_is_not_merged_over(tmp_path: Path) -> None:
    """Texts and figures of other weights would stay beside the new tensors."""
    backbone, adapter, _ = adapted_run(tmp_path)
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "metrics.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"merged is there already; give another --output"):
        merge(adapter, f"file:{backbone}", tmp_path / "merged", None, None)
    assert [file.name for file in (tmp_path / "merged").iterdir()] == ["metrics.json"]


def test_the_adapter_holds_nothing_of_the_backbone(tmp_path: Path) -> None:
    backbone, adapter, _ = adapted_run(tmp_path)
    names = load_file(adapter / ADAPTER_FILE).keys()
    assert any(".lora_" in name for name in names) and "head.weight" in names
    assert all(".lora_" in name or name.startswith("head.") for name in names)
    assert (adapter / ADAPTER_FILE).stat().st_size < backbone.stat().st_size / 20


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_merged_network_can_be_stored_in_each_precision(
    tmp_path: Path, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone, adapter, _ = adapted_run(tmp_path)
    arguments = ["--backbone", f"file:{backbone}", "--adapter", str(adapter), "--output", str(tmp_path / "merged")]
    main([*arguments, "--dtype", dtype])
    stored = json.loads(capsys.readouterr().out)
    assert stored["dtype"] == dtype and stored["largest_change"] <= 0.01
    tensors = load_file(tmp_path / "merged" / "model.safetensors")
    assert tensors["backbone.blocks.0.attn.q_proj.weight"].dtype == weights_folder.DTYPES[dtype]


@pytest.mark.slow
def test_real_crops_keep_their_class_in_half_precision(
    tmp_path: Path, real_crops: tuple[list[np.ndarray], np.ndarray]
) -> None:
    """Merged against adapted in float32, then stored as bfloat16, the recipe's precision."""
    crops, _ = real_crops
    backbone, _, config = adapted_run(tmp_path)
    network = build_network(config)
    load_pretrained(network.backbone, f"file:{backbone}")
    add_adapters(network, config.adapter)
    network.load_state_dict(load_file(tmp_path / "adapter" / ADAPTER_FILE), strict=False)
    weights = weights_folder.read_config(tmp_path / "adapter")
    inference = Inference(Accelerator(), weights.preprocessing)
    before = inference.logits(network, crops)
    scale = 1 / before.std()
    weights = replace(weights, calibration=Calibration(scale, -scale * before.mean()))
    network = merge_checked(network, crops, inference)
    after = inference.logits(network, crops)
    np.testing.assert_allclose(after, before, atol=1e-4)
    stored_network = Stored(network, replace(weights, dtype="bfloat16"), network.state_dict())
    stored = save_checked(tmp_path / "merged", stored_network, crops, Accelerator())
    assert 0 < stored["largest_change"] <= 0.01 and stored["classes_changed"] == 0


def test_another_backbone_is_refused(tmp_path: Path) -> None:
    _, adapter, _ = adapted_run(tmp_path)
    (tmp_path / "other").mkdir()
    other, _, _ = adapted_run(tmp_path / "other", seed=1)
    with pytest.raises(WeightsError, match=r"is not the backbone that .*adapter was trained on"):
        merge(adapter, f"file:{other}", tmp_path / "merged", None, None)
    assert not (tmp_path / "merged").exists()


def test_an_adapter_that_was_altered_is_refused(tmp_path: Path) -> None:
    backbone, adapter, _ = adapted_run(tmp_path)
    arguments = ["--backbone", f"file:{backbone}", "--adapter", str(adapter), "--output", str(tmp_path / "merged")]
    content = (adapter / ADAPTER_FILE).read_bytes()
    (adapter / ADAPTER_FILE).write_bytes(content[:-4] + b"\0\0\0\1")
    with pytest.raises(SystemExit, match=r"adapter\.safetensors was altered"):
        main(arguments)
    (adapter / ADAPTER_FILE).unlink()
    with pytest.raises(SystemExit, match=r"holds no adapter\.safetensors; give the folder"):
        main(arguments)


def test_an_adapter_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    backbone, adapter, _ = adapted_run(tmp_path)
    tensors = load_file(adapter / ADAPTER_FILE)
    name = next(name for name in tensors if "lora_B" in name)
    tensors[name][0, 0] = torch.inf
    save_file(tensors, adapter / ADAPTER_FILE)
    weights = weights_folder.read_config(adapter)
    weights_folder.write_config(adapter, replace(weights, sha256=file_sha256(adapter / ADAPTER_FILE)))
    with pytest.raises(ConfigError, match=r"adapter\.safetensors cannot be merged: .*lora_B.* is not finite"):
        merge(adapter, f"file:{backbone}", tmp_path / "merged", None, None)


def test_a_merge_that_changes_the_logits_is_refused(
    tmp_path: Path, crops: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(network):
        merged = merge_adapters(network)
        with torch.no_grad():
            merged.head.bias.add_(0.01)
        return merged

    monkeypatch.setattr("training.weights.merge_adapters", spoil)
    _, _, config = adapted_run(tmp_path)
    network = build_network(config).eval()
    add_adapters(network, AdapterConfig(rank=2))
    with pytest.raises(WeightsError, match="Merging the adapters moves a logit"):
        merge_checked(network, crops, Inference(Accelerator(), Preprocessing(78, 64, (0.5,) * 3, (0.5,) * 3)))


@pytest.mark.slow
@pytest.mark.usefixtures("few_resamples", "one_thread")
def test_an_adapter_on_a_weights_folder_is_merged_into_it_elsewhere(
    data: Path, small_weights: Path, tmp_path: Path, crops: list[np.ndarray]
) -> None:
    """Fine-tuned from a weights folder, of which the head is taken, too."""
    config = config_for(
        data,
        tmp_path,
        f"network.pretrained=weights:{small_weights}",
        "network.input_size=64",
        "adapter.rank=4",
        "adapter.targets=[pointwise]",
        "optimisation.epochs=2",
    )
    train(config)
    merge(tmp_path / "weights-adapter", f"weights:{small_weights}", tmp_path / "merged", None, data)
    here, elsewhere, before = (
        Predictor(folder, "cpu")(crops) for folder in (tmp_path / "weights", tmp_path / "merged", small_weights)
    )
    np.testing.assert_allclose(elsewhere, here, atol=1e-6)
    assert np.abs(here - before).max() > 1e-3
    other = Path(shutil.copytree(small_weights, tmp_path / "other"))
    network, about = weights_folder.load(other)
    network.backbone.conv_stem.weight.mul_(1.01)
    weights_folder.save(other, network, about)
    with pytest.raises(WeightsError, match="is not the backbone that"):
        merge(tmp_path / "weights-adapter", f"weights:{other}", tmp_path / "refused", None, data)
