import json
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.errors import PredictionError, WeightsError, one_line
from model.network import weights_folder
from model.network.calibration import Calibration
from model.network.classifier import MitosisClassifier
from model.network.preprocessing import Preprocessing
from model.network.weights import load, save
from model.network.weights_config import DTYPES, FORMAT_VERSION, Network, WeightsConfig, read_config
from model.network.weights_folder import CONFIG_FILE, TENSOR_FILE, begin_reading, file_sha256
from model.predictor import Predictor


@pytest.fixture
def folder(small_weights: Path, tmp_path: Path) -> Path:
    """A copy of the small weights folder, to be damaged."""
    return Path(shutil.copytree(small_weights, tmp_path / "weights"))


def edit(folder: Path, **values: object) -> None:
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_saved_weights_load_as_they_were(small_weights: Path, tmp_path: Path, dtype: str) -> None:
    network, config = load(small_weights)
    written = save(tmp_path / "copy", network, replace(config, dtype=dtype))
    again, read = load(tmp_path / "copy")
    assert read == written
    assert not again.training and not any(parameter.requires_grad for parameter in again.parameters())
    for name, tensor in network.state_dict().items():
        stored = again.state_dict()[name]
        halved = tensor.is_floating_point() and tensor.ndim > 1
        assert stored.dtype == (DTYPES[dtype] if halved else tensor.dtype)
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
        "any",
        "0",
        Network(backbone, pooling, arguments),
        Preprocessing(78, side, (0.5,) * 3, (0.5,) * 3),
        Calibration(),
        "float32",
        "",
    )
    save(tmp_path / "weights", network, config)
    rebuilt, _ = load(tmp_path / "weights")
    images = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        expected = network(images)
        torch.testing.assert_close(rebuilt(images), expected)
    assert (expected[0] - expected[1]).abs() > 1e-3


def test_no_random_initialisation_is_done(small_weights: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    load(small_weights)
    assert torch.equal(before, torch.get_rng_state())


def test_missing_parts_are_named(folder: Path) -> None:
    (folder / TENSOR_FILE).unlink()
    with pytest.raises(WeightsError, match=r"incomplete: model\.safetensors is missing"):
        load(folder)
    (folder / CONFIG_FILE).unlink()
    with pytest.raises(WeightsError, match=r"has no config\.json"):
        load(folder)


def test_an_altered_tensor_file_is_refused(folder: Path) -> None:
    path = folder / TENSOR_FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="altered"):
        load(folder)


def test_a_checksum_begun_in_the_background_is_used_once(folder: Path) -> None:
    path = folder / TENSOR_FILE
    begin_reading(folder)
    load(folder)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(WeightsError, match="altered"):
        load(folder)
    path.unlink()
    begin_reading(folder)
    with pytest.raises(WeightsError, match="is missing"):
        load(folder)


def test_what_is_hashed_is_what_is_loaded(folder: Path, small_weights: Path) -> None:
    """The file is replaced by another between the two."""
    tensors = load_file(folder / TENSOR_FILE)
    begin_reading(folder)
    other = folder / "other"
    save_file({name: torch.zeros_like(tensor) for name, tensor in tensors.items()}, other)
    other.replace(folder / TENSOR_FILE)
    network, _ = load(folder)
    assert torch.equal(network.head.weight, load(small_weights)[0].head.weight)


