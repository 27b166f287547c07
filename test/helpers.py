"""What several tests share that is no fixture: where things are, cases on disk, a strict check of results."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
import torch

from model.modes.grand_challenge import INPUT_FOLDER, INPUT_SLUG, RESULT_FILE

if TYPE_CHECKING:
    from model.modes.case import CaseDone
    from model.predictor import Predictor
    from training.config import Config

REPOSITORY = Path(__file__).parent.parent
DEFAULT_WEIGHTS = REPOSITORY / "model" / "weights" / "default"
DATA = Path(os.environ.get("ATYPICAL_MITOSIS_DATA", REPOSITORY.parent / "shared" / "data"))
"""Folder with `amibr/` and `cases/`."""

NEEDS_DATA = "needs the real crops of"
"""How a reason to skip a test begins that needs `DATA`."""

OVERRIDES = [
    "name=tiny",
    "network.backbone=test_efficientnet",
    "network.pretrained=''",
    "network.input_size=32",
    "network.scales=[1.0]",
    "data.folds=2",
    "data.shift_split=''",
    "data.workers=0",
    "data.soft_labels=false",
    "optimisation.epochs=4",
    "optimisation.batch_size=8",
    "optimisation.average_decay=0.8",
    "augmentation.brightness=0.02",
    "augmentation.contrast=0.02",
    "augmentation.stain=0",
    "augmentation.gamma=0",
    "augmentation.noise=2",
    "augmentation.margin=0",
    "data.about=''",
    "stored_dtype=float32",
    "loss.gamma=2",
    "loss.domain_weighted=false",
    "loss.phases=0",
]
"""Of the recipe `compact`, for a network and a task that take seconds."""


def shared(name: str) -> Path:
    """A folder of the data; where it is absent the test is skipped, or fails when `REQUIRE_SHARED_DATA` is set."""
    folder = DATA / name
    if not folder.is_dir():
        (pytest.fail if os.environ.get("REQUIRE_SHARED_DATA") else pytest.skip)(f"{NEEDS_DATA} {folder}")
    return folder


def draw_crops() -> list[np.ndarray]:
    """Five crops of smooth random colour, 128 x 128 RGB uint8, always the same."""
    random = np.random.default_rng(0)
    coarse = torch.from_numpy(random.uniform(0, 255, (5, 3, 8, 8)))
    smooth = torch.nn.functional.interpolate(coarse, (128, 128), mode="bilinear")
    return list(smooth.permute(0, 2, 3, 1).numpy().astype(np.uint8))


def write_case(folder: Path, crops: list[np.ndarray], entry_key: str = "socket", suffix: str = ".tiff") -> Path:
    """Writes a Grand Challenge case; returns the path of its stack."""
    stack = folder / INPUT_FOLDER / f"stack{suffix}"
    stack.parent.mkdir(parents=True)
    (folder / "inputs.json").write_text(json.dumps([{entry_key: {"slug": INPUT_SLUG}}]), encoding="utf-8")
    if suffix == ".mha":
        import SimpleITK as sitk

        sitk.WriteImage(sitk.GetImageFromArray(np.stack(crops), isVector=True), str(stack))
    else:
        with tifffile.TiffWriter(stack) as tiff:
            for crop in crops:
                tiff.write(crop, photometric="rgb", compression="adobe_deflate", metadata=None)
    return stack


def classified_case(folder: Path, crops: list[np.ndarray], weights: Path) -> "tuple[CaseDone, Predictor]":
    """A case in `folder`/in, what became of it in `folder`/out, and the predictor that did it, with eight views."""
    from model.modes.case import process_case
    from model.modes.loader import Loader

    write_case(folder / "in", crops)
    (folder / "out").mkdir()
    loader = Loader(weights, "cpu", "d4")
    return process_case(folder / "in", folder / "out", loader), loader.predictor()


def check_result(output: Path, crops: int) -> list[dict]:
    """Entries of a folder's result file, its only file, checked as the challenge's evaluator does."""
    assert [file.name for file in output.iterdir()] == [RESULT_FILE]
    entries = json.loads((output / RESULT_FILE).read_text(encoding="utf-8"))
    assert isinstance(entries, list) and len(entries) == crops
    for entry in entries:
        assert set(entry) == {"class", "confidence"}
        assert entry["class"] in ("atypical", "normal")
        assert isinstance(entry["confidence"], float) and 0 <= entry["confidence"] <= 1
        assert (entry["class"] == "atypical") == (entry["confidence"] >= 0.5)
    return entries


def balanced_accuracy(found: list[tuple[str, dict]]) -> float:
    """Mean of sensitivity and specificity of (true class, entry) pairs."""
    shares = []
    for name in ("atypical", "normal"):
        hits = [entry["class"] == name for label, entry in found if label == name]
        shares.append(sum(hits) / len(hits))
    return sum(shares) / 2


def recipe(data: Path, folder: Path, *overrides: str) -> list[str]:
    """Overrides of the recipe `compact` for a network and a task that take seconds; the run's folders are in one."""
    return [f"data.root={data}", f"run={folder / 'run'}", f"output={folder / 'weights'}", *OVERRIDES, *overrides]


def config_for(data: Path, folder: Path, *overrides: str) -> "Config":
    """The configuration of `recipe`."""
    from training.config import load_config

    return load_config(REPOSITORY / "training" / "configs" / "compact.yaml", recipe(data, folder, *overrides))
