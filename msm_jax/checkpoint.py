"""Checkpoints: Orbax behind one file. On disk the names are ours: params/… (of a LoRA run adapter/…),
optimizer/{mu, nu, count}, and record/, what the trainer wants to find again beside them."""

import functools
import hashlib
import inspect
import logging
import math
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from orbax.checkpoint import v1 as ocp

from msm_jax import artifact, storage
from msm_jax.cli import UserError
from msm_jax.fingerprint import fingerprints
from msm_jax.optim import path_of
from msm_jax.step import Params, State

Json = Any

for name in ("absl", "asyncio"):  # Orbax tells of every save, and of every part that fails; what counts is raised
    logging.getLogger(name).setLevel(logging.CRITICAL)

SUBDIRECTORY, RECORD = "checkpoints", "record"
MARKER = "commit_success.txt"  # Orbax's own, last in every directory that it writes in a bucket
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
    """Saves asynchronously into RUN/checkpoints, here or on gs://, and keeps the last `keep`. `item` names what is
    trained: params or adapter.

    With every state goes a record, anything that JSON can say, so both are there or neither; and, with `digests`, a
    fingerprint of every array, compared when the arrays are read again.
    """

    def __init__(self, run: epath.PathLike, item: str, keep: int, digests: bool = True) -> None:
        self._item, self._digests = item, digests
        self._pending: Any = None
        self._directory = directory_of(run)
        self._checkpointer = ocp.training.Checkpointer(
            self._directory,
            context=_context(),
            save_decision_policy=ocp.training.save_decision_policies.SpecificStepsPolicy([]),  # only when told
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )

    @property
    def busy(self) -> bool:
        """Is a save still on its way?"""
        return self._pending is not None and self._checkpointer.is_saving_in_progress()

    def check(self) -> None:
        """Raises the error of a save that has ended."""
        if self._pending is not None and not self.busy:
            self.wait()

    def prepare(self, state: State) -> None:
        """Compiles what save() runs, so that the first save takes no longer than the others."""
        if self._digests:
            _digests(self._tree(state))

    def _tree(self, state: State) -> dict[str, Any]:
        return {self._item: state.trained, "optimizer": _optimizer_tree(state.opt)}

    def save(self, step: int, state: State, record: Json) -> None:
        """Starts saving the state *after* `step` updates. Waits for a save that is under way: ask `busy` first."""
        self.wait()
        tree = self._tree(state)
        said = {"record": record, "digests": _digests(tree) if self._digests else {}}
        said["sha256"] = artifact.digest(said)
        self._pending = self._checkpointer.save_checkpointables_async(step, tree | {RECORD: said}, force=True)

    def restore(self, step: int, target: State) -> tuple[State, Json]:
        """The state of a step, on the target's shardings (its arrays are only asked for shape and place), and the
        record saved with it.

        Raises:
          UserError: files that are damaged or missing.
        """
        wanted = abstract_like(self._tree(target))
        older = max((s.step for s in self._checkpointer.checkpoints if s.step < step), default=0)
        where = self._directory / str(step)
        mend = f"if its files are damaged, remove that directory, and the run goes on from step {older}"
        found = _read(self._checkpointer, where, step, wanted | {RECORD: None}, mend)
        said = found.pop(RECORD)
        if not isinstance(said, dict) or said.pop("sha256", None) != artifact.digest(said):
            raise UserError(f"{where / RECORD}: not what was saved; {mend}")
        if self._digests and said["digests"]:
            _check_digests(found, said["digests"], where, mend)
        return State(found[self._item], _with_optimizer_tree(target.opt, found["optimizer"])), said["record"]

    def wait(self) -> None:
        """Until nothing is on its way any more. Raises the error of a save that failed."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        self.wait()
        self._checkpointer.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Closes; where the block ends in a UserError a save on its way is finished, else nobody knows what works."""
        if kind is None:
            self.close()
        elif issubclass(kind, UserError):
            self.wait()


def directory_of(run: epath.PathLike) -> epath.Path:
    """Where a run's checkpoints are."""
    directory = epath.Path(run) / SUBDIRECTORY
    return directory if storage.is_remote(directory) else epath.Path(Path(directory).absolute())


