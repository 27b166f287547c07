"""What the documents name is there: files, headings, tests, modules."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import DEFAULT_WEIGHTS, REPOSITORY

DOCUMENTS = [*sorted(REPOSITORY.glob("*.md")), *sorted(REPOSITORY.glob("docs/*.md")), DEFAULT_WEIGHTS / "README.md"]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`([^`\n]+)`")
REPOSITORY_PATH = re.compile(r"(?:(?:model|cohort|training|test|benchmark|docs)/[\w./-]+|\w+)\.(?:py|sh|yaml|csv|md)")
MODULE = re.compile(r"-m ((?:cohort|training|benchmark|docs)\.\w+)")

README_LINES = 130
"""A README is read when it is short."""


def each_document() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))


def prose(document: Path) -> str:
    """A document's text without its code blocks."""
    return CODE_BLOCK.sub("", document.read_text(encoding="utf-8"))


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, by GitHub's rule."""
    headings = re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def missing_links(document: Path) -> Iterator[str]:
    """Links of a document to files or headings that are not there; addresses on the web are passed over."""
    for link in LINK.findall(prose(document)):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


def missing_names(document: Path) -> Iterator[str]:
    """Files, and modules to run, that a document names and that are not there."""
    text = document.read_text(encoding="utf-8")
    for span in CODE_SPAN.findall(prose(document)):
        path = span.partition("::")[0]
        if "/" in path and REPOSITORY_PATH.fullmatch(path) and not (REPOSITORY / path).exists():
            yield path
    for module in MODULE.findall(text):
        if not (REPOSITORY / f"{module.replace('.', '/')}.py").is_file():
            yield module


def names_of_tests(path: Path) -> set[str]:
    """Names of the tests that a file defines."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@each_document()
def test_links_lead_somewhere(document: Path) -> None:
    assert not list(missing_links(document))


@each_document()
def test_named_files_and_modules_are_there(document: Path) -> None:
    assert not list(missing_names(document))


def test_what_is_missing_is_found(tmp_path: Path) -> None:
    """The checks above can fail."""
    document = tmp_path / "page.md"
    document.write_text(
        "# One heading: `code`, and more\n[a](#one-heading-code-and-more) [b](#another) [c](no.md) [d](page.md)\n"
        "`model/no_such.py`, `test/test_no_such.py::test_it`, `model/predictor.py`\n"
        "```\n# no heading\n[e](#no-heading)\n.venv/bin/python -m training.no_such\n```\n[f](#no-heading)\n"
    )
    assert list(missing_links(document)) == ["#another", "no.md", "#no-heading"]
    assert list(missing_names(document)) == ["model/no_such.py", "test/test_no_such.py", "training.no_such"]


def test_each_behaviour_names_tests_that_are_there() -> None:
    lines = (REPOSITORY / "docs" / "behaviour.md").read_text(encoding="utf-8").splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    behaviours = [(what.strip(), tested) for what, _, tested in rows[2:] if not what.strip().startswith("**")]
    assert len(behaviours) > 30
    for what, tested in behaviours:
        files = [span for span in CODE_SPAN.findall(tested) if span.startswith("test/")]
        assert files, f"'{what}' names no test"
        for file in files:
            path, _, name = file.partition("::")
            found = names_of_tests(REPOSITORY / path)
            assert name in found if name else found, f"'{what}' names {file}, which is not there"


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES
