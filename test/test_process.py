"""The program as it is run: a process, folders, a result file."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import DEFAULT_WEIGHTS, REPOSITORY, balanced_accuracy, check_result, shared, write_case

from model.images.read import read_crops
from model.modes.grand_challenge import RESULT_FILE, find_stack

EXAMPLE = REPOSITORY / "test" / "input"


def run(*arguments: object, rc: int = 0) -> subprocess.CompletedProcess:
    """Runs `process.py` and expects an exit status."""
    command = [sys.executable, str(REPOSITORY / "process.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == rc, done.stderr
    return done


def test_the_example_case(tmp_path: Path) -> None:
    done = run("--input", EXAMPLE, "--output", tmp_path)
    assert len(check_result(tmp_path, 8)) == 8
    weights, summary = done.stderr.strip().splitlines()
    assert weights.startswith("Weights: ") and "8 crops" in summary
    assert done.stdout == ""


@pytest.mark.slow
def test_the_table_shows_each_crop(tmp_path: Path) -> None:
    done = run("--input", EXAMPLE, "--output", tmp_path, "--table", "--views", "none")
    entries = check_result(tmp_path, 8)
    lines = done.stdout.strip().splitlines()
    assert str(tmp_path / RESULT_FILE) in lines[0]
    assert len(lines) == 2 + len(entries)
    for number, (line, entry) in enumerate(zip(lines[2:], entries, strict=True), start=1):
        assert line.split() == [str(number), entry["class"], f"{entry['confidence']:.3f}"]


def test_the_table_has_the_posterior_and_the_result_has_not(tmp_path: Path) -> None:
    done = run("--input", EXAMPLE, "--output", tmp_path, "--table", "--views", "none", "--prevalence", 0.2)
    entries = check_result(tmp_path, 8)
    lines = done.stdout.strip().splitlines()
    assert lines[1].endswith("posterior at 0.2")
    for line, entry in zip(lines[2:], entries, strict=True):
        p = entry["confidence"]
        assert float(line.split()[-1]) == pytest.approx(p * 0.2 / (p * 0.2 + (1 - p) * 0.8), abs=6e-4)
    done = run("--input", EXAMPLE, "--output", tmp_path, "--prevalence", 0.2, rc=2)
    assert "say --table, too" in done.stderr


def test_nothing_is_unpickled_and_no_connection_is_made(tmp_path: Path) -> None:
    code = f"""
import pickle, socket, sys
import process, torch
import model.predictor

def refused(*_, **__):
    raise AssertionError("not on the inference path")

