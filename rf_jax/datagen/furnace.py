"""The white furnace test: in uniform light, the radiance of a plate is its albedo.

%(prog)s scalar_rgb        # prints the table of docs/data.md
"""

import numpy as np

from rf_jax import geometry, structs
from rf_jax.command_line import make_parser, run_command_line
from rf_jax.datagen import primitives
from rf_jax.datagen.config import RenderConfig
from rf_jax.datagen.microfacet import directional_albedo, mean_albedo, multiple_scattering
from rf_jax.datagen.path_tracer import PathTracer, check_renderer, make_path_tracer
from rf_jax.structs import Scene

SPECULAR = 1.0
ROUGHNESS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
DEGREES = (0, 30, 45, 60, 75, 85)
FURNACE_RADIUS = 4.0


def furnace_scene(material: np.ndarray, cosines: np.ndarray) -> Scene:
    """A plate in a black sphere that emits radiance 1. The cameras see nothing but the plate.

    Args:
      material: [13] channels of the plate.
      cosines: [V] cosines of the angles that the cameras see the plate at.
    """
    plate, sphere = primitives.plane_grid(1), primitives.icosphere(2)
    triangles = np.concatenate([plate[0][plate[1]], 2 * FURNACE_RADIUS * sphere[0][sphere[1]]])
    emitting = np.zeros(structs.NUM_CHANNELS)
    emitting[structs.EMISSION], emitting[structs.ROUGHNESS] = 1, 1
    texture = np.concatenate([np.tile(material, (2, 1)), np.tile(emitting, (len(sphere[1]), 1))])
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    positions = [(np.sqrt(1 - c * c), 0, c) for c in cosines]
    cameras = [geometry.look_at(2 * np.array(p), np.zeros(3), (0, 1, 0)) for p in positions]
    return Scene(
        triangles=triangles.astype(np.float32),
        vertex_normals=np.repeat(normals[:, None], 3, axis=1).astype(np.float32),
        texture=texture.astype(np.float32),
        valid_mask=None,
        camera_to_world=np.array(cameras, np.float32),
        fov_degrees=np.full(len(cosines), 0.5, np.float32),
    )


def furnace_albedo(
    tracer: PathTracer, diffuse: float, specular: float, roughness: float, cosines: np.ndarray
) -> np.ndarray:
    """Albedo [V] of a grey material towards directions with these cosines, as rendered."""
    material = np.zeros(structs.NUM_CHANNELS)
    material[structs.DIFFUSE], material[structs.SPECULAR] = diffuse, specular
    material[structs.ROUGHNESS] = roughness
    images = tracer.render(furnace_scene(material, cosines), 0)
    return images[..., :3].mean(axis=(1, 2, 3))


def expected_albedo(specular: float, roughness: float, cosines: np.ndarray) -> np.ndarray:
    """Albedo [V] of the compensated specular lobe in Cycles, s (E + Fms (1 - E))."""
    albedo = directional_albedo(cosines, np.full(len(cosines), roughness), correlated=True)
    again = multiple_scattering(specular, mean_albedo(np.array(roughness), correlated=True))
    return specular * (albedo + again * (1 - albedo))


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("variant", help="variant of Mitsuba, such as scalar_rgb or llvm_ad_rgb")
    variant = parser.parse_args().variant
    config = RenderConfig(resolution=16, spp=1024, max_depth=2, variant=variant)
    tracer = make_path_tracer(config, check_renderer(config, None), None, 1)
    nodes, weights = np.polynomial.legendre.leggauss(8)
    cosines = np.concatenate([np.cos(np.deg2rad(DEGREES)), (nodes + 1) / 2])
    print(f"{tracer.name}: error of the albedo of a lobe of reflectance {SPECULAR:g}")
    print(f"{'roughness':>9}" + "".join(f"{f'{angle} deg':>9}" for angle in DEGREES) + "     mean")
    for roughness in ROUGHNESS:
        measured = furnace_albedo(tracer, 0, SPECULAR, roughness, cosines)
        error = measured - expected_albedo(SPECULAR, roughness, cosines)
        at_nodes = error[len(DEGREES) :]
        mean = (at_nodes * (nodes + 1) / 2 * weights).sum()
        cells = "".join(f"{e:>+9.3f}" for e in error[: len(DEGREES)])
        print(f"{roughness:>9}{cells}{mean:>+9.4f}")


if __name__ == "__main__":
    run_command_line(main)
