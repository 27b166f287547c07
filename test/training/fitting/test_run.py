"""What fits run on."""

from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from helpers import config_for

from training.config import ConfigError
from training.fitting.run import accelerator_for


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
    assert accelerator_for(config_for(tmp_path, tmp_path)).num_processes == 1


def test_more_processes_than_gpus_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "4")
    with pytest.raises(ConfigError, match="PROCESSES=4 needs 4 GPUs on this machine, which has 2; give at most"):
        accelerator_for(config_for(tmp_path, tmp_path))
