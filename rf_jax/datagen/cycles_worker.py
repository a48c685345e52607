"""Renders one scene with Blender's Cycles. It runs in a Python with `bpy`, and needs nothing else.

PYTHON cycles_worker.py INPUT.npz OUTPUT.npy

Input arrays: triangles [N, 3, 3], normals [N, 3, 3], texture [N, 13] (channels as in
rf_jax/structs.py), camera_to_world [V, 4, 4], fov_degrees [V], and `settings`, a JSON text.
Output: [V, H, H, 4] float32, linear RGB, premultiplied, and coverage; row 0 is at the top.
"""

import json
import os
import sys
import tempfile

import bpy
import numpy as np

GPU_KINDS = ("OPTIX", "CUDA", "HIP", "ONEAPI", "METAL")


def main(source, target):
    with np.load(source) as data:
        arrays = {name: data[name] for name in data.files}
    settings = json.loads(str(arrays["settings"]))
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    set_render_settings(scene, settings)
    is_light = arrays["texture"][:, 10:13].any(axis=1)
    names = ("triangles", "normals", "texture")
    add_surfaces(scene, {name: arrays[name][~is_light] for name in names})
    for light in np.flatnonzero(is_light):
        add_light(scene, arrays["triangles"][light], arrays["texture"][light])
    images = []
    for view, matrix in enumerate(arrays["camera_to_world"]):
        scene.cycles.seed = (settings["seed"] + view) % 2**31
        images.append(render(scene, matrix, float(arrays["fov_degrees"][view])))
    np.save(target, np.stack(images))


def set_render_settings(scene, settings):
    """Applies `settings`; everything else keeps Blender's defaults, as in the published data."""
    scene.render.engine = "CYCLES"
    scene.render.resolution_x = scene.render.resolution_y = settings["resolution"]
    scene.render.resolution_percentage = 100
    scene.render.film_transparent = True
    scene.render.use_persistent_data = True
    scene.render.threads_mode = "FIXED"
    scene.render.threads = settings["threads"]
    scene.world = bpy.data.worlds.new("black")
    scene.world.color = (0, 0, 0)
    scene.view_settings.view_transform = "Raw"
    image = scene.render.image_settings
    image.file_format, image.color_mode, image.color_depth = "OPEN_EXR", "RGBA", "32"
    cycles = scene.cycles
    cycles.samples = settings["spp"]
    cycles.use_adaptive_sampling = settings["adaptive_threshold"] > 0
    cycles.adaptive_threshold = settings["adaptive_threshold"]
    cycles.use_denoising = settings["denoise"]
    cycles.denoiser = "OPENIMAGEDENOISE"
    cycles.max_bounces = settings["max_bounces"]
    cycles.diffuse_bounces = settings["diffuse_bounces"]
    cycles.glossy_bounces = settings["glossy_bounces"]
    cycles.blur_glossy = settings["filter_glossy"]
    cycles.sample_clamp_indirect = settings["clamp_indirect"]
    if settings["unbiased"]:
        cycles.light_sampling_threshold = 0
    if settings["device"] == "GPU":
        use_gpu(cycles)


def use_gpu(cycles):
    preferences = bpy.context.preferences.addons["cycles"].preferences
    for kind in GPU_KINDS:
        try:
            preferences.compute_device_type = kind
        except TypeError:  # this build of Blender lacks it
            continue
        preferences.refresh_devices()
        devices = [device for device in preferences.devices if device.type == kind]
        if devices:
            for device in devices:
                device.use = True
            cycles.device = "GPU"
            return
    raise SystemExit("no GPU that Cycles can use; set render.cycles.device to CPU")


