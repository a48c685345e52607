"""How commands end: lost output, interrupts, missing packages; and their help and version."""

import io
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rf_jax
from rf_jax import compilation
from rf_jax.command_line import LineFormatter
from rf_jax.errors import InputError
from rf_jax.images.files import load_exr
from rf_jax.rendering.evaluation import format_table
from rf_jax.rendering.files import RenderSummary
from rf_jax.scene import bundled_scene, load_scene
from rf_jax.scene.check import describe
from rf_jax.studies.curves import distinct_names
from rf_jax.weights.checkpoint import save_checkpoint

ROOT = Path(__file__).parents[1]

COMMANDS = (
    ("render.py",),
    ("train.py",),
    ("convert_weights.py",),
    ("-m", "rf_jax.datagen"),
    ("-m", "rf_jax.datagen", "inspect"),
    ("-m", "rf_jax.datagen", "path_trace"),
    ("-m", "rf_jax.datagen.bundled"),
    ("-m", "rf_jax.datagen.furnace"),
    ("-m", "rf_jax.evaluate"),
    ("-m", "rf_jax.inverse"),
    ("-m", "rf_jax.scene"),
    ("-m", "rf_jax.studies.attention_maps"),
    ("-m", "rf_jax.studies.benchmark"),
    ("-m", "rf_jax.studies.curves"),
    ("-m", "rf_jax.studies.input_rate"),
    ("-m", "rf_jax.studies.inverse_rendering"),
    ("-m", "rf_jax.studies.performer_error"),
    ("-m", "rf_jax.studies.precision"),
    ("-m", "rf_jax.weights.random_weights"),
)


@pytest.fixture
def start(command):
    """Runs a command of `COMMANDS`, which begins with a script or with -m."""

    def run(name, *arguments):
        return command(arguments[0], *arguments[1:]) if name == "-m" else command(name, *arguments)

    return run


# --- help and version ---


@pytest.mark.parametrize("name", COMMANDS, ids=" ".join)
def test_help_gives_the_name_and_every_default(start, name):
    status, out, _ = start(*name, "--help")
    assert status == 0
    assert " ".join(out.split()).startswith(f"usage: python {' '.join(name)} [-h] [--version] ")
    assert "%(prog)s" not in out
    usage, _, options = out.partition("options:\n")
    for text in re.split(r"\n  (?=--)", options)[1:]:
        option, takes_value, _ = re.match(r"(--\w+)( [A-Z{][^\n]*?)?(  |\n|$)", text).groups()
        assert len(text.split()) > 2, f"{option} is not explained"
        if takes_value and f"[{option}" in " ".join(usage.split()):
            assert re.search(r"\((default: .+|no default; .+)\)", " ".join(text.split())), option


@pytest.mark.parametrize("name", COMMANDS, ids=" ".join)
def test_version(start, name):
    assert start(*name, "--version") == (0, f"rf_jax {rf_jax.__version__}\n", "")


def test_options_are_not_abbreviated(command):
    status, _, errors = command("render.py", "--output", "x")
    assert status == 2 and "unrecognized arguments: --output" in errors


# --- missing packages ---

WITHOUT_EXTRAS = """
import runpy, sys, warnings

warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)
extras = "fast_simplification", "matplotlib", "mitsuba", "pymeshlab", "pyoidn", "skimage"
sys.modules.update(dict.fromkeys([*extras, "tensorboard"]))
for arguments in sys.stdin.read().splitlines():
    sys.argv = arguments.split()
    try:
        if sys.argv[0] == "-m":
            del sys.argv[0]
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        print(end.code, arguments, file=sys.stderr)
"""


def test_extras_are_named_and_help_needs_none(tmp_path):
    shutil.copytree(ROOT / "tests" / "data" / "rooms", tmp_path / "rooms")
    lines = [
        *(" ".join((*name, "--help")) for name in COMMANDS),
        f"-m rf_jax.datagen --config data_tiny --output_dir {tmp_path}/data",
        f"-m rf_jax.datagen path_trace cornell_box --output_dir {tmp_path}/truth",
        f"-m rf_jax.studies.curves {tmp_path}/rooms",
        f"-m rf_jax.datagen inspect {tmp_path}/rooms",
    ]
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS],
        input="\n".join(lines),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    errors = result.stderr.splitlines()
    count = len(COMMANDS)
    assert errors[:count] == [f"0 {line}" for line in lines[:count]]
    messages, ends = errors[count::2], errors[count + 1 :: 2]
    assert ends == [f"2 {line}" for line in lines[count:]]
    for message, extra in zip(messages, ("datagen",) * 2 + ("plot",) * 2, strict=True):
        assert message.startswith("error: ") and f"pip install 'rf_jax[{extra}]'" in message


