"""From metallic-roughness materials and textures to a triangle's diffuse, specular, roughness."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from rf_jax.errors import InputError
from rf_jax.scene.gltf import textures
from rf_jax.scene.gltf.load import load_gltf
from rf_jax.scene.gltf.textures import barycentric_grid, decoded, srgb_to_linear
from rf_jax.structs import DIFFUSE, EMISSION, ROUGHNESS, SPECULAR
from tests.scene.gltf.conftest import CORNER

UVS = [[0, 0], [1, 0], [0, 1]]
"""The half of a texture above its diagonal."""

MATT = {"KHR_materials_specular": {"specularFactor": 0}}


def png(pixels, mode="RGB"):
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8), mode).save(file, "png")
    return file.getvalue()


@pytest.fixture
def load(gltf, tmp_path):
    """The material values [13] of the triangle with a material; arguments are those of `gltf`."""

    def load(pbr=None, uvs=UVS, material=None, **attributes):
        material = {
            "pbrMetallicRoughness": {"metallicFactor": 0, **(pbr or {})},
            **(material or {}),
        }
        primitive = gltf.triangles(CORNER, material, TEXCOORD_0=uvs, **attributes)
        gltf.node(primitives=[primitive])
        return np.asarray(load_gltf(gltf.write(tmp_path / "a.glb"))[0].texture[0], np.float64)

    return load


def mean_fresnel(f0, f90=1.0):
    """Schlick's term, averaged over the hemisphere with the cosine as weight, numerically."""
    cosine = (np.arange(20000) + 0.5) / 20000
    term = f0 + (f90 - f0) * (1 - cosine) ** 5
    return (2 * cosine * term).mean()


@pytest.mark.parametrize("roughness", [0.0, 0.3, 1.0])
def test_a_dielectric(load, roughness):
    values = load({"baseColorFactor": [0.5, 0.25, 1, 1], "roughnessFactor": roughness})
    specular = mean_fresnel(0.04)
    np.testing.assert_allclose(values[SPECULAR], specular, rtol=1e-4)
    diffuse = (1 - specular) * np.array([0.5, 0.25, 1])
    np.testing.assert_allclose(values[DIFFUSE], diffuse, atol=1 / 255)
    assert (values[DIFFUSE] <= diffuse + 1e-6).all()  # in 8 bits, rounded down as elsewhere
    assert values[ROUGHNESS] == pytest.approx(roughness)
    assert (values[EMISSION] == 0).all()


def test_a_metal(load):
    values = load({"baseColorFactor": [1, 0.5, 0, 1], "metallicFactor": 1})
    np.testing.assert_allclose(values[DIFFUSE], 0)
    expected = [1, mean_fresnel(0.5), mean_fresnel(0)]
    np.testing.assert_allclose(values[SPECULAR], expected, rtol=1e-4)


def test_an_index_of_refraction_and_a_specular_factor(load):
    extensions = {
        "KHR_materials_ior": {"ior": 2.0},
        "KHR_materials_specular": {"specularFactor": 0.5, "specularColorFactor": [1, 1, 0]},
    }
    values = load(material={"extensions": extensions})
    f0 = 0.5 * (1 / 3) ** 2
    expected = [mean_fresnel(f0, 0.5)] * 2 + [mean_fresnel(0, 0.5)]
    np.testing.assert_allclose(values[SPECULAR], expected, rtol=1e-4)


def test_without_specular_factor_the_surface_is_matt(load):
    values = load({"baseColorFactor": [0.2, 0.4, 0.6, 1]}, material={"extensions": MATT})
    np.testing.assert_allclose(values[DIFFUSE] * 255, [51, 102, 153], atol=1e-4)
    assert (values[SPECULAR] == 0).all()


@pytest.mark.parametrize("seed", range(20))
def test_no_surface_reflects_more_than_it_receives(load, seed):
    rng = np.random.default_rng(seed)
    pbr = {"baseColorFactor": rng.uniform(size=4).tolist(), "metallicFactor": rng.uniform()}
    extensions = {
        "KHR_materials_ior": {"ior": rng.uniform(0, 3)},
        "KHR_materials_specular": {"specularColorFactor": rng.uniform(0, 9, 3).tolist()},
    }
    values = load(pbr, material={"extensions": extensions})
    assert (values[DIFFUSE] + values[SPECULAR] <= 1 + 1e-6).all()


