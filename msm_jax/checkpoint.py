"""Checkpoints: Orbax behind one file. On disk the names are ours: params/… (of a LoRA run adapter/…), and
optimizer/{mu, nu, count}."""

import hashlib
import logging
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


def checkpointed(run: str | Path) -> bool:
    """Has the run a complete checkpoint?"""
    directory = (Path(run) / SUBDIRECTORY).absolute()
    if not directory.is_dir():
        return False
    with ocp.training.Checkpointer(directory) as checkpointer:
        return checkpointer.latest is not None


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
    if listed and jax.process_count() == 1 and params_digest(found) != listed["sha256"]:
        raise UserError(f"{run}: the checkpoint is not the one its {artifact.MANIFEST} lists; copy or train it again")
    return found


def params_digest(params: Params) -> str:
    """sha256 over paths, shapes and bytes of all parameters, whole on this host."""
    total = hashlib.sha256()
    for path, leaf in sorted(jax.tree_util.tree_leaves_with_path(params), key=lambda item: str(item[0])):
        total.update(f"{path}{leaf.shape}{np.dtype(leaf.dtype)}".encode())
        array = np.asarray(leaf)
        for part in array if array.ndim > 2 else (array,):  # a copy of one layer, where there must be one
            total.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return total.hexdigest()
