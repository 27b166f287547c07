import json
import os
from pathlib import Path

import numpy as np
import pytest
from helpers import shared, write_case

from model.errors import CaseError
from model.modes.grand_challenge import INPUT_FOLDER, RESULT_FILE, find_stack, result, write_result


@pytest.mark.parametrize("key", ["socket", "interface"])
@pytest.mark.parametrize("suffix", [".tif", ".tiff", ".mha"])
def test_the_stack_is_found_in_both_spellings(tmp_path: Path, crops: list[np.ndarray], key: str, suffix: str) -> None:
    stack = write_case(tmp_path, crops, key, suffix)
    assert find_stack(tmp_path) == stack


def test_shared_cases_are_found() -> None:
    cases = [folder for folder in sorted(shared("cases").iterdir()) if folder.is_dir()]
    assert len(cases) == 6
    assert all(find_stack(case).is_file() for case in cases)


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        (None, "inputs.json cannot be read"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("{}", "must hold a list"),
        ("[]", "names no input"),
        ('[{"socket": {"slug": "other"}}]', "names no input"),
        ('[{"socket": null}, 3]', "names no input"),
    ],
)
def test_bad_inputs_json_is_refused(tmp_path: Path, crops: list[np.ndarray], inputs: str | None, sentence: str) -> None:
    write_case(tmp_path, crops)
    (tmp_path / "inputs.json").unlink() if inputs is None else (tmp_path / "inputs.json").write_text(inputs)
    with pytest.raises(CaseError, match=sentence):
        find_stack(tmp_path)


def test_a_folder_without_exactly_one_stack_is_refused(tmp_path: Path, crops: list[np.ndarray]) -> None:
    stack = write_case(tmp_path, crops)
    second = stack.with_name("another.tiff")
    second.write_bytes(stack.read_bytes())
    with pytest.raises(CaseError, match=r"exactly one stack of crops, but holds another\.tiff, stack\.tiff"):
        find_stack(tmp_path)
    second.unlink()
    stack.rename(stack.with_suffix(".png"))
    with pytest.raises(CaseError, match="no image stack"):
        find_stack(tmp_path)
    stack.with_suffix(".png").unlink()
    with pytest.raises(CaseError, match="holds nothing"):
        find_stack(tmp_path)
    (tmp_path / INPUT_FOLDER).rmdir()
    with pytest.raises(CaseError, match="cannot be listed"):
        find_stack(tmp_path)


def test_class_and_confidence_always_agree() -> None:
    probabilities = np.array([0.0, 0.4999994, 0.4999996, 0.5, 0.7, 1.0])
    entries = result(probabilities)
    assert [entry["class"] for entry in entries] == ["normal", "normal", "atypical", "atypical", "atypical", "atypical"]
    for entry, probability in zip(entries, probabilities, strict=True):
        assert (entry["class"] == "atypical") == (entry["confidence"] >= 0.5)
        assert entry["confidence"] == pytest.approx(probability, abs=1e-6)


def test_written_confidences_are_json_floats_even_at_the_ends(tmp_path: Path) -> None:
    path = write_result(tmp_path / "new" / "output", result([0.0, 1.0]))
    assert path.name == RESULT_FILE
    confidences = [entry["confidence"] for entry in json.loads(path.read_text())]
    assert confidences == [0.0, 1.0] and all(isinstance(c, float) for c in confidences)
    assert [file.name for file in path.parent.iterdir()] == [RESULT_FILE]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CaseError, match="No space left"):
        write_result(tmp_path, result([0.3]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["large", "fifo"])
def test_an_inputs_json_of_any_size_or_kind_ends_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "inputs.json"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.write_bytes(b"[" + b" " * (1 << 21) + b"]")
    with pytest.raises(CaseError, match=r"inputs\.json cannot be read \((it is a pipe|larger than)"):
        find_stack(tmp_path)