def test_specular_glossiness(gltf, load):
    """The older model: its textures hold sRGB colours, and glossiness in alpha."""
    texture = gltf.image(png(np.full((4, 4, 4), [188, 255, 0, 51]), "RGBA"))
    older = {
        "diffuseFactor": [0.5, 0.25, 1, 1],
        "specularFactor": [0.2, 0.1, 1],
        "glossinessFactor": 0.5,
        "specularGlossinessTexture": {"index": texture},
    }
    material = {"extensions": {"KHR_materials_pbrSpecularGlossiness": older}}
    values = load({"metallicFactor": 1}, material=material)
    linear = 0.2 * srgb_to_linear(np.array(188 / 255))
    specular = [mean_fresnel(f0) for f0 in (linear, 0.1, 0)]
    np.testing.assert_allclose(values[SPECULAR], specular, rtol=1e-4)
    diffuse = (1 - max(specular)) * np.array([0.5, 0.25, 1])
    np.testing.assert_allclose(values[DIFFUSE], diffuse, atol=1 / 255)
    assert values[ROUGHNESS] == pytest.approx(1 - 0.5 * 0.2)


def test_emission(load):
    strength = {"KHR_materials_emissive_strength": {"emissiveStrength": 40}}
    values = load(material={"emissiveFactor": [1, 0.5, 0], "extensions": strength})
    np.testing.assert_allclose(values[EMISSION], [40, 20, 0])


def test_a_texture_of_one_colour_is_decoded(gltf, load):
    texture = gltf.image(png(np.full((4, 4, 3), [188, 0, 255])))
    pbr = {"baseColorTexture": {"index": texture}, "baseColorFactor": [0.5, 1, 1, 1]}
    values = load(pbr, material={"extensions": MATT})
    assert 0.5 * srgb_to_linear(np.array(188 / 255)) == pytest.approx(0.2514, abs=1e-3)
    np.testing.assert_allclose(values[DIFFUSE] * 255, [64, 0, 255], atol=1e-4)


@pytest.mark.parametrize(("kept_bytes", "expected"), [(10**6, 9), (3 * 80, 27), (0, 27)])
def test_materials_that_take_turns_keep_their_images(
    gltf, tmp_path, monkeypatch, kept_bytes, expected
):
    """Nine images of 2x2 pixels (80 bytes with their mean), three times each."""
    read = []

    def counted(*arguments):
        read.append(arguments)
        return decoded(*arguments)

    monkeypatch.setattr(textures, "decoded", counted)
    monkeypatch.setattr(textures, "KEPT_BYTES", kept_bytes)
    images = [gltf.image(png(np.full((2, 2, 3), 20 * i))) for i in range(9)]
    materials = [{"pbrMetallicRoughness": {"baseColorTexture": {"index": i}}} for i in images]
    gltf.node(primitives=[gltf.triangles(CORNER, m, TEXCOORD_0=UVS) for m in 3 * materials])
    scene = load_gltf(gltf.write(tmp_path / "a.glb"))[0]
    assert len(read) == expected
    np.testing.assert_array_equal(scene.texture[:9], scene.texture[9:18])
    assert len(np.unique(scene.texture[:9, SPECULAR], axis=0)) == 9


def test_grey_images_of_16_bits(value=30_000):
    """They become those of 8 bits instead of white."""
    data = io.BytesIO()
    Image.fromarray(np.full((2, 3), value, np.uint16)).save(data, "PNG")
    pixels = decoded(data.getvalue(), is_color=False)
    np.testing.assert_allclose(pixels[..., :3], value / 65535, atol=1 / 255)


