"""Attention on TPUs: causal, within segments, never holding a matrix of S × S. Forward and backward in Pallas.

Rows are packed, so a segment is a run of positions, and the keys a query sees are those from its segment's first
position to itself: one number a query, `start`, is the whole mask. Blocks of other segments are never visited.

The method is that of Dao (FlashAttention-2, arXiv 2307.08691) laid out for a TPU: keys and values of a head are whole
in VMEM, and so are their gradients while they are summed. The backward pass therefore runs once over the blocks for
all three gradients, with nothing left to be added up outside.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from msm_jax.cli import UserError

LOG2E = math.log2(math.e)
MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)
LANES = 128
MAX_SIZE = 8192 * 128  # of a head's keys [S, h]: they and their gradients stay in VMEM
VMEM_BYTES = 48 * 2**20  # a kernel may use; v5p has 64 MiB a core, v5e and v6e 128


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Queries and keys that are worked on at a time, forward and backward; where S is no multiple, what divides it.

    Least cycles a head at S = 8192 and h = 128, counted in the compiled kernels (docs/performance.md).
    """

    q: int = 512
    k: int = 1024
    q_back: int = 1024
    k_back: int = 1024


BLOCKS = Blocks()
Saved = tuple[jax.Array, ...]
"""q, k, v, start, output and the logarithms of its sums."""


def check(S: int, h: int) -> None:
    """Raises UserError for shapes that the kernels do not do."""
    if S % LANES or h % 8 or S * h > MAX_SIZE:
        raise UserError(
            f"config.model.attention: the kernel needs rows of a multiple of {LANES} tokens, at most "
            f"{MAX_SIZE // h} of them with heads of {h}; these have {S}. Pack other rows, or set it to 'reference'"
        )


def _dot(a: jax.Array, b: jax.Array, contract: tuple[int, int]) -> jax.Array:
    """Product over the given dimension of each, in float32."""
    dims = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


def _ranges(first: jax.Array, last: jax.Array, i: jax.Array, bq: int, bk: int) -> tuple[jax.Array, ...]:
    """Which blocks of keys the block of queries i visits.

    first, last: `start` of its first and last query. Returns (a, n, d, e): n masked blocks from a on, whole ones from
    a + n to d, masked ones (the diagonal) from d to e.
    """
    div = jax.lax.div  # of what is never negative; `//` would ask for signs
    a, d = div(first, bk), div(i * bq, bk)
    whole = jnp.clip(div(last + bk - 1, bk), a, d)
    return a, whole - a, d, div((i + 1) * bq + bk - 1, bk)


def _visit(ranges: tuple[jax.Array, ...], block: Callable[[jax.Array, bool], None]) -> None:
    """Calls block(j, masked) for every visited block of keys."""
    a, n, d, e = ranges
    jax.lax.fori_loop(a + n, d, lambda j, _: block(j, False), None)
    jax.lax.fori_loop(0, n + e - d, lambda t, _: block(jnp.where(t < n, a + t, d + t - n), True), None)


