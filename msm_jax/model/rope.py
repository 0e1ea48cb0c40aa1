"""Rotary position embeddings, the half-split form of Llama and Qwen checkpoints."""

import jax
import jax.numpy as jnp


def angles(positions: jax.Array, h: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines, float32 [B, S, 1, h/2], of positions int32 [B, S]. Su et al., arXiv 2104.09864."""
    inverse = theta ** (-jnp.arange(0, h, 2, dtype=jnp.float32) / h)
    angle = positions[:, :, None, None].astype(jnp.float32) * inverse
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """x [B, S, heads, h], turned by position, in x's dtype."""
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
