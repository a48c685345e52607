"""Writes blender.glb, and what Blender says about it, to a folder (bpy 5.3, `python THIS FOLDER`).

A scene that has what files from Blender hold: parents, mirrored and stretched objects, a mesh of
two materials, a texture, an emitting plane, a point light, a spot, a sun and two cameras.
"""

import json
import math
import sys
from pathlib import Path

import bpy

POINT, SPOT, SUN = 100.0, 50.0, 3.0


def material(name, color, **inputs):
    made = bpy.data.materials.new(name)
    made.use_nodes = True
    shader = made.node_tree.nodes["Principled BSDF"]
    shader.inputs["Base Color"].default_value = (*color, 1)
    for key, value in inputs.items():
        shader.inputs[key.replace("_", " ")].default_value = value
    return made


def textured(name):
    """White and black columns of equal width."""
    image = bpy.data.images.new(name, 8, 8)
    image.pixels = [c for _ in range(8) for x in range(8) for c in [float(x % 2)] * 3 + [1.0]]
    image.pack()
    made = material(name, (1, 1, 1))
    node = made.node_tree.nodes.new("ShaderNodeTexImage")
    node.image = image
    shader = made.node_tree.nodes["Principled BSDF"]
    made.node_tree.links.new(node.outputs["Color"], shader.inputs["Base Color"])
    return made


def add(name, data, parent=None, location=(0, 0, 0), rotation=(0, 0, 0), scale=(1, 1, 1)):
    made = bpy.data.objects.new(name, data)
    bpy.context.scene.collection.objects.link(made)
    made.parent, made.location, made.scale = parent, location, scale
    made.rotation_euler = [math.radians(angle) for angle in rotation]
    return made


def mesh(add_primitive, *materials, smooth=False):
    add_primitive()
    made = bpy.context.object
    data = made.data
    bpy.data.objects.remove(made)
    for each in materials:
        data.materials.append(each)
    for i, polygon in enumerate(data.polygons):
        polygon.material_index = i % len(materials)
        polygon.use_smooth = smooth
    return data


def light(name, kind, energy):
    made = bpy.data.lights.new(name, kind)
    made.energy = energy
    return made


def camera(name, degrees):
    made = bpy.data.cameras.new(name)
    made.sensor_fit, made.angle = "VERTICAL", math.radians(degrees)
    return made


def main(folder: Path) -> None:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    ops = bpy.ops.mesh
    red = material("red", (0.6, 0.06, 0.05), Roughness=0.4)
    gold = material("gold", (1.0, 0.8, 0.3), Metallic=1.0, Roughness=0.2)
    glow = material("glow", (0, 0, 0), Emission_Color=(1, 0.5, 0.25, 1), Emission_Strength=20)
    table = add(
        "table", mesh(ops.primitive_cube_add, red), None, (0, 0, 0.5), (0, 0, 30), (2, 1, 0.2)
    )
    add(
        "ball",
        mesh(ops.primitive_uv_sphere_add, gold, smooth=True),
        table,
        (0.3, 0, 5),
        (10, 20, 0),
    )
    add(
        "block",
        mesh(ops.primitive_cube_add, red, gold),
        table,
        (-0.5, 0.2, 3),
        (5, 0, 40),
        (0.3, -0.5, 2),
    )
    add("picture", mesh(ops.primitive_plane_add, textured("stripes")), None, (0, 3, 2), (90, 0, 0))
    add(
        "lamp_shade",
        mesh(ops.primitive_plane_add, glow),
        None,
        (0, 0, 5),
        (180, 0, 0),
        (0.5, 0.5, 1),
    )
    add("bulb", light("bulb", "POINT", POINT), table, (1, 1, 20))
    add("spot", light("spot", "SPOT", SPOT), None, (3, 0, 4), (0, 60, 0))
    add("sun", light("sun", "SUN", SUN), None, (0, 0, 0), (20, 30, 0))
    add("front", camera("front", 40), None, (0, -8, 2), (85, 0, 0))
    arm = add("arm", None, None, (1, 2, 0), (0, 0, 25))
    add("side", camera("side", 50), arm, (6, 0, 10), (60, 0, 90))
    bpy.context.scene.render.resolution_x = bpy.context.scene.render.resolution_y = 256
    bpy.context.view_layer.update()
    path = str(folder / "blender.glb")
    bpy.ops.export_scene.gltf(filepath=path, export_lights=True, export_cameras=True)
    (folder / "blender.json").write_text(json.dumps(facts(), indent=1) + "\n")


def facts():
    """World-space vertices' means and bounds, surface areas, and the matrices of cameras."""
    found = {"meshes": {}, "cameras": {}}
    for each in bpy.context.scene.objects:
        if each.type == "MESH":
            points = [list(each.matrix_world @ vertex.co) for vertex in each.data.vertices]
            found["meshes"][each.name] = {
                "low": [min(column) for column in zip(*points, strict=True)],
                "high": [max(column) for column in zip(*points, strict=True)],
            }
        elif each.type == "CAMERA":
            location, rotation, _ = each.matrix_world.decompose()
            matrix = rotation.to_matrix()
            found["cameras"][each.name] = {
                "position": list(location),
                "axes": [list(row) for row in matrix],
                "fov": math.degrees(each.data.angle),
            }
        elif each.type == "LIGHT":
            found.setdefault("lights", {})[each.name] = list(each.matrix_world.translation)
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
