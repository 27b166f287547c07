"""What is promised of the tests themselves."""

import ast
from collections.abc import Iterator
from pathlib import Path

import helpers
import pytest
from helpers import REPOSITORY

TESTS = REPOSITORY / "test"


def imported(source: str) -> Iterator[str]:
    """Every part of every name that a module imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            yield from (part for name in names for part in name.split("."))


def imports_a_test(source: str) -> bool:
    return any(name == "conftest" or name.startswith("test_") for name in imported(source))


@pytest.mark.parametrize("where", ["conftest", "test.test_process", "model.images.test_read"])
def test_an_import_of_a_test_is_seen(where: str) -> None:
    package, _, name = where.rpartition(".")
    assert imports_a_test(f"def function():\n    from {where} import something")
    assert imports_a_test(f"import {where} as other")
    assert imports_a_test(f"from {package or '.'} import {name}")
    assert not imports_a_test("from helpers import DATA\nimport model.images.read")


def test_nothing_imports_from_conftest_or_another_test() -> None:
    """What several tests use is in `helpers.py`, or a fixture."""
    files = sorted(TESTS.rglob("*.py"))
    assert Path(__file__) in files and TESTS / "model" / "test_predictor.py" in files
    assert [path for path in files if imports_a_test(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("required", [False, True])
def test_missing_real_crops_are_said_at_the_end_or_fail_where_they_are_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], required: bool
) -> None:
    (tmp_path / "test_it.py").write_text(
        "from helpers import shared\n"
        "def test_crops(real_crops): pass\n"
        "def test_again(real_crops): pass\n"
        "def test_cases(): shared('cases')\n"
        "def test_nothing(): pass\n"
    )
    monkeypatch.setattr(helpers, "DATA", tmp_path / "nowhere")
    monkeypatch.setenv("REQUIRE_SHARED_DATA", "1" if required else "")
    options = ["-c", str(REPOSITORY / "pyproject.toml"), "-p", "no:cacheprovider"]
    status = pytest.main([*options, "-p", "conftest", str(tmp_path)])
    said = capsys.readouterr().out
    assert ("3 tests were skipped, which need real crops" in said) == (not required)
    if required:
        assert status == pytest.ExitCode.TESTS_FAILED and "1 passed" in said and "nowhere/cases" in said
    else:
        assert status == pytest.ExitCode.OK and "1 passed, 3 skipped" in said and "ATYPICAL_MITOSIS_DATA" in said
