import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.errors import WeightsError
from model.network import weights as checkpoint
from model.network import weights_folder
from model.network.classifier import MitosisClassifier
from model.network.preprocessing import Preprocessing
from model.network.weights import Calibration, Network, WeightsConfig


@pytest.fixture
def folder(small_weights: Path, tmp_path: Path) -> Path:
    """A copy of the small weights folder, to be damaged."""
    return Path(shutil.copytree(small_weights, tmp_path / "weights"))


def edit(folder: Path, **values: object) -> None:
    path = folder / checkpoint.CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_saved_weights_load_as_they_were(small_weights: Path, tmp_path: Path, dtype: str) -> None:
    network, config = checkpoint.load(small_weights)
    written = checkpoint.save(tmp_path / "copy", network, replace(config, dtype=dtype))
    again, read = checkpoint.load(tmp_path / "copy")
    assert read == written
    assert not again.training and not any(parameter.requires_grad for parameter in again.parameters())
    for name, tensor in network.state_dict().items():
        stored = again.state_dict()[name]
        halved = tensor.is_floating_point() and tensor.ndim > 1
        assert stored.dtype == (checkpoint.DTYPES[dtype] if halved else tensor.dtype)
        assert torch.equal(stored, tensor.to(stored.dtype))


@pytest.mark.parametrize(
    "backbone", ["vit_small_patch16_dinov3", "vit_small_patch16_dinov3_qkvb", "test_vit", "test_convnext"]
)
@pytest.mark.parametrize("arguments", [{}, {"qkv_fused": False}])
def test_what_is_in_no_file_is_computed_anew(tmp_path: Path, backbone: str, arguments: dict) -> None:
    """Rotary periods and masked key biases: a rebuilt network gives the logits of the one it was saved from."""
    if arguments and "dinov3" not in backbone:
        pytest.skip("this architecture has its projections fused")
    pooling = "token" if "vit" in backbone else "avg"
    torch.manual_seed(0)
    network = MitosisClassifier(backbone, pooling, arguments).eval()
    with torch.no_grad():
        for parameter in network.parameters():  # a fresh layer scale would hide what the blocks do
            parameter.add_(0.05 * torch.randn_like(parameter))
    side = 160 if "test_" in backbone else 96
    config = WeightsConfig(
        "any", "0", Network(backbone, pooling, arguments), Preprocessing(78, side, (0.5,) * 3, (0.5,) * 3),
        Calibration(), "float32", "",
    )  # fmt: skip
    checkpoint.save(tmp_path / "weights", network, config)
    rebuilt, _ = checkpoint.load(tmp_path / "weights")
    images = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        expected = network(images)
        torch.testing.assert_close(rebuilt(images), expected)
    assert (expected[0] - expected[1]).abs() > 1e-3


def test_no_random_initialisation_is_done(small_weights: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    checkpoint.load(small_weights)
    assert torch.equal(before, torch.get_rng_state())


def test_missing_parts_are_named(folder: Path) -> None:
    (folder / checkpoint.TENSOR_FILE).unlink()
    with pytest.raises(WeightsError, match=r"incomplete: model\.safetensors is missing"):
        checkpoint.load(folder)
    (folder / checkpoint.CONFIG_FILE).unlink()
    with pytest.raises(WeightsError, match=r"has no config\.json"):
        checkpoint.load(folder)


def test_an_altered_tensor_file_is_refused(folder: Path) -> None:
    path = folder / checkpoint.TENSOR_FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="altered"):
        checkpoint.load(folder)


def test_a_checksum_begun_in_the_background_is_used_once(folder: Path) -> None:
    path = folder / checkpoint.TENSOR_FILE
    weights_folder.begin_sha256(path)
    checkpoint.load(folder)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(WeightsError, match="altered"):
        checkpoint.load(folder)
    weights_folder.begin_sha256(folder / "missing")
    with pytest.raises(OSError, match="missing"):
        weights_folder.sha256_once(folder / "missing")


def test_a_truncated_tensor_file_is_refused_even_with_its_own_checksum(folder: Path) -> None:
    path = folder / checkpoint.TENSOR_FILE
    path.write_bytes(path.read_bytes()[:-10])
    edit(folder, sha256=checkpoint.file_sha256(path))
    with pytest.raises(WeightsError, match="safetensors"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"format_version": checkpoint.FORMAT_VERSION + 1}, "format version"),
        ({"format_version": None}, "format version"),
        ({"unheard_of": 1}, "does not describe a network"),
        ({"preprocessing": {"field_of_view": 78}}, "does not describe a network"),
        ({"calibration": {"scale": -1.0, "bias": 0.0}}, "does not describe a network"),
        ({"classes": ["atypical", "normal"]}, "classes"),
        ({"threshold": 0.4}, "threshold"),
        ({"dtype": "int8"}, "dtype"),
        ({"network": {"backbone": "no_such_network"}}, "cannot be built"),
        ({"network": {"backbone": "hf-hub:some/model"}}, "hf-hub:some/model is no architecture"),
        ({"network": {"backbone": "test_vit", "backbone_args": {"checkpoint_path": "x.pth"}}}, "checkpoint_path is no"),
        ({"network": {"backbone": "test_efficientnet", "pooling": "unheard-of"}}, "cannot be built"),
        ({"network": {"backbone": "test_vit"}}, "does not fit the architecture test_vit: tensor"),
    ],
)
def test_a_config_that_cannot_be_right_is_refused(folder: Path, values: dict, sentence: str) -> None:
    edit(folder, **values)
    with pytest.raises(WeightsError, match=sentence):
        checkpoint.load(folder)


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_config_that_is_no_object_is_refused(folder: Path, text: str) -> None:
    (folder / checkpoint.CONFIG_FILE).write_text(text)
    with pytest.raises(WeightsError, match=r"config\.json"):
        checkpoint.load(folder)


