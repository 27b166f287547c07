"""Imports go down only, in no circle, and what the container runs imports nothing that only training needs."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import REPOSITORY

LAYERS = [
    ["model.constants", "model.errors", "model.files", "model.checks", "model.device"],
    ["model.speed"],
    ["model.images", "model.network"],
    ["model.slides"],
    ["model.predictor"],
    ["model.modes"],
    ["model.report"],
    ["model"],
    ["process"],
    ["cohort"],
    ["training"],
    ["benchmark"],
]
"""From the lowest: a module imports from its own layer and those above it in this list, by the longest prefix."""

PROVIDES = {
    "pillow": ["PIL"],
    "opencv-python-headless": ["cv2"],
    "openslide-python": ["openslide"],
    "scikit-learn": ["sklearn"],
    "uvicorn": ["uvicorn", "h11"],  # which it requires itself
}
"""What packages are imported as, where that is not their own name."""


def module_files(root: Path) -> dict[str, Path]:
    """Python files of the program by the names that they are imported by."""
    files = [
        root / "process.py",
        *(file for top in ("model", "cohort", "training", "benchmark") for file in (root / top).rglob("*.py")),
    ]
    return {".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def for_types_only(node: ast.AST) -> bool:
    """Whether it is `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, name) of every import that is run, at the top or in a function; the name is empty in `import module`."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, "") for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports name their module in full"
        yield from ((node.module or "", alias.name) for alias in node.names)
    for child in ast.iter_child_nodes(node):
        if not for_types_only(node) or child in node.orelse:
            yield from imported(child)


def graph(files: dict[str, Path]) -> dict[str, set[str]]:
    """The modules of the program, and others' top-level packages, that each module imports."""
    edges: dict[str, set[str]] = {}
    for module, file in files.items():
        edges[module] = set()
        for source, name in imported(ast.parse(file.read_text(encoding="utf-8"))):
            whole = f"{source}.{name}"
            edges[module].add(whole if whole in files else source if source in files else source.partition(".")[0])
    return edges


def layer(module: str) -> int:
    """Place in `LAYERS`."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        for number, names in enumerate(LAYERS):
            if ".".join(parts[:length]) in names and (length == len(parts) or names != ["model"]):
                return number
    raise LookupError(f"{module} is in no layer")


def upward(edges: dict[str, set[str]]) -> list[str]:
    """Imports from a higher layer."""
    return [f"{a} -> {b}" for a, targets in edges.items() for b in targets if b in edges and layer(b) > layer(a)]


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Ways from a module back to itself, one for each that is on one."""
    found = []
    for start in edges:
        ways = [[start]]
        seen: set[str] = set()
        while ways:
            way = ways.pop()
            for target in edges[way[-1]] & edges.keys():
                if target == start:
                    found.append([*way, start])
                elif target not in seen:
                    seen.add(target)
                    ways.append([*way, target])
    return found


def packages(requirements: Path) -> set[str]:
    """Names that the packages of a requirements file are imported by."""
    names = re.findall(
        r"^([A-Za-z0-9_-]+)(?:\[[a-z,]+\])?==", requirements.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    return {module for name in names for module in PROVIDES.get(name, [name.replace("-", "_")])}


@pytest.fixture(scope="module")
def edges() -> dict[str, set[str]]:
    return graph(module_files(REPOSITORY))


def test_imports_go_down_only(edges: dict[str, set[str]]) -> None:
    assert len(edges) > 50 and "model.speed.imports" in edges["model.network.classifier"]
    assert upward(edges) == []


def test_no_import_goes_in_a_circle(edges: dict[str, set[str]]) -> None:
    assert circles(edges) == []


def test_what_the_container_runs_imports_only_what_it_installs(edges: dict[str, set[str]]) -> None:
    own = {module for module in edges if module.partition(".")[0] in ("model", "process")}
    assert "model.predictor" in own
    known = packages(REPOSITORY / "requirements.txt") | set(sys.stdlib_module_names) | edges.keys()
    optional = {"model.report.explain": packages(REPOSITORY / "explain-requirements.txt")}
    assert optional["model.report.explain"] == {"captum"}
    missing = {(module, name) for module in own for name in edges[module] - known - optional.get(module, set())}
    assert missing == set()
    others = {module for module in edges if module.partition(".")[0] in ("cohort", "training", "benchmark")}
    assert "cohort.predict" in others and not any(edges[module] & others for module in own)
    cohort = {module for module in others if module.startswith("cohort")}
    assert not any(edges[module] & cohort for module in others if module.startswith("training"))


def test_a_cohort_imports_only_what_its_requirements_name(edges: dict[str, set[str]]) -> None:
    """And nothing of training, which is not installed on a cluster's machines."""
    named = [REPOSITORY / name for name in ("requirements.txt", "explain-requirements.txt", "cohort/requirements.txt")]
    known = {name for path in named for name in packages(path)} | set(sys.stdlib_module_names)
    own = {module for module in edges if module.partition(".")[0] in ("cohort", "model", "process")}
    assert {f"{module} -> {name}" for module in own for name in edges[module] - known - own} == set()


def test_what_breaks_the_rules_is_found(tmp_path: Path) -> None:
    """The checks themselves, on a small program with one fault of each kind."""
    sources = {
        "process.py": "from model.predictor import Predictor",
        "model/__init__.py": "",
        "model/constants.py": "def late():\n    from model.network import views",
        "model/network/__init__.py": "",
        "model/network/views.py": "if TYPE_CHECKING:\n    from model.predictor import X\nimport model.constants",
        "model/predictor.py": "import sklearn.metrics\nfrom model.network.views import count",
    }
    for name, source in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    edges = graph(module_files(tmp_path))
    assert edges["model.predictor"] == {"sklearn", "model.network.views"}
    assert upward(edges) == ["model.constants -> model.network.views"]
    assert sorted(way[0] for way in circles(edges)) == ["model.constants", "model.network.views"]
    assert "sklearn" not in packages(REPOSITORY / "requirements.txt")
    assert "sklearn" in packages(REPOSITORY / "training" / "requirements.txt")


def test_no_function_takes_more_than_five_things() -> None:
    paths = [REPOSITORY / "process.py", *(REPOSITORY / "model").rglob("*.py")]
    functions = [
        (path, node)
        for path in paths
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    ]
    assert len(functions) > 100
    for path, node in functions:
        names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        assert len([name for name in names if name not in ("self", "cls")]) <= 5, f"{path}: {node.name}"