pickle.load = pickle.loads = pickle.Unpickler = torch.load = refused
socket.socket.connect = socket.getaddrinfo = refused
sys.exit(process.main(["--device", "cpu", "--input", {str(EXAMPLE)!r}, "--output", {str(tmp_path)!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr
    check_result(tmp_path, 8)


@pytest.mark.slow
def test_the_same_case_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        run("--input", EXAMPLE, "--output", tmp_path / name, "--device", "cpu")
    assert (tmp_path / "first" / RESULT_FILE).read_bytes() == (tmp_path / "second" / RESULT_FILE).read_bytes()


def test_confidences_follow_shuffled_crops(tmp_path: Path, small_weights: Path, crops: list[np.ndarray]) -> None:
    order = [4, 2, 0, 3, 1]
    write_case(tmp_path / "a", crops, suffix=".mha")
    write_case(tmp_path / "b", [crops[i] for i in order], "interface", ".tif")
    for name in ("a", "b"):
        run("--input", tmp_path / name, "--output", tmp_path / f"{name}_out", "--weights", small_weights)
    first, second = (check_result(tmp_path / f"{name}_out", 5) for name in ("a", "b"))
    assert len({entry["confidence"] for entry in first}) == 5
    for place, original in enumerate(order):
        assert second[place]["confidence"] == pytest.approx(first[original]["confidence"], abs=1e-5)


@pytest.mark.parametrize("damage", ["no inputs.json", "truncated stack", "small crops", "no weights"])
def test_bad_input_is_one_last_line_and_no_result(
    tmp_path: Path, crops: list[np.ndarray], small_weights: Path, damage: str
) -> None:
    stack = write_case(tmp_path / "case", crops if damage != "small crops" else [crops[0][:60, :60]])
    weights = small_weights
    names = {
        "no inputs.json": "inputs.json",
        "truncated stack": "stack.tiff",
        "small crops": "stack.tiff: Crop 1 is 60",
    }
    if damage == "no inputs.json":
        (tmp_path / "case" / "inputs.json").unlink()
    elif damage == "truncated stack":
        stack.write_bytes(stack.read_bytes()[:5000])
    elif damage == "no weights":
        weights = tmp_path / "nowhere"
    done = run("--input", tmp_path / "case", "--output", tmp_path / "out", "--weights", weights, rc=1)
    last = done.stderr.strip().splitlines()[-1]
    assert names.get(damage, "nowhere") in last and last.endswith(".")
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("*"))


def test_the_shared_cases(tmp_path: Path) -> None:
    """On crops the default weights were trained on: a check that everything is wired rightly, not an accuracy."""
    cases = shared("cases")
    truth = json.loads((cases / "ground_truth.json").read_text())
    assert len(truth) == 6
    code = """
import sys, process
for case in sys.argv[3:]:
    assert process.main(["--input", f"{sys.argv[1]}/{case}", "--output", f"{sys.argv[2]}/{case}"]) == 0
"""
    command = [sys.executable, "-c", code, str(cases), str(tmp_path), *(case["case"] for case in truth)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)  # which starts once
    assert done.returncode == 0, done.stderr
    found = []
    for case in truth:
        entries = check_result(tmp_path / case["case"], len(case["labels"]))
        found.extend(zip(case["labels"], entries, strict=True))
    assert balanced_accuracy(found) >= 0.85


@pytest.mark.slow
def test_shuffling_a_real_stack_shuffles_the_confidences(tmp_path: Path) -> None:
    crops = read_crops(find_stack(shared("cases") / "case_01"))
    order = np.random.default_rng(0).permutation(len(crops))
    write_case(tmp_path / "a", crops)
    write_case(tmp_path / "b", [crops[i] for i in order])
    confidences = []
    for name in ("a", "b"):
        run("--input", tmp_path / name, "--output", tmp_path / f"{name}_out", "--weights", DEFAULT_WEIGHTS)
        confidences.append([entry["confidence"] for entry in check_result(tmp_path / f"{name}_out", len(crops))])
    np.testing.assert_allclose(confidences[1], np.array(confidences[0])[order], atol=1e-5)
    assert np.ptp(confidences[0]) > 0.2


@pytest.mark.parametrize("suffix", [".tiff", ".mha"])
def test_a_case_of_another_resolution_is_refused(tmp_path: Path, small_weights: Path, crops: list, suffix: str) -> None:
    stack = write_case(tmp_path / "case", crops, suffix=suffix)
    if suffix == ".mha":
        import SimpleITK as sitk

        image = sitk.GetImageFromArray(np.stack(crops), isVector=True)
        image.SetSpacing((0.0005, 0.0005, 1))
        sitk.WriteImage(image, str(stack))
    else:
        import tifffile

        tifffile.imwrite(
            stack, np.stack(crops), photometric="rgb", metadata=None, resolution=(20000, 20000), resolutionunit=3
        )
    done = run("--input", tmp_path / "case", "--output", tmp_path / "out", "--weights", small_weights, rc=1)
    assert "states 0.5 µm per pixel, but a case has 0.25" in done.stderr.strip().splitlines()[-1]
    assert list((tmp_path / "out").glob("*")) == []


def test_a_blank_crop_is_classified_and_named(tmp_path: Path, small_weights: Path, crops: list) -> None:
    write_case(tmp_path / "case", [crops[0], np.full((128, 128, 3), 240, np.uint8)])
    done = run("--input", tmp_path / "case", "--output", tmp_path / "out", "--weights", small_weights)
    assert "stack.tiff: crop 2 is blank or featureless" in done.stderr
    check_result(tmp_path / "out", 2)