def test_folders_of_older_versions_are_read_or_refused_by_name(folder: Path) -> None:
    network = json.loads((folder / checkpoint.CONFIG_FILE).read_text())["network"]
    edit(folder, network=network | {"members": 1})
    assert checkpoint.read_config(folder).network.backbone == network["backbone"]
    edit(folder, network=network | {"members": 3})
    with pytest.raises(WeightsError, match="several backbones in one, which this program no longer runs"):
        checkpoint.read_config(folder)


def test_tensors_that_are_not_finite_are_not_written(small_weights: Path, tmp_path: Path) -> None:
    network, config = checkpoint.load(small_weights)
    network.head.weight[0, 0] = 1e6
    with pytest.raises(WeightsError, match=r"head\.weight is not finite in float16"):
        checkpoint.save(tmp_path / "bad", network, replace(config, dtype="float16"))
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize(("scale", "bias"), [(0.0, 0.0), (-1.0, 0.0), (float("nan"), 0.0), (1.0, float("inf"))])
def test_senseless_calibrations_are_refused(scale: float, bias: float) -> None:
    with pytest.raises(ValueError, match="calibration"):
        Calibration(scale, bias)


def test_weights_are_chosen_in_the_documented_order(
    small_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    uploaded = tmp_path / "uploaded"
    monkeypatch.setattr(weights_folder, "UPLOADED", uploaded)
    monkeypatch.delenv("MODEL_DIR", raising=False)
    caplog.set_level(logging.INFO)
    assert weights_folder.choose_weights(None) == weights_folder.BAKED
    uploaded.mkdir()
    (uploaded / "lost+found").mkdir()
    assert weights_folder.choose_weights(None) == weights_folder.BAKED
    (uploaded / checkpoint.TENSOR_FILE).touch()
    assert weights_folder.choose_weights(None) == uploaded, "half a folder is refused later, not passed over"
    monkeypatch.setenv("MODEL_DIR", str(tmp_path / "mine"))
    assert weights_folder.choose_weights(None) == tmp_path / "mine"
    assert weights_folder.choose_weights(small_weights) == small_weights
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 5 and all(message.startswith("Weights: ") for message in said)
    assert "a model was uploaded" in said[2] and "MODEL_DIR says so" in said[3] and "--weights says so" in said[4]


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["mine/config.json", "mine/model.safetensors"], "mine"),
        (["mine/model.safetensors"], "mine"),
        (
            ["a/config.json", "b/config.json"],
            "holds several weights folders \\(but a, b\\); upload one with",
        ),
        (["weights.pth"], "holds no weights folder \\(but weights.pth\\); upload one"),
        (["a/b/config.json"], "holds no weights folder \\(but a\\); upload one"),
    ],
)
def test_whatever_was_uploaded_is_used_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], chosen: str
) -> None:
    uploaded = tmp_path / "uploaded"
    monkeypatch.setattr(weights_folder, "UPLOADED", uploaded)
    monkeypatch.delenv("MODEL_DIR", raising=False)
    for name in files:
        (uploaded / name).parent.mkdir(parents=True, exist_ok=True)
        (uploaded / name).touch()
    if chosen == "mine":
        assert weights_folder.choose_weights(None) == uploaded / "mine"
    else:
        with pytest.raises(WeightsError, match=chosen):
            weights_folder.choose_weights(None)


def test_an_upload_that_is_no_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_folder, "UPLOADED", tmp_path / "uploaded")
    monkeypatch.delenv("MODEL_DIR", raising=False)
    (tmp_path / "uploaded").write_text("a file")
    with pytest.raises(WeightsError, match=r"uploaded cannot be listed \(Not a directory\)"):
        weights_folder.choose_weights(None)


def test_no_weights_at_all_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MODEL_DIR", raising=False)
    for name in ("UPLOADED", "BAKED"):
        monkeypatch.setattr(weights_folder, name, tmp_path / name)
    with pytest.raises(WeightsError, match="There are no weights"):
        weights_folder.choose_weights(None)
