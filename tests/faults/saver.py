"""What talks to a storage that fails: processes that save, read or write, with a state that follows from the step.

python -m tests.faults.saver save gs://bucket/run 8     prints `from N`, then `saved N` for every step reported saved
python -m tests.faults.saver read gs://bucket/run       prints `whole N` for every complete step that is right
python -m tests.faults.saver write gs://bucket/run      one step of params_writer; prints `saved 1 DIGEST`
python -m tests.faults.saver load gs://bucket/run       prints `digest DIGEST` of what `write` wrote
"""

import jax
import numpy as np
import optax
from etils import epath
from orbax.checkpoint import v1 as ocp

from msm_jax import checkpoint, cli, params_writer
from msm_jax.checkpoint import Checkpoints
from msm_jax.mesh import make_mesh
from msm_jax.step import State

KEEP = 2
SHAPES = {"embed": (64, 32), "norm": (32,), "layers": (2, 32, 48)}


def state_of(step: int) -> State:
    """The state after `step` updates: other numbers in every array of every step."""
    rng = np.random.default_rng(step)

    def tree():
        return {name: jax.numpy.asarray(rng.standard_normal(shape, np.float32)) for name, shape in SHAPES.items()}

    params = tree()
    fresh = optax.adam(1e-3).init(params)
    filled = (fresh[0]._replace(count=jax.numpy.int32(step), mu=tree(), nu=tree()), *fresh[1:])
    return State(params, filled)


def _complete(run: str) -> list[int]:
    directory = epath.Path(run) / checkpoint.SUBDIRECTORY
    if not directory.exists():
        return []
    with ocp.training.Checkpointer(directory) as checkpointer:
        return [found.step for found in checkpointer.checkpoints]


def save(run: str, steps: int) -> None:
    checkpoints = Checkpoints(run, "params", KEEP)
    first = checkpoint.latest_step(run)
    print(f"from {first}", flush=True)
    for step in range(first + 1, steps + 1):
        checkpoints.save(step, state_of(step), step)  # first waits for the one before, and raises its error
        if step > first + 1:
            print(f"saved {step - 1}", flush=True)
    checkpoints.close()
    print(f"saved {steps}", flush=True)


def read(run: str) -> None:
    for step in _complete(run):
        checkpoints = Checkpoints(run, "params", KEEP)
        (found, record), wanted = checkpoints.restore(step, state_of(0)), state_of(step)
        if record != step:
            raise cli.UserError(f"step {step}: its record is that of step {record}")
        for (path, a), b in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(wanted), strict=True):
            if not np.array_equal(a, b):
                raise cli.UserError(f"step {step}: {jax.tree_util.keystr(path)} is not what was to be saved")
        checkpoints.close()
        print(f"whole {step}", flush=True)


def write(run: str) -> None:
    arrays = {name: np.asarray(leaf) for name, leaf in state_of(1).trained.items()}
    leaves = {
        name: params_writer.Leaf(array.shape, array.dtype, lambda start, stop, array=array: array[start:stop], rows=16)
        for name, array in arrays.items()
    }
    print(f"saved 1 {params_writer.write(run, 1, leaves, chunk_bytes=1 << 10)}", flush=True)


def load(run: str) -> None:
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = {k: jax.ShapeDtypeStruct(shape, np.float32, sharding=here) for k, shape in SHAPES.items()}
    with ocp.training.Checkpointer(epath.Path(run) / checkpoint.SUBDIRECTORY) as checkpointer:
        found = checkpointer.load_checkpointables(1, {"params": wanted})["params"]
    print(f"digest {checkpoint.params_digest(found)}", flush=True)


def main(argv: list[str]) -> None:
    _, what, run, *more = argv
    with jax.sharding.set_mesh(make_mesh(1, 1, 1, devices=jax.devices()[:1])):
        {"save": save, "read": read, "write": write, "load": load}[what](run, *map(int, more))


if __name__ == "__main__":
    cli.entry(main)
