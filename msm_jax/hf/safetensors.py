"""safetensors files, read and written tensor by tensor; local paths and gs:// by the same code.

A file is a header length (8 bytes, little-endian), a header in JSON ({name: {dtype, shape, data_offsets}}) and the
tensors' bytes without gaps. The `safetensors` package maps whole files into memory and writes whole dicts; here
nothing but headers and the tensor in hand is ever held, so models larger than memory pass through.
Format: https://github.com/huggingface/safetensors#format. Hosts are little-endian, as are the files.
"""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, cast

import ml_dtypes
import numpy as np
from etils import epath

from msm_jax import storage
from msm_jax.cli import UserError

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_MAX_HEADER = 100_000_000  # as in the safetensors package
_SAMPLES = 16  # tensors of a file that its fingerprint looks at
_PIECE = 1 << 25  # bytes moved at once: remote files are buffered, and this is the buffer

Progress = Callable[[int], None]  # hears of every tensor's bytes when it is written


@dataclasses.dataclass(frozen=True)
class _Entry:
    """Where a tensor lies: bytes [start, stop) of the file at `path`; `code` is safetensors' name of its dtype."""

    path: epath.Path
    code: str
    shape: tuple[int, ...]
    start: int
    stop: int


class Tensors:
    """The tensors of a Hugging Face directory (one file, or shards and their index), or of a single file.

    Opening reads headers only. All methods may be used from several threads at once.

    Raises:
      UserError: a file is missing, damaged or cut off; a tensor is listed but absent, or there twice.
    """

    def __init__(self, path: epath.PathLike) -> None:
        self.path = storage.at(path)
        self._entries: dict[str, _Entry] = {}
        listed, files = _listing(self.path)
        for file in files:
            for name, entry in _header(file).items():
                if name in self._entries:
                    raise UserError(f"{file}: tensor {name} is there twice, also in {self._entries[name].path.name}")
                self._entries[name] = entry
        for name, file_name in listed.items():
            if name not in self._entries or self._entries[name].path.name != file_name:
                raise UserError(f"{self.path / file_name}: tensor {name} is listed in the index but not in the file")

    def names(self) -> list[str]:
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entry(name).shape

    def file(self, name: str) -> epath.Path:
        """The file that holds a tensor."""
        return self._entry(name).path

    def dtype(self, name: str) -> np.dtype:
        """Raises UserError where this project has no use for the dtype (integers, eight bits and fewer)."""
        entry = self._entry(name)
        if entry.code not in DTYPES:
            raise UserError(f"{entry.path}: tensor {name} has dtype {entry.code}; can read {', '.join(DTYPES)}")
        return DTYPES[entry.code]

    def total_bytes(self) -> int:
        return sum(entry.stop - entry.start for entry in self._entries.values())

    def fingerprint(self) -> str:
        """sha256 over every tensor's name, dtype and shape, and over a few bytes from the middle of some in each file.

        Reading many gigabytes to name a model would cost minutes at every start; two models that differ by training
        differ nearly everywhere.
        """
        total = hashlib.sha256()
        in_file: dict[epath.Path, list[_Entry]] = {}
        # In an order that has nothing to do with layers and kinds, so that the first few are some of all.
        for name, entry in sorted(self._entries.items(), key=lambda item: hashlib.sha256(item[0].encode()).digest()):
            total.update(f"{name} {entry.code} {entry.shape} ".encode())
            in_file.setdefault(entry.path, []).append(entry)
        for path, entries in in_file.items():
            with _open(path) as f:
                for entry in entries[:_SAMPLES]:
                    f.seek((entry.start + entry.stop) // 2)
                    total.update(f.read(min(256, entry.stop - f.tell())))
        return total.hexdigest()

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """A tensor, or the rows [start:stop) of its first dimension, as a fresh array.

        Read, not mapped: a mapping of a large file needs that much address space, and remote files have none.

        Raises:
          UserError: no such tensor, a dtype of no use here, or the file was cut off since it was opened.
        """
        entry, dtype = self._entry(name), self.dtype(name)
        shape, offset = entry.shape, entry.start
        if rows is not None:
            start, stop, step = rows.indices(shape[0])
            if step != 1:
                raise ValueError(f"rows = {rows}: only without a step")
            shape = (max(0, stop - start), *shape[1:])
            offset += start * math.prod(shape[1:]) * dtype.itemsize
        result = _aligned(shape, dtype)
        view = result.reshape(-1).view(np.uint8).data
        with _open(entry.path) as f:
            f.seek(offset)
            while view:
                count = f.readinto(view[:_PIECE])  # type: ignore[attr-defined]
                if not count:
                    raise UserError(f"{entry.path}: cut off within tensor {name}; copy it again")
                view = view[count:]
        return result

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            raise UserError(f"{self.path}: no tensor {name}")
        return self._entries[name]


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A fresh array that begins at a multiple of 64 bytes, which XLA's CPU devices take over without a copy."""
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size].view(dtype).reshape(shape)


