"""Which way imports go, as docs/architecture.md says, and what the container needs."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import REPOSITORY

LAYERS = (
    ("process",),
    ("model.modes",),
    ("model.predictor",),
    ("model.images", "model.network"),
    ("model.speed",),
    ("model.constants", "model.errors", "model.files", "model.checks"),
)
"""From the top: a module imports of its own entry and of those below."""

CONTAINER = {"torch", "timm", "safetensors", "numpy", "tifffile", "imagecodecs", "cv2", "PIL", "fastapi", "uvicorn"} | {
    "h11",  # which uvicorn brings
    "tqdm",
}
"""Libraries that `model` may import: those of requirements.txt."""

MODULES = sorted([REPOSITORY / "process.py", *(REPOSITORY / "model").rglob("*.py")])


def name_of(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, inside functions, too; but not for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        node
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and isinstance(test.test, ast.Name) and test.test.id == "TYPE_CHECKING"
        for node in ast.walk(test)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (
                name if (REPOSITORY / f"{name.replace('.', '/')}.py").is_file() else node.module for name in inside
            )


def layer(name: str) -> int | None:
    """The number of a module's layer; None for what has none, such as the package `model` itself."""
    for number, entries in enumerate(LAYERS):
        if any(name == entry or name.startswith(f"{entry}.") for entry in entries):
            return number
    return None


def test_the_modules_of_the_container_are_found() -> None:
    assert len(MODULES) > 30
    assert {name_of(path) for path in MODULES if layer(name_of(path)) is None} == {"model"}
    assert "model.images.worker" in set(imports(REPOSITORY / "model" / "images" / "read.py"))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down_only(path: Path) -> None:
    own = layer(name_of(path))
    for name in imports(path):
        assert not name.startswith(("training", "benchmark", "test", "helpers")), f"{path} imports {name}"
        theirs = layer(name)
        if own is not None and theirs is not None:
            assert theirs >= own, f"{path} imports {name}, which is above it"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_libraries_of_the_container_are_imported(path: Path) -> None:
    for name in imports(path):
        library = name.partition(".")[0]
        assert library in CONTAINER | {"model"} or library in sys.stdlib_module_names, f"{path} imports {name}"


def test_there_is_no_circle() -> None:
    """What runs when a module is first imported; the worker imports its caller in another process."""
    below = {name_of(path): {name for name in imports(path) if name.startswith("model.")} for path in MODULES}
    below["model.images.worker"] -= {"model.images.read"}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way, name])
        if name not in done:
            for other in below.get(name, ()):
                visit(other, (*way, name))
            done.add(name)

    for name in below:
        visit(name, ())
    assert done >= set(below)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_function_takes_more_than_five_things(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            assert len([name for name in names if name not in ("self", "cls")]) <= 5, f"{path}: {node.name}"