# --- imports ---


def test_import_is_light_and_names_resolve():
    code = (
        "import sys, rf_jax; loaded = set(sys.modules) & {'trimesh', 'scipy', 'orbax', 'jax'}\n"
        "assert not loaded and set(rf_jax.__all__) <= set(dir(rf_jax)), loaded\n"
        "print(*(getattr(rf_jax, name).__name__ for name in rf_jax.__all__))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.split() == rf_jax.__all__, result.stderr
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rf_jax.nothing


LOST = """
import os, signal, time
from rf_jax.command_line import run_command_line

class Callback:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

def main():
    Callback()
    time.sleep(100)

run_command_line(main)
"""


def test_an_interrupt_in_a_callback_is_not_lost():
    """Python drops errors in callbacks of the garbage collector and in `__del__`."""
    command = [sys.executable, "-c", LOST]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (130, "")


# --- the cache of compiled programs ---


def no_home():
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.parametrize("case", ["no home", "home is a file", "folder in a file", "read-only"])
def test_a_cache_that_cannot_be_used_warns_in_one_line(case, tmp_path, monkeypatch, caplog):
    import jax

    file = tmp_path / "file"
    file.touch()
    before = jax.config.jax_compilation_cache_dir
    folder = f"{file}/cache" if case == "folder in a file" else None
    jax.config.update("jax_compilation_cache_dir", folder)
    monkeypatch.setattr(Path, "home", no_home if case == "no home" else lambda: file)
    if case == "read-only":
        monkeypatch.setattr(Path, "home", lambda: tmp_path)
        monkeypatch.setattr("os.access", lambda path, mode: False)
    try:
        compilation.enable_compilation_cache()
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    (message,) = caplog.messages
    assert "compiled programs are not kept" in message and "\n" not in message


# --- names of files ---


def test_names_that_are_not_ascii(tmp_path, config, variables):
    """In a process that takes names as ASCII, and names that are not UTF-8 anywhere."""
    environment = os.environ | {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    names = [os.fsdecode("b\u00f6x".encode(encoding)) for encoding in ("utf-8", "latin-1")]
    for name in names:
        shutil.copytree(bundled_scene("blue_room").parent, tmp_path / name)
        (tmp_path / name / "scene.json").rename(tmp_path / name / f"{name}.json")
    scenes = [tmp_path / name / f"{name}.json" for name in names]
    options = ["--save_h5", "--save_video", "--tone_mapper", "agx", "--output_dir", names[1]]
    result = subprocess.run(
        [sys.executable, ROOT / "render.py", *scenes, *options],
        cwd=tmp_path, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "") and "-> b\\udcf6x/" in result.stdout
    for name in names:
        assert load_exr(tmp_path / names[1] / f"{name}_view_0.exr").shape == (64, 64, 3)
    with pytest.raises(InputError, match="expected a name in UTF-8"):
        save_checkpoint(tmp_path / names[1] / "weights", variables, config.to_dict())


# --- lost output and interrupts ---

WRITER = """
import sys
from rf_jax.command_line import run_command_line

def main():
    for _ in range(int(sys.argv[1])):
        print("x" * 99)

run_command_line(main)
"""


@pytest.mark.parametrize("lines", [1, 9999])
@pytest.mark.parametrize("flags", [(), ("-u",)], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("output", ["closed", "full"])
def test_lost_output(output, flags, lines):
    write = [sys.executable, *flags, "-c", WRITER, str(lines)]
    if output == "closed":
        reader = subprocess.Popen(["true"], stdin=subprocess.PIPE)
        reader.wait()
        target = reader.stdin
        expected = (141, "")
    else:
        target = open("/dev/full", "w")  # noqa: SIM115
        expected = (1, "error: the output cannot be written: No space left on device\n")
    with target:
        result = subprocess.run(write, stdout=target, stderr=subprocess.PIPE, cwd=ROOT, text=True)
        assert (result.returncode, result.stderr) == expected


def test_help_into_a_closed_pipe(monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    command = f"{sys.executable} render.py --help | true; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("141\n", "")


def test_other_errors_of_the_system_are_not_hidden():
    code = "import os; from rf_jax.command_line import run_command_line as run; run(os.wait)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1 and "ChildProcessError" in result.stderr


RENDER = ("render.py", "turning_block", "--resolution", "256")
EVALUATE = ("-m", "rf_jax.evaluate", "--checkpoint", "rooms", "--data", "tests/data/rooms")


@pytest.mark.parametrize(
    ("arguments", "library"), [(RENDER, "numpy"), (RENDER, "jaxlib"), (EVALUATE, "numpy")]
)
def test_interrupts_end_quietly(arguments, library, tmp_path):
    """Once the first libraries are imported; before that, Python itself reports them."""
    command = [sys.executable, *arguments, "--output_dir", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as run:
        loaded = Path(f"/proc/{run.pid}/maps")
        while run.poll() is None and library not in loaded.read_text():
            time.sleep(0.01)
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate()
    assert errors == "" and run.returncode in (130, -signal.SIGINT)


MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in ("studies", "weights", "datagen")
    for path in sorted((ROOT / "rf_jax" / folder).glob("*.py"))
    if "run_command_line(main)" in path.read_text()
]


@pytest.mark.parametrize("module", MODULES)
def test_an_interrupt_while_a_module_imports_ends_it_quietly(module, tmp_path):
    """Ctrl-C comes when NumPy is imported, which is the first slow import of all of them."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'numpy':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (-signal.SIGINT, "")


def test_workers_are_deaf_to_interrupts(tmp_path):
    """Ctrl-C reaches every process of a terminal, here while workers import their modules."""
    options = ("--config", "data_tiny", "--config.num_scenes=500", "--dry_run")
    with subprocess.Popen(
        [sys.executable, "-m", "rf_jax.datagen", *options],
        cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as run:  # fmt: skip
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
        while run.poll() is None and len(children.read_text().split()) < 2:  # one is the tracker
            time.sleep(0.05)
        time.sleep(0.5)
        os.killpg(run.pid, signal.SIGINT)
        _, errors = run.communicate()
    assert errors == "" and run.returncode == 130


# --- what reaches the terminal ---


def test_warnings_are_lines_without_control_characters():
    handler = logging.StreamHandler(stream := io.StringIO())
    handler.setFormatter(LineFormatter())
    record = logging.LogRecord(
        "a", logging.WARNING, "a.py", 1, "%s: odd", ("\x1b[2J\nb.obj",), None
    )
    handler.emit(record)
    assert stream.getvalue() == "warning: \\x1b[2J b.obj: odd\n"


def test_tables_have_no_control_characters():
    """Files and objects in them choose names that are printed."""
    name = "\x1b[2Ja"
    scene = load_scene("cornell_box")
    scene = scene.replace(object_names=tuple(name for _ in scene.object_names))
    summary = RenderSummary(psnr={name: [30.0]}, uncompared={name: 64})
    row = {"scene": name, "psnr": 1.0, "ssim": 1.0, "hdr_flip": 0.0}
    lines = [*describe(scene), *summary.comparison_lines(), *format_table([row]).split("\n")]
    lines += distinct_names([Path("/tmp") / name])
    assert sum("\\x1b[2Ja" in line for line in lines) >= 5
    assert all(line.isprintable() for line in lines)


def test_whatever_is_printed_has_no_control_characters():
    code = (
        "from rf_jax.command_line import run_command_line\n"
        "run_command_line(lambda: print('a\\x1b[2J\\u202eb', 'c', sep='\\n'))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "a\\x1b[2J\\u202eb\nc\n", result.stderr


def test_errors_are_short_lines_without_control_characters(refused):
    error = refused("render.py", f"\x1b[2J\u202e{'x' * 5000}.json")
    assert error.startswith("error: \\x1b[2J\\u202exxx") and "no such scene" in error
    assert len(error) < 320 and error.strip().isprintable()