def test_a_texture_is_averaged_after_decoding(gltf, load):
    """Black and white in equal parts are 0.5, and not the sRGB value in the middle."""
    board = 255 * (np.indices((64, 64)).sum(axis=0) // 4 % 2)
    texture = gltf.image(png(np.repeat(board[..., None], 3, axis=-1)))
    values = load({"baseColorTexture": {"index": texture}}, material={"extensions": MATT})
    np.testing.assert_allclose(values[DIFFUSE], 0.5, atol=0.03)


def test_only_what_the_triangle_covers_counts(gltf, load):
    """The image is red above its diagonal, where the triangle is, and green below."""
    x, y = np.meshgrid(np.arange(256), np.arange(256))
    image = np.where((x + y < 256)[..., None], [255, 0, 0], [0, 255, 0])
    texture = gltf.image(png(image))
    values = load({"baseColorTexture": {"index": texture}}, material={"extensions": MATT})
    np.testing.assert_allclose(values[DIFFUSE], [1, 0, 0], atol=0.02)


def test_metal_and_colour_are_averaged_together(gltf, load):
    """One half is red metal, the other white and matt: nothing is red and matt."""
    image, packed = np.full((8, 8, 3), 255), np.zeros((8, 8, 3))
    image[:, :4, 1:] = 0
    packed[:, :4, 2], packed[..., 1] = 255, 51
    pbr = {
        "baseColorTexture": {"index": gltf.image(png(image))},
        "metallicRoughnessTexture": {"index": gltf.image(png(packed))},
        "metallicFactor": 1,
    }
    values = load(pbr, material={"extensions": MATT})
    metal = 0.75  # of the triangle's area
    np.testing.assert_allclose(values[DIFFUSE], 1 - metal, atol=0.01)
    np.testing.assert_allclose(values[SPECULAR], metal * np.array([1, 1 / 21, 1 / 21]), atol=0.01)
    np.testing.assert_allclose(values[ROUGHNESS], 0.2, atol=1e-6)


def test_a_texture_transform_and_wrapping(gltf, load):
    """The image has four columns of other colours; the triangle is moved into the third."""
    colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]
    texture = gltf.image(png(np.tile(colours, (4, 1, 1))))
    transform = {"scale": [0.1, 0.1], "offset": [7.6, 0.3]}
    info = {"index": texture, "extensions": {"KHR_texture_transform": transform}}
    blue = load({"baseColorTexture": info}, material={"extensions": MATT})
    np.testing.assert_allclose(blue[DIFFUSE], [0, 0, 1])


@pytest.mark.parametrize(
    ("wrap", "expected"), [(10497, [1, 0, 0]), (33648, [0, 0, 1]), (33071, [0, 0, 1])]
)
def test_wrapping(gltf, load, wrap, expected):
    """Beyond the right edge: again from the left, back from the right, or the last column."""
    texture = gltf.image(png(np.tile([[255, 0, 0], [0, 0, 255]], (2, 1, 1))))
    gltf.document["textures"][0]["sampler"] = gltf.add("samplers", wrapS=wrap)
    uvs = np.add(np.multiply(UVS, 0.2), [1.1, 0.1])
    values = load({"baseColorTexture": {"index": texture}}, uvs, {"extensions": MATT})
    np.testing.assert_allclose(values[DIFFUSE], expected)


def test_a_texture_transform_turns_as_blender_does(gltf, load):
    """(u, v) becomes (cos u + sin v, cos v - sin u): by a right angle, (v, -u)."""
    image = np.zeros((8, 8, 3))
    image[:4, :4] = 255
    texture = gltf.image(png(image))
    info = {"index": texture, "extensions": {"KHR_texture_transform": {"rotation": np.pi / 2}}}
    uvs = np.add(np.multiply(UVS, 0.2), [-0.4, 0.1])  # v in [0.1, 0.3], -u in [0.2, 0.4]
    values = load({"baseColorTexture": info}, uvs, {"extensions": MATT})
    np.testing.assert_allclose(values[DIFFUSE], 1)


