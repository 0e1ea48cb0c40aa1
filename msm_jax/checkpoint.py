"""Checkpoints: Orbax behind one file. On disk the names are ours: params/… (of a LoRA run adapter/…), and
optimizer/{mu, nu, count}."""

import functools
import hashlib
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from orbax.checkpoint import v1 as ocp

from msm_jax import artifact
from msm_jax.cli import UserError
from msm_jax.step import Params, State

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports every save at length

_policies = ocp.training.save_decision_policies
SUBDIRECTORY = "checkpoints"
READ_BYTES = 300_000_000  # in the host's memory at once while a checkpoint is read
PART_BYTES = 1 << 26  # of a matrix brought together at a time, to be hashed


def _optimizer_tree(opt: Any) -> dict[str, Any]:
    """The part of an optax state worth keeping, under stable names: Adam's moments and the count of updates."""
    adam = [s for s in jax.tree.leaves(opt, is_leaf=_is_adam) if _is_adam(s)]
    return {"mu": adam[0].mu, "nu": adam[0].nu, "count": adam[0].count}


def _is_adam(node: Any) -> bool:
    return isinstance(node, optax.ScaleByAdamState)


def _with_optimizer_tree(opt: Any, tree: dict[str, Any]) -> Any:
    """`opt` with the kept part put back; every other counter in an optax state equals `count`."""

    def put(node: Any) -> Any:
        if _is_adam(node):
            return optax.ScaleByAdamState(**tree)
        if isinstance(node, optax.ScaleByScheduleState):
            return optax.ScaleByScheduleState(count=jnp.copy(tree["count"]))  # its own buffer: states are donated
        return node

    return jax.tree.map(put, opt, is_leaf=lambda n: isinstance(n, optax.ScaleByAdamState | optax.ScaleByScheduleState))


class Checkpoints:
    """Saves every `every` steps, on preemption and when told; keeps the last `keep`. Saving is asynchronous: an
    error of one save is raised by the next save or by close(). `item` names what is trained: params or adapter."""

    def __init__(self, run: str | Path, item: str, every: int, keep: int) -> None:
        self._pending: Any = None
        self._item = item
        self._checkpointer = ocp.training.Checkpointer(
            (Path(run) / SUBDIRECTORY).absolute(),
            save_decision_policy=_policies.AnySavePolicy(
                [_policies.PreemptionCheckpointingPolicy(), _policies.FixedIntervalPolicy(every)]
            ),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )

    def latest(self) -> int | None:
        """The newest complete step, None where there is none."""
        found = self._checkpointer.latest
        return None if found is None else found.step

    def due(self, step: int) -> bool:
        """Is this a step to save: the interval, or a preemption notice?"""
        return self._checkpointer.should_save(step)

    def save(self, step: int, state: State) -> None:
        """Starts saving the state *after* `step` updates."""
        self._wait()
        tree = {self._item: state.trained, "optimizer": _optimizer_tree(state.opt)}
        self._pending = self._checkpointer.save_checkpointables_async(step, tree, force=True)

    def restore(self, step: int, target: State) -> State:
        """The state of a step, on the target's shardings (its arrays are only asked for shape and place)."""
        wanted = {self._item: abstract_like(target.trained), "optimizer": abstract_like(_optimizer_tree(target.opt))}
        found = self._checkpointer.load_checkpointables(step, wanted)
        return State(found[self._item], _with_optimizer_tree(target.opt, found["optimizer"]))

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def close(self) -> None:
        self._wait()
        self._checkpointer.close()


def latest_step(run: str | Path) -> int:
    """The step of a run's newest complete checkpoint, 0 where there is none.

    Told by names alone, for each process by itself: Orbax's Checkpointer is opened by all of them together. A step
    gets its name, by renaming, when it is complete.
    """
    directory = Path(run) / SUBDIRECTORY
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def abstract_like(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def load(run: str | Path, item: str, target: Params) -> Params:
    """The newest params or adapter of a run, on the shardings of the abstract `target`.

    Raises:
      UserError: the run has no complete checkpoint, or another than its manifest lists.
    """
    directory = (Path(run) / SUBDIRECTORY).absolute()
    if not directory.is_dir():
        raise UserError(f"{run}: no {SUBDIRECTORY}/; not a run, or nothing was saved yet")
    context = ocp.Context()
    context.memory.read_concurrent_bytes = READ_BYTES
    with context, ocp.training.Checkpointer(directory) as checkpointer:
        if checkpointer.latest is None:
            raise UserError(f"{run}: no complete checkpoint; run its training again, it resumes")
        found = checkpointer.load_checkpointables(checkpointer.latest, {item: target})[item]
    listed = artifact.read_manifest(run)["files"].get(item)
    if listed and params_digest(found) != listed["sha256"]:
        raise UserError(f"{run}: the checkpoint is not the one its {artifact.MANIFEST} lists; copy or train it again")
    return found


def params_digest(params: Params) -> str:
    """sha256 over paths, shapes and bytes of all parameters: the same however many processes and devices hold them.

    All processes must ask for it together, and all get it. Beyond the host's copy of one leaf (alone) or part (of
    several), memory is that of one part on every device.
    """
    total = hashlib.sha256()
    for path, leaf in sorted(jax.tree_util.tree_leaves_with_path(params), key=lambda item: str(item[0])):
        total.update(f"{path}{leaf.shape}{np.dtype(leaf.dtype)}".encode())
        for part in _parts(leaf):
            total.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def _parts(leaf: Any) -> Iterator[np.ndarray]:
    """An array's bytes in order: layer by layer where it is stacked, else some rows at a time where other processes
    hold some of it."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        array = np.asarray(leaf)
        yield from array if array.ndim > 2 else (array,)  # a copy of one layer, where there must be one
    elif leaf.ndim < 2:
        yield np.asarray(_rows(leaf, 0, leaf.shape[0] if leaf.ndim else 0).addressable_data(0))
    else:
        row = math.prod(leaf.shape[1:]) * leaf.dtype.itemsize
        many = 1 if leaf.ndim > 2 else max(1, min(leaf.shape[0], PART_BYTES // row))
        for start in range(0, leaf.shape[0], many):
            part = _rows(leaf, start, min(many, leaf.shape[0] - start))
            yield np.asarray(part.addressable_data(0))  # waits, so that parts do not pile up on the devices


@functools.partial(jax.jit, static_argnums=2)
def _rows(array: jax.Array, start: jax.Array, count: int) -> jax.Array:
    """The bits of array[start : start + count], whole on every device; no device ever holds the rest.

    Bits, because rows of a split dimension come together as a sum with zeros, and −0.0 + 0.0 is 0.0.
    """
    array = jax.lax.bitcast_convert_type(array, jnp.dtype(f"uint{8 * array.dtype.itemsize}"))
    if array.ndim < 2:
        return jax.sharding.reshard(array, jax.P(*[None] * array.ndim))
    return array.at[start + jnp.arange(count)].get(mode="clip", out_sharding=jax.P(*[None] * array.ndim))
