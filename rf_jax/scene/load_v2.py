"""Scenes of RenderFormer V2 from files of all kinds, and from scenes of V1."""

from pathlib import Path

import numpy as np

from rf_jax.errors import InputError, prefix_errors
from rf_jax.files import read_json
from rf_jax.scene.description import SceneDescription, parse_scene_description
from rf_jax.scene.description_v2 import (
    EnvironmentMap,
    FrameDescription,
    SurfaceMaterial,
    is_frame_description,
    parse_frame_description,
    split_environment,
)
from rf_jax.scene.environment_map import load_environment_map
from rf_jax.scene.gltf.file import GLTF_SUFFIXES
from rf_jax.scene.gltf.load import load_gltf
from rf_jax.scene.h5_v2 import distinct, load_h5_v2, require_encoders
from rf_jax.scene.latents import LatentEncoders
from rf_jax.scene.mesh import corner_normals, merge_vertices, shade
from rf_jax.scene.triangles import (
    build_scene,
    cameras_to_world,
    check_count,
    drop_undefined_normals,
    read_mesh,
)
from rf_jax.scene.validate import to_float32
from rf_jax.scene.validate_v2 import validate_scene_v2
from rf_jax.structs import EMISSION, ROUGHNESS, Scene, SceneV2

_BRDF = slice(0, ROUGHNESS.stop)
"""The channels of a V1 material that `diffspec_mapper` reads: diffuse, specular, roughness."""


def load_scene_v2(path: str | Path, encoders: LatentEncoders | None) -> SceneV2:
    """Loads a scene for RenderFormer V2.

    Args:
      path: a processed HDF5 file; a JSON description in V1's format, which may name an `env_map`
        as the Studio's does; a `scene_config.json` of a prepared frame of the Studio; or a glTF
        file.
      encoders: needed for all but HDF5 files that hold latents.

    Raises:
      InputError: names the file, the field, what was expected and what was found.
    """
    path = Path(path)
    if path.suffix.lower() in GLTF_SUFFIXES:
        with prefix_errors(str(path)):
            encoders = require_encoders(encoders, "materials")
        return scene_to_v2(load_gltf(path)[0], encoders)
    if path.suffix.lower() != ".json":
        return load_h5_v2(path, encoders)
    value = read_json(path)
    with prefix_errors(str(path)):
        encoders = require_encoders(encoders, "materials")
        if is_frame_description(value):
            return build_frame(parse_frame_description(value), path.parent, encoders)
        value, environment = split_environment(value)
        description = parse_scene_description(value)
        return _build_v1(description, environment, path.parent, encoders)


def scene_to_v2(
    scene: Scene, encoders: LatentEncoders, environment: np.ndarray | None = None
) -> SceneV2:
    """A scene of constant V1 materials as one of V2.

    Args:
      scene: unbatched, valid, with one value per triangle.
      encoders: encode its materials and the environment.
      environment: radiance [256, 512, 3] around it; None for black.

    Raises:
      InputError: the scene has texture patches, or is a batch.
    """
    texture = np.asarray(scene.texture, np.float32)
    if texture.ndim != 2:
        raise InputError(
            "texture: for RenderFormer V2 expected one material a triangle, [N, 13], found "
            f"{list(texture.shape)}"
        )
    keep = slice(None) if scene.valid_mask is None else np.asarray(scene.valid_mask)
    texture = texture[keep]
    values, index = distinct(np.ascontiguousarray(texture[:, _BRDF]))
    materials = [SurfaceMaterial("diffspec_mapper", tuple(row)) for row in values.tolist()]
    return SceneV2(
        triangles=np.asarray(scene.triangles)[keep],
        vertex_normals=np.asarray(scene.vertex_normals)[keep],
        textures=encoders.textures(materials),
        texture_index=index,
        emission=texture[:, EMISSION],
        environment=encoders.environment(environment),
        volumes=None,
        camera_to_world=scene.camera_to_world,
        fov_degrees=scene.fov_degrees,
    )


def build_frame(description: FrameDescription, folder: Path, encoders: LatentEncoders) -> SceneV2:
    """Loads and shades the objects of a prepared frame, and encodes their materials.

    Vertices at the same place are merged before shading, as the Studio does.

    Args:
      description: the frame.
      folder: folder that its paths are relative to.
      encoders: encode the materials and the environment.

    Raises:
      InputError: a mesh, a material or a camera is unusable; names its path in the file.
    """
    surfaces: dict[SurfaceMaterial, int] = {}
    triangles, normals, index, emission = [], [], [], []
    for name, each in description.objects.items():
        with prefix_errors(f"objects.{name}"):
            with prefix_errors("material"):
                surface = each.material.surface()
            path = folder / each.mesh_path
            mesh = shade(merge_vertices(read_mesh(path)), each.material.smooth_shading)
            place = np.full(len(mesh.faces), surfaces.setdefault(surface, len(surfaces)), np.int32)
            corners, vectors, place = drop_undefined_normals(
                mesh.triangles.view(np.ndarray), corner_normals(mesh), place, path
            )
            triangles.append(corners)
            normals.append(vectors)
            index.append(place)
            emission.append(np.tile(each.material.emissive or (0.0, 0.0, 0.0), (len(place), 1)))
            check_count(sum(map(len, index)))
    scene = SceneV2(
        triangles=to_float32(np.concatenate(triangles)),
        vertex_normals=to_float32(np.concatenate(normals)),
        textures=encoders.textures(list(surfaces)),
        texture_index=np.concatenate(index),
        emission=to_float32(np.concatenate(emission)),
        environment=encoders.environment(_radiance(description.env_map, folder)),
        volumes=None,
        camera_to_world=cameras_to_world(description.cameras),
        fov_degrees=np.array([camera.fov for camera in description.cameras], np.float32),
    )
    validate_scene_v2(scene)
    return scene


def _build_v1(
    description: SceneDescription,
    environment: EnvironmentMap | None,
    folder: Path,
    encoders: LatentEncoders,
) -> SceneV2:
    radiance = _radiance(environment, folder)
    scene = build_scene(description, folder, quantize=False)
    return scene_to_v2(scene, encoders, radiance)


def _radiance(environment: EnvironmentMap | None, folder: Path) -> np.ndarray | None:
    if environment is None:
        return None
    rotation = environment.rotation_x, environment.rotation_y, environment.rotation_z
    path = folder / environment.env_map_path
    return load_environment_map(path, rotation, environment.strength)
