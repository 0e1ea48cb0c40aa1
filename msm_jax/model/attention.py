"""Causal attention within segments. This is the reference: plain JAX, exact everywhere."""

import jax
import jax.numpy as jnp

from msm_jax.sharding import activations


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
