"""A parameters-only checkpoint from slices: as large as a disk holds, in the memory of about one slice.

Orbax saves trees of whole arrays. Here Orbax saves a skeleton, the same tree of scalars, in its plain form (a zarr
directory for each leaf, named by its dotted path), and TensorStore writes the real arrays in the scalars' place,
chunk by chunk. So everything but the arrays is Orbax's own writing, and its Checkpointer reads the result like any
other, each host only the chunks that its shards touch.
"""

import concurrent.futures
import dataclasses
import hashlib
import itertools
import math
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import tensorstore as ts
from etils import epath
from jax.tree_util import DictKey
from orbax.checkpoint import v1 as ocp

from msm_jax import storage
from msm_jax.checkpoint import MARKER, directory_of
from msm_jax.cli import UserError

DTYPES = (np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16))
_ITEM = "params"
_BUFFERS = 8  # chunks being written at once

Progress = Callable[[int], None]  # hears of every slice's bytes when it is handed over


@dataclasses.dataclass(frozen=True)
class Leaf:
    """An array to write.

    read: read(start, stop) returns its rows [start, stop), shape [stop - start, *shape[1:]], of `dtype`. Called once
      for each `rows` rows, in order.
    rows: how many rows at once; 1 for weights stacked over layers.
    cut: the dimension (not 0) that meshes shard: chunks are cut along it first, so that a host reads little more
      than its shards.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[int, int], np.ndarray]
    rows: int = 1
    cut: int | None = None

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def slices(self) -> Iterator[tuple[int, int]]:
        return ((i, min(i + self.rows, self.shape[0])) for i in range(0, self.shape[0], self.rows))


def write(
    run: epath.PathLike,
    step: int,
    leaves: Mapping[str, Leaf],
    *,
    chunk_bytes: int = 1 << 23,
    progress: Progress | None = None,
) -> str:
    """Writes RUN/checkpoints/STEP with the item `params`, a leaf for each dotted path; returns its params_digest.

    Peak memory is one slice (and what its `read` takes) plus a constant. Locally the step appears by one rename, on
    gs:// by Orbax's commit marker, written last; before that no reader sees it, and writing anew starts afresh.

    Raises:
      UserError: the step is there already, or a dtype other than float32 and bfloat16.
      ValueError: a `read` that returns another shape or dtype than announced.
    """
    target = directory_of(run) / str(step)
    remote = storage.is_remote(target)
    for path, leaf in leaves.items():
        if np.dtype(leaf.dtype) not in DTYPES:
            raise UserError(f"{target}: {path} is {leaf.dtype}; parameters are {' or '.join(map(str, DTYPES))}")
    if (target / MARKER).exists() or (target.exists() and not remote):
        raise UserError(f"{target}: there already; move it away or choose another directory")
    work = target if remote else target.parent / f"{step}.orbax-checkpoint-tmp"  # what Orbax itself cleans up
    if work.exists():
        work.rmtree()
    with tempfile.TemporaryDirectory() as scratch:
        skeleton = Path(scratch) / str(step)
        _write_skeleton(skeleton, leaves)
        files = sorted(file.relative_to(skeleton) for file in skeleton.rglob("*") if file.is_file())
        markers = sorted((f for f in files if f.name == MARKER), key=lambda f: -len(f.parts))
        for file in files:
            if file not in markers:
                _copy(skeleton / file, work / str(file))
        digest = _write_arrays(work / _ITEM, leaves, chunk_bytes, progress)
        for file in markers:
            _copy(skeleton / file, work / str(file))
    if not remote:
        work.rename(target)
    return digest


def _write_skeleton(skeleton: Path, leaves: Mapping[str, Leaf]) -> None:
    """Orbax's files for this tree, without the arrays."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *groups, name = path.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = np.zeros((), leaf.dtype)
    context = ocp.Context()
    context.array.saving.use_ocdbt = False
    with context, ocp.training.Checkpointer(skeleton.parent) as checkpointer:
        checkpointer.save_checkpointables(int(skeleton.name), {_ITEM: tree}, force=True)
    found = {file.parent.name for file in (skeleton / _ITEM).glob("*/zarr.json")}
    if found != set(leaves):
        raise RuntimeError(f"this Orbax lays out arrays in another way: {sorted(found ^ set(leaves))}")
    for name in found:
        shutil.rmtree(skeleton / _ITEM / name)


def _copy(source: Path, target: epath.Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())


