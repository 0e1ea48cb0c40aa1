"""Causal attention within segments: the reference, plain JAX and exact everywhere, and the table of all others."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from msm_jax.cli import UserError
from msm_jax.model import blockwise, flash, gpu_attention
from msm_jax.sharding import activations

LONG = 512  # tokens in a row, from which scores of S × S are slower than blocks of them (docs/performance.md)
Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def segment_mask(segment_ids: jax.Array) -> jax.Array:
    """bool [B, S, S]: may position q see position k? Same segment, not later. Padding (0) sees padding, so that no
    row of the softmax is empty."""
    S = segment_ids.shape[1]
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    return same & jnp.tril(jnp.ones((S, S), bool))


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """q [B, S, H, h], k and v [B, S, K, h], mask [B, S, S] → [B, S, H, h]. Softmax in float32."""
    B, S, H, h = q.shape
    K = k.shape[2]
    q = jnp.reshape(q, (B, S, K, H // K, h), out_sharding=activations(None, "tensor", None, None))
    # Heads first: batched matrix products whose transposes are batched matrix products too.
    q, k, v = jnp.transpose(q, (0, 2, 3, 1, 4)), jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)
    scores = jnp.einsum("bkgqh,bksh->bkgqs", q, k, preferred_element_type=jnp.float32) * h**-0.5
    scores = jnp.where(mask[:, None, None], scores, -1e30)
    probabilities = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("bkgqs,bksh->bkgqh", probabilities, v)
    out = jnp.transpose(out, (0, 3, 1, 2, 4))
    return jnp.reshape(out, (B, S, H, h), out_sharding=activations(None, "tensor", None))


def _reference(segment_ids: jax.Array) -> Attend:
    mask = segment_mask(segment_ids)
    return lambda q, k, v: attend(q, k, v, mask)


def _flash(segment_ids: jax.Array, blocks: flash.Blocks = flash.BLOCKS, interpret: bool = False) -> Attend:
    heads, rows = activations("tensor", None, None), activations(None)
    start = jax.sharding.reshard(blockwise.segment_starts(segment_ids), rows)
    local = functools.partial(flash.flash, blocks=blocks, interpret=interpret)
    kernel = jax.shard_map(local, in_specs=(heads, heads, heads, rows), out_specs=heads, check_vma=False)

    def apply(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        q, k, v = (jax.sharding.reshard(jnp.swapaxes(x, 1, 2), heads) for x in (q, k, v))
        return jnp.swapaxes(kernel(q, k, v, start), 1, 2)

    return apply


def _plain(attend: Callable[..., jax.Array]) -> Callable[[jax.Array], Attend]:
    return lambda segment_ids: lambda q, k, v: attend(q, k, v, segment_ids)


ATTENTION: dict[str, Callable[[jax.Array], Attend]] = {
    "reference": _reference,
    "blockwise": _plain(blockwise.attend),
    "flash": _flash,
    "gpu": _plain(gpu_attention.attend),
}
"""By name: segment ids int32 [B, S] → attention over q [B, S, H, h] and k, v [B, S, K, h]."""


def suited(name: str, S: int, h: int) -> str:
    """The name itself, or for "" the fastest for the mesh in use.

    Raises:
      UserError: a name that is none, or rows or heads that the TPU kernel cannot do.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device  # known while tracing, too
    platform = device.platform if device else "cpu"
    if not name and platform == "tpu" and S % flash.LANES == 0:
        name = "flash"
    elif not name and platform == "gpu" and gpu_attention.can(S, h):
        name = "gpu"
    name = name or ("blockwise" if S >= LONG else "reference")
    if name not in ATTENTION:
        raise UserError(f"config.model.attention = {name!r}: one of {', '.join(ATTENTION)}, or empty")
    if name == "flash":
        flash.check(S, h)
    return name
