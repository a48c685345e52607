"""Which triangles read which: the attention of the view-independent stage on one scene.

    pip install -e '.[plot]'
    %(prog)s workdirs/rooms workdirs/rooms_performer

prints for every layer and head how many tokens a token reads (the exponential of the entropy of its
weights) and how much of its weight goes to lights. It also draws the weights, with one row per
network and one column per layer and head. Queries run down and keys across, and the brightest cell
of each map is white.
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rf_jax.attention import AttentionFn
from rf_jax.command_line import make_parser, run_command_line
from rf_jax.files import atomic_path
from rf_jax.images.figures import new_figure
from rf_jax.models import RenderFormer, RenderFormerConfig
from rf_jax.models.stacks import COLLECTIONS
from rf_jax.models.view_independent import token_sinks
from rf_jax.rendering.generations import require_v1
from rf_jax.rendering.preprocess import prepare_scene
from rf_jax.scene import load_scene
from rf_jax.structs import EMISSION, Scene
from rf_jax.weights.pretrained import load_pretrained


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("checkpoints", nargs="+", help="checkpoints of the networks to compare")
    add("--scene", default="cornell_box", help="scene file or bundled scene")
    add("--output_dir", type=Path, default=Path("output"), help="folder for attention_maps.png")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    scene = load_scene(args.scene)
    maps = {}
    for checkpoint in args.checkpoints:
        network = load_pretrained(checkpoint)
        require_v1(network.config, checkpoint)
        name = Path(checkpoint).name
        maps[name] = attention_maps(network.variables, network.config, scene)
        print(format_table(name, maps[name], light_tokens(scene, network.config)))
    picture = args.output_dir / "attention_maps.png"
    plot(maps, picture)
    print(f"-> {picture}")


def attention_maps(
    variables: dict[str, Any], config: RenderFormerConfig, scene: Scene
) -> np.ndarray:
    """The attention weights of all layers and heads.

    Args:
      variables, config: the network.
      scene: an unbatched scene.

    Returns:
      [L, nh, R + N, R + N]: queries, then keys, in the order of the network's tokens. Rows sum
      to 1.
    """
    tokens = prepare_scene(scene, config)
    registers, attention = config.num_register_tokens, config.view_independent.attention
    lengths = jnp.asarray(tokens.num_triangles) + registers
    sinks = token_sinks(jnp.asarray(tokens.texture), registers, attention.most_lights)
    read = (lengths, sinks) if attention.reads_sinks else (lengths,)
    _, kept = RenderFormer(config).apply(
        variables, tokens, method=RenderFormer.encode_scene, mutable=["intermediates"]
    )
    inputs = kept["intermediates"]["view_independent"]["layers"]["attention"]
    (queries,), (keys,) = inputs["query"], inputs["key"]  # (L, 1, R + N, nh, hd)
    maps = [
        weights(_attention_fn(variables, config, layer), query, key, *read)[0]
        for layer, (query, key) in enumerate(zip(queries, keys, strict=True))
    ]
    return np.stack(maps)[:, :, : lengths[0], : lengths[0]]


def weights(
    attention_fn: AttentionFn, query: jax.Array, key: jax.Array, *lengths: Any
) -> np.ndarray:
    """The weights [B, nh, T, S] of any attention function.

    They are what it returns for values that are 1 at one key and 0 at all others. Arguments are as
    in `rf_jax.attention`: `lengths` are the lengths of the keys, and the sinks if it reads them.
    """
    batch, keys, num_heads, width = key.shape
    blocks = []
    for start in range(0, keys, width):
        value = jnp.eye(keys)[:, start : start + width]
        value = jnp.pad(value, ((0, 0), (0, width - value.shape[1])))
        value = jnp.broadcast_to(value[None, :, None], (batch, keys, num_heads, width))
        blocks.append(attention_fn(query, key, value, *lengths))
    return np.swapaxes(np.concatenate(blocks, axis=-1)[..., :keys], 1, 2)


def _attention_fn(variables, config, layer) -> AttentionFn:
    """The attention function of one layer of the view-independent stage, with its variables."""
    attention = config.view_independent.attention
    if not attention.has_variables:
        return attention.bind()

    def of_layer(collection):
        layers = variables[collection]["view_independent"].get("layers", {})
        own = layers.get("attention", {}).get(attention.name, {})
        return jax.tree.map(lambda x: x[layer], own)

    bound = {name: of_layer(name) for name in COLLECTIONS}
    return lambda *inputs: attention.bind().apply(bound, *inputs)


def light_tokens(scene: Scene, config: RenderFormerConfig) -> np.ndarray:
    """[R + N] bool: which of the network's tokens are triangles that emit light."""
    tokens = prepare_scene(scene, config)
    emission = tokens.texture[0, : tokens.num_triangles[0], EMISSION]
    emits = emission.reshape(len(emission), -1).any(axis=1)
    return np.concatenate([np.zeros(config.num_register_tokens, bool), emits])


def tokens_read(maps: np.ndarray) -> np.ndarray:
    """Mean over queries of the exponential of the entropy of their weights.

    Args:
      maps: [L, nh, S, S] of `attention_maps`.

    Returns:
      [L, nh]: 1 where each query reads one key, S where it reads all of them alike.
    """
    weight = np.maximum(maps, 1e-12)
    return np.exp(-(weight * np.log(weight)).sum(-1)).mean(-1)


def format_table(name: str, maps: np.ndarray, lights: np.ndarray) -> str:
    read, light = tokens_read(maps), maps[..., lights].sum(-1).mean(-1)
    lines = [f"{name}: {maps.shape[-1]} tokens", "layer  head  tokens read  weight on lights"]
    for layer, head in np.ndindex(read.shape):
        lines.append(f"{layer:>5}{head:>6}{read[layer, head]:>13.1f}{light[layer, head]:>18.3f}")
    return "\n".join(lines)


def plot(maps: dict[str, np.ndarray], path: Path) -> None:
    """Draws the maps of all networks into one PNG."""
    columns = max(network.shape[0] * network.shape[1] for network in maps.values())
    figure = new_figure(1.6 * columns, 1.9 * len(maps))
    grid = figure.subplots(len(maps), columns, squeeze=False)
    for axis in grid.flat:
        axis.set_axis_off()
    for axes, (name, network) in zip(grid, maps.items(), strict=True):
        for axis, (layer, head) in zip(axes, np.ndindex(network.shape[:2]), strict=False):
            axis.imshow(np.sqrt(np.maximum(network[layer, head], 0)), cmap="gray")
            axis.set_title(f"layer {layer}, head {head}", fontsize=7)
        axes[0].text(-0.1, 0.5, name, rotation=90, va="center", transform=axes[0].transAxes)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=90, format="png")


if __name__ == "__main__":
    run_command_line(main)
