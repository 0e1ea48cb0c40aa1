"""JSONL ⇄ Parquet, a few megabytes of rows in memory at a time. Needs pyarrow, the extra `data`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

from msm_jax import artifact, storage
from msm_jax.cli import UserError

GROUP = 1 << 24  # characters of JSONL in a row group, about
_ROWS = 1 << 16  # in a row group, at most


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("Parquet needs another package; pip install 'msm_jax[data]'") from error
    return pyarrow


def write(jsonl: epath.PathLike, parquet: str | Path) -> int:
    """Writes a JSONL file's rows as a local Parquet file; returns how many they are.

    The columns are all keys that occur; their types are found in a first pass, so that a column may begin with nulls.
    One without any value becomes text.

    Raises:
      UserError: no pyarrow, no JSONL, no rows, or a column whose values are of types that do not go together.
    """
    pa = _pyarrow()
    schema, count = None, 0
    for rows in _groups(jsonl):
        count += len(rows)
        try:
            found = pa.Table.from_pylist(rows, _columns(pa, rows)).schema
            schema = pa.unify_schemas([schema, found] if schema else [found], promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            said = " ".join(str(error).split())
            raise UserError(f"{jsonl}: rows up to {count} do not make one table ({said})") from error
    if schema is None:
        raise UserError(f"{jsonl}: no rows")
    schema = pa.schema([pa.field(field.name, _some_type(pa, field.type)) for field in schema])
    with pa.parquet.ParquetWriter(str(parquet), schema, compression="zstd") as writer:
        for rows in _groups(jsonl):
            writer.write_table(pa.Table.from_pylist(rows, schema))
    return count


def _columns(pa: Any, rows: list[dict[str, Any]]) -> Any:
    """Arrow looks at the first row alone for the columns' names."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.schema([pa.field(name, pa.infer_type([row.get(name) for row in rows])) for name in names])


def _some_type(pa: Any, kind: Any) -> Any:
    """The type with text for null in it, at any depth."""
    if pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_some_type(pa, kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _some_type(pa, field.type)) for field in kind])
    return kind


def _groups(jsonl: epath.PathLike) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    size = 0
    for number, row in enumerate(artifact.each_row(jsonl), 1):
        if not isinstance(row, dict):
            raise UserError(f"{jsonl}:{number}: not an object of columns")
        rows.append(row)
        size += sum(len(value) if isinstance(value, str) else 64 for value in row.values())
        if size >= GROUP or len(rows) == _ROWS:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def read(parquet: epath.PathLike, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, here or in a bucket, row group by row group; of all columns or of some.

    Raises:
      UserError: no pyarrow, no such file, or no Parquet.
    """
    pa = _pyarrow()
    if not storage.is_file(parquet):
        raise UserError(f"{parquet}: no such file")
    try:
        with storage.reading(parquet) as f:
            for batch in pa.parquet.ParquetFile(f, pre_buffer=False).iter_batches(256, columns=columns):
                yield from batch.to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        if isinstance(error, OSError) and (error.errno is not None or storage.is_remote(parquet)):
            raise  # the disk's or the bucket's, not Arrow's
        raise UserError(f"{parquet}: not readable as Parquet ({' '.join(str(error).split())[:200]})") from error
