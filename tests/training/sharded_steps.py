"""Run by test_sharding.py: five training steps on meshes of virtual CPU devices.

python sharded_steps.py OUT DATA MESH [MESH ...]                   one process, 8 devices
python sharded_steps.py OUT DATA MESH --join PORT PROCESS          one of two, 4 devices each

A mesh is DATAxFSDP. Writes the losses and last parameters of each mesh, computed in float64: there
the order of a sum shows in the last digits only.
"""

import argparse
import os

parser = argparse.ArgumentParser()
parser.add_argument("out")
parser.add_argument("data")
parser.add_argument("meshes", nargs="+")
parser.add_argument("--join", type=int, nargs=2)
args = parser.parse_args()
os.environ["JAX_PLATFORMS"] = "cpu"
devices = 4 if args.join else 8
# Without fusion emitters unoptimized programs compile in half the time.
os.environ["XLA_FLAGS"] = (
    f"--xla_force_host_platform_device_count={devices} --xla_cpu_use_fusion_emitters=false"
)

import jax  # noqa: E402

jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
if args.join:
    jax.distributed.initialize(f"localhost:{args.join[0]}", 2, args.join[1])

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.experimental import multihost_utils  # noqa: E402
from settings import cast, small_config  # noqa: E402

from rf_jax.training import loop, sharding  # noqa: E402
from rf_jax.training.data import BatchStream, SceneLoader  # noqa: E402
from rf_jax.training.scene_files import find_training_files  # noqa: E402
from rf_jax.training.steps import make_model  # noqa: E402
from rf_jax.weights.random_weights import random_variables  # noqa: E402

STEPS = 5
sharding.SMALLEST_SPLIT = 1


def train(data_parallel, fsdp):
    config = small_config(args.data, batch_size=8, fsdp=fsdp, total_steps=STEPS)
    mesh = sharding.make_mesh(fsdp, 8, jax.devices()[: data_parallel * fsdp])
    steps = loop.compile_steps(config, mesh, make_model(config, mesh, jnp.float64), None)
    state = steps.create(cast(random_variables(config.model, seed=0), jnp.float64))
    if fsdp > 1:
        kernels = jax.tree.leaves(state.params["view_independent"]["layers"])
        assert any(not x.sharding.is_fully_replicated for x in kernels)
    loader = SceneLoader(tuple(find_training_files(config, "train")), config, training=True)
    shard = jax.process_index(), jax.process_count()
    losses = []
    for batch in BatchStream(loader, 8, 0, STEPS, shard):
        rows = sharding.to_devices(cast(batch, jnp.float64), mesh)
        state, metrics = steps.train(state, rows, None)
        losses.append(float(metrics["loss"]))
    params = multihost_utils.process_allgather(state.params, tiled=True)
    return np.array(losses), np.concatenate([np.ravel(x) for x in jax.tree.leaves(params)])


results = {}
for name in args.meshes:
    losses, params = train(*map(int, name.split("x")))
    results |= {f"{name}/losses": losses, f"{name}/params": params}
if jax.process_index() == 0:
    np.savez(args.out, **results)
