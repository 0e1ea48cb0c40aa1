"""Cross-entropy in chunks that never hold the logits of a whole batch."""

import jax
import jax.numpy as jnp

from msm_jax.model.transformer import Transformer, logits
from msm_jax.sharding import activations

Batch = dict[str, jax.Array]
"""tokens, segment_ids, positions: int32 [B, S]; loss_weights: float32 [B, S], of predicting the token *there*."""


def token_nll(head: jax.Array, hidden: jax.Array, targets: jax.Array, chunk: int) -> jax.Array:
    """−log p(target) at every position, float32 [B, S], of hidden [B, S, D] and head [D, V].

    `chunk` positions of every row are projected to the vocabulary at a time, 0 means all at once: with chunk < S the
    whole [B, S, V] never exists, in the backward pass neither.
    """

    def nll(hidden: jax.Array, targets: jax.Array) -> jax.Array:
        scores = logits(head, hidden)
        spec = activations(None, "tensor")
        hit = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 2, out_sharding=spec) == targets[..., None]
        return jax.nn.logsumexp(scores, axis=-1) - jnp.sum(jnp.where(hit, scores, 0.0), axis=-1)

    B, S = targets.shape
    if not chunk or chunk >= S:
        return nll(hidden, targets)

    def chunked(x: jax.Array) -> jax.Array:
        """[B, S, …] → [S/chunk, B, chunk, …]"""
        spec = activations(*[None] * x.ndim)
        return jnp.moveaxis(jnp.reshape(x, (B, S // chunk, chunk, *x.shape[2:]), out_sharding=spec), 1, 0)

    def one(_: None, part: tuple[jax.Array, jax.Array]) -> tuple[None, jax.Array]:
        return None, jax.checkpoint(nll)(*part)

    _, parts = jax.lax.scan(one, None, (chunked(hidden), chunked(targets)))
    return jnp.reshape(jnp.moveaxis(parts, 0, 1), (B, S), out_sharding=activations(None))


def weighted_loss(model: Transformer, batch: Batch, chunk: int) -> tuple[jax.Array, jax.Array]:
    """Σ weight · −log p(token | its segment so far), and Σ weight; float32 scalars.

    Sums, not means: the caller divides by the weight of the *global* batch, accumulation included. chunk: see
    token_nll.
    """
    hidden = model(batch["tokens"], batch["segment_ids"], batch["positions"])
    targets = jnp.roll(batch["tokens"], -1, axis=1)
    weights = jnp.roll(batch["loss_weights"], -1, axis=1).at[:, -1].set(0.0)  # the last position predicts nothing
    return jnp.sum(weights * token_nll(model.head_matrix(), hidden, targets, chunk)), jnp.sum(weights)
