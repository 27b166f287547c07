"""Some of the crops of published sets, listed in a table: so a recipe can name the data that it was made with."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from training.data.blocks import in_blocks
from training.data.crop_files import crop_key
from training.data.csv_file import read_csv
from training.data.sample import DataError, Sample
from training.data.tables import check_cells

NUMBERED = ("AtNorM-Br", "AtNorM-MD")
"""Sets whose groups are blocks of neighbouring numbers."""


class Selection:
    """Which crops to use, from a table `set,file` with or without a column `domain`.

    Args:
        path: of the table. `set` is a set's name, `file` a crop's, with or without its suffix; `domain`, where it is
            not empty, is the crop's.

    Raises:
        DataError: it cannot be read, or lacks a column or one of its cells.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        table = read_csv(path, "give a table set,file of the crops to use")
        for column in ("set", "file"):
            if column not in table.columns:
                raise DataError(f"{path} has no column {column}; it needs set,file and may have domain.")
        check_cells(table, ("set", "file"))
        self._domains: dict[str, dict[str, str]] = {}
        for _, row in table.numbered():
            self._domains.setdefault(row["set"].lower(), {})[crop_key(row["file"])] = row.get("domain", "")

    def check_sets(self, names: Sequence[str]) -> None:
        """Raises a DataError if crops of another set than these are listed."""
        if others := sorted(self._domains.keys() - {name.lower() for name in names}):
            raise DataError(f"{self.path} lists crops of '{others[0]}', a set that was not given; give its folder.")

    def of(self, name: str, samples: Sequence[Sample]) -> list[Sample]:
        """The crops of a set that are listed, in their order; where the set is numbered, in blocks of these alone.

        Args:
            name: of the set.
            samples: all of its crops.

        Raises:
            DataError: a crop that is listed is not there.
        """
        wanted = self._domains.get(name.lower(), {})
        chosen = [sample for sample in samples if crop_key(sample.path.name) in wanted]
        if missing := sorted(wanted.keys() - {crop_key(sample.path.name) for sample in chosen}):
            others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise DataError(
                f"{self.path} lists the crop {missing[0]}{others} of {name}, which cannot be used or is not there; add "
                "what is missing, or correct the table."
            )
        chosen = [replace(s, domain=wanted[crop_key(s.path.name)] or s.domain) for s in chosen]
        if name in NUMBERED and chosen:
            return in_blocks([replace(sample, group=name) for sample in chosen])
        return chosen
