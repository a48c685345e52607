"""Configuration files: what they may hold, how options change them, how they are refused."""

import dataclasses
from pathlib import Path
from typing import Literal

import pytest
from ml_collections import ConfigDict

from rf_jax.config_files import config_names, load_config_file, parse_config, to_config_dict
from rf_jax.datagen.config import DataConfig
from rf_jax.errors import InputError
from rf_jax.schema import NonNegative, Positive
from rf_jax.training.config import TrainingConfig

ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Inner:
    size: NonNegative = 1.0
    shape: tuple[int, ...] = (1, 2)
    layers: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Config:
    count: Positive
    name: str | None = None
    limit: Positive | None = None
    kind: Literal["a", "b"] = "a"
    flag: bool = False
    inner: Inner = Inner()


@pytest.fixture
def load(tmp_path):
    """Writes a file whose `get_config()` has this body, and loads it with overrides."""

    def load(body, *overrides):
        path = tmp_path / "made.py"
        path.write_text(f"def get_config():\n    {body}\n")
        return load_config_file(Config, str(path), [f"--config.{text}" for text in overrides])

    return load


def test_overrides_reach_every_level(load):
    config = load(
        "return {'count': 3, 'inner': {'size': 2}}",
        "name=x",
        "limit=4",
        "kind=b",
        "flag=True",
        "inner.size=3",
        "inner.shape=(5,)",
        "inner.layers=(1, 2)",
    )
    assert config == Config(3, "x", 4, "b", True, Inner(3.0, (5,), (1, 2)))
    assert isinstance(config.inner.size, float)


def test_a_config_dict_has_every_field():
    config = Config(3, inner=Inner(2.0))
    values = to_config_dict(config)
    assert values.is_locked and set(values) == {field.name for field in dataclasses.fields(config)}
    assert parse_config(Config, values) == config
    assert parse_config(Config, ConfigDict({"count": 3, "inner": {"size": 2}})) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("conut=3", r"config\.conut: unknown key; did you mean 'count'\?"),
        ("zzz=3", r"config\.zzz: unknown key; expected count, flag, inner, kind, limit, name"),
        ("inner.sizes=3", r"config\.inner\.sizes: unknown key; did you mean 'size'\?"),
        ("count.x=3", "count.x"),
        ("count=many", "count=many: invalid literal"),
        ("count=1.5", "count=1.5: invalid literal"),
        ("count", "Missing value"),
        ("count=0", r"config\.count: expected an integer >= 1, found 0"),
        ("limit=0", r"config\.limit: expected an integer >= 1, found 0"),
        ("kind=c", r'config\.kind: expected one of "a", "b", found "c"'),
        ("inner=3", "inner=3"),
        ("inner.shape[0]=3", r"shape\[0\]"),
        ("inner.shape=(1.5,)", r"config\.inner\.shape\[0\]: expected an integer, found 1.5"),
    ],
)
def test_bad_overrides(load, override, message):
    with pytest.raises(InputError, match=rf"made\.py: .*{message}") as error:
        load("return {'count': 3}", override)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return None", r"expected a function get_config\(\) that returns a ConfigDict$"),
        ("return 3", r"config: expected a JSON object, found 3$"),
        ("return {}['x']", r"cannot be run \(KeyError: 'x'\)$"),
        ("open('/no/such/file')", r"cannot be run \(FileNotFoundError: .*/no/such/file'\)$"),
        ("assert False", r"cannot be run \(AssertionError:\)$"),
        ("x = (", r"cannot be run \(SyntaxError: '\(' was never closed\)$"),
        ("raise SystemExit('enough')", r"cannot be run \(SystemExit: enough\)$"),
        ("import no_such_module", r"cannot be run \(ModuleNotFoundError: .*\)$"),
        ("raise ValueError('a\\n\\x1b[31m' + 'b' * 10**6)", r"cannot be run .*a \\x1b\[31mbb"),
        ("return {'count': None}", r"config\.count: expected an integer >= 1, found null$"),
        ("return {}", r"config\.count: missing key$"),
    ],
)
def test_bad_files(load, body, message):
    # What runs fails in line 2
    with pytest.raises(InputError, match=rf"made\.py(:2)?: {message}") as error:
        load(body)
    assert ("cannot be run" in message) == ("made.py:2" in str(error.value))
    assert len(str(error.value)) <= 300


@pytest.mark.parametrize("name", config_names())
def test_configurations_go_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cls = DataConfig if name.startswith("data_") else TrainingConfig
    assert load_config_file(cls, name) == load_config_file(cls, f"{ROOT}/configs/{name}.py")


def test_files_without_a_configuration(tmp_path):
    expected = r"nowhere\.py: no such configuration file, nor one of base_256, .*, tiny$"
    with pytest.raises(InputError, match=expected):
        load_config_file(Config, str(tmp_path / "nowhere.py"))
    with pytest.raises(InputError, match="no such configuration file"):
        load_config_file(Config, str(tmp_path))
    with pytest.raises(InputError, match="no such configuration file"):
        load_config_file(Config, "x" * 300 + ".py")
    (tmp_path / "empty.py").write_text("y = 1\n")
    with pytest.raises(InputError, match=r"empty\.py: expected a function get_config\(\)"):
        load_config_file(Config, str(tmp_path / "empty.py"))
