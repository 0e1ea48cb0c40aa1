"""Packed rows in, global batches out. The batch of a step is a pure function of (manifests, seed, mixture, step), so
the whole state of the input pipeline is the step number."""

import dataclasses
import functools
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import numpy as np

from msm_jax import artifact
from msm_jax.cli import UserError
from msm_jax.loss import Batch
from msm_jax.sharding import BATCH

FIELDS = ("tokens", "segment_ids", "positions", "loss_weights")


@dataclasses.dataclass(frozen=True)
class Shards:
    """An open directory of packed rows."""

    directory: Path
    manifest: dict[str, Any]
    source: grain.sources.ArrayRecordDataSource

    @property
    def seq_len(self) -> int:
        return self.manifest["counts"]["seq_len"]

    def row(self, record: bytes) -> dict[str, np.ndarray]:
        """One record → {field: [S]}; see data_gen.shards for the layout."""
        fields = np.frombuffer(record, "<i4").reshape(len(FIELDS), self.seq_len)
        return dict(zip(FIELDS, (*fields[:3], fields[3].view("<f4")), strict=True))


def open_shards(directory: str | Path, verify: bool) -> Shards:
    """Opens rows written by data_gen.shards.

    Args:
      directory: of the rows and their manifest.
      verify: read every file once and compare its sha256 with the manifest's; else only sizes are compared, and
        ArrayRecord's own checksums speak when a row is read.

    Raises:
      UserError: missing or foreign directory; a file that is missing, truncated or changed.
    """
    directory = Path(directory)
    manifest = artifact.read_manifest(directory, "shards")
    names = manifest["counts"]["shards"]
    for name, listed in manifest["files"].items():
        path = directory / name
        if not path.is_file():
            raise UserError(f"{path}: missing; copy it back or make the shards again")
        if path.stat().st_size != listed["bytes"]:
            raise UserError(f"{path}: {path.stat().st_size} bytes, the manifest says {listed['bytes']}; truncated?")
        if verify and artifact.file_digest(path) != listed["sha256"]:
            raise UserError(f"{path}: content differs from the manifest's sha256; copy it again")
    try:
        source = grain.sources.ArrayRecordDataSource([str(directory / name) for name in names])
        rows = len(source)
    except RuntimeError as error:
        raise UserError(f"{directory}: not readable as ArrayRecord ({error}); make the shards again") from error
    counts = manifest["counts"]
    if rows != counts["rows"] or len(source[0]) != 4 * len(FIELDS) * counts["seq_len"]:
        raise UserError(f"{directory}: rows or their length are not what the manifest says; make the shards again")
    return Shards(directory, manifest, source)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Rows of several sources by weight, each source shuffled anew every epoch: row i is a pure function of i."""

    sources: Sequence[Shards]
    weights: Sequence[float]
    seed: int

    def __post_init__(self) -> None:
        if len(self.sources) != len(self.weights):
            raise UserError(f"config.data: {len(self.sources)} sources but {len(self.weights)} weights")
        if not self.sources or min(self.weights) <= 0:
            raise UserError("config.data: at least one source, and every weight above 0")
        for key in ("seq_len", "tokenizer"):
            found = {shards.manifest["counts"][key] for shards in self.sources}
            if len(found) > 1:
                names = ", ".join(str(shards.directory) for shards in self.sources)
                raise UserError(f"config.data.sources: {names} differ in {key}; make them with the same settings")

    @functools.cached_property
    def _rows(self) -> grain.MapDataset:
        streams = [
            grain.MapDataset.source(shards.source).seed(self.seed + n).shuffle().repeat().map(shards.row)
            for n, shards in enumerate(self.sources)
        ]
        return grain.MapDataset.mix(streams, list(self.weights))

    @property
    def seq_len(self) -> int:
        return self.sources[0].seq_len

    def rows_of_epochs(self, epochs: float) -> int:
        """How many rows it gives until the source that ends first, at its share, was read `epochs` times."""
        exact = [Fraction(str(weight)) for weight in self.weights]  # decimal numbers, as somebody wrote them
        shares = [weight / sum(exact) for weight in exact]
        sizes = [len(shards.source) for shards in self.sources]
        return int(min(Fraction(str(epochs)) * n / share for n, share in zip(sizes, shares, strict=True)))

    def rows(self, indices: Sequence[int]) -> dict[str, np.ndarray]:
        """Rows by global index → {field: [len(indices), S]}. Raises UserError on a damaged record."""
        try:
            rows = [self._rows[i] for i in indices]
        except RuntimeError as error:
            for shards in self.sources:  # name the file, if the damage can be seen on disk
                open_shards(shards.directory, verify=True)
            raise UserError(f"a row of {indices[0]}..{indices[-1]} cannot be read: {error}") from error
        return {field: np.stack([row[field] for row in rows]) for field in FIELDS}


class Content(NamedTuple):
    """What a global batch holds, and how long the loop waited for it. Counted on the rows that this host reads and
    scaled to the whole batch: exact on one host, an estimate on several."""

    tokens: float  # that are not padding
    supervised: float  # of them, with a loss weight
    pairs: float  # (query, key) that attention looks at: Σ position + 1
    waited: float = 0.0  # seconds


def batch_sharding() -> jax.NamedSharding:
    """Of every field of a batch, [accumulate, B, S], on the mesh in use."""
    return jax.NamedSharding(jax.sharding.get_mesh(), jax.P(None, BATCH, None))


def abstract_batch(rows: int, accumulate: int, seq_len: int) -> dict[str, jax.ShapeDtypeStruct]:
    """ShapeDtypeStructs of what batch_at gives."""
    shape, sharding = (accumulate, rows // accumulate, seq_len), batch_sharding()
    dtypes = dict.fromkeys(FIELDS, np.int32) | {"loss_weights": np.float32}
    return {field: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for field, dtype in dtypes.items()}


def batch_at(mixture: Mixture, step: int, rows: int, accumulate: int) -> tuple[Batch, Content]:
    """The global batch of a step, {field: [accumulate, rows/accumulate, S]}, sharded over the mesh in use.

    Each host reads only the rows its devices hold; which those are follows from the global index alone, so the
    number of hosts never changes what is trained on.
    """
    sharding = batch_sharding()
    shape = (accumulate, rows // accumulate, mixture.seq_len)
    index = np.arange(step * rows, (step + 1) * rows).reshape(shape[:2])
    needed = rows_needed(index, sharding.addressable_devices_indices_map(shape).values())
    local = mixture.rows(needed)
    place = {i: n for n, i in enumerate(needed)}

    def shard(field: str, where: Any) -> np.ndarray:
        wanted = index[where[:2]]
        picked = local[field][[place[int(i)] for i in wanted.flat]]
        return picked.reshape(*wanted.shape, mixture.seq_len)

    batch: Batch = {
        field: jax.make_array_from_callback(shape, sharding, functools.partial(shard, field)) for field in FIELDS
    }
    return batch, content_of(local, rows)


def content_of(local: dict[str, np.ndarray], rows: int) -> Content:
    """Of a batch of `rows` rows, by those of them that are here."""
    real = local["segment_ids"] > 0
    counts = real.sum(), (real & (local["loss_weights"] > 0)).sum(), (local["positions"] + 1)[real].sum(dtype=np.int64)
    return Content(*(float(count) * rows / len(real) for count in counts))


def rows_needed(index: np.ndarray, places: Iterable[Any]) -> list[int]:
    """The global rows, of int [accumulate, B] `index`, that the devices at `places` (slices of the batch) hold."""
    return sorted({int(i) for where in places if where is not None for i in index[where[:2]].flat})


def batches(mixture: Mixture, steps: range, rows: int, accumulate: int) -> Iterator[tuple[Batch, Content]]:
    """The batches of `steps`, read one step ahead of their use."""
    mesh = jax.sharding.get_mesh()

    def load(step: int) -> tuple[Batch, Content]:
        # The mesh in use belongs to a thread. Nothing else in the loop moves anything to the devices.
        with jax.sharding.set_mesh(mesh), jax.transfer_guard_host_to_device("allow"):
            return batch_at(mixture, step, rows, accumulate)

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(load, steps.start) if steps else None
        for step in steps:
            assert ahead is not None
            began = time.monotonic()
            batch, content = ahead.result()
            content = content._replace(waited=time.monotonic() - began)
            if step + 1 in steps:
                ahead = pool.submit(load, step + 1)
            yield batch, content