def _listing(path: epath.Path) -> tuple[dict[str, str], list[epath.Path]]:
    """The index ({} without one) and the files to read; where both forms are there the single file counts, as in
    transformers."""
    if path.name.endswith(".safetensors"):
        return {}, [path]
    single, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if storage.is_file(single):
        return {}, [single]
    if not storage.is_file(index):
        raise UserError(f"{path}: neither {single.name} nor {index.name} there")
    content = _json(index, _read_bytes(index))
    listed = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(listed, dict) or not listed or not all(_plain(file) for file in listed.values()):
        raise UserError(f"{index}: damaged: no weight_map of tensor names to files; copy it again")
    return listed, [path / name for name in sorted(set(listed.values()))]


def _plain(name: Any) -> bool:
    """A name of a file in the same directory: an index may not point elsewhere."""
    return isinstance(name, str) and name.endswith(".safetensors") and "/" not in name


def _header(path: epath.Path) -> dict[str, _Entry]:
    """The entries of one file, checked against its length."""
    with _open(path) as f:
        size = storage.size(path)
        length = int.from_bytes(f.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            raise UserError(f"{path}: damaged or cut off: its header is not whole; copy it again")
        header = _json(path, f.read(length))
    if not isinstance(header, dict):
        raise UserError(f"{path}: damaged: its header is no table of tensors; copy it again")
    data = 8 + length
    entries = {name: _parse(path, name, item, data) for name, item in header.items() if name != "__metadata__"}
    end = data
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.stop > size:
            raise UserError(f"{path}: cut off: tensor {name} ends at byte {entry.stop} of {size}; copy it again")
        if entry.start != end:
            raise UserError(f"{path}: damaged: tensor {name} does not begin where the one before ends; copy it again")
        end = entry.stop
    if end != size:
        raise UserError(f"{path}: damaged: {size - end} bytes after its last tensor; copy it again")
    return entries


def _parse(path: epath.Path, name: str, item: Any, data: int) -> _Entry:
    try:
        code, shape, (start, stop) = str(item["dtype"]), tuple(item["shape"]), item["data_offsets"]
        whole = all(isinstance(n, int) and n >= 0 for n in (*shape, start, stop)) and start <= stop
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise UserError(f"{path}: damaged: the header's entry of tensor {name} makes no sense; copy it again")
    if code in DTYPES and stop - start != math.prod(shape) * DTYPES[code].itemsize:
        raise UserError(
            f"{path}: damaged: tensor {name} is {code} {list(shape)} in {stop - start} bytes; copy it again"
        )
    return _Entry(path, code, shape, data + start, data + stop)


def _json(path: epath.Path, content: bytes) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise UserError(f"{path}: {key} is there twice")
            found[key] = value
        return found

    try:
        return json.loads(content, object_pairs_hook=once)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path}: damaged: not JSON where it should be; copy it again") from error


