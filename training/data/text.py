"""Lists and tables as a terminal and a log show them."""

from collections.abc import Sequence

NAMED = 10
"""How many of several things a warning names."""


def listing(what: str, names: Sequence[object]) -> str:
    """How many things something is true of, and the first of them by name."""
    more = [f"and {len(names) - NAMED} more"] if len(names) > NAMED else []
    return f"{len(names)} {what}:\n  " + "\n  ".join([*map(str, names[:NAMED]), *more])


def aligned(rows: Sequence[Sequence[object]]) -> str:
    """A table in columns, numbers to the right."""
    widths = [max(len(str(row[column])) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [str(c).rjust(w) if isinstance(c, int) else str(c).ljust(w) for c, w in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
