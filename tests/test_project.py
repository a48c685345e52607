"""The project's own rules: lint, format, the direction of imports, sizes, the README."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SOURCES = sorted((ROOT / "rf_jax").rglob("*.py"))
MAX_LINES, MAX_FUNCTION_LINES = 400, 60

GROUND = (
    "assets",
    "checksums",
    "command_line",
    "compilation",
    "config_files",
    "errors",
    "files",
    "geometry",
    "hdf5",
    "interrupts",
    "precision",
    "processes",
    "radiance",
    "schema",
    "structs",
    "trained_on",
)
RANKS = (
    GROUND,
    ("attention",),
    ("models", "images"),
    ("scene", "weights"),
    ("rendering", "datagen", "training"),
    ("viewer",),
    ("studies", "planning"),
    ("commands", "evaluate", "inverse", "plan", "view"),
)
"""The modules of rf_jax (a package counts as one); each imports from its own rank or those above
it in this list."""


def module_name(path: Path) -> str:
    return path.relative_to(ROOT / "rf_jax").parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    """The modules of rf_jax that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rf_jax":
            parts = node.module.split(".")
            names |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
            names -= {"__version__"}
        elif isinstance(node, ast.Import):
            modules = (alias.name.split(".") for alias in node.names)
            names |= {parts[1] for parts in modules if parts[0] == "rf_jax" and len(parts) > 1}
    return names


def import_graph() -> dict[str, set[str]]:
    """Module -> the other modules that it imports."""
    graph: dict[str, set[str]] = {}
    for path in SOURCES:
        module = module_name(path)
        if path.name == "__main__.py":
            module = "commands"  # it starts one
        graph.setdefault(module, set()).update(imported_modules(path) - {module})
    del graph["__init__"]  # it re-exports from all ranks
    return graph


def test_every_module_has_a_rank():
    assert sorted(import_graph()) == sorted(name for names in RANKS for name in names)


def test_imports_go_one_way():
    """From higher ranks to lower ones, and without circles inside a rank."""
    rank = {name: i for i, names in enumerate(RANKS) for name in names}
    graph = import_graph()
    upward = [f"{a} -> {b}" for a in graph for b in graph[a] if rank[b] > rank[a]]
    assert not upward
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_the_network_knows_no_files_and_no_run_configurations():
    sources = [path for path in SOURCES if module_name(path) in ("attention", "models")]
    imports = set().union(*map(imported_modules, sources))
    assert imports <= {
        "attention",
        "errors",
        "geometry",
        "models",
        "precision",
        "radiance",
        "schema",
        "structs",
        "trained_on",
    }
    assert not any("ml_collections" in path.read_text() for path in sources)


def test_files_are_read_in_one_sitting():
    lengths = {path: len(path.read_text().splitlines()) for path in python_files()}
    assert not {str(path): n for path, n in lengths.items() if n > MAX_LINES}


def test_functions_are_seen_whole():
    long = {
        f"{path.relative_to(ROOT)}: {node.name}": node.end_lineno - node.lineno + 1
        for path in python_files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    }
    assert not long


def python_files() -> list[Path]:
    """The scripts, the package, its configurations and tests."""
    folders = (ROOT / name for name in ("configs", "tests"))
    return [*ROOT.glob("*.py"), *SOURCES, *(path for f in folders for path in f.rglob("*.py"))]


@pytest.mark.parametrize("arguments", [("check",), ("format", "--check")], ids=" ".join)
def test_ruff(arguments):
    command = [sys.executable, "-m", "ruff", *arguments, "."]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_readme_names_both_commands():
    readme = (ROOT / "README.md").read_text()
    assert "pip install -e . && python render.py" in readme
    assert "pip install -e '.[test]' && pytest -n 2" in readme
