"""The platform's contract: `inputs.json` to the stack's path, predictions to the result file.

Contract: Grand Challenge, MIDOG 2025 Task 2. One case is one stack of crops; the result is a list, one object a crop.
"""

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

from model.constants import CLASSES, THRESHOLD
from model.errors import CaseError
from model.files import read_bounded

INPUT_SLUG = "stacked-histopathology-roi-cropouts"
INPUT_FOLDER = Path("images") / INPUT_SLUG
RESULT_FILE = "multiple-mitotic-figure-classification.json"
STACK_SUFFIXES = (".tif", ".tiff", ".mha")

LARGEST_INPUTS_JSON = 1 << 20
"""Bytes of an inputs.json that are read; the platform's have a few thousand."""

Entry = TypedDict("Entry", {"class": str, "confidence": float})
"""`{"class": "atypical" | "normal", "confidence": P(atypical)}` of one crop."""

DECIMALS = 6
"""Decimals of a written confidence; the class is decided after rounding, so that the two always agree."""


def find_stack(input_folder: Path) -> Path:
    """The one image stack of a case.

    Args:
        input_folder: what the platform mounts as `/input`: `inputs.json`, and the stack in the folder of its socket.

    Raises:
        CaseError: `inputs.json` is missing, unreadable or names no such socket, or there is not exactly one stack.
    """
    path = input_folder / "inputs.json"
    try:
        entries = json.loads(read_bounded(path, LARGEST_INPUTS_JSON))
    except OSError as error:
        raise CaseError(
            f"{path} cannot be read ({error.strerror}); give the folder of one case as the input."
        ) from error
    except (ValueError, RecursionError) as error:
        raise CaseError(f"{path} is not valid JSON ({error}); export the case again.") from error
    if not isinstance(entries, list):
        raise CaseError(f"{path} must hold a list of inputs, not {type(entries).__name__}; export the case again.")
    found = [_slug(entry) for entry in entries]
    if INPUT_SLUG not in found:
        raise CaseError(f"{path} names no input '{INPUT_SLUG}' (but {found}); give a case of this algorithm.")

    folder = input_folder / INPUT_FOLDER
    try:
        files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    except OSError as error:
        raise CaseError(f"{folder} cannot be listed ({error.strerror}); it must hold the stack of crops.") from error
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "nothing"
        raise CaseError(f"{folder} must hold exactly one stack of crops, but holds {names}.")
    stack = files[0]
    if stack.suffix.lower() not in STACK_SUFFIXES or not os.path.isfile(stack):  # noqa: PTH113 (which raises)
        raise CaseError(f"{stack} is no image stack; give one file ending in {', '.join(STACK_SUFFIXES)}.")
    return stack


def _slug(entry: object) -> str | None:
    """The socket's slug of an entry of `inputs.json`, in the spelling until 2025 (`interface`) or since (`socket`)."""
    if isinstance(entry, dict):
        for key in ("socket", "interface"):
            description = entry.get(key)
            if isinstance(description, dict) and isinstance(description.get("slug"), str):
                return description["slug"]
    return None


def result(probabilities: Iterable[float]) -> list[Entry]:
    """The result of a case.

    Args:
        probabilities: P(atypical) of each crop, in [0, 1], in stack order.

    Returns:
        For each crop `{"class": "atypical" | "normal", "confidence": P(atypical)}`; the class is `atypical` exactly
        when the confidence is at least `THRESHOLD`.
    """
    confidences = [round(float(probability), DECIMALS) for probability in probabilities]
    return [{"class": CLASSES[confidence >= THRESHOLD], "confidence": confidence} for confidence in confidences]


def is_result(label: str, confidence: float, spread: float) -> bool:
    """Whether a row of a table, which may have been altered, is such as `result` and `predict_with_spread` give."""
    return 0 <= confidence <= 1 and 0 <= spread <= 0.5 and label == CLASSES[confidence >= THRESHOLD]


def clear_result(output_folder: Path, only_partial: bool = False) -> None:
    """Removes what an earlier or interrupted case left: its result, and temporary files; nothing that is not ours.

    Args:
        output_folder: may be missing.
        only_partial: remove temporary files only.

    Raises:
        CaseError: an earlier result cannot be removed.
    """
    try:
        for file in output_folder.glob(f".{RESULT_FILE}.*"):
            file.unlink(missing_ok=True)
        if not only_partial:
            (output_folder / RESULT_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise CaseError(f"{output_folder} cannot be cleared ({error.strerror}); give a writable folder.") from error


def write_result(output_folder: Path, content: list[Entry]) -> Path:
    """Writes the result file; it is there whole or not at all, whatever happens while it is written.

    Returns:
        Path of the file.

    Raises:
        CaseError: the folder cannot be written to, or is full.
    """
    path = output_folder / RESULT_FILE
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    partial = None
    try:
        output_folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=output_folder, prefix=f".{RESULT_FILE}.", delete=False, encoding="utf-8"
        ) as file:
            partial = Path(file.name)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o644)
        partial.replace(path)
    except OSError as error:
        if partial is not None:
            partial.unlink(missing_ok=True)
        raise CaseError(f"{path} cannot be written: {error.strerror}; give a writable folder with space.") from error
    return path