def test_a_triangle_that_repeats_a_large_texture_often(gltf, load):
    rng = np.random.default_rng(0)
    texture = gltf.image(png(rng.integers(0, 2, (512, 512, 3)) * 255))
    values = load(
        {"baseColorTexture": {"index": texture}}, np.multiply(UVS, 300), {"extensions": MATT}
    )
    np.testing.assert_allclose(values[DIFFUSE], 0.5, atol=0.02)


def test_vertex_colours_multiply_and_are_linear(load):
    colors = [[1, 0, 0], [0.5, 0, 0], [0, 0.3, 0]]
    pbr = {"baseColorFactor": [0.4, 1, 1, 1]}
    values = load(pbr, material={"extensions": MATT}, COLOR_0=colors)
    np.testing.assert_allclose(values[DIFFUSE], [0.2, 0.1, 0], atol=1 / 255)


def test_vertex_colours_of_eight_bits(gltf, load):
    colors = gltf.array([[255, 51, 0, 255]] * 3, "u1", normalized=True)
    values = load(material={"extensions": MATT}, COLOR_0=colors)
    np.testing.assert_allclose(values[DIFFUSE], [1, 0.2, 0], atol=1e-6)


def test_noise_in_black_is_no_light(gltf, tmp_path):
    """A picture of a lamp in a JPEG image: beside it there is almost, but not quite, nothing."""
    image = np.full((8, 8, 3), 2)
    image[:, :4] = 255
    emissive = {"emissiveFactor": [1, 1, 1], "emissiveTexture": {"index": gltf.image(png(image))}}
    left, right = (np.add(np.multiply(UVS, 0.3), [u, 0.1]) for u in (0.1, 0.6))
    for name, uvs in (("lamp", left), ("rest", right)):
        gltf.node(name=name, primitives=[gltf.triangles(CORNER, emissive, TEXCOORD_0=uvs)])
    scene, _ = load_gltf(gltf.write(tmp_path / "a.glb"))
    np.testing.assert_allclose(scene.texture[:, EMISSION], [[1, 1, 1], [0, 0, 0]])


def test_without_a_material_a_surface_is_grey(triangle, tmp_path):
    values = load_gltf(triangle.write(tmp_path / "a.glb"))[0].texture[0]
    np.testing.assert_allclose(values[DIFFUSE], 127 / 255)
    assert (values[SPECULAR] == 0).all()


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_the_grid_of_points_has_the_centroid(parts):
    weights = barycentric_grid(parts)
    assert weights.shape == (parts**2, 3) and (weights > 0).all()
    np.testing.assert_allclose(weights.mean(axis=0), 1 / 3)
    np.testing.assert_allclose(weights.sum(axis=1), 1)


def test_large_images_are_averaged_in_linear_space():
    pixels = np.zeros((5, 4100, 3))
    pixels[:, ::3] = 255
    image = decoded(png(pixels), is_color=True)
    assert image.shape == (2, 1367, 4)
    np.testing.assert_allclose(image[..., :3], 1 / 3, atol=0.17)
    np.testing.assert_allclose(image[:, :-1, :3], 1 / 3, rtol=1e-6)


def claiming(width, height):
    """A PNG of one pixel whose header says that it has more."""
    data = bytearray(png(np.zeros((1, 1, 3))))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


NOISE = png(np.random.default_rng(0).integers(0, 256, (16, 16, 3)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected a PNG, JPEG or WebP image, found something else"),
        (NOISE[:400], "expected a PNG, JPEG or WebP image"),
        (claiming(9000, 9000), "expected at most 67,108,864 pixels, found 9000x9000"),
        (claiming(2**30, 2**30), "expected a PNG, JPEG or WebP image .*exceeds limit"),
    ],
    ids=["empty", "cut", "large", "huge"],
)
def test_damaged_images(gltf, load, data, message):
    with pytest.raises(InputError, match=rf"images\[0\]: .*{message}"):
        load({"baseColorTexture": {"index": gltf.image(data)}})


def test_textures_that_are_not_there(gltf, load):
    with pytest.raises(InputError, match=r"baseColorTexture: expected an index below 0, found 3"):
        load({"baseColorTexture": {"index": 3}})
