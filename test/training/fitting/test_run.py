"""What fits run on."""

from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from helpers import config_for

from training.config import Config, ConfigError
from training.fitting import run as run_module
from training.fitting.run import accelerator_for, check_gpu


@pytest.fixture
def fresh_state() -> None:
    """Without what earlier accelerators in this process have found out."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("fresh_state")
def test_processes_that_would_each_train_alone_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two single processes in one run folder overwrite each other's files."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ConfigError, match=r"WORLD_SIZE says that 2 processes .* not know of one another; start them as PROC"
    ):
        accelerator_for(config_for(tmp_path, tmp_path))
    monkeypatch.delenv("WORLD_SIZE")
    accelerator = accelerator_for(config_for(tmp_path, tmp_path))
    assert accelerator.num_processes == 1 and accelerator.non_blocking, "copies from pinned memory are not waited for"


def test_more_processes_than_gpus_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "4")
    with pytest.raises(ConfigError, match="PROCESSES=4 needs 4 GPUs on this machine, which has 2; give at most"):
        accelerator_for(config_for(tmp_path, tmp_path))


@pytest.mark.parametrize(
    ("works", "problem", "count"),
    [
        (False, "CUDA error: no kernel image is available for execution on the device", 1),
        (False, "The NVIDIA driver on your system is too old", 0),
        (False, "", 1),
    ],
)
def test_a_gpu_that_is_there_and_does_not_work_is_said(
    works: bool, problem: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instead of training on the CPU for weeks, or a traceback."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(run_module, "try_gpu", lambda _: (works, problem))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    said = problem or "PyTorch counts it, but cannot use it"
    with pytest.raises(ConfigError, match=rf"The GPU does not work \({said}\); check the driver, or give CUDA_VIS"):
        accelerator_for(Config())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    check_gpu()


def test_without_a_gpu_there_is_nothing_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(run_module, "try_gpu", lambda _: (False, ""))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    check_gpu()
    monkeypatch.setattr(run_module, "try_gpu", lambda gpu: (gpu.index == 3, "another one"))
    monkeypatch.setenv("LOCAL_RANK", "3")
    check_gpu()
