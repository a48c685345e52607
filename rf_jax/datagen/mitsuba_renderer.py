"""Ground truth by Mitsuba 3.

Surfaces are Lambert plus GGX. Lights emit to both sides, and the camera does not see them.
"""

from typing import Any

import mitsuba as mi
import numpy as np

from rf_jax.datagen.config import RenderConfig
from rf_jax.datagen.denoise import denoise
from rf_jax.datagen.microfacet import specular_scale
from rf_jax.structs import DIFFUSE, EMISSION, ROUGHNESS, SPECULAR, Scene

GUIDE_SPP = 32
"""Samples per pixel of the albedo and normal images that guide the denoiser."""

LIGHT_THICKNESS = 2e-5
"""Distance of the two one-sided emitters of a two-sided light; a ray must meet the nearer one."""

LARGEST_WAVEFRONT = 2**24
"""Most samples that a vectorised variant traces at a time; they take about 4 GB."""


class MitsubaRenderer:
    """Renders scenes with one variant of Mitsuba.

    Args:
      config: resolution, samples, bounces and denoising.
      variant: for example `scalar_rgb`; `probe.choose_variant` finds one that runs here.
      threads: number of threads that may render one scene.
    """

    def __init__(self, config: RenderConfig, variant: str, threads: int):
        mi.set_variant(variant)
        import drjit

        drjit.set_thread_count(threads)
        self.config = config
        self.variant = variant
        self.vectorised = variant != "scalar_rgb"
        self.name = f"mitsuba {mi.__version__} {variant}"
        if self.vectorised:
            from rf_jax.datagen.mitsuba_bsdf import register_bsdf

            register_bsdf()

    def render(self, scene: Scene, seed: int) -> np.ndarray:
        """Renders the views of a scene (see `PathTracer.render`)."""
        loaded = self.load(scene)
        images = np.stack(
            [
                self._render(loaded, view, self.config.spp, seed + view)
                for view in range(len(scene.fov_degrees))
            ]
        )
        if self.config.denoise:
            surfaces = self._surfaces(scene, ~_is_light(scene))
            images = denoise(images, *self._guides(scene, surfaces))
        return images

    def load(self, scene: Scene) -> Any:
        """The scene as Mitsuba has it; the mesh `surfaces` is all of it but the lights."""
        mi.set_variant(self.variant)
        lights = _is_light(scene)
        path = {"type": "path", "max_depth": self.config.max_depth, "hide_emitters": True}
        return mi.load_dict(
            {"type": "scene", "integrator": path}
            | self._surfaces(scene, ~lights)
            | self._lights(scene, lights)
            | self._sensors(scene)
        )

    def _guides(self, scene: Scene, surfaces: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Albedo and normal images [V, H, H, 3] of what the cameras see."""
        integrator = {"type": "aov", "aovs": "albedo:albedo,normal:sh_normal"}
        # Mitsuba needs a light. Those of the scene are left out, because cameras do not see them
        light = {"light": {"type": "point", "position": [0, 0, 9]}}
        loaded = mi.load_dict(
            {"type": "scene", "integrator": integrator} | surfaces | light | self._sensors(scene)
        )
        guides = np.stack(
            [self._render(loaded, view, GUIDE_SPP, view) for view in range(len(scene.fov_degrees))]
        )
        return guides[..., -6:-3], guides[..., -3:]

    def _render(self, scene: Any, view: int, spp: int, seed: int) -> np.ndarray:
        """One view [H, H, C]; a vectorised variant renders it in passes that fit its memory."""
        pixels = self.config.resolution**2
        most = max(1, LARGEST_WAVEFRONT // pixels) if self.vectorised else spp
        image, done = 0.0, 0
        while done < spp:
            count = min(most, spp - done)
            part = mi.render(scene, sensor=view, spp=count, seed=(seed + done * 7919) % 2**32)
            image, done = image + count * np.array(part, np.float64), done + count
        return (image / spp).astype(np.float32)

    def _surfaces(self, scene: Scene, chosen: np.ndarray) -> dict[str, Any]:
        if not chosen.any():
            return {}
        mesh = self._mesh(
            "surfaces",
            scene.triangles[chosen],
            scene.texture[chosen],
            scene.vertex_normals[chosen],
            None,
        )
        return {"surfaces": mesh}

    def _lights(self, scene: Scene, chosen: np.ndarray) -> dict[str, Any]:
        if not chosen.any():
            return {}
        triangles, which = emitter_sides(scene.triangles, np.flatnonzero(chosen))
        texture = scene.texture[which]
        # Mitsuba samples an emitter's radiance without a face, so all faces of a mesh share it
        radiances, group = np.unique(texture[:, EMISSION], axis=0, return_inverse=True)
        return {
            f"lights_{i}": self._mesh(
                f"lights_{i}", triangles[group == i], texture[group == i], None, radiance
            )
            for i, radiance in enumerate(radiances)
        }

    def _mesh(
        self,
        name: str,
        triangles: np.ndarray,
        texture: np.ndarray,
        normals: np.ndarray | None,
        radiance: np.ndarray | None,
    ) -> Any:
        """Triangles [K, 3, 3] with materials [K, 13] as a mesh whose faces have attributes."""
        props = mi.Properties()
        props["bsdf"] = mi.load_dict({"type": "twosided", "bsdf": self._bsdf()})
        if radiance is not None:
            color = {"type": "rgb", "value": radiance.tolist()}
            props["emitter"] = mi.load_dict({"type": "area", "radiance": color})
        count = len(triangles)
        mesh = mi.Mesh(name, 3 * count, count, props=props, has_vertex_normals=normals is not None)
        for attribute, values in self._attributes(texture).items():
            mesh.add_attribute(f"face_{attribute}", values.shape[1], values.ravel())
        params = mi.traverse(mesh)
        params["vertex_positions"] = np.ravel(triangles).astype(np.float32)
        params["faces"] = np.arange(3 * count, dtype=np.uint32)
        if normals is not None:
            params["vertex_normals"] = np.ravel(normals).astype(np.float32)
        params.update()
        return mesh

    def _bsdf(self) -> dict[str, Any]:
        if self.vectorised:
            return {
                "type": "lambert_ggx",
                "diffuse": _attribute("diffuse"),
                "specular": _attribute("specular"),
                "roughness": _attribute("roughness"),
            }
        lobe = {
            "type": "roughconductor",
            "material": "none",
            "distribution": "ggx",
            "alpha": _attribute("alpha"),
            "specular_reflectance": _attribute("specular"),
        }
        return {
            "type": "blendbsdf",
            "weight": _attribute("blend"),
            "diffuse": {"type": "diffuse", "reflectance": _attribute("diffuse")},
            "specular": lobe,
        }

    def _attributes(self, texture: np.ndarray) -> dict[str, np.ndarray]:
        """The face attributes that the BSDF reads, [K, channels] float32 each."""
        texture = texture.astype(np.float32)
        diffuse, specular = texture[:, DIFFUSE], texture[:, SPECULAR]
        roughness = np.clip(texture[:, ROUGHNESS], 0, 1)
        if self.vectorised:
            return {"diffuse": diffuse, "specular": specular, "roughness": roughness}
        scaled = specular_scale(specular, roughness[:, 0])
        # blendbsdf weights its parts with 1 - blend and blend; dividing the colours undoes that
        peaks = diffuse.max(axis=1, keepdims=True), scaled.max(axis=1, keepdims=True)
        blend = np.where(sum(peaks) > 0, peaks[1] / np.maximum(sum(peaks), 1e-12), 0.5)
        values = {
            "diffuse": diffuse / np.maximum(1 - blend, 1e-12),
            "specular": scaled / np.maximum(blend, 1e-12),
            "blend": blend,
            "alpha": np.maximum(roughness**2, 1e-4),
        }
        return {name: array.astype(np.float32) for name, array in values.items()}

    def _sensors(self, scene: Scene) -> dict[str, Any]:
        film = {
            "type": "hdrfilm",
            "width": self.config.resolution,
            "height": self.config.resolution,
            "pixel_format": "rgba",
            "component_format": "float32",
            "rfilter": {"type": "box"},
        }
        # Mitsuba's cameras look along +z with +x to the left
        flip = np.diag([-1.0, 1.0, -1.0, 1.0])
        return {
            f"sensor_{view}": {
                "type": "perspective",
                "fov": float(fov),
                "fov_axis": "x",
                "near_clip": 1e-3,
                "far_clip": 1e3,
                "to_world": mi.ScalarTransform4f(camera.astype(np.float64) @ flip),
                "film": film,
            }
            for view, (camera, fov) in enumerate(
                zip(scene.camera_to_world, scene.fov_degrees, strict=True)
            )
        }


def _is_light(scene: Scene) -> np.ndarray:
    """[N] bool, the triangles that emit."""
    return scene.texture[:, EMISSION].any(axis=1)


def emitter_sides(triangles: np.ndarray, lights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One-sided triangles that together emit as two-sided lights do.

    A side that faces no vertex of the scene lights nothing and is left out, which halves the noise
    of many scenes. Where both sides are needed, they are `LIGHT_THICKNESS` apart.

    Args:
      triangles: [N, 3, 3] all triangles of the scene.
      lights: [M] indices of the triangles that emit.

    Returns:
      [K, 3, 3] triangles, counter-clockwise as seen from the side that they emit to, and [K]
      indices of their lights.
    """
    points = triangles.reshape(-1, 3).astype(np.float64)
    sides, which = [], []
    for light in lights:
        corners = triangles[light].astype(np.float64)
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        normal /= max(np.linalg.norm(normal), 1e-300)
        heights = (points - corners[0]) @ normal
        front, back = heights.max() > 1e-6, heights.min() < -1e-6
        shift = normal * (LIGHT_THICKNESS / 2 if front and back else 0)
        if front or not back:
            sides.append(corners + shift)
            which.append(light)
        if back:
            sides.append((corners - shift)[::-1])
            which.append(light)
    return np.array(sides), np.array(which)


def _attribute(name: str) -> dict[str, Any]:
    return {"type": "mesh_attribute", "name": f"face_{name}"}
