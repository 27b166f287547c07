"""The image as the platform runs it: no network, read-only root, some user, little memory.

Needs a built image, named by CONTAINER_IMAGE, and an engine, named by CONTAINER_ENGINE (docker when not set).
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, shared, write_case
from result_file import balanced_accuracy, check_result

from model.crops import read_crops
from model.grand_challenge import find_stack

IMAGE = os.environ.get("CONTAINER_IMAGE")
ENGINE = os.environ.get("CONTAINER_ENGINE", "docker")

pytestmark = pytest.mark.skipif(IMAGE is None, reason="needs a built image: set CONTAINER_IMAGE (and CONTAINER_ENGINE)")


def run(case: Path, output: Path, rc: int = 0) -> subprocess.CompletedProcess:
    """Runs a case in the image under the platform's restrictions."""
    output.mkdir()
    output.chmod(0o777)
    command = [
        ENGINE, "run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp", "--user", "1234:1234",
        "--memory", "8g", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
        "--volume", f"{case}:/input:ro", "--volume", f"{output}:/output", str(IMAGE),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == rc, done.stderr
    return done


def test_the_example_case(tmp_path: Path) -> None:
    run(REPOSITORY / "test" / "input", tmp_path / "out")
    check_result(tmp_path / "out", 8)


def test_the_shared_cases(tmp_path: Path) -> None:
    cases = shared("cases")
    truth = json.loads((cases / "ground_truth.json").read_text())
    assert len(truth) == 6
    found = []
    for case in truth:
        run((cases / case["case"]).resolve(), tmp_path / case["case"])
        entries = check_result(tmp_path / case["case"], len(case["labels"]))
        found.extend(zip(case["labels"], entries, strict=True))
    assert balanced_accuracy(found) >= 0.85


def test_shuffling_a_stack_shuffles_the_confidences(tmp_path: Path) -> None:
    crops = read_crops(find_stack(shared("cases") / "case_02"))
    order = np.random.default_rng(0).permutation(len(crops))
    write_case(tmp_path / "a", crops)
    write_case(tmp_path / "b", [crops[i] for i in order], "interface", ".mha")
    confidences = []
    for name in ("a", "b"):
        run(tmp_path / name, tmp_path / f"{name}_out")
        confidences.append([entry["confidence"] for entry in check_result(tmp_path / f"{name}_out", len(crops))])
    np.testing.assert_allclose(confidences[1], np.array(confidences[0])[order], atol=1e-5)


def test_a_bad_case_is_one_last_line(tmp_path: Path, crops: list[np.ndarray]) -> None:
    stack = write_case(tmp_path / "case", crops)
    stack.write_bytes(stack.read_bytes()[:5000])
    done = run(tmp_path / "case", tmp_path / "out", rc=1)
    assert "stack.tiff" in done.stderr.strip().splitlines()[-1]
    assert list((tmp_path / "out").iterdir()) == []


def test_nothing_of_the_build_or_of_training_is_in_the_image() -> None:
    search = r"ls /opt/app; find / -xdev \( -path '/opt/*/training' -o -name pip.conf -o -path /root/.cache/pip \)"
    command = [ENGINE, "run", "--rm", "--network", "none", "--user", "0:0", "--entrypoint", "/bin/sh", str(IMAGE), "-c"]
    done = subprocess.run([*command, search], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["model", "process.py", "requirements.txt"]
