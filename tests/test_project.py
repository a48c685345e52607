"""The project's own rules: lint, format, the direction of imports, file sizes, the README."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SOURCES = sorted((ROOT / "rf_jax").rglob("*.py"))
MAX_LINES = 400


def module_name(path: Path) -> str:
    return path.relative_to(ROOT / "rf_jax").parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    """The modules of rf_jax that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rf_jax":
            parts = node.module.split(".")
            names |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            modules = (alias.name.split(".") for alias in node.names)
            names |= {parts[1] for parts in modules if parts[0] == "rf_jax" and len(parts) > 1}
    return names


def test_imports_go_one_way():
    """No module (a package counts as one) imports another that, in the end, imports it."""
    graph: dict[str, set[str]] = {}
    for path in SOURCES:
        module = module_name(path)
        graph.setdefault(module, set()).update(imported_modules(path) - {module})
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_the_network_knows_no_files_and_no_run_configurations():
    sources = [path for path in SOURCES if module_name(path) == "models"]
    imports = set().union(*map(imported_modules, sources))
    assert imports <= {
        "models",
        "attention",
        "encodings",
        "errors",
        "geometry",
        "precision",
        "texture",
    }
    assert not any("ml_collections" in path.read_text() for path in sources)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("arguments", [("check",), ("format", "--check")], ids=" ".join)
def test_ruff(arguments):
    command = [sys.executable, "-m", "ruff", *arguments, "."]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_readme_names_both_commands():
    readme = (ROOT / "README.md").read_text()
    assert "pip install -e . && python render.py" in readme
    assert "pip install -e '.[test]' && pytest" in readme