def _write_arrays(item: epath.Path, leaves: Mapping[str, Leaf], chunk_bytes: int, progress: Progress | None) -> str:
    """Writes all arrays; returns checkpoint.params_digest of the tree, taken from the same slices."""
    total = hashlib.sha256()
    window = _Window(chunk_bytes)
    with concurrent.futures.ThreadPoolExecutor(1) as hasher:  # hashlib lets go of the interpreter lock
        for path, leaf in sorted(leaves.items(), key=lambda entry: _keys(entry[0])):
            total.update(f"{_keys(path)}{tuple(leaf.shape)}{leaf.dtype}".encode())
            chunk = chunk_shape(leaf, chunk_bytes)
            store = _create(item / path, leaf, chunk)
            for start, stop in leaf.slices():
                block = np.ascontiguousarray(_checked(path, leaf, start, stop))
                hashed = hasher.submit(total.update, block.reshape(-1).view(np.uint8).data)
                for corner in itertools.product(*(range(0, n, c) for n, c in zip(block.shape, chunk, strict=True))):
                    where = tuple(slice(a, a + c) for a, c in zip(corner, chunk, strict=True))
                    window.write(store, (slice(start, stop), *where[1:]), block[where])
                hashed.result()
                if progress:
                    progress(block.nbytes)
                del block, hashed
        window.wait()
    return total.hexdigest()


def _keys(path: str) -> str:
    """`layers.q` as params_digest writes it."""
    return str(tuple(DictKey(key) for key in path.split(".")))


def _checked(path: str, leaf: Leaf, start: int, stop: int) -> np.ndarray:
    block = leaf.read(start, stop)
    shape = (stop - start, *leaf.shape[1:])
    if block.shape != shape or block.dtype != leaf.dtype:
        raise ValueError(f"{path}: wanted {leaf.dtype} {list(shape)}, got {block.dtype} {list(block.shape)}")
    return block


class _Window:
    """Pieces on their way to disk: copied into a few buffers, used over and over, because fresh memory for every
    piece costs more (in page faults) than the copy itself; and a slice is free as soon as it is handed over."""

    def __init__(self, buffer_bytes: int) -> None:
        self._buffer_bytes = buffer_bytes
        self._pending: deque[tuple[ts.Future, np.ndarray]] = deque()

    def write(self, store: ts.TensorStore, where: tuple[slice, ...], piece: np.ndarray) -> None:
        """Starts writing a copy of `piece`; waits for the oldest one where all buffers are in use."""
        buffer = self._oldest() if len(self._pending) >= _BUFFERS else np.empty(self._buffer_bytes, np.uint8)
        if len(buffer) < piece.nbytes:  # a vector, which is never cut
            buffer = np.empty(piece.nbytes, np.uint8)
        copy = buffer[: piece.nbytes].view(piece.dtype).reshape(piece.shape)
        np.copyto(copy, piece)
        written = store[where].write(copy, can_reference_source_data_indefinitely=True).commit
        written.force()
        self._pending.append((written, buffer))

    def _oldest(self) -> np.ndarray:
        written, buffer = self._pending.popleft()
        written.result()
        return buffer

    def wait(self) -> None:
        while self._pending:
            self._oldest()


def chunk_shape(leaf: Leaf, chunk_bytes: int) -> tuple[int, ...]:
    """`rows` rows, halved along `cut` first and then along the longest dimension until it has `chunk_bytes`.

    The first dimension stays: a chunk that two slices share would be read, changed and written again.
    """
    chunk = [min(leaf.rows, leaf.shape[0]), *leaf.shape[1:]]
    while math.prod(chunk) * np.dtype(leaf.dtype).itemsize > chunk_bytes:
        axes = sorted(range(1, len(chunk)), key=lambda axis: (axis != leaf.cut, -chunk[axis]))
        axis = next((axis for axis in axes if chunk[axis] > 1), None)
        if axis is None:
            break
        chunk[axis] = -(-chunk[axis] // 2)
    return tuple(chunk)


def _create(path: epath.Path, leaf: Leaf, chunk: tuple[int, ...]) -> ts.TensorStore:
    """An empty zarr array. No compression, weights do not compress; a checksum for every chunk."""
    url = str(path)
    if url.startswith("gs://"):
        bucket, _, key = url.removeprefix("gs://").partition("/")
        kvstore = {"driver": "gcs", "bucket": bucket, "path": f"{key}/"}
    else:
        kvstore = {"driver": "file", "path": f"{url}/"}
    metadata = {
        "shape": list(leaf.shape),
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        "data_type": str(np.dtype(leaf.dtype)),
    }
    spec = {"driver": "zarr3", "kvstore": kvstore, "metadata": metadata, "store_data_equal_to_fill_value": True}
    return ts.open(spec, create=True, open=False).result()