def _forward_kernel(*refs: Any, bk: int, scale: float) -> None:
    ends_ref, q_ref, k_ref, v_ref, start_ref, o_ref, lse_ref, m_ref, l_ref, acc_ref = refs
    b, i = pl.program_id(0), pl.program_id(2)
    bq, h = q_ref.shape
    q = (q_ref[...].astype(jnp.float32) * (scale * LOG2E)).astype(q_ref.dtype)
    m_ref[...] = jnp.full_like(m_ref, MASKED)
    l_ref[...] = jnp.zeros_like(l_ref)
    acc_ref[...] = jnp.zeros_like(acc_ref)

    def block(j: jax.Array, masked: bool) -> None:
        k, v = k_ref[pl.ds(j * bk, bk), :], v_ref[pl.ds(j * bk, bk), :]
        s = _dot(q, k, (1, 1))  # [bq, bk], in units of log 2
        if masked:
            column = j * bk + jax.lax.broadcasted_iota(jnp.int32, (bq, bk), 1)
            row = i * bq + jax.lax.broadcasted_iota(jnp.int32, (bq, bk), 0)
            start = jnp.tile(start_ref[...], (1, bk // LANES))
            s = jnp.where((column <= row) & (column >= start), s, MASKED)
        m = m_ref[...]
        new = jnp.maximum(m, jnp.max(s, axis=1)[:, None])
        p = jnp.exp2(s - jnp.tile(new, (1, bk // LANES)))
        shrink = jnp.exp2(m - new)
        m_ref[...] = new
        l_ref[...] = l_ref[...] * shrink + jnp.sum(p, axis=1)[:, None]
        grown = _dot(p.astype(v.dtype), v, (1, 0))
        acc_ref[...] = acc_ref[...] * (shrink if h == LANES else shrink[:, :1]) + grown

    _visit(_ranges(ends_ref[b, i, 0], ends_ref[b, i, 1], i, bq, bk), block)
    total = l_ref[...]
    o_ref[...] = (acc_ref[...] / (total if h == LANES else total[:, :1])).astype(o_ref.dtype)
    lse_ref[...] = (m_ref[...] + jnp.log2(total)).T[:1]


def _backward_kernel(*refs: Any, bk: int, scale: float) -> None:
    ends_ref, q_ref, k_ref, v_ref, start_ref, o_ref, lse_ref, do_ref, dq_ref, dk_ref, dv_ref, *sums = refs
    dq_acc, dk_acc, dv_acc = sums
    b, g, i = pl.program_id(0), pl.program_id(2), pl.program_id(3)
    bq, _ = q_ref.shape

    @pl.when((g == 0) & (i == 0))
    def start() -> None:
        dk_acc[...] = jnp.zeros_like(dk_acc)
        dv_acc[...] = jnp.zeros_like(dv_acc)

    q = (q_ref[...].astype(jnp.float32) * (scale * LOG2E)).astype(q_ref.dtype)
    do = do_ref[...]
    lse = lse_ref[...]  # [1, bq]
    # Σ over h of do·o, as a row.
    di = jnp.sum(do.astype(jnp.float32) * o_ref[...].astype(jnp.float32), axis=1)[None, :]
    dq_acc[...] = jnp.zeros_like(dq_acc)

    def block(j: jax.Array, masked: bool) -> None:
        here = pl.ds(j * bk, bk)
        k, v = k_ref[here, :], v_ref[here, :]
        s = _dot(k, q, (1, 1))  # [bk, bq]: queries along lanes, where their statistics are
        if masked:
            column = j * bk + jax.lax.broadcasted_iota(jnp.int32, (bk, bq), 0)
            row = i * bq + jax.lax.broadcasted_iota(jnp.int32, (bk, bq), 1)
            s = jnp.where((column <= row) & (column >= start_ref[...]), s, MASKED)
        p = jnp.exp2(s - lse)
        dv_acc[here, :] += _dot(p.astype(do.dtype), do, (1, 0))
        ds = p * (_dot(v, do, (1, 1)) - di)
        dk_acc[here, :] += _dot(ds.astype(q.dtype), q, (1, 0))
        dq_acc[...] += _dot(ds.T.astype(k.dtype), k, (1, 0))

    _visit(_ranges(ends_ref[b, i, 0], ends_ref[b, i, 1], i, bq, bk), block)
    dq_ref[...] = (dq_acc[...] * scale).astype(dq_ref.dtype)

    @pl.when((g == pl.num_programs(2) - 1) & (i == pl.num_programs(3) - 1))
    def finish() -> None:
        dk_ref[...] = (dk_acc[...] * (1 / LOG2E)).astype(dk_ref.dtype)
        dv_ref[...] = dv_acc[...].astype(dv_ref.dtype)


def _ends(start: jax.Array, bq: int) -> jax.Array:
    """int32 [B, S/bq, 2]: `start` of the first and the last query of every block."""
    return jnp.stack([start[:, ::bq], start[:, bq - 1 :: bq]], axis=-1)


def _params(dimensions: int) -> pltpu.CompilerParams:
    """Rows and heads may be split over a chip's cores; what follows runs in order."""
    semantics: Any = ("parallel", "parallel") + ("arbitrary",) * (dimensions - 2)
    return pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=VMEM_BYTES)


def _name(kind: str, bq: int, bk: int) -> str:
    """Of the kernel, in profiles and in the planner's report."""
    return f"msm_flash_{kind}_{bq}x{bk}"


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, start: jax.Array, blocks: Blocks, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """Output [B, H, S, h] and logarithms (to base 2) of the softmax's sums, float32 [B, H, 1, S]."""
    B, H, S, h = q.shape
    G, bq, bk = H // k.shape[1], math.gcd(blocks.q, S), math.gcd(blocks.k, S)
    query = pl.BlockSpec((None, None, bq, h), lambda b, n, i, *_: (b, n, i, 0))
    keys = pl.BlockSpec((None, None, S, h), lambda b, n, i, *_: (b, jax.lax.div(n, G), 0, 0))
    wide = pl.BlockSpec((None, bq, LANES), lambda b, n, i, *_: (b, i, 0))
    row = pl.BlockSpec((None, None, 1, bq), lambda b, n, i, *_: (b, n, 0, i))
    return pl.pallas_call(
        functools.partial(_forward_kernel, bk=bk, scale=h**-0.5),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(B, H, S // bq),
            in_specs=[query, keys, keys, wide],
            out_specs=[query, row],
            scratch_shapes=[pltpu.VMEM((bq, n), jnp.float32) for n in (LANES, LANES, h)],
        ),
        out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct((B, H, 1, S), jnp.float32)],
        compiler_params=_params(3),
        name=_name("fwd", bq, bk),
        interpret=interpret,
    )(_ends(start, bq), q, k, v, jnp.broadcast_to(start[:, :, None], (B, S, LANES)))


def _backward(saved: Saved, do: jax.Array, blocks: Blocks, interpret: bool) -> tuple[jax.Array, ...]:
    """Gradients of q, k and v."""
    q, k, v, start, o, lse = saved
    B, H, S, h = q.shape
    K = k.shape[1]
    G, bq, bk = H // K, math.gcd(blocks.q_back, S), math.gcd(blocks.k_back, S)
    query = pl.BlockSpec((None, None, bq, h), lambda b, n, g, i, *_: (b, n * G + g, i, 0))
    keys = pl.BlockSpec((None, None, S, h), lambda b, n, g, i, *_: (b, n, 0, 0))
    row = pl.BlockSpec((None, None, 1, bq), lambda b, n, g, i, *_: (b, n * G + g, 0, i))
    start_row = pl.BlockSpec((None, 1, bq), lambda b, n, g, i, *_: (b, 0, i))
    return pl.pallas_call(
        functools.partial(_backward_kernel, bk=bk, scale=h**-0.5),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(B, K, G, S // bq),
            in_specs=[query, keys, keys, start_row, query, row, query],
            out_specs=[query, keys, keys],
            scratch_shapes=[pltpu.VMEM((n, h), jnp.float32) for n in (bq, S, S)],
        ),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)],
        compiler_params=_params(4),
        name=_name("bwd", bq, bk),
        interpret=interpret,
    )(_ends(start, bq), q, k, v, start[:, None, :], o, lse, do)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def flash(
    q: jax.Array, k: jax.Array, v: jax.Array, start: jax.Array, blocks: Blocks = BLOCKS, interpret: bool = False
) -> jax.Array:
    """q [B, H, S, h], k and v [B, K, S, h], start int32 [B, S] → [B, H, S, h].

    start: position of the first token of each token's segment; segments are runs. Softmax in float32.
    """
    return _forward(q, k, v, start, blocks, interpret)[0]


def _flash_forward(
    q: jax.Array, k: jax.Array, v: jax.Array, start: jax.Array, blocks: Blocks, interpret: bool
) -> tuple[jax.Array, Saved]:
    o, lse = (checkpoint_name(x, "context") for x in _forward(q, k, v, start, blocks, interpret))
    return o, (q, k, v, start, o, lse)


def _flash_backward(blocks: Blocks, interpret: bool, saved: Saved, do: jax.Array) -> tuple[jax.Array | None, ...]:
    return (*_backward(saved, do, blocks, interpret), None)


flash.defvjp(_flash_forward, _flash_backward)
