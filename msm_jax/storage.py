"""Files here and in buckets (`gs://`) by the same few verbs.

Paths are etils' epath.Path: the same object for either kind, so whoever joins names need not ask. Reading and writing
go through the functions below, because what a bucket does well is another thing than what a disk does well: objects
are put whole (which is atomic), read in large blocks, listed by prefix, and there are no directories. Buckets need
the package gcsfs, the extra `gcs`.
"""

import atexit
import concurrent.futures
import contextlib
import functools
import hashlib
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import fsspec
from etils import epath

from msm_jax.cli import UserError

BLOCK = 1 << 24  # bytes asked of a bucket, or sent there, at once

# Listings change under our feet, by other hosts and other programs: none is kept, here or by epath and Orbax.
fsspec.config.conf.setdefault("gs", {})["use_listings_cache"] = False
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs a traceback of what it raises anyway


def is_remote(where: epath.PathLike) -> bool:
    return "://" in str(where)


def at(where: epath.PathLike) -> epath.Path:
    """The path of a local name or a bucket's address.

    Raises:
      UserError: an address of another kind, or gcsfs is not installed.
    """
    if is_remote(where):
        if not str(where).startswith("gs://"):
            raise UserError(f"{where}: neither a local path nor a gs:// address")
        _buckets(str(where))
    return epath.Path(where)


@functools.cache
def _client() -> Any:
    return fsspec.filesystem("gs")


def _buckets(where: str) -> Any:
    try:
        return _client()
    except ImportError as error:
        raise UserError(f"{where}: remote paths need another package; pip install 'msm_jax[gcs]'") from error


def _info(path: epath.PathLike) -> dict[str, Any] | None:
    """gcsfs' facts about an object or prefix, None where there is none."""
    try:
        return _buckets(str(path)).info(str(path))
    except FileNotFoundError:
        return None


def is_file(path: epath.PathLike) -> bool:
    if not is_remote(path):
        return os.path.isfile(path)
    found = _info(path)
    return found is not None and found["type"] == "file"


def is_dir(path: epath.PathLike) -> bool:
    """A directory; in a bucket a prefix that some object has."""
    if not is_remote(path):
        return os.path.isdir(path)
    found = _info(path)
    return found is not None and found["type"] == "directory"


def size(path: epath.PathLike) -> int:
    """Bytes. Raises FileNotFoundError."""
    return _buckets(str(path)).info(str(path))["size"] if is_remote(path) else os.path.getsize(path)


def files(directory: epath.PathLike) -> dict[str, int]:
    """Every file below a directory: its name from there on, and its bytes. {} where there is none.

    Raises:
      UserError: a bucket that does not exist.
    """
    if not is_remote(directory):
        root = Path(directory)
        return {str(p.relative_to(root)): p.stat().st_size for p in sorted(root.rglob("*")) if p.is_file()}
    prefix = str(directory).rstrip("/") + "/"
    with _addressed(directory):
        found = _buckets(prefix).find(prefix, detail=True)
    names = {f"gs://{name}".removeprefix(prefix): facts["size"] for name, facts in sorted(found.items())}
    return {name: bytes_ for name, bytes_ in names.items() if name and not name.endswith("/")}  # not console's folders


def reading(path: epath.PathLike) -> IO[bytes]:
    """An open file; a bucket's object comes block by block. Raises FileNotFoundError."""
    if is_remote(path):
        opened = _buckets(str(path)).open(str(path), "rb", block_size=BLOCK, cache_type="readahead")
        return cast(IO[bytes], opened)
    return open(path, "rb")


def read_bytes(path: epath.PathLike) -> bytes:
    with reading(path) as f:
        return f.read()


def read_text(path: epath.PathLike) -> str:
    with reading_text(path) as f:
        return f.read()


def reading_text(path: epath.PathLike) -> IO[str]:
    """The same as UTF-8 text."""
    return io.TextIOWrapper(io.BufferedReader(cast(io.RawIOBase, reading(path)), 1 << 20), encoding="utf-8")


def sha256(path: epath.PathLike, progress: Callable[[int], None] | None = None) -> str:
    """sha256 (hex) of a file's bytes, of which a block is in memory; `progress` hears of every block's."""
    total = hashlib.sha256()
    with reading(path) as f:
        while block := f.read(BLOCK):
            total.update(block)
            if progress:
                progress(len(block))
    return total.hexdigest()


def write_atomic(path: epath.PathLike, content: str | bytes) -> None:
    """`path` is old or new, never half: in a bucket objects are, locally a temporary name is written and renamed."""
    data = content.encode() if isinstance(content, str) else content
    if is_remote(path):
        with _addressed(path):
            _buckets(str(path)).pipe_file(str(path), data)
        return
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def copy(local: epath.PathLike, path: epath.PathLike) -> None:
    """A local file to another place. To a bucket in pieces, and compared there by its MD5; the object appears when
    it is whole."""
    if is_remote(path):
        with _addressed(path):
            _buckets(str(path)).put_file(str(local), str(path), consistency="md5", chunksize=BLOCK)
    else:
        shutil.copyfile(local, path)


@contextlib.contextmanager
def _addressed(path: epath.PathLike) -> Iterator[None]:
    """Where something is written or listed, only the bucket can be missing, and that is the user's to mend; or else the
    session of an upload, which is a failure on the way."""
    try:
        yield
    except FileNotFoundError as error:
        bucket = str(path).removeprefix("gs://").split("/")[0]
        if error.errno is not None or _info(f"gs://{bucket}"):  # the first is of the local file
            raise
        raise UserError(f"{path}: there is no bucket gs://{bucket}; make it or mend the address") from error


def make_directory(path: epath.PathLike) -> None:
    """With its parents; buckets have no directories."""
    if not is_remote(path):
        os.makedirs(path, exist_ok=True)


def delete(paths: Iterable[epath.PathLike]) -> None:
    """Deletes objects of a bucket; what is gone already is no error."""

    def one(path: epath.PathLike) -> None:
        with contextlib.suppress(FileNotFoundError):
            _buckets(str(path)).rm_file(str(path))

    list(in_parallel(one, paths, 16))


def nearby(directory: epath.PathLike, names: Iterable[str]) -> Path:
    """A local directory with those of a directory's small files that are there: itself, where it is local; else a
    copy that lasts as long as this process."""
    if not is_remote(directory):
        return Path(directory)
    scratch = Path(tempfile.mkdtemp(prefix="msm_jax_"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    copies = scratch / str(directory)  # so that a message about them says where they are from
    copies.mkdir(parents=True)

    def fetch(name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (copies / name).write_bytes(read_bytes(at(directory) / name))

    list(in_parallel(fetch, names, 16))
    return copies


def in_parallel(work: Callable[[Any], Any], items: Iterable[Any], many: int) -> Iterator[Any]:
    """work(item) of every item, in their order, `many` at a time: waiting for a bucket is not work."""
    if many == 1:
        yield from map(work, items)
        return
    with concurrent.futures.ThreadPoolExecutor(many) as pool:
        yield from pool.map(work, items)
