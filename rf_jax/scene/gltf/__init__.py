"""Scenes from glTF 2.0 files, as Blender and others write them."""
