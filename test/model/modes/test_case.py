"""The result of a case for a person to read."""

from pathlib import Path

from model.modes.case import table


def test_a_confidence_next_to_one_half_tells_its_side() -> None:
    """It would otherwise contradict the class beside it."""
    entries = [
        {"class": "normal", "confidence": 0.4999},
        {"class": "atypical", "confidence": 0.5},
        {"class": "atypical", "confidence": 0.912378},
    ]
    lines = table(Path("result.json"), entries, 0.2).splitlines()[2:]
    assert [line.split()[1:3] for line in lines] == [
        ["normal", "0.499900"],
        ["atypical", "0.500000"],
        ["atypical", "0.912"],
    ]
