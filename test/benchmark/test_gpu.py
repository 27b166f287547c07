"""The benchmark for GPUs on a machine that has little installed, and where parts fail."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import REPOSITORY
from PIL import Image

from benchmark.gpu import PARTS, read_pngs
from benchmark.measuring import attempt, machine, save, saved

MISSING = ["SimpleITK", "imagecodecs", "omegaconf", "fastapi", "uvicorn", "openslide", "tifffile"]
"""What a machine that is lent for measuring need not have."""

BLOCKED = f"""
import sys
for name in {MISSING}:
    sys.modules[name] = None  # so that importing it fails
sys.argv[1:] = ["--try", "--training-steps", "1"]
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_training_step_needs_no_more_than_is_said() -> None:
    done = run(
        f"{BLOCKED}import benchmark.gpu\nfrom benchmark.gpu_training import _do_without_omegaconf, _adapted\n"
        "_do_without_omegaconf()\nprint(_adapted(True, 1, False, True))"
    )
    assert done.returncode == 0 and "seconds_a_step" in done.stdout, done.stderr


@pytest.mark.slow
def test_all_of_it_needs_no_more_than_is_said() -> None:
    done = run(f"{BLOCKED}from benchmark.gpu import main\nmain()")
    assert done.returncode == 0 and "failed" not in done.stdout, done.stdout + done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(PARTS)


@pytest.mark.slow
def test_a_part_can_be_measured_alone() -> None:
    """Also the one that another part's weights are used for."""
    done = run(f"{BLOCKED}sys.argv += ['--parts', 'cold_start_hplus_ready']\nfrom benchmark.gpu import main\nmain()")
    assert done.returncode == 0 and "failed" not in done.stdout, done.stdout + done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["cold_start_hplus_ready"]


def test_parts_of_the_same_machine_are_kept(tmp_path: Path) -> None:
    save("gpu", {"ceiling": {"matrix": 8192}}, tmp_path)
    assert saved("gpu", tmp_path) == {"ceiling": {"matrix": 8192}}
    file = tmp_path / "gpu.json"
    file.write_text(file.read_text().replace(f'"cores": {machine()["cores"]}', '"cores": 1000'))
    assert saved("gpu", tmp_path) == saved("gpu", tmp_path / "none") == {}


def test_a_part_that_fails_loses_itself_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> dict:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore lines")

    assert attempt(broken) == {"failed": "RuntimeError: CUDA error: an illegal memory access was encountered"}
    assert "illegal memory access" in capsys.readouterr().err
    assert attempt(lambda: {"figure": 1}) == {"figure": 1}


BROKEN_PARTS = f"""
{BLOCKED}
from benchmark import gpu
def broken(*_): raise RuntimeError("injected")
gpu.ceiling = gpu.rates = gpu.against_float32 = gpu.reference_rate = gpu.compare = broken
gpu.training_steps = lambda *_: {{}}
gpu.main()
"""


@pytest.mark.slow
def test_a_failed_ceiling_reference_and_rate_leave_the_rest() -> None:
    done = run(BROKEN_PARTS)
    assert done.returncode == 1 and "These parts failed: ceiling, cold_start_hplus_ready." in done.stderr
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    for name in ("hplus", "default"):
        assert "'case_seconds'" in lines[name] and "'as_timm_runs_it': {'batch_size'" in lines[name]
        assert lines[name].count("RuntimeError: injected") == 3


@pytest.mark.parametrize(("crops", "read"), [(3, 3), (1000, 512), (1100, 512)])
def test_a_folder_of_crops_is_read_evenly(tmp_path: Path, crops: int, read: int) -> None:
    for number in range(crops):
        Image.new("RGB", (1, 1), (number % 256, number // 256, 0)).save(tmp_path / f"{number:04}.png")
    numbers = [int(crop[0, 0, 0]) + 256 * int(crop[0, 0, 1]) for crop in read_pngs(tmp_path)]
    assert len(numbers) == read and numbers[-1] > 0.9 * (crops - 1), numbers[-1]
