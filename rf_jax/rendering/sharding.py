"""Where the renderer's arrays are placed: views over devices, and the tokens of large scenes too.

All devices form one axis. Both stages use it, each in its way:

    view-independent stage   for a large scene each device has S / n tokens, attends from them to
                             all (`rf_jax.attention.sharding`), and keeps their part of the encoding
    view-dependent stage     each device renders views of its own. Of an encoding that is split, it
                             gathers the keys and values of one layer at a time
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rf_jax.attention.sharding import gather_tokens, shard_attention
from rf_jax.errors import InputError
from rf_jax.models import RenderFormer
from rf_jax.structs import SceneEncoding, SceneTokens

AXIS = "devices"
"""The axis of every mesh here."""

BY_VIEW = P(None, AXIS)
"""Splits cameras [B, V, ...] and images over the devices."""

TOKENS_PER_DEVICE = 2048
"""A scene is split if every device gets at least this many tokens. With fewer, V1-Base's products
of a layer would take less time on an H100 than sending its keys and values and starting its
kernels."""

TOKEN_MULTIPLE = 128
"""Each device's number of tokens is a multiple of this, which attention kernels read unpadded."""


def first_devices(count: int | None) -> list[jax.Device]:
    """The first devices of this process; None takes all.

    Raises:
      InputError: there are not that many.
    """
    devices = jax.local_devices()
    count = len(devices) if count is None else count
    if not isinstance(count, int | np.integer) or not 1 <= count <= len(devices):
        raise InputError(
            f"devices: expected an integer from 1 to {len(devices)}, as many as this machine has, "
            f"found {count}"
        )
    return devices[:count]


def device_mesh(devices: list[jax.Device]) -> Mesh:
    """The devices as a mesh of one axis."""
    return Mesh(np.array(devices), (AXIS,))


def put_everywhere(tree: Any, mesh: Mesh) -> Any:
    """Puts a whole copy of the arrays on each device."""
    whole = NamedSharding(mesh, P()) if mesh.size > 1 else mesh.devices[0]
    return jax.device_put(tree, whole)


def is_worth_splitting(tokens: SceneTokens, model: RenderFormer, devices: int) -> bool:
    """Whether the tokens of these scenes are split over that many devices; V2's are not."""
    if model.config.v2 is not None:
        return False
    attention = model.config.view_independent.attention
    length = tokens.triangles.shape[1] + model.config.num_register_tokens
    splits = attention.exact or attention.sums_keys
    return splits and devices > 1 and length >= TOKENS_PER_DEVICE * devices


def pad_tokens(tokens: SceneTokens, num_registers: int, devices: int) -> SceneTokens:
    """Adds padding so that R + N is a multiple of `TOKEN_MULTIPLE` on every device."""
    missing = -(tokens.triangles.shape[1] + num_registers) % (TOKEN_MULTIPLE * devices)

    def pad(x):
        return np.pad(x, ((0, 0), (0, missing), *[(0, 0)] * (x.ndim - 2)))

    return tokens.replace(
        triangles=pad(tokens.triangles),
        vertex_normals=pad(tokens.vertex_normals),
        texture=pad(tokens.texture),
    )


def split_model(model: RenderFormer, mesh: Mesh) -> RenderFormer:
    """The same network for scenes whose tokens are split over the mesh."""
    first, second = model.config.view_independent, model.config.view_dependent
    return model.clone(
        view_independent_attention=shard_attention(first.attention, mesh, None, AXIS),
        view_dependent_attention=dataclasses.replace(second.attention, context_axis=AXIS),
    )


def encoding_specs(encoding: SceneEncoding) -> SceneEncoding:
    """How an encoding that is split lies on the devices; a tree of partition specs."""
    context = None if encoding.keys is None else P(None, None, AXIS)
    light_scale = None if encoding.light_scale is None else P()
    return SceneEncoding(P(None, AXIS), context, context, P(), P(), light_scale)


def is_split(encoding: SceneEncoding, mesh: Mesh) -> bool:
    """Whether the encoding is split over that mesh."""
    tokens = encoding.tokens
    return mesh.size > 1 and tokens.sharding.is_equivalent_to(
        NamedSharding(mesh, P(None, AXIS)), tokens.ndim
    )


def constrain_encoding(encoding: SceneEncoding, mesh: Mesh) -> SceneEncoding:
    """Splits an encoding while a program is traced."""
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), encoding_specs(encoding))
    return lax.with_sharding_constraint(encoding, shardings)


def gather_for_positions(encoding: SceneEncoding) -> SceneEncoding:
    """On a device: the encoding with all tokens, if keys and values are made of them per view."""
    if encoding.keys is not None:
        return encoding
    return encoding.replace(tokens=gather_tokens(encoding.tokens, AXIS))
