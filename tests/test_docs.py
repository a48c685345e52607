"""What the pages at the top, those in docs/ and the model card name is there."""

import configparser
import importlib.util
import pkgutil
import re
from pathlib import Path

import rf_jax
from rf_jax.config_files import config_names

ROOT = Path(__file__).parents[1]
PAGES = [path for pattern in ("*.md", "docs/*.md", "rf_jax/**/*.md") for path in ROOT.glob(pattern)]


def named(pattern: str) -> set[tuple[Path, str]]:
    """What matches the pattern, and the page that it is in."""
    found = {(page, name) for page in PAGES for name in re.findall(pattern, page.read_text())}
    assert found, "no page names any; the pattern is wrong"
    return found


def test_relative_links_resolve():
    links = named(r"\]\((?!\w+://)([^)\s#]+)")
    missing = {(page, link) for page, link in links if not (page.parent / link).exists()}
    assert not missing


def test_files_exist():
    """Paths from the root of the repository, also with wildcards."""
    paths = named(r"(?<![\w./])(?:configs|docs|rf_jax|tests)/[\w./*-]*[\w/*]")
    missing = {(page, path) for page, path in paths if not any(ROOT.glob(path.rstrip("/")))}
    assert not missing


def test_scripts_exist():
    scripts = named(r"python (\w[\w/]*\.py)")
    missing = {(page, script) for page, script in scripts if not (ROOT / script).exists()}
    assert not missing


def test_commands_exist():
    modules = named(r"python -m (rf_jax[\w.]*\w)")
    missing = {(page, module) for page, module in modules if not is_command(module)}
    assert not missing


def test_console_commands_exist():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    scripts = setup["options.entry_points"]["console_scripts"].split("\n")
    known = {script.partition("=")[0].strip() for script in scripts}
    missing = {(page, name) for page, name in named(r"rf-jax-\w+") if name not in known}
    assert not missing


def test_configurations_exist():
    known = {*config_names(), *(f"configs/{name}.py" for name in config_names())}
    missing = {(page, name) for page, name in named(r"--config ([\w/.]+)") if name not in known}
    assert not missing


def test_the_citation_has_the_version():
    assert f"\nversion: {rf_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_modules_and_functions_exist():
    names = named(r"(?<![\w./-])rf_jax(?:\.[A-Za-z_]\w*)+")
    missing = {(page, name) for page, name in names if not resolves(name)}
    assert not missing


def is_command(module: str) -> bool:
    """Whether `python -m` runs it: a module, or a package with a `__main__`."""
    try:
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{module}.__main__")
    except ModuleNotFoundError:
        return False
    return spec is not None


def resolves(name: str) -> bool:
    """Whether it is a module, or something in one."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True