@pytest.mark.parametrize("name", [CONFIG_FILE, TENSOR_FILE])
def test_a_pipe_is_refused_without_waiting(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(WeightsError, match="it is a "):
        load(folder)


def test_a_truncated_tensor_file_is_refused_even_with_its_own_checksum(folder: Path) -> None:
    path = folder / TENSOR_FILE
    path.write_bytes(path.read_bytes()[:-10])
    edit(folder, sha256=file_sha256(path))
    with pytest.raises(WeightsError, match="safetensors"):
        load(folder)


def network_of(backbone: str, **others: object) -> dict[str, Any]:
    """The architecture as config.json has it."""
    return {"network": {"backbone": backbone, "pooling": "avg", "backbone_args": {}} | others}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"format_version": FORMAT_VERSION + 1}, "format version"),
        ({"format_version": None}, "format version"),
        ({"unheard_of": 1}, "does not describe a network"),
        ({"preprocessing": {"field_of_view": 78}}, "does not describe a network"),
        ({"calibration": {"scale": -1.0, "bias": 0.0}}, "does not describe a network"),
        ({"classes": ["atypical", "normal"]}, "classes"),
        ({"threshold": 0.4}, "threshold"),
        ({"dtype": "int8"}, "dtype"),
        (network_of("no_such_network"), "cannot be built"),
        (network_of("hf-hub:some/model"), "hf-hub:some/model is no architecture"),
        (network_of("test_vit", backbone_args={"checkpoint_path": "x.pth"}), "checkpoint_path is no"),
        (network_of("test_efficientnet", pooling="unheard-of"), "cannot be built"),
        (network_of("test_vit"), "does not fit the architecture test_vit: tensor"),
    ],
)
def test_a_config_that_cannot_be_right_is_refused(folder: Path, values: dict, sentence: str) -> None:
    edit(folder, **values)
    with pytest.raises(WeightsError, match=sentence):
        load(folder)


WRONG_VALUES = [
    *(("name", value) for value in (1, None, ["compact"])),
    ("training", "none"),
    ("sha256", 5),
    *(("dtype", value) for value in (["float32"], {"a": 1}, 32, None)),
    *(("format_version", value) for value in (True, "2", 2.0, [2], 0, -5)),
    *(("classes", value) for value in (5, None, [["normal"], ["atypical"]], {"normal": 0, "atypical": 1})),
    *(("threshold", value) for value in ("0.5", None, [0.5])),
    *(
        ("network", value)
        for value in (None, 5, [], "resnet18", {"backbone": 5}, {"backbone": ["a"]}, {"backbone": {}})
    ),
    *(("network.backbone_args", value) for value in (None, 5, [1], "a=1", {"no_such_argument": 1}, {"act_layer": 7})),
    *(("network.pooling", value) for value in (5, None, "no_such_pooling", ["avg"])),
    *(("preprocessing", value) for value in (None, 5, [], "78")),
    *(
        ("preprocessing.mean", value)
        for value in (0.5, [0.5], [0.5] * 4, ["a"] * 3, [None] * 3, "0.5", [1e400] * 3, [1e5] * 3)
    ),
    *(
        ("preprocessing.std", value)
        for value in (0.5, [0, 1, 1], [-1, 1, 1], [True] * 3, {}, [1e-300] * 3, [1e308] * 3)
    ),
    *(
        ("preprocessing.scales", value)
        for value in (1.0, [], ["1"], [0], [-1.0], [1.0] * 100, [1e9], None, [[1.0]], [1e-300])
    ),
    *(("preprocessing.input_size", value) for value in (0, 1, -5, "64", 64.5, 10**9, 10**30, None, [64], True)),
    *(("preprocessing.field_of_view", value) for value in (0, 1, -5, "78", 78.5, 10**9, None, [78])),
    *(("calibration.scale", value) for value in (0, -1, "1", None, [1.0], 1e400, True, 1e308, 1e-308, 10**400)),
    *(("calibration.bias", value) for value in ("0", None, [0.0], -1e400, 1e308)),
    *(("calibration", value) for value in (None, 5, [])),
]


@pytest.mark.parametrize(("key", "value"), WRONG_VALUES)
def test_every_wrong_value_in_the_config_is_a_sentence(folder: Path, key: str, value: object) -> None:
    content = json.loads((folder / CONFIG_FILE).read_text())
    *way, last = key.split(".")
    part = content
    for name in way:
        part = part[name]
    part[last] = value
    (folder / CONFIG_FILE).write_text(json.dumps(content))
    with pytest.raises(WeightsError) as raised:
        Predictor(folder, "cpu")
    assert "\n" not in one_line(raised.value) and str(folder) in str(raised.value)


