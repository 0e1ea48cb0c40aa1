"""Packed rows in, global batches out. The batch of a step is a pure function of (manifests, seed, mixture, step), so
the whole state of the input pipeline is the step number."""

import functools
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from msm_jax.loss import Batch
from msm_jax.mixture import Mixture
from msm_jax.sharding import BATCH
from msm_jax.shards import FIELDS


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
