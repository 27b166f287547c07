"""The README's figures on speed are those of the results."""

from pathlib import Path

import pytest
from helpers import REPOSITORY
from torch import nn

from benchmark import report
from benchmark.measuring import gflops
from model.network.preprocessing import Preprocessing


def test_the_readme_shows_the_results_as_they_are() -> None:
    results = report.read_results()
    assert report.section(results) in (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    assert all(row[2] == report.MISSING for row in report.rows({}))
    report.plot({}, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text().startswith("<?xml")


def test_operations_are_counted_for_all_fields_of_view_of_a_view() -> None:
    preprocessing = Preprocessing(8, 16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), scales=(1.0, 0.5))
    assert gflops(nn.Conv2d(6, 5, 1), preprocessing) == pytest.approx(2 * 6 * 5 * 16 * 16 / 1e9)
