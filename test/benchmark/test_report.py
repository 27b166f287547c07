"""The figures in docs/speed.md are those of the results."""

from pathlib import Path

import pytest
from torch import nn

from benchmark import report
from benchmark.measuring import gflops
from model.network.preprocessing import Preprocessing


def test_the_document_shows_the_results_as_they_are() -> None:
    assert report.section(report.read_results()) in report.DOCUMENT.read_text(encoding="utf-8")


def test_only_the_section_between_the_marks_is_rewritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = tmp_path / "speed.md"
    document.write_text(f"before\n{report.BEGIN}an earlier table\n{report.END}after\n")
    monkeypatch.setattr(report, "DOCUMENT", document)
    monkeypatch.setattr(report, "PLOT", tmp_path / "speed.svg")
    report.main()
    text = document.read_text()
    assert text.startswith(f"before\n{report.BEGIN}CPU: ") and text.endswith(f"{report.END}after\n")
    assert "an earlier table" not in text and (tmp_path / "speed.svg").is_file()


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    rows = report.rows({})
    assert len(rows) > 8 and all(row[2] == report.MISSING for row in rows)
    report.plot({}, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text().startswith("<?xml")


def test_operations_are_counted_for_all_fields_of_view_of_a_view() -> None:
    preprocessing = Preprocessing(8, 16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), scales=(1.0, 0.5))
    assert gflops(nn.Conv2d(6, 5, 1), preprocessing) == pytest.approx(2 * 6 * 5 * 16 * 16 / 1e9)