def add_surfaces(scene, arrays):
    """Adds one mesh whose faces carry their materials as attributes."""
    if not len(arrays["triangles"]):
        return
    mesh = new_mesh("surfaces", arrays["triangles"])
    texture = arrays["texture"].astype(np.float32)
    for name, values in (("diffuse", texture[:, 0:3]), ("specular", texture[:, 3:6])):
        attribute = mesh.attributes.new(name, "FLOAT_VECTOR", "FACE")
        attribute.data.foreach_set("vector", np.ascontiguousarray(values).ravel())
    attribute = mesh.attributes.new("roughness", "FLOAT", "FACE")
    attribute.data.foreach_set("value", np.ascontiguousarray(texture[:, 6]))
    mesh.polygons.foreach_set("use_smooth", np.ones(len(texture), bool))
    mesh.normals_split_custom_set(arrays["normals"].reshape(-1, 3).tolist())
    mesh.materials.append(surface_material())
    scene.collection.objects.link(bpy.data.objects.new("surfaces", mesh))


def surface_material():
    """The sum of a Lambert lobe and a multiple-scattering GGX lobe, each times its colour."""
    material, nodes, links, output = new_material("surface")
    diffuse, glossy = nodes.new("ShaderNodeBsdfDiffuse"), nodes.new("ShaderNodeBsdfAnisotropic")
    glossy.distribution = "MULTI_GGX"
    diffuse.inputs["Roughness"].default_value = 0
    add = nodes.new("ShaderNodeAddShader")
    for node, socket, name, kind in (
        (diffuse, "Color", "diffuse", "Vector"),
        (glossy, "Color", "specular", "Vector"),
        (glossy, "Roughness", "roughness", "Fac"),
    ):
        attribute = nodes.new("ShaderNodeAttribute")
        attribute.attribute_name = name
        links.new(attribute.outputs[kind], node.inputs[socket])
    links.new(diffuse.outputs[0], add.inputs[0])
    links.new(glossy.outputs[0], add.inputs[1])
    links.new(add.outputs[0], output.inputs["Surface"])
    return material


def add_light(scene, triangle, texture):
    """Adds a triangle that emits to both sides and that the camera does not see."""
    mesh = new_mesh("light", triangle[None])
    material, nodes, links, output = new_material("light")
    principled = nodes.new("ShaderNodeBsdfPrincipled")
    emission = texture[10:13].astype(float)
    strength = emission.max()
    principled.inputs["Base Color"].default_value = (*texture[0:3].astype(float), 1)
    principled.inputs["Specular IOR Level"].default_value = 0
    principled.inputs["Roughness"].default_value = 1
    principled.inputs["Emission Color"].default_value = (*(emission / strength), 1)
    principled.inputs["Emission Strength"].default_value = strength
    links.new(principled.outputs[0], output.inputs["Surface"])
    mesh.materials.append(material)
    light = bpy.data.objects.new("light", mesh)
    light.visible_camera = False
    scene.collection.objects.link(light)


def new_mesh(name, triangles):
    mesh = bpy.data.meshes.new(name)
    faces = np.arange(3 * len(triangles)).reshape(-1, 3)
    mesh.from_pydata(triangles.reshape(-1, 3).tolist(), [], faces.tolist())
    return mesh


def new_material(name):
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    nodes.clear()
    return material, nodes, links, nodes.new("ShaderNodeOutputMaterial")


def render(scene, camera_to_world, fov_degrees):
    """Renders one view, [H, H, 4] float32."""
    camera = bpy.data.cameras.new("camera")
    camera.sensor_fit, camera.angle = "HORIZONTAL", np.deg2rad(fov_degrees)
    camera.clip_start, camera.clip_end = 1e-6, 1e3
    placed = bpy.data.objects.new("camera", camera)
    # Blender takes a 4x4 matrix as a list of its columns
    placed.matrix_world = camera_to_world.T.tolist()
    scene.collection.objects.link(placed)
    scene.camera = placed
    with tempfile.TemporaryDirectory() as folder:
        scene.render.filepath = os.path.join(folder, "view.exr")
        bpy.ops.render.render(write_still=True)
        image = bpy.data.images.load(scene.render.filepath)
        image.colorspace_settings.name = "Non-Color"
        width, height = image.size
        pixels = np.empty(width * height * 4, np.float32)
        image.pixels.foreach_get(pixels)
        bpy.data.images.remove(image)
    bpy.data.objects.remove(placed)
    return pixels.reshape(height, width, 4)[::-1]


if __name__ == "__main__":
    main(*sys.argv[1:3])