def _open(path: epath.Path) -> IO[bytes]:
    try:
        return cast(IO[bytes], path.open("rb"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error


def _read_bytes(path: epath.Path) -> bytes:
    with _open(path) as f:
        return f.read()


@dataclasses.dataclass(frozen=True)
class Spec:
    """A tensor to write. `read` is called once, when it is this tensor's turn, and returns `shape` and `dtype`."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def write(
    directory: epath.PathLike,
    tensors: Sequence[Spec],
    max_shard_bytes: int = 5_000_000_000,
    *,
    name: str = "model",
    progress: Progress | None = None,
    done: Callable[[epath.Path], None] | None = None,
) -> list[str]:
    """Writes NAME.safetensors, or NAME-00001-of-0000N.safetensors and NAME.safetensors.index.json, as transformers
    does; returns the names of the files. One tensor is held at a time, in the given order; a tensor larger than
    `max_shard_bytes` has a shard of its own. Files appear under their names when all are written, the index last;
    with `done`, each when it is written, and `done` may take it away.

    Raises:
      UserError: such files are there already, or a dtype safetensors files of this project do not have.
      ValueError: a name twice, or a `read` that returns another shape or dtype than announced.
    """
    directory = storage.at(directory)
    _check(directory, tensors, name)
    shards = _shards(tensors, max_shard_bytes)
    suffixes = [f"-{i:05d}-of-{len(shards):05d}" for i in range(1, len(shards) + 1)] if len(shards) > 1 else [""]
    files = {f"{name}{suffix}.safetensors": shard for suffix, shard in zip(suffixes, shards, strict=True)}
    temporary = {file: directory / f"{file}.tmp" for file in files}
    storage.make_directory(directory)
    try:
        for file, shard in files.items():
            _write_file(temporary[file], shard, progress)
            if done:
                done(temporary.pop(file).rename(directory / file))
        for file, path in temporary.items():
            path.rename(directory / file)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)
    if len(files) > 1:
        _write_index(directory / f"{name}.safetensors.index.json", files)
        return [*files, f"{name}.safetensors.index.json"]
    return list(files)


def _check(directory: epath.Path, tensors: Sequence[Spec], name: str) -> None:
    names = [spec.name for spec in tensors]
    if len(set(names)) != len(names):
        raise ValueError(f"tensors twice: {sorted({n for n in names if names.count(n) > 1})}")
    for spec in tensors:
        if np.dtype(spec.dtype) not in _CODES:
            raise UserError(f"{directory}: tensor {spec.name} is {spec.dtype}; can write {', '.join(map(str, _CODES))}")
    for path in (directory / f"{name}.safetensors", directory / f"{name}.safetensors.index.json"):
        if storage.is_file(path):  # a reader that finds both forms would mix two models
            raise UserError(f"{path}: there already; move it away or choose another directory")


def _shards(tensors: Sequence[Spec], max_shard_bytes: int) -> list[list[Spec]]:
    """Fills shard after shard, in order; at least one, empty where there are no tensors."""
    shards: list[list[Spec]] = [[]]
    size = 0
    for spec in tensors:
        if shards[-1] and size + spec.nbytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += spec.nbytes
    return shards


def _write_file(path: epath.Path, shard: Sequence[Spec], progress: Progress | None) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers refuses files without it
    end = 0
    for spec in shard:
        start, end = end, end + spec.nbytes
        code = _CODES[np.dtype(spec.dtype)]
        header[spec.name] = {"dtype": code, "shape": list(spec.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as f:
        f.write(len(encoded).to_bytes(8, "little") + encoded)
        for spec in shard:
            _write_tensor(f, spec)
            if progress:
                progress(spec.nbytes)
        _settle(f, path)


def _write_tensor(f: IO[bytes], spec: Spec) -> None:
    """A function of its own, so that nothing refers to the tensor when the next one is read."""
    array = spec.read()
    if array.shape != tuple(spec.shape) or array.dtype != spec.dtype:
        raise ValueError(
            f"{spec.name}: announced {spec.dtype} {list(spec.shape)}, got {array.dtype} {list(array.shape)}"
        )
    for piece in _pieces(array):
        f.write(piece)


def _pieces(array: np.ndarray) -> Iterator[memoryview]:
    """The bytes in C order, piece by piece; an array in another order is copied by rows, never as a whole."""
    if array.ndim < 2 or array.flags.c_contiguous:
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        yield from (flat[i : i + _PIECE] for i in range(0, len(flat), _PIECE))
        return
    step = max(1, _PIECE * len(array) // max(1, array.nbytes))
    for i in range(0, len(array), step):
        yield np.ascontiguousarray(array[i : i + step]).reshape(-1).view(np.uint8).data


def _settle(f: IO[bytes], path: epath.Path) -> None:
    """On a local disk: bytes down before the name says they are, and readable by others."""
    if not storage.is_remote(path):
        f.flush()
        os.fsync(f.fileno())
        os.fchmod(f.fileno(), 0o644)


def _write_index(path: epath.Path, files: dict[str, list[Spec]]) -> None:
    specs = [spec for shard in files.values() for spec in shard]
    parameters = sum(math.prod(spec.shape) for spec in specs)
    index = {
        "metadata": {"total_parameters": parameters, "total_size": sum(spec.nbytes for spec in specs)},
        "weight_map": {spec.name: file for file, shard in files.items() for spec in shard},
    }
    temporary = path.parent / f"{path.name}.tmp"
    try:
        with temporary.open("wb") as f:
            f.write((json.dumps(index, indent=2, sort_keys=True) + "\n").encode())
            _settle(f, temporary)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
