"""One training step: midtraining and fine-tuning alike, they differ in the batch's loss weights."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from msm_jax.loss import Batch, weighted_loss
from msm_jax.model.transformer import bind

Params = dict[str, Any]


class State(NamedTuple):
    """All that changes from step to step."""

    trained: Params  # the parameters; with LoRA, the adapter
    opt: Any  # optax state


Metrics = dict[str, jax.Array]
Step = Callable[[State, Params, Batch], tuple[State, Metrics]]


def make_gradient(graph: nnx.GraphDef, lora: bool, loss_chunk: int, accumulate: int) -> Callable[..., Any]:
    """(trained, frozen, batch) → (loss, Σ weights, gradient), all of the mean over the global batch's weights.

    What is trained is the adapter where `lora`, with the parameters frozen; else the parameters, and frozen is {}.
    The batch has leading dimensions [accumulate, B]; gradients of the *sums* are added up over the microbatches and
    divided once, so accumulation changes nothing but memory.
    """

    def total(trained: Params, frozen: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        model = bind(graph, frozen, trained) if lora else bind(graph, trained, frozen)
        return weighted_loss(model, batch, loss_chunk)

    one = jax.value_and_grad(total, has_aux=True)

    def gradient(trained: Params, frozen: Params, batch: Batch) -> tuple[jax.Array, jax.Array, Params]:
        if accumulate == 1:
            (loss, weight), grads = one(trained, frozen, jax.tree.map(lambda x: x[0], batch))
        else:

            def add(carry: tuple[Any, ...], micro: Batch) -> tuple[tuple[Any, ...], None]:
                (loss, weight), grads = one(trained, frozen, micro)
                return jax.tree.map(jnp.add, carry, (loss, weight, grads)), None

            zero = (jnp.float32(0), jnp.float32(0), jax.tree.map(jnp.zeros_like, trained))
            (loss, weight, grads), _ = jax.lax.scan(add, zero, batch)
        scale = 1.0 / jnp.maximum(weight, 1e-6)
        return loss * scale, weight, jax.tree.map(lambda g: g * scale, grads)

    return gradient


def make_step(
    graph: nnx.GraphDef, lora: bool, optimizer: optax.GradientTransformation, loss_chunk: int, accumulate: int
) -> Step:
    """The compiled step (state, frozen, batch); its state argument is donated. Metrics are float32 scalars."""
    gradient = make_gradient(graph, lora, loss_chunk, accumulate)

    def step(state: State, frozen: Params, batch: Batch) -> tuple[State, Metrics]:
        loss, weight, grads = gradient(state.trained, frozen, batch)
        updates, opt = optimizer.update(grads, state.opt, state.trained)
        metrics = {"loss": loss, "grad_norm": optax.global_norm(grads), "loss_weight": weight}
        return State(optax.apply_updates(state.trained, updates), opt), metrics

    return jax.jit(step, donate_argnums=0)
