"""Cross-entropy over the supervised tokens, in chunks that never hold the logits of a whole batch."""

import jax
import jax.numpy as jnp

from msm_jax.model.transformer import Transformer
from msm_jax.sharding import activations

Batch = dict[str, jax.Array]
"""tokens, segment_ids, positions: int32 [B, S]; loss_weights: float32 [B, S], of predicting the token *there*."""


def weighted_loss(model: Transformer, batch: Batch, chunk: int) -> tuple[jax.Array, jax.Array]:
    """Σ weight · −log p(token | its segment so far), and Σ weight; float32 scalars.

    Sums, not means: the caller divides by the weight of the *global* batch, accumulation included.
    `chunk` positions of every row are projected to the vocabulary at a time; 0 means all at once.
    """
    hidden = model(batch["tokens"], batch["segment_ids"], batch["positions"])
    targets = jnp.roll(batch["tokens"], -1, axis=1)
    weights = jnp.roll(batch["loss_weights"], -1, axis=1).at[:, -1].set(0.0)  # the last position predicts nothing
    head = model.head_matrix().astype(hidden.dtype)

    def nll(hidden: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
        spec = activations(None, "tensor")
        logits = jnp.einsum("bsd,dv->bsv", hidden, head, preferred_element_type=jnp.float32, out_sharding=spec)
        hit = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2, out_sharding=spec) == targets[..., None]
        log_z = jax.nn.logsumexp(logits, axis=-1)
        return jnp.sum(weights * (log_z - jnp.sum(jnp.where(hit, logits, 0.0), axis=-1)))

    B, S = targets.shape
    if not chunk or chunk >= S:
        return nll(hidden, targets, weights), jnp.sum(weights)

    def chunked(x: jax.Array) -> jax.Array:
        """[B, S, …] → [S/chunk, B, chunk, …]"""
        spec = activations(*[None] * x.ndim)
        return jnp.moveaxis(jnp.reshape(x, (B, S // chunk, chunk, *x.shape[2:]), out_sharding=spec), 1, 0)

    def add(total: jax.Array, part: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        return total + jax.checkpoint(nll)(*part), None

    total, _ = jax.lax.scan(add, jnp.float32(0), tuple(map(chunked, (hidden, targets, weights))))
    return total, jnp.sum(weights)
