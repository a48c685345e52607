"""RenderFormer in JAX/Flax: triangles with materials and lights in, a globally lit image out.

Example:

    renderer = rf_jax.Renderer.from_pretrained("microsoft/renderformer-v1-base")
    image = renderer.render(rf_jax.load_scene("scene.json"), resolution=512)  # [B, V, H, W, C]
"""

from rf_jax.errors import InputError
from rf_jax.rendering.renderer import Renderer
from rf_jax.scene import load_scene
from rf_jax.structs import Scene

__all__ = ["InputError", "Renderer", "Scene", "load_scene"]
