"""What the code of training keeps to: short signatures, imports that go down, plain names."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import REPOSITORY

MODULES = sorted((REPOSITORY / "training").rglob("*.py"))
MOST_PARAMETERS = 5
FOLDERS = ("data", "network", "evaluation", "fitting")
"""Each may import those before it; what one runs may import all."""
BELOW_ALL = "training.config"


def names(arguments: ast.arguments) -> list[str]:
    parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [parameter.arg for parameter in parameters if parameter.arg not in ("self", "cls")]


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_no_function_takes_many_parameters_or_one_without_a_meaning(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            taken = names(node.args)
            where = f"{path.name}, line {node.lineno}"
            assert len(taken) <= MOST_PARAMETERS, where
            assert "of" not in taken, where
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            assert node.id != "of", f"{path.name}, line {node.lineno}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_a_folder_imports_only_what_is_below_it(path: Path) -> None:
    folder = path.parent.name if path.parent.name in FOLDERS else None
    allowed = FOLDERS[: FOLDERS.index(folder) + 1] if folder else FOLDERS
    for name in imported(path):
        package = name.split(".")[0]
        assert package not in ("benchmark", "process", "test"), name
        if package == "training" and folder and not name.startswith(BELOW_ALL):
            assert name.split(".")[1] in allowed, name


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    modules = {".".join(path.relative_to(REPOSITORY).with_suffix("").parts): path for path in MODULES}
    imports = {
        module: {name for found in imported(path) for name in (found, found.rpartition(".")[0]) if name in modules}
        for module, path in modules.items()
    }
    while leaves := {module for module, others in imports.items() if not others}:
        imports = {module: others - leaves for module, others in imports.items() if module not in leaves}
    assert not imports, f"these wait for each other: {sorted(imports)}"
