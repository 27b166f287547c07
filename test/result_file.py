"""Checks a result file as strictly as the challenge's evaluator does."""

import json
from pathlib import Path

from model.grand_challenge import RESULT_FILE


def check_result(output: Path, crops: int) -> list[dict]:
    """The entries of the result file in a folder, checked field by field; it must be the only file."""
    assert [file.name for file in output.iterdir()] == [RESULT_FILE]
    entries = json.loads((output / RESULT_FILE).read_text(encoding="utf-8"))
    assert isinstance(entries, list) and len(entries) == crops
    for entry in entries:
        assert set(entry) == {"class", "confidence"}
        assert entry["class"] in ("atypical", "normal")
        assert isinstance(entry["confidence"], float) and 0 <= entry["confidence"] <= 1
        assert (entry["class"] == "atypical") == (entry["confidence"] >= 0.5)
    return entries


def balanced_accuracy(found: list[tuple[str, dict]]) -> float:
    """Mean of sensitivity and specificity of (true class, entry) pairs."""
    shares = []
    for name in ("atypical", "normal"):
        hits = [entry["class"] == name for label, entry in found if label == name]
        shares.append(sum(hits) / len(hits))
    return sum(shares) / 2
