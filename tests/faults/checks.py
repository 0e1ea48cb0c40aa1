"""What must hold of a run whatever was done to it, beside one that was left alone. Each check returns what is wrong."""

import dataclasses
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from msm_jax import artifact, metrics
from msm_jax.checkpoint import SUBDIRECTORY
from msm_jax.cli import UserError
from tests.faults import watch

logging.getLogger("absl").setLevel(logging.ERROR)


@dataclasses.dataclass(frozen=True)
class Reference:
    """A run that nobody disturbed, with all its checkpoints."""

    run: Path
    rows: list[dict[str, Any]]
    digest: str

    @classmethod
    def of(cls, run: Path) -> "Reference":
        return cls(run, metrics.read(run), digest(run))


def digest(run: Path) -> str:
    """sha256 of the parameters, by the manifest."""
    return artifact.read_manifest(run, "run")["files"]["params"]["sha256"]


def unfinished(run: Path, reference: Reference) -> Iterator[str]:
    """Of a run just killed: its metrics are a beginning of the reference's, half a row at their end aside, and reach
    as far as its newest complete checkpoint."""
    path = run / metrics.FILE
    text = path.read_text() if path.exists() else ""
    whole = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    if wrong := _difference(whole, reference.rows[: len(whole)]):
        yield f"after the kill: {wrong}"
    newest = max(watch.names(run)[0], default=0)
    if len(whole) < newest:
        yield f"after the kill: {len(whole)} rows of metrics, but a complete checkpoint of step {newest}"


def finished(run: Path, reference: Reference) -> Iterator[str]:
    """Of a run that says it is finished: the same weights, metrics and checkpoints as the reference's, bit for bit."""
    try:
        found = digest(run)
    except UserError as error:
        yield str(error)
        return
    if found != reference.digest:
        yield f"the parameters' sha256 is {found[:12]}, the reference's {reference.digest[:12]}"
    if wrong := _difference(metrics.read(run), reference.rows):
        yield wrong
    for path in sorted(run.rglob("*")):
        if path.name.endswith(".tmp") or "orbax-checkpoint-tmp" in path.name:
            yield f"left behind: {path.relative_to(run)}"
    yield from _checkpoints(run, reference)


def _difference(rows: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> str | None:
    if rows == wanted:
        return None
    if [row["step"] for row in rows] != [row["step"] for row in wanted]:
        return f"metrics of the steps {[row['step'] for row in rows]}, the reference's {len(wanted)}"
    row, other = next((a, b) for a, b in zip(rows, wanted, strict=True) if a != b)
    return f"metrics differ: {row}, the reference's {other}"


def _checkpoints(run: Path, reference: Reference) -> Iterator[str]:
    steps, others = watch.names(run)
    if others:
        yield f"among the checkpoints: {sorted(others)}"
    if len(reference.rows) not in steps:
        yield f"no checkpoint of the last step, only of {sorted(steps)}"
    there = watch.names(reference.run)[0]
    for step in sorted(steps):
        try:
            found = load(run, step)
        except Exception as error:  # whatever it is: this checkpoint cannot be read
            yield f"the checkpoint of step {step} cannot be read: {str(error).splitlines()[0]}"
            continue
        if step in there:  # a preemption may have saved others
            wanted = load(reference.run, step)
            if found.keys() != wanted.keys() or any(not np.array_equal(found[k], wanted[k]) for k in wanted):
                yield f"the checkpoint of step {step} is not the reference's"


def load(run: Path, step: int) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint by their paths, whatever devices and processes wrote it."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with ocp.training.Checkpointer((run / SUBDIRECTORY).absolute()) as checkpointer:
        trees = checkpointer.checkpointables_metadata(step).metadata
        wanted = {
            name: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), tree)
            for name, tree in trees.items()
            if name in ("params", "adapter", "optimizer")
        }
        found = checkpointer.load_checkpointables(step, wanted)
    return {str(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(found)}
