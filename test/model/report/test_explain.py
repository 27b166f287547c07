"""Maps of where the network looked: that they are of this network, and of what it looks at."""

import builtins
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import DEFAULT_WEIGHTS, REPOSITORY, classified_case, draw_crops
from pages import check_page, fits, lowest_contrast, opened
from torch import Tensor, nn
from torch.nn import functional as F

from model.constants import REPORT
from model.network.classifier import MitosisClassifier
from model.network.ensemble import MitosisEnsemble
from model.network.preprocessing import Preprocessing
from model.network.weights import load
from model.predictor import Predictor
from model.report import gallery
from model.report.explain import Explainer, ExplainError
from model.report.predictions import report_case
from model.report.thumbnails import ATYPICAL, NORMAL, overlay
from model.speed.imports import timm

pytest.importorskip("captum", reason="needs Captum, which explain-requirements.txt lists")

PLAIN = Preprocessing(96, 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
BRIGHT, DARK = (52, 44), (88, 80)
"""Middles of the planted objects, x and y."""


class Convolutional(nn.Module):
    """How much is bright, and how much is dark, over squares of 8 pixels, averaged."""

    num_features = head_hidden_size = 2

    def __init__(self) -> None:
        super().__init__()
        self.global_pool = timm.layers.SelectAdaptivePool2d(pool_type="avg", flatten=True)

    def forward(self, images: Tensor) -> Tensor:
        light = F.avg_pool2d(images.mean(dim=1, keepdim=True), 8)
        return self.global_pool(torch.cat([F.relu(light - 0.4), F.relu(-0.4 - light)], dim=1))


class Attending(nn.Module):
    """One block: the class token takes up the mean of the tokens of the image."""

    def forward(self, tokens: Tensor) -> Tensor:
        taken = F.relu(tokens[:, 2:]).mean(dim=1, keepdim=True)
        return torch.cat([tokens[:, :1] + taken, tokens[:, 1:]], dim=1)


class Transformer(nn.Module):
    """A class token, a register, and a token for each square of 8 pixels, which says how bright and how dark it is."""

    num_features = head_hidden_size = 2
    num_prefix_tokens = 2

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Attending())

    def forward(self, images: Tensor) -> Tensor:
        light = F.avg_pool2d(images.mean(dim=1, keepdim=True), 8)
        squares = torch.cat([light - 0.4, -0.4 - light], dim=1).flatten(2).transpose(1, 2)
        prefix = torch.zeros(len(images), 2, 2)
        return self.blocks(torch.cat([prefix, squares], dim=1))[:, 0]


def hand_made(backbone: nn.Module) -> MitosisClassifier:
    """A network to which bright places are atypical and dark ones normal."""
    network = MitosisClassifier("test_efficientnet").eval()
    network.backbone, network.head = backbone, nn.Linear(2, 1)
    with torch.no_grad():
        network.head.weight.copy_(torch.tensor([[1.0, -0.5]]))
        network.head.bias.zero_()
    return network


@pytest.fixture
def planted() -> np.ndarray:
    """A grey crop with a bright and a dark disc, neither in the middle."""
    crop = np.full((128, 128, 3), 128, np.uint8)
    cv2.circle(crop, BRIGHT, 9, (250, 250, 250), -1)
    cv2.circle(crop, DARK, 9, (5, 5, 5), -1)
    return crop


@pytest.mark.parametrize("backbone", [Convolutional, Transformer])
@pytest.mark.parametrize("scales", [(1.0,), (1.0, 0.75)])
def test_the_map_is_where_the_object_is_that_drives_the_logit(
    backbone: type[nn.Module], scales: tuple[float, ...], planted: np.ndarray
) -> None:
    network = hand_made(backbone())
    preprocessing = Preprocessing(96, 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), scales)
    found = Explainer(network, preprocessing)(planted)
    assert found.shape == (128, 128)
    for extreme, middle in ((found.argmax(), BRIGHT), (found.argmin(), DARK)):
        y, x = np.unravel_index(extreme, found.shape)
        assert abs(x - middle[0]) <= 9 and abs(y - middle[1]) <= 9
    near = np.zeros((128, 128), np.uint8)
    for middle in (BRIGHT, DARK):
        cv2.circle(near, middle, 24, 1, -1)
    assert np.abs(found[near == 0]).sum() < 0.02 * np.abs(found).sum()
    with torch.inference_mode():
        logit = network(preprocessing.network_input(preprocessing.cut_out([planted]))).item()
    assert abs(logit) > 0.001 and found.sum() == pytest.approx(logit, rel=0.1)  # the head has no bias here


