"""Checks of values that come from a file; each raises a ValueError that says what is wanted."""

import math
from collections.abc import Sequence


def check_whole(name: str, value: object, low: int, high: int) -> None:
    """Checks that a value is a whole number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, not {_shown(value)}")


def check_number(
    name: str, value: object, low: float = -math.inf, high: float = math.inf, above: float | None = None
) -> None:
    """Checks that a value is a finite number from `low` to `high` and, where that is given, greater than `above`."""
    number = _as_number(value)
    if not math.isfinite(number) or not low <= number <= high or (above is not None and number <= above):
        limit = f" above {above:g}" if above is not None else f" of at least {low:g}" if math.isfinite(low) else ""
        limit = f" from {low:g} to {high:g}" if math.isfinite(high) else limit
        raise ValueError(f"{name} must be a finite number{limit}, not {_shown(value)}")


def _as_number(value: object) -> float:
    try:
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf


def check_text(name: str, value: object) -> None:
    """Checks that a value is a text."""
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, not {_shown(value)}")


def check_list(name: str, value: object, shortest: int, longest: int) -> Sequence[object]:
    """Checks that a value is a list of so many values; returns it."""
    if not isinstance(value, (list, tuple)) or not shortest <= len(value) <= longest:
        length = f"{shortest}" if shortest == longest else f"{shortest} to {longest}"
        raise ValueError(f"{name} must be a list of {length} values, not {_shown(value)}")
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]} …"
