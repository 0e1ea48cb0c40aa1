"""Causal attention within segments on GPUs: JAX's own Pallas kernel (jax.experimental.pallas.ops.gpu.attention, in
Triton: Ampere and newer), forward and backward, without the scores of a whole row.

cuDNN's attention, which jax.nn.dot_product_attention can call, knows no segments there but by a mask of [S, S].
"""

import functools

import jax
import jax.numpy as jnp

from msm_jax.cli import UserError
from msm_jax.sharding import activations

MULTIPLE = 128  # of the kernel's blocks, which do not take a rest


def attend(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array, interpret: bool = False) -> jax.Array:
    """What attention.attend gives for attention.segment_mask(segment_ids), on the mesh in use; rows may be spread over
    replica and fsdp, heads over tensor. Scores are float32; probabilities and products have q's dtype.

    Args:
      q: [B, S, H, h]. k, v: [B, S, K, h], H a multiple of K; h a power of two.
      segment_ids: int32 [B, S]; padding (0) is a segment.
      interpret: run the kernel's program without a GPU, slowly.

    Returns:
      [B, S, H, h] in q's dtype.

    Raises:
      UserError: a row length or head width that the kernel does not take.
    """
    S, h = q.shape[1], q.shape[3]
    if S % MULTIPLE:
        raise UserError(
            f"config.model.attention: the GPU kernel needs rows of a multiple of {MULTIPLE}, not {S} tokens"
        )
    if h & (h - 1) or h < 16:
        raise UserError(f"config.model.attention: the GPU kernel needs heads of 16, 32, 64, 128 … numbers, not {h}")
    heads = activations(None, "tensor", None)
    local = functools.partial(_attend, interpret=interpret)
    specs = (heads, heads, heads, activations(None))
    arrays = [jax.sharding.reshard(x, spec) for x, spec in zip((q, k, v, segment_ids), specs, strict=True)]
    return jax.shard_map(local, in_specs=specs, out_specs=heads, check_vma=False)(*arrays)


def can(S: int, h: int) -> bool:
    """Does the kernel take rows of S tokens and heads of h numbers?"""
    return S % MULTIPLE == 0 and h >= 16 and h & (h - 1) == 0


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array, interpret: bool) -> jax.Array:
    """One device's part. The kernel has as many key as query heads; the sum of their gradients is that of `repeat`."""
    from jax.experimental.pallas.ops.gpu.attention import mha

    group = q.shape[2] // k.shape[2]
    k, v = jnp.repeat(k, group, axis=2), jnp.repeat(v, group, axis=2)
    return mha(q, k, v, segment_ids, sm_scale=q.shape[-1] ** -0.5, causal=True, interpret=interpret)
