"""The benchmark for GPUs on a machine that has little installed, and where parts fail."""

import subprocess
import sys

import pytest
from helpers import REPOSITORY

from benchmark.measuring import attempt

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
    parts = ["ceiling", "hplus", "default", "training", "cold_start_hplus_ready"]
    assert [line.split()[0] for line in done.stdout.splitlines()] == parts


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
