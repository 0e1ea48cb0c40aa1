"""Causal attention within segments that never holds the scores of a whole row: flash attention (Dao, arXiv 2307.08691)
in plain JAX, for every backend without a kernel of its own.

Queries go block by block over the blocks of keys that their segments reach; blocks that are later or belong to other
segments alone are never computed. The backward pass computes the probabilities of each pair of blocks again from the
saved logsumexp. Memory is O(S · block) a head; statistics and sums are float32.
"""

import functools

import jax
import jax.numpy as jnp

from msm_jax.sharding import activations

BLOCK = 256  # on a CPU 512 is five times slower: its scores no longer fit the cache
Saved = tuple[jax.Array, ...]


def attend(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array, block: int = BLOCK) -> jax.Array:
    """What attention.attend gives for attention.segment_mask(segment_ids), on the mesh in use; rows may be spread over
    replica and fsdp, heads over tensor, and no device talks to another.

    Args:
      q: [B, S, H, h]. k, v: [B, S, K, h], H a multiple of K.
      segment_ids: int32 [B, S]. A segment is a run of equal ids, as packing makes them; padding (0) is one.
      block: positions in a block, at most; S need not be a multiple.

    Returns:
      [B, S, H, h] in q's dtype.
    """
    heads = activations(None, "tensor", None)
    local = functools.partial(_attend, block=min(block, q.shape[1]))
    # Every axis is named in every spec, and the ids have no gradient: there is nothing to add up between devices.
    specs = (heads, heads, heads, activations(None))
    arrays = [jax.sharding.reshard(x, spec) for x, spec in zip((q, k, v, segment_ids), specs, strict=True)]
    return jax.shard_map(local, in_specs=specs, out_specs=heads, check_vma=False)(*arrays)


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array, block: int) -> jax.Array:
    """One device's part."""
    B, S, H, h = q.shape
    K = k.shape[2]
    more = -S % block  # positions up to a whole block, a segment of their own
    q, k, v = (jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))) for x in (q, k, v))
    starts = segment_starts(jnp.pad(segment_ids, ((0, 0), (0, more)), constant_values=-1))
    q = jnp.transpose(jnp.reshape(q, (B, S + more, K, H // K, h)), (0, 2, 3, 1, 4))
    out = _flash(q, jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2), starts, block)
    return jnp.reshape(jnp.transpose(out, (0, 3, 1, 2, 4)), (B, S + more, H, h))[:, :S]


def segment_starts(segment_ids: jax.Array) -> jax.Array:
    """int32 [B, S] → int32 [B, S]: where the segment of every position begins. Padding (0) is a segment of its own."""
    at = jax.lax.broadcasted_iota(jnp.int32, segment_ids.shape, 1)
    begins = jnp.pad(segment_ids[:, 1:] != segment_ids[:, :-1], ((0, 0), (1, 0)))
    return jax.lax.cummax(jnp.where(begins, at, 0), axis=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _flash(q: jax.Array, k: jax.Array, v: jax.Array, starts: jax.Array, block: int) -> jax.Array:
    """q [B, K, G, S, h], k and v [B, K, S, h], starts [B, S], S a multiple of block → [B, K, G, S, h]."""
    return _forward(q, k, v, starts, block)[0]


def _forward(q: jax.Array, k: jax.Array, v: jax.Array, starts: jax.Array, block: int) -> tuple[jax.Array, Saved]:
    *outer, S, h = q.shape
    first = _first_blocks(starts, block)

    def row(_: None, i: jax.Array) -> tuple[None, tuple[jax.Array, jax.Array]]:
        qi, begin = _at(q, i, block, 3), _at(starts, i, block, 1)

        def column(j: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            top, total, out = carry
            scores, visible = _scores(qi, _at(k, j, block, 2), begin, i, j)
            higher = jnp.maximum(top, jnp.max(jnp.where(visible, scores, -jnp.inf), axis=-1))
            p = jnp.where(visible, jnp.exp(scores - higher[..., None]), 0.0)
            keep = jnp.exp(top - higher)
            added = jnp.einsum("bkgqs,bksh->bkgqh", p.astype(v.dtype), _at(v, j, block, 2), preferred_element_type=f32)
            return higher, total * keep + jnp.sum(p, axis=-1), out * keep[..., None] + added

        shape = (*outer, block)
        start = (jnp.full(shape, -1e30, f32), jnp.zeros(shape, f32), jnp.zeros((*shape, h), f32))
        top, total, out = jax.lax.fori_loop(first[i], i + 1, column, start)
        return None, ((out / total[..., None]).astype(q.dtype), top + jnp.log(total))

    _, (out, lse) = jax.lax.scan(row, None, jnp.arange(S // block))
    out, lse = _joined(out), _joined(lse)
    return out, (q, k, v, starts, out, lse)


def _backward(block: int, saved: Saved, gradient: jax.Array) -> tuple[jax.Array | None, ...]:
    q, k, v, starts, out, lse = saved
    S, h = q.shape[-2:]
    first = _first_blocks(starts, block)
    # Σ_k p·dp of a query, which is out · d out.
    delta = jnp.sum(out.astype(f32) * gradient.astype(f32), axis=-1)

    def row(sums: tuple[jax.Array, jax.Array], i: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        qi, go, begin = _at(q, i, block, 3), _at(gradient, i, block, 3), _at(starts, i, block, 1)
        lse_i, delta_i = _at(lse, i, block, 3)[..., None], _at(delta, i, block, 3)[..., None]

        def column(j: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            dk, dv, dq = carry
            kj, vj = _at(k, j, block, 2), _at(v, j, block, 2)
            scores, visible = _scores(qi, kj, begin, i, j)
            p = jnp.where(visible, jnp.exp(scores - lse_i), 0.0)
            dp = jnp.einsum("bkgqh,bksh->bkgqs", go, vj, preferred_element_type=f32)
            ds = (p * (dp - delta_i) * h**-0.5).astype(q.dtype)
            dv_j = jnp.einsum("bkgqs,bkgqh->bksh", p.astype(v.dtype), go, preferred_element_type=f32)
            dk_j = jnp.einsum("bkgqs,bkgqh->bksh", ds, qi, preferred_element_type=f32)
            dq = dq + jnp.einsum("bkgqs,bksh->bkgqh", ds, kj, preferred_element_type=f32)
            return _add_at(dk, dk_j, j, block), _add_at(dv, dv_j, j, block), dq

        dk, dv, dq = jax.lax.fori_loop(first[i], i + 1, column, (*sums, jnp.zeros(qi.shape, f32)))
        return (dk, dv), dq.astype(q.dtype)

    zeros = (jnp.zeros(k.shape, f32), jnp.zeros(v.shape, f32))
    (dk, dv), dq = jax.lax.scan(row, zeros, jnp.arange(S // block))
    return _joined(dq), dk.astype(k.dtype), dv.astype(v.dtype), None


_flash.defvjp(_forward, _backward)
f32 = jnp.float32


def _first_blocks(starts: jax.Array, block: int) -> jax.Array:
    """int32 [S/block]: the first block of keys that any row's queries of a block see. Starts never fall along a row."""
    return jnp.min(starts[:, ::block], axis=0) // block


def _scores(q: jax.Array, k: jax.Array, begin: jax.Array, i: jax.Array, j: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Scaled products of block i of queries and block j of keys, float32 [B, K, G, q, s], and which may be seen."""
    block = begin.shape[1]
    scores = jnp.einsum("bkgqh,bksh->bkgqs", q, k, preferred_element_type=f32) * q.shape[-1] ** -0.5
    queries, keys = i * block + jnp.arange(block)[:, None], j * block + jnp.arange(block)
    return scores, ((keys >= begin[:, :, None]) & (keys <= queries))[:, None, None]


def _at(x: jax.Array, i: jax.Array, block: int, axis: int) -> jax.Array:
    """Block i along an axis."""
    return jax.lax.dynamic_slice_in_dim(x, i * block, block, axis)


def _add_at(total: jax.Array, x: jax.Array, j: jax.Array, block: int) -> jax.Array:
    """[B, K, S, h] with x added to block j."""
    return jax.lax.dynamic_update_slice_in_dim(total, _at(total, j, block, 2) + x, j * block, 2)


def _joined(blocks: jax.Array) -> jax.Array:
    """[S/block, B, K, G, block, …] → [B, K, G, S, …]"""
    moved = jnp.moveaxis(blocks, 0, 3)
    return jnp.reshape(moved, (*moved.shape[:3], -1, *moved.shape[5:]))
