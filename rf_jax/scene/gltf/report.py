"""What became of the parts of a glTF file."""

import dataclasses

from rf_jax.errors import listed
from rf_jax.scene.gltf.file import READ_EXTENSIONS
from rf_jax.scene.gltf.primitives import FAN, TRIANGLES
from rf_jax.scene.gltf.schema import Document


@dataclasses.dataclass(frozen=True)
class ImportReport:
    """What a scene took from a file, and what it did not.

    Attributes:
      mapped: pairs of what the file holds and what it became.
      dropped: pairs of what the file holds and why the scene lacks it.
    """

    mapped: tuple[tuple[str, str], ...]
    dropped: tuple[tuple[str, str], ...]

    def rows(self) -> list[tuple[str, str]]:
        """What the file holds, and what became of it."""
        return [*self.mapped, *((what, f"dropped: {why}") for what, why in self.dropped)]

    def lines(self) -> list[str]:
        """The rows as a table."""
        rows = self.rows()
        width = max((len(what) for what, _ in rows), default=0)
        return [f"{what:<{width}}  ->  {became}" for what, became in rows]


def dropped_parts(document: Document) -> list[tuple[str, str]]:
    """What a document holds that scenes do not have, with the reason."""
    materials = document.materials
    primitives = [primitive for mesh in document.meshes for primitive in mesh.primitives]
    animated = [mesh for mesh in document.meshes if mesh.weights and any(mesh.weights)]
    lists = [
        ("animations", document.animations, "the scene stands as it was exported"),
        ("scenes", document.scenes[1:], "only the default one is shown"),
        (
            "primitives of points or lines",
            [p for p in primitives if not TRIANGLES <= p.mode <= FAN],
            "only triangles are rendered",
        ),
        ("morphed meshes", animated, "they stand in their basic form"),
        (
            "textures without a PNG, JPEG or WebP image",
            [
                t
                for t in document.textures
                if t.source is None and not t.extensions.EXT_texture_webp
            ],
            "their materials are of one colour",
        ),
        ("normal maps", [m for m in materials if m.normalTexture], "constant within a triangle"),
        (
            "occlusion maps",
            [m for m in materials if m.occlusionTexture],
            "the network computes shadows itself",
        ),
        (
            "transparent materials",
            [m for m in materials if m.alphaMode != "OPAQUE"],
            "they are opaque",
        ),
        (
            "orthographic cameras",
            [c for c in document.cameras if c.perspective is None],
            "only perspective ones are rendered",
        ),
    ]
    rows = [(f"{len(found)} {what}", why) for what, found, why in lists if found]
    unread = [name for name in document.extensionsUsed if name not in READ_EXTENSIONS]
    return rows + ([(listed(unread), "extensions that are not read")] if unread else [])
