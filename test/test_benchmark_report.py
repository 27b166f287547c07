"""The README's figures on speed are those of the results."""

from pathlib import Path

from conftest import REPOSITORY

from benchmark import report


def test_the_readme_shows_the_results_as_they_are() -> None:
    results = report.read_results()
    assert report.section(results) in (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    assert all(row[2] == report.MISSING for row in report.rows({}))
    report.plot({}, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text().startswith("<?xml")