@pytest.mark.parametrize("view_set", ["rot4", "d4"])
def test_maps_of_views_are_turned_back(view_set: str, planted: np.ndarray) -> None:
    """Of a network that sees any view alike, the map is that of the crop as it lies; of others, their mean."""
    symmetric = hand_made(Convolutional())
    np.testing.assert_allclose(
        Explainer(symmetric, PLAIN, view_set)(planted), Explainer(symmetric, PLAIN)(planted), atol=1e-7
    )
    network = MitosisClassifier("test_efficientnet").eval()
    crop = draw_crops()[0]
    turned = [Explainer(network, PLAIN)(np.rot90(crop, turns).copy()) for turns in range(4)]
    if view_set == "rot4":
        back = np.mean([np.rot90(one, -turns) for turns, one in enumerate(turned)], axis=0)
        np.testing.assert_allclose(Explainer(network, PLAIN, view_set)(crop), back, atol=1e-6)


def test_members_and_plain_networks_give_the_mean_of_their_maps(planted: np.ndarray) -> None:
    networks = [MitosisClassifier("test_efficientnet").eval() for _ in range(2)]
    apart = [Explainer(network, PLAIN)(planted) for network in networks]
    together = Explainer(MitosisEnsemble(networks), PLAIN)(planted)
    np.testing.assert_allclose(together, (apart[0] + apart[1]) / 2, atol=1e-7)


def vit(pooling: str = "token") -> MitosisClassifier:
    """A small DINOv3 with branches that count, which fresh ones do not."""
    network = MitosisClassifier("vit_small_plus_patch16_dinov3", pooling, {"depth": 2}).eval()
    for name, parameter in network.named_parameters():
        if "gamma" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return network


def convnext() -> MitosisClassifier:
    return MitosisClassifier("convnext_atto", "avg", {"depths": (1, 1, 1, 1)}).eval()


def last_channels() -> MitosisClassifier:
    """An architecture with channels last."""
    return MitosisClassifier("swin_tiny_patch4_window7_224", "avg", {"depths": (1, 1, 1, 1), "img_size": 224}).eval()


@pytest.mark.parametrize(("make", "side"), [(vit, 96), (lambda: vit("avg"), 96), (convnext, 96), (last_channels, 224)])
def test_architectures_of_timm_have_maps(make: Callable[[], MitosisClassifier], side: int) -> None:
    torch.manual_seed(0)
    preprocessing = Preprocessing(96, side, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    found = Explainer(make(), preprocessing)(draw_crops()[0])
    assert np.isfinite(found).all() and found[16:112, 16:112].std() > 0
    assert not found[:16].any() and not found[:, :16].any()  # outside the field of view


def test_of_an_averaged_feature_map_the_map_adds_up_to_the_logit() -> None:
    torch.manual_seed(0)
    network = MitosisClassifier("test_efficientnet").eval()
    crop = draw_crops()[0]
    found = Explainer(network, PLAIN)(crop)
    with torch.inference_mode():
        logit = network(PLAIN.network_input(PLAIN.cut_out([crop]))).item()
    assert found.sum() == pytest.approx(logit - network.head.bias.item(), rel=0.15, abs=1e-4)


def test_an_architecture_without_a_feature_map_is_one_sentence() -> None:
    network = hand_made(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 2)))
    with pytest.raises(ExplainError, match="Where the last feature map of Sequential is, is not known"):
        Explainer(network, PLAIN)


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's, of the places where the network looks."""
    ranks = [values[24:104, 24:104].ravel().argsort().argsort() for values in (one, other)]
    return float(np.corrcoef(ranks)[0, 1])


def test_random_weights_give_another_map(real_crops: tuple[list[np.ndarray], np.ndarray]) -> None:
    """The sanity check of Adebayo et al. 2018 (arXiv 1810.03292): a map must depend on what the network learnt.

    Every network has the middle of the crop apart from the rest; for or against which class, random ones do not know.
    """
    trained, again = (_with_default_weights(None) for _ in range(2))
    random = [_with_default_weights(seed) for seed in range(4)]
    crops = [real_crops[0][number] for label in (0, 1) for number in np.flatnonzero(real_crops[1] == label)[:6]]
    learnt = [trained(crop) for crop in crops]
    same = [correlation(own, again(crop)) for own, crop in zip(learnt, crops, strict=True)]
    other = [correlation(own, each(crop)) for own, crop in zip(learnt, crops, strict=True) for each in random]
    assert min(same) > 0.999 and max(other) < 0.95 and abs(np.mean(other)) < 0.3


