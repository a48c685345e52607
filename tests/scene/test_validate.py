import numpy as np
import pytest

from rf_jax.errors import InputError
from rf_jax.scene import validate_scene
from rf_jax.structs import Scene, expand_texture


def _batched(scene):
    fields = {name: getattr(scene, name) for name in Scene.__dataclass_fields__}
    arrays = {name: np.stack([x, x]) for name, x in fields.items() if x is not None}
    return Scene(**{"valid_mask": np.ones((2, 5), bool)} | arrays)


def test_valid_scenes(scene):
    validate_scene(scene)
    validate_scene(_batched(scene))
    validate_scene(scene.replace(texture=expand_texture(scene.texture, 4)))
    validate_scene(_batched(scene.replace(texture=expand_texture(scene.texture, 4))))


def test_padding_may_hold_anything(scene):
    batch = _batched(scene)
    batch.valid_mask[1, 2:] = False
    for array in (batch.triangles, batch.vertex_normals, batch.texture):
        array[1, 2:] = np.nan
    validate_scene(batch)
    batch.valid_mask[1, 2] = True
    with pytest.raises(InputError, match="triangles: expected finite values, found value nan"):
        validate_scene(batch)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(
    ("field", "change", "words"),
    [
        ("triangles", lambda x: x[..., :2], "triangles: expected shape"),
        ("triangles", lambda x: x.tolist(), "triangles: expected an array, found list"),
        ("triangles", lambda x: x.astype(int), "triangles: expected floating-point values"),
        ("triangles", lambda x: x * np.inf, "triangles: expected finite values"),
        ("vertex_normals", lambda x: x[..., 1:, :, :], "vertex_normals: expected shape"),
        ("vertex_normals", lambda x: x * np.nan, "vertex_normals: expected finite values"),
        ("texture", lambda x: x[..., :12], "texture: expected shape"),
        ("texture", lambda x: -x, "texture: expected values >= 0"),
        ("texture", lambda x: x + 1, "texture: expected roughness in [0, 1]"),
        ("valid_mask", lambda x: x[..., 1:], "valid_mask: expected shape"),
        ("valid_mask", lambda x: x.astype(np.float32), "valid_mask: expected bool values"),
        ("valid_mask", lambda x: ~x, "valid_mask: expected a valid triangle, found none"),
        ("camera_to_world", lambda x: x[..., :3, :], "camera_to_world: expected shape"),
        ("camera_to_world", lambda x: x * 1.01, "camera_to_world: expected a last row"),
        ("camera_to_world", lambda x: -x, "camera_to_world: expected a last row"),
        ("fov_degrees", lambda x: x[..., 1:], "fov_degrees: expected shape"),
        ("fov_degrees", lambda x: -x, "fov_degrees: expected degrees in (0, 180)"),
    ],
)
def test_bad_scenes(scene, batched, field, change, words):
    scene = scene.replace(valid_mask=np.ones(5, bool))
    scene = _batched(scene) if batched else scene
    with pytest.raises(InputError) as error:
        validate_scene(scene.replace(**{field: change(getattr(scene, field))}))
    assert words in str(error.value) and "\n" not in str(error.value)
