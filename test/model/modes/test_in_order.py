"""Several GPUs, stood in for by several predictors on the CPU."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import cv2
import numpy as np
import pytest
import torch

from model import device as device_module
from model.device import further_gpus
from model.errors import PredictionError
from model.modes import folder as folder_module
from model.modes.folder import classify_folder
from model.modes.in_order import predict_in_order
from model.modes.loader import Loader
from model.predictor import Predictor


def team(count: int) -> Predictor:
    """A predictor with copies, each known by its number."""
    first, *others = [SimpleNamespace(number=number, copies=[]) for number in range(count)]
    first.copies = others
    return cast(Predictor, first)


@pytest.mark.parametrize("count", [1, 3])
def test_results_are_in_the_order_of_the_blocks(count: int) -> None:
    """Though later blocks are done sooner; each predictor has one at a time, and all of them work."""
    busy: set[int] = set()
    used: set[int] = set()
    most = 0

    def predict(predictor: SimpleNamespace, block: int) -> int:
        nonlocal most
        assert predictor.number not in busy
        busy.add(predictor.number)
        used.add(predictor.number)
        most = max(most, len(busy))
        time.sleep(0.03 if block % 3 == 0 else 0.005)
        busy.remove(predictor.number)
        return block * block

    found = list(predict_in_order(team(count), range(20), predict))
    assert found == [(block, block * block) for block in range(20)]
    assert used == set(range(count)) and most == count


def test_blocks_are_taken_when_they_are_needed_and_from_one_thread() -> None:
    taken: list[int] = []
    threads = set()

    def blocks() -> Iterator[int]:
        for block in range(50):
            threads.add(threading.get_ident())
            taken.append(block)
            yield block

    for given, _ in predict_in_order(team(3), blocks(), lambda _, block: block):
        assert len(taken) - given <= 4
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("count", [1, 3])
def test_an_error_is_raised_where_results_are_taken(count: int) -> None:
    def predict(_: Predictor, block: int) -> int:
        if block == 5:
            raise ValueError("injected")
        return block

    found = []
    with pytest.raises(ValueError, match="injected"):
        found.extend(block for block, _ in predict_in_order(team(count), range(50), predict))
    assert found in ([], [*range(5)])


def test_a_folder_on_three_has_the_tables_of_one(
    small_weights: Path, crops: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "FILES_PER_BLOCK", 2)
    (tmp_path / "in").mkdir()
    for number in range(17):
        cv2.imwrite(str(tmp_path / "in" / f"{number:02}.png"), np.roll(crops[number % 5], number, axis=0))
    tables = []
    for count in (1, 3):
        predictor = Predictor(small_weights, "cpu")
        predictor.copies = [Predictor(small_weights, "cpu") for _ in range(count - 1)]
        target = tmp_path / f"out{count}"
        assert classify_folder(predictor, tmp_path / "in", target).crops == 17
        tables.append({file.name: file.read_bytes() for file in target.glob("*.csv")})
    assert tables[0] == tables[1] and len(tables[0]) >= 2


def gpus(monkeypatch: pytest.MonkeyPatch, works: list[bool]) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(works))
    monkeypatch.setattr(
        device_module, "try_gpu", lambda gpu: (True, "") if works[gpu.index or 0] else (False, "it is on fire")
    )


def test_every_gpu_that_works_is_used(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    gpus(monkeypatch, [True, True, False, True])
    assert further_gpus(torch.device("cuda")) == [torch.device("cuda:1"), torch.device("cuda:3")]
    assert "GPU 2 does not work (it is on fire); it is left out." in caplog.text
    assert further_gpus(torch.device("cpu")) == [] and further_gpus(torch.device("cuda:1")) == []


def test_the_modes_for_many_crops_load_a_copy_for_each(small_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The platform's modes, with 16 crops a case, use one."""
    built = []

    class Noting:
        def __init__(self, folder: Path, device: str, view_set: str) -> None:
            built.append(device)
            self.device, self.copies = torch.device("cuda"), []

    gpus(monkeypatch, [True, True, True])
    monkeypatch.setattr("model.predictor.Predictor", Noting)
    assert not Loader(small_weights, "auto", "d4").predictor().copies
    assert len(Loader(small_weights, "auto", "d4").predictor(every_gpu=True).copies) == 2
    assert built == ["auto", "auto", "cuda:1", "cuda:2"]


def test_a_further_gpu_that_does_not_hold_the_network_is_left_out(
    small_weights: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Full:
        def __init__(self, folder: Path, device: str, view_set: str) -> None:
            if device == "cuda:1":
                raise PredictionError("The memory of cuda:1 does not hold the network.")
            self.device, self.copies = torch.device(device if device != "auto" else "cuda"), []

    gpus(monkeypatch, [True, True, True])
    monkeypatch.setattr("model.predictor.Predictor", Full)
    copies = Loader(small_weights, "auto", "d4").predictor(every_gpu=True).copies
    assert [str(copy.device) for copy in copies] == ["cuda:2"]
    assert "cuda:1 is left out: The memory of cuda:1 does not hold" in caplog.text