def _with_default_weights(seed: int | None) -> Explainer:
    """Of the default weights or, with a seed, of random ones that are spread like them."""
    network, config = load(DEFAULT_WEIGHTS)
    network = network.float()
    if seed is not None:
        torch.manual_seed(seed)
        for parameter in network.parameters():
            nn.init.normal_(parameter, 0, float(parameter.std()) if parameter.numel() > 1 else 1.0)
    return Explainer(network, config.preprocessing)


def test_random_weights_of_a_transformer_give_another_map() -> None:
    torch.manual_seed(0)
    first, second = Explainer(vit(), PLAIN), Explainer(vit(), PLAIN)
    other = [abs(correlation(first(crop), second(crop))) for crop in draw_crops()]
    assert np.mean(other) < 0.6
    assert all(correlation(first(crop), first(crop)) > 0.999 for crop in draw_crops())


def test_the_network_is_the_predictors_own_without_what_makes_it_faster(
    small_weights: Path, crops: list[np.ndarray]
) -> None:
    """It is folded on the CPU, and its own answers are not changed by explaining them."""
    predictor = Predictor(small_weights, "cpu", "none")
    before = predictor(crops)
    explainer = Explainer.of(predictor)
    maps = [explainer(crop) for crop in crops]
    np.testing.assert_array_equal(predictor(crops), before)
    network, config = load(small_weights)
    plain = Explainer(network.float(), config.preprocessing, "none")
    for crop, found in zip(crops, maps, strict=True):
        np.testing.assert_allclose(found, plain(crop), atol=1e-6)


def test_the_overlay_has_the_colours_of_the_classes(planted: np.ndarray) -> None:
    attribution = np.zeros((128, 128), np.float32)
    attribution[20, 20], attribution[100, 100], attribution[60, 60] = 2.0, -2.0, 0.001
    picture = overlay(planted, attribution).astype(float)
    assert np.abs(picture[20, 20] - ATYPICAL).max() < 60 and np.abs(picture[100, 100] - NORMAL).max() < 60
    assert picture[60, 60].std() < 2 and overlay(planted, np.zeros((128, 128), np.float32)).std(axis=2).max() == 0


def test_maps_are_in_the_gallery_of_the_most_uncertain(
    tmp_path: Path, crops: list[np.ndarray], small_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, predictor = classified_case(tmp_path, crops, small_weights)
    monkeypatch.setattr(gallery, "MOST_EXPLAINED", 3)
    path = report_case(tmp_path / "in", done, predictor, Explainer.of(predictor))
    page = check_page(path)
    shown = json.loads(page.scripts[0])
    assert [bool(crop["map"]) for crop in shown] == [True] * 3 + [False] * 2
    assert "The 3 most uncertain crops have one" in page.text
    report_case(tmp_path / "in", done, predictor)
    assert not any(crop["map"] for crop in json.loads(check_page(path).scripts[0]))


@pytest.mark.slow
def test_in_a_browser_the_gallery_with_maps_is_legible(
    tmp_path: Path, crops: list[np.ndarray], small_weights: Path
) -> None:
    done, predictor = classified_case(tmp_path, crops, small_weights)
    path = report_case(tmp_path / "in", done, predictor, Explainer.of(predictor))
    for width, scheme in ((400, "dark"), (1600, "light")):
        with opened(path, width, scheme) as tab:
            assert fits(tab) and lowest_contrast(tab) >= 4.5
            alternatives = tab.locator("#crops img").evaluate_all("all => all.map((one) => one.alt)")
            assert [alt.startswith("where the network looked") for alt in alternatives] == [False, True] * 5
            assert min(tab.locator("#crops img").evaluate_all("all => all.map((one) => one.naturalWidth)")) > 0


def test_without_captum_a_sentence_says_how_to_install_it(small_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *arguments: object, **more: object) -> object:
        if name.startswith("captum"):
            raise ImportError(name)
        return real(name, *arguments, **more)

    predictor = Predictor(small_weights, "cpu", "none")
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ExplainError, match=r"pip install -r explain-requirements.txt"):
        Explainer.of(predictor)
    assert (REPOSITORY / "explain-requirements.txt").is_file()


@pytest.mark.slow
def test_the_command_line_explains(tmp_path: Path, crops: list[np.ndarray], small_weights: Path) -> None:
    """In a process that imported PyTorch and timm without what a prediction never uses."""
    (tmp_path / "in").mkdir()
    for number, crop in enumerate(crops):
        cv2.imwrite(str(tmp_path / "in" / f"{number}.png"), crop[..., ::-1])
    command = [sys.executable, str(REPOSITORY / "process.py"), "folder", str(tmp_path / "in"), str(tmp_path / "out")]
    options = ["--weights", str(small_weights), "--device", "cpu", "--explain"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert all(crop["map"] for crop in json.loads(check_page(tmp_path / "out" / REPORT).scripts[0]))
