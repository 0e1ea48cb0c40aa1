"""Cross-entropy in chunks that never hold the logits of a whole batch."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from msm_jax.model.transformer import Transformer, logits, whole_head
from msm_jax.sharding import BATCH, activations, local_gather, local_scatter, param_spec

Batch = dict[str, jax.Array]
"""tokens, segment_ids, positions: int32 [B, S]; loss_weights: float32 [B, S], of predicting the token *there*."""


class Rows(NamedTuple):
    """Of each row of a batch, float32 [B]; whole on every device."""

    loss: jax.Array  # Σ weight · −log p
    weight: jax.Array  # Σ weight


def _everywhere(loss: jax.Array, weight: jax.Array) -> Rows:
    """Rows of [B] that are spread over devices, by one gather."""
    both = jax.sharding.reshard(jnp.stack([loss, weight]), jax.P(None, None))
    return Rows(both[0], both[1])


def token_nll(head: jax.Array, hidden: jax.Array, targets: jax.Array, chunk: int) -> jax.Array:
    """−log p(target) at every position, float32 [B, S], of hidden [B, S, D] and head [D, V], whole along fsdp.

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


@dataclasses.dataclass(frozen=True)
class Chunks:
    """How the loss is computed."""

    size: int = 0  # positions of every row projected to the vocabulary at a time; 0: all, the plain way
    supervised: bool = False  # put the supervised positions first and stop after the last of them
    head_trained: bool = True  # the head's gradient is wanted


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def chunked_loss(
    head: jax.Array, hidden: jax.Array, targets: jax.Array, weights: jax.Array, chunks: Chunks
) -> tuple[jax.Array, jax.Array]:
    """Σ weights · −log p(targets), float32, over everything and, [B], over each row; of head [D, V] as it is kept,
    hidden [B, S, D], targets and weights [B, S].

    The gradients of head and hidden by the first are made beside it, chunk by chunk, while its logits are there: the
    backward pass has no product with the vocabulary left to do, and [B, S, V] never exists. The sums of rows have no
    gradient, and targets and weights get none.
    """
    return _chunked(head, hidden, targets, weights, chunks, gradient=False)[:2]


def _chunked(head, hidden, targets, weights, chunks, gradient):  # type: ignore[no-untyped-def]
    """The loss, each row's and, where asked for, the gradients by head ([0] where it is not trained) and hidden."""
    local = functools.partial(_local_loss, chunks=chunks, gradient=gradient)
    kept, wide, row = param_spec("DV"), activations(None, None), activations(None)
    outs = (jax.P(), activations(), kept if gradient and chunks.head_trained else jax.P(), wide)
    ins = (kept, wide, row, row)
    arrays = [jax.sharding.reshard(x, spec) for x, spec in zip((head, hidden, targets, weights), ins, strict=True)]
    return jax.shard_map(local, in_specs=ins, out_specs=outs, check_vma=False)(*arrays)


def _local_loss(head, hidden, targets, weights, chunks, gradient):  # type: ignore[no-untyped-def]
    """One device's rows and its part of the vocabulary, head [D, V/tensor]; letters are of these parts."""
    head = local_gather(head, 0)
    (_, S, D), V = hidden.shape, head.shape[1]
    size = chunks.size
    if chunks.supervised:
        order = jnp.argsort(weights == 0, axis=1, stable=True)
        back = jnp.argsort(order, axis=1)
        hidden, targets, weights = (
            jnp.take_along_axis(x, order.reshape(order.shape + (1,) * (x.ndim - 2)), axis=1)
            for x in (hidden, targets, weights)
        )
    first = jax.lax.axis_index("tensor") * V  # of this device's part of the vocabulary

    def one(at, carry):  # type: ignore[no-untyped-def]
        loss, dhead, dhidden = carry
        x, y, w = (jax.lax.dynamic_slice_in_dim(a, at * size, size, 1) for a in (hidden, targets, weights))
        scores = jnp.einsum("bsd,dv->bsv", x, head, preferred_element_type=jnp.float32)
        top = jax.lax.pmax(jnp.max(scores, axis=-1), "tensor")
        exp = jnp.exp(scores - top[..., None])
        total = jax.lax.psum(jnp.sum(exp, axis=-1), "tensor")
        hit = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 2) == (y - first)[..., None]
        right = jax.lax.psum(jnp.sum(jnp.where(hit, scores, 0.0), axis=-1), "tensor")
        loss += jnp.sum(w * (jnp.log(total) + top - right), axis=1)
        if gradient:
            dscores = ((exp / total[..., None] - hit) * w[..., None]).astype(head.dtype)
            dx = jax.lax.psum(jnp.einsum("bsv,dv->bsd", dscores, head), "tensor")
            dhidden = jax.lax.dynamic_update_slice_in_dim(dhidden, dx, at * size, 1)
            if chunks.head_trained:
                dhead += jnp.einsum("bsd,bsv->dv", x, dscores, preferred_element_type=jnp.float32)
        return loss, dhead, dhidden

    empty = jnp.zeros((D, V) if gradient and chunks.head_trained else (1,), jnp.float32)
    carry = (jnp.zeros(hidden.shape[0], jnp.float32), empty, jnp.zeros_like(hidden))
    n = S // size
    if chunks.supervised:
        n = (jnp.max(jnp.sum(weights != 0, axis=1)) + size - 1) // size
    loss, dhead, dhidden = jax.lax.fori_loop(0, n, one, carry)
    if chunks.supervised:
        dhidden = jnp.take_along_axis(dhidden, back[..., None], axis=1)
    if gradient and chunks.head_trained:
        dhead = local_scatter(dhead.astype(head.dtype), 0)  # in the products' dtype, as every gradient travels
    return jax.lax.psum(jnp.sum(loss), BATCH), loss, dhead, dhidden


def _chunked_forward(head, hidden, targets, weights, chunks):  # type: ignore[no-untyped-def]
    loss, rows, dhead, dhidden = _chunked(head, hidden, targets, weights, chunks, gradient=True)
    return (loss, rows), (head if not chunks.head_trained else None, dhead, dhidden)


def _chunked_backward(chunks, saved, cotangents):  # type: ignore[no-untyped-def]
    head, dhead, dhidden = saved
    cotangent, _ = cotangents
    dhead = dhead * cotangent if chunks.head_trained else jnp.zeros_like(head)
    return dhead.astype(dhidden.dtype), dhidden * cotangent.astype(dhidden.dtype), None, None


chunked_loss.defvjp(_chunked_forward, _chunked_backward)


def weighted_loss(model: Transformer, batch: Batch, chunks: Chunks = Chunks()) -> tuple[jax.Array, Rows]:
    """Σ weight · −log p(token | its segment so far), a float32 scalar, and the same of each row, without a gradient.

    Sums, not means: the caller divides by the weight of the *global* batch, accumulation included.
    """
    hidden = model(batch["tokens"], batch["segment_ids"], batch["positions"])
    targets = jnp.roll(batch["tokens"], -1, axis=1)
    weights = jnp.roll(batch["loss_weights"], -1, axis=1).at[:, -1].set(0.0)  # the last position predicts nothing
    weight = jnp.sum(weights, axis=1)
    if chunks.size:
        loss, each = chunked_loss(model.head_matrix(), hidden, targets, weights, chunks)
        return loss, _everywhere(jax.lax.stop_gradient(each), weight)
    rows = _everywhere(
        jnp.sum(weights * token_nll(whole_head(model.cfg, model.ends()), hidden, targets, 0), axis=1), weight
    )
    return jnp.sum(rows.loss), jax.lax.stop_gradient(rows)
