"""RenderFormer in JAX/Flax: triangles with materials and lights in, a globally lit image out.

Example:

    renderer = rf_jax.Renderer.from_pretrained()  # the bundled network
    image = renderer.render(rf_jax.load_scene("cornell_box"))  # [B, V, H, W, C] linear radiance
    rf_jax.show(image)  # a picture, in a notebook

The names below are imported when they are first used, so `import rf_jax` itself is quick.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from rf_jax.interrupts import end_the_process

if TYPE_CHECKING:
    from rf_jax.errors import InputError
    from rf_jax.images.show import show
    from rf_jax.rendering.function import render_function
    from rf_jax.rendering.renderer import Renderer
    from rf_jax.scene import load_scene
    from rf_jax.scene.builder import SceneBuilder
    from rf_jax.scene.parameters import SceneParameters, scene_parameters
    from rf_jax.structs import Scene

if sys.argv[:1] == ["-m"]:  # Python is about to run a module of this package as a command.
    end_the_process()

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "Renderer",
    "Scene",
    "SceneBuilder",
    "SceneParameters",
    "load_scene",
    "render_function",
    "scene_parameters",
    "show",
]

_MODULES = {
    "InputError": "rf_jax.errors",
    "Renderer": "rf_jax.rendering.renderer",
    "Scene": "rf_jax.structs",
    "SceneBuilder": "rf_jax.scene.builder",
    "SceneParameters": "rf_jax.scene.parameters",
    "load_scene": "rf_jax.scene",
    "render_function": "rf_jax.rendering.function",
    "scene_parameters": "rf_jax.scene.parameters",
    "show": "rf_jax.images.show",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
