"""The ground truth of cases: which labels the crops of each stack have."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.constants import CLASSES
from model.errors import UserError
from model.files import read_bounded
from training.data.csv_file import read_csv
from training.data.manifest import MANIFEST, read_manifest
from training.data.tables import spelled

LARGEST_JSON = 1 << 28
"""Bytes of a JSON file that are read."""

CASE_COLUMNS = ("image", "case", "file")
"""Columns of which a ground truth needs one, to tell which result a crop is in."""

INDEX = "index"
"""Column of the place that a crop has in its stack, from 0, as in the `predictions.csv` of `process.py folder`."""


class ResultsError(UserError):
    """Results or a ground truth cannot be read at all."""


@dataclass
class TruthCase:
    """What is known of the crops of one case, in the stack's order.

    Attributes:
        labels: 0 or 1.
        domains: of each crop; empty texts where they are not known.
        groups: slide of each crop; empty texts where they are not known.
    """

    labels: list[int] = field(default_factory=list)
    domains: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ResultsError: it cannot be read, is larger than `LARGEST_JSON` bytes, or is not JSON.
    """
    try:
        return json.loads(read_bounded(path, LARGEST_JSON))
    except OSError as error:
        raise ResultsError(f"{path} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{path} is not valid JSON ({error}).") from error


def read_truth(path: Path) -> tuple[dict[str, TruthCase], dict[str, str]]:
    """The ground truth of cases.

    Args:
        path: the organisers' `ground_truth.json` (image, labels, tumordomains); a CSV file with a row for each crop in
            the stack's order, or with their places in the stack as index (image or case or file, label, and where
            known domain and slide); or a manifest or its folder, of which each file is a case.

    Returns:
        The cases by name, and all names that results may go by (image, its stem, case) with the case's.

    Raises:
        UserError: it cannot be read, two cases go by one name, or the index of a case's rows tells no order.
    """
    if path.is_dir() or path.name == MANIFEST:
        root = path if path.is_dir() else path.parent
        cases = {}
        for sample in read_manifest(root):
            inside = sample.path.is_relative_to(root)
            name = (sample.path.relative_to(root) if inside else sample.path).as_posix()
            cases[name] = TruthCase([sample.label], [sample.domain], [sample.group])
        return cases, _aliases({name: [name] for name in cases}, path)
    return _truth_of_json(path) if path.suffix.lower() == ".json" else _truth_of_csv(path)


def _truth_of_json(path: Path) -> tuple[dict[str, TruthCase], dict[str, str]]:
    content = read_json(path)
    cases: dict[str, TruthCase] = {}
    names: dict[str, list[str]] = {}
    for number, entry in enumerate(content if isinstance(content, list) else [], start=1):
        if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
            raise ResultsError(f"{path}, entry {number} has no image; write image, labels and tumordomains.")
        labels, name = entry.get("labels"), entry["image"]
        if not isinstance(labels, list) or not labels or not all(label in CLASSES for label in labels):
            raise ResultsError(f"{path}: the labels of {name} are no list of normal and atypical; correct them.")
        domains = entry.get("tumordomains", [""] * len(labels))
        if not isinstance(domains, list) or len(domains) != len(labels):
            raise ResultsError(f"{path}: {name} has {len(labels)} labels and another number of tumordomains.")
        if name in cases:
            raise ResultsError(f"{path} has {name} twice; remove one of them.")
        cases[name] = TruthCase([CLASSES.index(label) for label in labels], [str(domain) for domain in domains])
        cases[name].groups = [""] * len(labels)
        names[name] = [name, Path(name).stem, *([entry["case"]] if isinstance(entry.get("case"), str) else [])]
    if not cases:
        raise ResultsError(f"{path} holds no list of cases; write [{{image, labels, tumordomains}}, …].")
    return cases, _aliases(names, path)


def _truth_of_csv(path: Path) -> tuple[dict[str, TruthCase], dict[str, str]]:
    table = read_csv(path, "give the ground truth as --truth FILE")
    key = next((column for column in CASE_COLUMNS if column in table.columns), None)
    if key is None or "label" not in table.columns or not table.rows:
        raise ResultsError(f"{path} has no rows with the columns label and {' or '.join(CASE_COLUMNS)}.")
    cases: dict[str, TruthCase] = {}
    names: dict[str, list[str]] = {}
    indices: dict[str, list[int]] = {}
    for line, row in table.numbered():
        try:
            label = spelled(row.get("label", ""), "label")
            if not row.get(key):
                raise ValueError(f"the cell of the column {key} is empty")
            if INDEX in table.columns:
                indices.setdefault(row[key], []).append(_whole_number(row.get(INDEX, "")))
        except ValueError as error:
            raise ResultsError(f"{path}, line {line}: {error}.") from error
        case = cases.setdefault(row[key], TruthCase())
        case.labels.append(label)
        case.domains.append(row.get("domain", row.get("tumordomain", "")))
        case.groups.append(row.get("slide", row.get("group", "")))
        names[row[key]] = [row[key], Path(row[key]).stem, *([row["case"]] if row.get("case") else [])]
    for name, found in indices.items():  # a spreadsheet may have sorted the rows
        if len(set(found)) < len(found):
            raise ResultsError(
                f"{path}: the same index stands in two rows of {name}; correct it or, if the rows are in the stack's "
                "order, remove the column."
            )
        # From 0 or 1, or over all files: the order tells, and whether rows are missing their number.
        case, order = cases[name], sorted(range(len(found)), key=found.__getitem__)
        cases[name] = TruthCase(
            [case.labels[place] for place in order],
            [case.domains[place] for place in order],
            [case.groups[place] for place in order],
        )
    return cases, _aliases(names, path)


def _whole_number(cell: str) -> int:
    try:
        return int(cell)
    except ValueError as error:
        raise ValueError(f"the index is '{cell}'; write the crop's place in the stack, from 0") from error


def _aliases(names: Mapping[str, Sequence[str]], path: Path) -> dict[str, str]:
    """Which case a name is of; a stem that two cases share is of neither."""
    found: dict[str, str] = {name: name for name in names}
    shared = set()
    for name, others in names.items():
        for other in others:
            if found.setdefault(other, name) != name and other not in names:
                shared.add(other)
    return {other: name for other, name in found.items() if other not in shared}
