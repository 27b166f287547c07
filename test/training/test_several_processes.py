"""Two processes on the CPU train like one with the same global batch."""

import os
import subprocess
from pathlib import Path

import pytest
from helpers import REPOSITORY
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

OVERRIDES = [
    "name=tiny",
    "network.backbone=vit_tiny_patch16_dinov3_qkvb",
    "network.pretrained=''",
    "network.pooling=token",
    "network.backbone_args={qkv_fused: false, init_values: 0.5, depth: 2, drop_path_rate: 0}",
    "adapter.rank=4",
    "adapter.dropout=0",
    "network.dropout=0",
    "network.input_size=32",
    "data.folds=2",
    "data.shift_split=''",
    "data.workers=0",
    "optimisation.epochs=3",
    "optimisation.batch_size=8",
    "optimisation.learning_rate=3e-3",
    "stored_dtype=float32",
    "loss.phases=0.3",
]
NEEDS_ENVIRONMENT = pytest.mark.skipif(
    not (REPOSITORY / ".venv" / "training-requirements.done").is_file(), reason="needs .venv of `make train-env`"
)

TOLERANCE = 1e-4
"""Relative; sums of gradients are in another order."""


def train(data: Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """As a user starts it."""
    return subprocess.run(
        [
            "training/train.sh",
            "compact",
            f"data.root={data}",
            f"run={folder / 'run'}",
            f"output={folder / 'weights'}",
            *OVERRIDES,
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )


def losses(data: Path, folder: Path, processes: int) -> list[float]:
    done = train(data, folder, PROCESSES=str(processes))
    assert done.returncode == 0, done.stderr
    assert (folder / "weights" / "model.safetensors").is_file()
    for said in (done.stderr, (folder / "weights" / "training.log").read_text(encoding="utf-8")):
        assert said.count("slides_0 epoch 1/3") == said.count(f"Wrote {folder / 'weights'}.") == 1, "one process speaks"
    curve: list[float] = []
    for fit in ("slides_0", "slides_1", "final"):
        events = EventAccumulator(str(folder / "run" / fit))
        events.Reload()
        curve += [event.value for event in events.Scalars("loss/train")]
    return curve


@pytest.mark.slow
@NEEDS_ENVIRONMENT
def test_two_processes_give_the_loss_curve_of_one(data: Path, tmp_path: Path) -> None:
    one, two = (losses(data, tmp_path / str(count), count) for count in (1, 2))
    assert len(one) == 9 and one[2] < one[0]
    assert two == pytest.approx(one, rel=TOLERANCE)


@pytest.mark.slow
@NEEDS_ENVIRONMENT
def test_several_processes_say_one_sentence_and_no_traceback(tmp_path: Path) -> None:
    done = train(tmp_path / "nowhere", tmp_path, PROCESSES="2")
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if "OMP_NUM_THREADS" not in line]
    assert len(said) == 1 and said[0].endswith("(training/prepare.py)."), done.stderr
