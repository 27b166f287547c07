"""Ensembles in a weights folder: what is read, what is shared, what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model.errors import WeightsError
from model.network.calibration import Calibration
from model.network.classifier import MitosisClassifier
from model.network.ensemble import MitosisEnsemble, members_of
from model.network.preprocessing import Preprocessing
from model.network.weights import load, load_one, save
from model.network.weights_config import Network, WeightsConfig
from model.predictor import Predictor

BACKBONE, ARGUMENTS = "vit_tiny_patch16_dinov3_qkvb", {"qkv_fused": False, "depth": 2, "init_values": 0.5}
PREPROCESSING = Preprocessing(64, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
QUERY = "backbone.blocks.0.attn.q_proj.weight"


def make_tensors(members: int = 3) -> tuple[dict[str, Tensor], list[MitosisClassifier]]:
    """Tensors of an ensemble with a product on one matrix and a head of each member's own, and its members."""
    torch.manual_seed(0)
    base = MitosisClassifier(BACKBONE, "token", ARGUMENTS).eval()
    tensors = {name: tensor.clone() for name, tensor in base.state_dict().items() if not name.startswith("head.")}
    networks = []
    for number in range(members):
        own = {"head.weight": torch.randn(1, 192), "head.bias": torch.randn(1)}
        up, down = torch.randn(192, 4) / 10, torch.randn(4, 192) / 10
        tensors |= {f"members.{number}.{name}": tensor for name, tensor in own.items()}
        tensors |= {f"members.{number}.{QUERY}.up": up, f"members.{number}.{QUERY}.down": down}
        network = MitosisClassifier(BACKBONE, "token", ARGUMENTS).eval()
        whole = {name: tensor for name, tensor in tensors.items() if not name.startswith("members.")}
        network.load_state_dict(whole | own | {QUERY: tensors[QUERY] + up @ down})
        networks.append(network)
    return tensors, networks


def write(folder: Path, tensors: dict[str, Tensor], members: int = 3) -> Path:
    network = Network(BACKBONE, "token", ARGUMENTS, members)
    save(folder, tensors, WeightsConfig("e", "1", network, PREPROCESSING, Calibration(), "float32", ""))
    return folder


def test_the_ensemble_s_logit_is_the_mean_of_its_members_own(tmp_path: Path) -> None:
    tensors, networks = make_tensors()
    ensemble, config = load(write(tmp_path, tensors))
    assert config.network.members == 3 and config.format_version == 3 and isinstance(ensemble, MitosisEnsemble)
    images = torch.randn(4, 6, 32, 32)
    with torch.inference_mode():
        each = torch.stack([network(images) for network in networks])
        assert each.std(dim=0).min() > 1e-2
        torch.testing.assert_close(ensemble(images), each.mean(dim=0), rtol=1e-5, atol=1e-5)


def test_the_container_predicts_with_it(tmp_path: Path, crops: list[np.ndarray]) -> None:
    tensors, networks = make_tensors()
    predictor = Predictor(write(tmp_path, tensors), "cpu")
    logits = []
    for number, network in enumerate(networks):
        alone = tmp_path / str(number)
        about = Network(BACKBONE, "token", ARGUMENTS)
        save(alone, network, WeightsConfig("e", "1", about, PREPROCESSING, Calibration(), "float32", ""))
        logits.append(np.log(p := Predictor(alone, "cpu")(crops)) - np.log1p(-p))
    expected = 1 / (1 + np.exp(-np.mean(logits, axis=0)))
    np.testing.assert_allclose(predictor(crops), expected, atol=1e-5)


@pytest.mark.parametrize("convert", [torch.nn.Module.float, lambda n: n.to(torch.bfloat16), lambda n: n.to("cpu")])
def test_what_members_share_is_in_memory_once(tmp_path: Path, convert: Callable) -> None:
    """Also after a conversion: a member more takes its own tensors and the sums, a fraction of the network."""
    sizes = []
    for members in (1, 3):
        tensors, networks = make_tensors(members)
        if members == 1:
            whole = networks[0].state_dict()
            write(tmp_path / "1", dict(whole), 1)
        else:
            write(tmp_path / "3", tensors)
        network = convert(load(tmp_path / str(members))[0])
        storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in network.parameters()}
        sizes.append(sum(storages.values()) / next(network.parameters()).element_size())
    own = 192 * 192 + 192 + 1
    assert sizes[1] == sizes[0] + 2 * own


def test_convolutional_members_are_folded_one_by_one(tmp_path: Path, crops: list[np.ndarray]) -> None:
    torch.manual_seed(0)
    networks = [MitosisClassifier("test_efficientnet").eval() for _ in range(2)]
    for network in networks:
        for name, buffer in network.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    tensors = {
        f"members.{k}.{name}": t for k, network in enumerate(networks) for name, t in network.state_dict().items()
    }
    about = WeightsConfig(
        "e", "1", Network("test_efficientnet", members=2), PREPROCESSING, Calibration(), "float32", ""
    )
    save(tmp_path, tensors, about)
    predictor = Predictor(tmp_path, "cpu", view_set="none")
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in predictor.network.modules())
    images = PREPROCESSING.network_input(PREPROCESSING.cut_out(crops))
    with torch.inference_mode():
        logits = torch.stack([network(images) for network in networks]).mean(dim=0)
    np.testing.assert_allclose(predictor(crops), torch.sigmoid(logits), atol=1e-5)


def without(name: str) -> Callable[[dict], None]:
    return lambda tensors: tensors.pop(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update({"members.3.head.bias": torch.zeros(1)}), r"members\.3\.head\.bias is of no member: there"),
        (lambda t: t.update({"members.01.head.bias": torch.zeros(1)}), "is of no member"),
        (without(f"members.1.{QUERY}.up"), "is no product of two matrices"),
        (lambda t: t.update({f"members.1.{QUERY}.down": torch.zeros(5, 192)}), "does not fit it"),
        (lambda t: t.update({f"members.1.{QUERY}.down": torch.zeros(4, 191)}), "does not fit it"),
        (without("members.2.head.bias"), r"tensor head\.bias is missing in the file"),
        (without(f"members.1.{QUERY}.down"), "is no product of two matrices"),
        (lambda t: t.update({"members.0.head.extra": torch.zeros(1)}), r"tensor head\.extra is \(1,\) in the file"),
    ],
)
def test_tensors_that_are_no_ensemble_are_refused(tmp_path: Path, change: Callable, message: str) -> None:
    tensors, _ = make_tensors()
    change(tensors)
    write(tmp_path, tensors)
    with pytest.raises(WeightsError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("members", [0, 33, "2", True, 1.0])
def test_a_number_of_members_that_is_none_is_refused(tmp_path: Path, members: object) -> None:
    write(tmp_path, make_tensors()[0])
    content = json.loads((tmp_path / "config.json").read_text())
    content["network"]["members"] = members
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match="members must be a whole number from 1 to 32"):
        load(tmp_path)


def test_where_one_network_is_needed_an_ensemble_is_refused(tmp_path: Path) -> None:
    write(tmp_path, make_tensors()[0])
    with pytest.raises(WeightsError, match="holds an ensemble of 3 networks; give the weights of one network"):
        load_one(tmp_path)


def test_a_network_alone_is_written_as_before(tmp_path: Path) -> None:
    network = MitosisClassifier(BACKBONE, "token", ARGUMENTS)
    write(tmp_path, network.state_dict(), 1)
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["format_version"] == 2 and "members" not in content["network"]
    assert members_of(load(tmp_path)[0])[0].head.out_features == 1