def latest_step(run: epath.PathLike) -> int:
    """The step of a run's newest complete checkpoint, 0 where there is none.

    Told by names alone, for each process by itself: Orbax's Checkpointer is opened by all of them together. Locally a
    step gets its name, by renaming, when it is complete; in a bucket it gets a marker last.
    """
    directory = directory_of(run)
    steps = [path for path in directory.iterdir() if path.name.isdigit()] if directory.is_dir() else []
    if storage.is_remote(directory):
        steps = [path for path in steps if (path / MARKER).exists()]
    return max((int(path.name) for path in steps), default=0)


def _context() -> ocp.Context:
    """Orbax's settings for reading and writing."""
    context = ocp.Context()
    context.memory.read_concurrent_bytes = READ_BYTES
    context.array.saving.use_compression = False  # it takes four fifths of a save's processor time for 7% of its bytes
    context.checkpointables.registry = ocp.handlers.local_registry().add(
        ocp.handlers.JsonHandler, checkpointable_name=RECORD
    )
    return context


def _read(checkpointer: Any, directory: epath.Path, step: int, wanted: dict[str, Any], mend: str) -> dict[str, Any]:
    try:
        return checkpointer.load_checkpointables(step, wanted)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # Orbax, TensorStore and their codecs each have their own
        if "RESOURCE_EXHAUSTED" in str(error):
            raise  # too large for the devices: nothing is wrong with the files
        _hush_other_reads()
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{directory}: cannot be read ({type(error).__name__}: {reason}); {mend}") from error


def _hush_other_reads() -> None:
    """Keeps quiet what Orbax's other reads, given up with the one that failed, say when they are thrown away.

    Those never begun are warned of; those under way raise where nobody can catch it, and Python prints a traceback.
    """
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited")
    told = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not inspect.iscoroutine(unraisable.object):
            told(unraisable)

    sys.unraisablehook = hook


def _digests(tree: Any) -> dict[str, int]:
    """Dotted path → fingerprint of every array."""
    found = jax.device_get(fingerprints(tree))
    return {path_of(path): int(value) for path, value in jax.tree_util.tree_leaves_with_path(found)}


def _check_digests(tree: Any, listed: dict[str, int], where: epath.Path, mend: str) -> None:
    wrong = [path for path, value in _digests(tree).items() if listed.get(path) != value]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(f"{where}: {', '.join(wrong[:3])}{more} are not what was saved; {mend}")


def abstract_like(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def load(run: epath.PathLike, item: str, target: Params, step: int = 0) -> Params:
    """The params or adapter of a run, on the shardings of the abstract `target`: the newest, or those of `step`.

    Raises:
      UserError: the run has no complete checkpoint (of that step), a damaged one, or another than its manifest lists.
    """
    directory = directory_of(run)
    if not directory.is_dir():
        raise UserError(f"{run}: no {SUBDIRECTORY}/; not a run, or nothing was saved yet")
    mend = "copy it again, or train it again"
    with ocp.training.Checkpointer(directory, context=_context()) as checkpointer:
        if checkpointer.latest is None:
            raise UserError(f"{run}: no complete checkpoint; run its training again, it resumes")
        if step:
            return _of_step(checkpointer, directory, item, target, step)
        step = checkpointer.latest.step
        found = _read(checkpointer, directory / str(step), step, {item: target}, mend)[item]
    listed = artifact.read_manifest(run)["files"].get(item)
    if listed and params_digest(found) != listed["sha256"]:
        raise UserError(f"{run}: the checkpoint is not the one its {artifact.MANIFEST} lists; copy or train it again")
    return found


def _of_step(checkpointer: Any, directory: epath.Path, item: str, target: Params, step: int) -> Params:
    """No manifest lists these; they are compared with the fingerprints saved beside them."""
    there = sorted(saved.step for saved in checkpointer.checkpoints)
    if step not in there:
        steps = ", ".join(map(str, there))
        raise UserError(f"{directory}: no complete checkpoint of step {step}, only of {steps} (config.checkpoint.keep)")
    mend = "copy it again, or take another step"
    found = _read(checkpointer, directory / str(step), step, {item: target, RECORD: None}, mend)
    listed = (found.pop(RECORD) or {}).get("digests")
    if listed:
        _check_digests(found, listed, directory / str(step), mend)
    return found[item]


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
