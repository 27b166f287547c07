"""Fixtures: real crops where they are, drawn ones, a small untrained weights folder."""

import csv
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import DATA, NEEDS_DATA, draw_crops, shared

from model.network.calibration import Calibration
from model.network.classifier import MitosisClassifier
from model.network.preprocessing import Preprocessing
from model.network.weights import save
from model.network.weights_config import Network, WeightsConfig


def pytest_configure() -> None:
    """One thread here and in the programs that tests run: with small networks, threads only wait for each other."""
    torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escapes what is no text, such as names of files, in what a test logged: processes cannot pass it on otherwise."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says how many tests were skipped because the real crops are not here."""
    skipped = sum(NEEDS_DATA in str(report.longrepr) for report in terminalreporter.stats.get("skipped", []))
    if skipped:
        terminalreporter.section("no real crops", yellow=True)
        terminalreporter.line(
            f"{skipped} tests were skipped, which need real crops and cases: {DATA} does not hold them.\n"
            "Set ATYPICAL_MITOSIS_DATA to the folder that holds amibr/ and cases/."
        )


@pytest.fixture(scope="session")
def real_crops() -> tuple[list[np.ndarray], np.ndarray]:
    """64 real crops, every 45th of AMi-Br, and their labels."""
    from model.images.read import read_crops

    root = shared("amibr")
    with (root / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[::45][:64]
    crops = [read_crops(root / row["file"])[0] for row in rows]
    return crops, np.array([row["label"] == "atypical" for row in rows], dtype=int)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 crops of 8 slides with a dark spot, large in atypical ones and small in normal ones."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    rows = []
    for i in range(96):
        atypical = i % 3 == 0
        crop = np.clip(random.normal(190, 12, (128, 128, 3)), 0, 255).astype(np.uint8)
        cv2.circle(
            crop, (64, 64), int(random.integers(18, 24) if atypical else random.integers(6, 12)), (90, 40, 80), -1
        )
        cv2.imwrite(str(root / f"{i}.png"), crop)
        label = "atypical" if atypical else "normal"
        phase = ("NMF metaphase", "NMF prometaphase", "AMF other")[-1 if atypical else i % 2]
        slide = f"{i % 8 * 15:03}.tiff"
        rows.append({"file": f"{i}.png", "label": label, "dataset": "MIDOG21", "slide": slide, "expert1_phase": phase})
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return root


@pytest.fixture
def crops() -> list[np.ndarray]:
    """Five different crops of smooth random colour, 128 x 128 RGB uint8."""
    return draw_crops()


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals over 60 resamplings of slides: a thousand take a minute."""
    monkeypatch.setattr("training.evaluation.scores.RESAMPLES", 60)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread of PyTorch: the tests' networks are so small that threads spend their time waiting for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights folder of a small network with random weights, calibrated so that probabilities spread around 0.5."""
    torch.manual_seed(0)
    network = Network("test_efficientnet", "avg", {})
    classifier = MitosisClassifier(network.backbone, network.pooling, network.backbone_args).eval()
    preprocessing = Preprocessing(78, 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with torch.inference_mode():
        logits = classifier(preprocessing.network_input(preprocessing.cut_out(draw_crops())))
    scale = 1 / logits.std().item()
    config = WeightsConfig(
        name="small",
        version="0",
        network=network,
        preprocessing=preprocessing,
        calibration=Calibration(scale, -scale * logits.mean().item()),
        dtype="float32",
        sha256="",
    )
    folder = tmp_path_factory.mktemp("weights") / "small"
    save(folder, classifier, config)
    return folder
