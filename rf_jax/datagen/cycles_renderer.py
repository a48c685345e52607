"""Ground truth by Blender's Cycles.

It runs in a Python of its own, because `bpy` needs NumPy 1 and JAX needs NumPy 2.
"""

import dataclasses
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from rf_jax.datagen.config import RenderConfig
from rf_jax.errors import InputError
from rf_jax.structs import Scene

WORKER = Path(__file__).with_name("cycles_worker.py")
CHECK_SECONDS = 120
INSTALL = "python3.11 -m venv cycles && cycles/bin/pip install bpy==4.5.15 'numpy<2'"


def check_cycles(python: str | None) -> str:
    """Finds the version of Blender in a Python.

    Raises:
      InputError: no Python is given, or it has no `bpy`; says how to make one.
    """
    if python is None:
        raise InputError(f"Cycles needs --cycles_python PATH, a Python with bpy ({INSTALL})")
    command = [python, "-c", "import bpy; print(bpy.app.version_string)"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=CHECK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"--cycles_python {python}: cannot be run ({error})") from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"--cycles_python {python}: bpy does not load ({reason}); {INSTALL}")
    return done.stdout.strip().splitlines()[-1]


class CyclesRenderer:
    """Renders scenes with Cycles, with one process per scene.

    Args:
      config: resolution, samples, denoising, and the settings of Cycles.
      python: path of a Python that has `bpy`.
      threads: number of threads that may render one scene.
    """

    def __init__(self, config: RenderConfig, python: str, threads: int):
        self.python = python
        self.name = f"cycles of blender {check_cycles(python)}"
        unbiased = config.cycles.filter_glossy == config.cycles.clamp_indirect == 0
        self.settings = dataclasses.asdict(config.cycles) | {
            "resolution": config.resolution,
            "spp": config.spp,
            "denoise": config.denoise,
            "threads": threads,
            "unbiased": unbiased,
        }

    def render(self, scene: Scene, seed: int) -> np.ndarray:
        """Renders the views of a scene (see `PathTracer.render`).

        Raises:
          InputError: Blender failed; quotes the last line that it printed.
        """
        settings = json.dumps(self.settings | {"seed": seed})
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "scene.npz", Path(folder) / "images.npy"
            np.savez(
                source,
                triangles=scene.triangles,
                normals=scene.vertex_normals,
                texture=scene.texture,
                camera_to_world=scene.camera_to_world,
                fov_degrees=scene.fov_degrees,
                settings=settings,
            )
            command = [self.python, str(WORKER), str(source), str(target)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode or not target.exists():
                lines = (done.stderr + done.stdout).strip().splitlines() or ["no message"]
                raise InputError(f"Cycles ended with status {done.returncode}: {lines[-1]}")
            return np.load(target)
