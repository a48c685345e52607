"""A renderer that answers at once and remembers what it was asked."""

import types

import numpy as np

from rf_jax.errors import InputError
from rf_jax.scene import load_scene
from rf_jax.trained_on import PUBLISHED


class FakeRenderer:
    """Images are `paint(pose, fov, side)`, or hold the number of the encoding."""

    def __init__(self, paint=None, tick=lambda stage: None):
        self.config = types.SimpleNamespace(resolution_multiple=4, v2=None)
        self.trained_on = PUBLISHED
        self.asked: list[tuple] = []
        self._paint, self.tick, self._encodings = paint, tick, 0

    def check_resolution(self, side):
        if side % 4 or side <= 0:
            raise InputError(f"resolution: expected a positive multiple of 4, found {side}")
        return side

    def load_scene(self, path):
        return load_scene(path)

    def encode_scene(self, scene):
        self.asked.append(("encode", scene))
        self.tick("encode")
        self._encodings += 1
        return self._encodings

    def render_views(self, encoding, camera_to_world, fov_degrees, side):
        self.asked.append(("render", side))
        self.tick("render")
        if self._paint is not None:
            image = self._paint(camera_to_world[0], float(fov_degrees[0]), side)
        else:
            image = np.full((side, side, 3), 0.01 * encoding, np.float32)
        yield image[None]

    def count(self, kind):
        return sum(each[0] == kind for each in self.asked)