@pytest.mark.parametrize("key", ["name", "network", "preprocessing", "calibration", "dtype", "sha256", "classes"])
def test_every_missing_key_is_a_sentence(folder: Path, key: str) -> None:
    content = json.loads((folder / CONFIG_FILE).read_text())
    del content[key]
    (folder / CONFIG_FILE).write_text(json.dumps(content))
    if key == "classes":
        with pytest.raises(WeightsError, match="classes must be a list"):
            read_config(folder)
    else:
        with pytest.raises(WeightsError, match="does not describe a network"):
            read_config(folder)


@pytest.mark.parametrize(
    ("part", "key"),
    [
        *(("network", key) for key in ("backbone", "pooling", "backbone_args")),
        *(("preprocessing", key) for key in ("field_of_view", "input_size", "mean", "std", "scales")),
        *(("calibration", key) for key in ("scale", "bias")),
    ],
)
def test_what_the_config_lacks_becomes_no_default_in_silence(folder: Path, part: str, key: str) -> None:
    """But for the fields of view of a folder of version 1, which knew one."""
    content = json.loads((folder / CONFIG_FILE).read_text())
    del content[part][key]
    (folder / CONFIG_FILE).write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=f"{part} has no {key}"):
        read_config(folder)
    (folder / CONFIG_FILE).write_text(json.dumps(content | {"format_version": 1}))
    if key == "scales":
        assert read_config(folder).preprocessing.scales == (1.0,)
    else:
        with pytest.raises(WeightsError, match=f"{part} has no {key}"):
            read_config(folder)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float64, torch.bool])
def test_tensors_of_another_type_are_refused(folder: Path, dtype: torch.dtype) -> None:
    tensors = load_file(folder / TENSOR_FILE)
    tensors["head.weight"] = tensors["head.weight"].to(dtype)
    save_file(tensors, folder / TENSOR_FILE)
    edit(folder, sha256=file_sha256(folder / TENSOR_FILE))
    with pytest.raises(WeightsError, match=rf"tensor head\.weight is {dtype}"):
        load(folder)


def test_a_network_that_does_not_run_on_its_input_size_is_a_sentence(tmp_path: Path) -> None:
    network = Network("vit_tiny_patch16_224", "token", {"depth": 1})
    classifier = MitosisClassifier(network.backbone, network.pooling, network.backbone_args)
    preprocessing = Preprocessing(78, 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    save(tmp_path, classifier, WeightsConfig("v", "0", network, preprocessing, Calibration(), "float32", ""))
    with pytest.raises(PredictionError, match="does not run on images of 64 x 64 pixels"):
        Predictor(tmp_path, "cpu").warm_up()


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "{" * 2_000_000, "\ud800", "\x00"])
def test_a_config_that_is_no_object_is_refused(folder: Path, text: str) -> None:
    (folder / CONFIG_FILE).write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(WeightsError, match=r"config\.json"):
        load(folder)


def test_folders_of_older_versions_are_read_or_refused_by_name(folder: Path) -> None:
    network = json.loads((folder / CONFIG_FILE).read_text())["network"]
    edit(folder, network=network | {"members": 1})
    assert read_config(folder).network.backbone == network["backbone"]
    edit(folder, network=network | {"members": 3})
    with pytest.raises(WeightsError, match="several backbones in one, which this program no longer runs"):
        read_config(folder)


def test_tensors_that_are_not_finite_are_not_written(small_weights: Path, tmp_path: Path) -> None:
    network, config = load(small_weights)
    network.head.weight[0, 0] = 1e6
    with pytest.raises(WeightsError, match=r"head\.weight is not finite in float16"):
        save(tmp_path / "bad", network, replace(config, dtype="float16"))
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
    (uploaded / TENSOR_FILE).touch()
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
