"""The script that goes through the large recipe at its true size, here with a small network."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import REPOSITORY

pytest.importorskip("transformers")


@pytest.mark.slow
def test_it_merges_what_it_trained_and_gets_the_same_bytes_again(data: Path, tmp_path: Path) -> None:
    script = [sys.executable, REPOSITORY / "test" / "tools" / "full_size.py", data]
    done = subprocess.run(
        [*script, "--output", tmp_path / "runs" / "weights", "--size", "small"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["token_difference"] < 1e-5 and figures["adapters_moved"] and figures["merged_again_is_equal"]
    assert figures["stored"]["classes_changed"] == 0 and figures["lora_parameters"] > 0
