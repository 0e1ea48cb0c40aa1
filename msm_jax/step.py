"""One training step: midtraining and fine-tuning alike, they differ in the batch's loss weights."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from ml_collections import ConfigDict

from msm_jax.fingerprint import fingerprint
from msm_jax.loss import Batch, Chunks, Rows, weighted_loss
from msm_jax.mesh import chip_in_use
from msm_jax.model.config import ModelConfig
from msm_jax.model.lora import LoraConfig
from msm_jax.model.transformer import abstract, bind
from msm_jax.optim import make_optimizer
from msm_jax.perf import Options, xla_options

Params = dict[str, Any]


class State(NamedTuple):
    """All that changes from step to step."""

    trained: Params  # the parameters; with LoRA, the adapter
    opt: Any  # optax state


class Metrics(NamedTuple):
    """What a step says of itself; every device has all of it."""

    loss: jax.Array  # float32, the mean over the batch's weights
    grad_norm: jax.Array  # float32, before clipping
    loss_weight: jax.Array  # float32, Σ weights
    skipped: jax.Array  # int32, 1 where loss or gradient are not finite, and nothing was changed
    batch: jax.Array  # uint32, fingerprint of what was trained on, in its order
    rows: Rows  # float32 [rows of the global batch], in the order of their indices


Step = Any
"""A jitted (State, frozen parameters, Batch) → (State, Metrics); it can be called, and lowered."""


def make_gradient(
    graph: nnx.GraphDef, lora: bool, loss_chunk: int, accumulate: int, supervised_only: bool = False
) -> Callable[..., Any]:
    """(trained, frozen, batch) → (loss, Rows, gradient), loss and gradient of the mean over the global batch's weights.

    What is trained is the adapter where `lora`, with the parameters frozen; else the parameters, and frozen is {}.
    The batch has leading dimensions [accumulate, B]; gradients of the *sums* are added up over the microbatches and
    divided once, so accumulation changes nothing but memory.
    """

    chunks = Chunks(loss_chunk, supervised_only, head_trained=not lora)

    def total(trained: Params, frozen: Params, batch: Batch) -> tuple[jax.Array, Rows]:
        model = bind(graph, frozen, trained) if lora else bind(graph, trained, frozen)
        return weighted_loss(model, batch, chunks)

    one = jax.value_and_grad(total, has_aux=True)

    def gradient(trained: Params, frozen: Params, batch: Batch) -> tuple[jax.Array, Rows, Params]:
        if accumulate == 1:
            (loss, rows), grads = one(trained, frozen, jax.tree.map(lambda x: x[0], batch))
        else:

            def add(carry: tuple[Any, ...], micro: Batch) -> tuple[tuple[Any, ...], Rows]:
                (loss, rows), grads = one(trained, frozen, micro)
                # The barrier keeps a pass of the TPU compiler off, which would move sums between devices out of this
                # loop and fails on some of them (libtpu 0.0.51, while_loop_all_reduce_code_motion).
                return jax.tree.map(jnp.add, carry, jax.lax.optimization_barrier((loss, grads))), rows

            zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, trained))
            (loss, grads), rows = jax.lax.scan(add, zero, batch)
        rows = jax.tree.map(lambda x: x.reshape(-1), rows)  # of all microbatches
        scale = 1.0 / jnp.maximum(jnp.sum(rows.weight), 1e-6)
        return loss * scale, rows, jax.tree.map(lambda g: g * scale, grads)

    return gradient


def make_step(
    graph: nnx.GraphDef,
    lora: bool,
    optimizer: optax.GradientTransformation,
    loss_chunk: int,
    accumulate: int,
    supervised_only: bool = False,
    options: Options | None = None,
) -> Step:
    """The jitted step (state, frozen, batch); its state argument is donated.

    XLA options are those of the chip whose mesh is in use, unless they are given; they travel with the step.
    """
    gradient = make_gradient(graph, lora, loss_chunk, accumulate, supervised_only)

    def update(state: State, grads: Params) -> State:
        updates, opt = optimizer.update(grads, state.opt, state.trained)
        return State(optax.apply_updates(state.trained, updates), opt)

    def step(state: State, frozen: Params, batch: Batch) -> tuple[State, Metrics]:
        loss, rows, grads = gradient(state.trained, frozen, batch)
        norm = optax.tree.norm(grads)
        fine = jnp.isfinite(loss) & jnp.isfinite(norm)
        # A step that cannot be right leaves no trace, in the count of updates neither. (Choosing element by element
        # between old and new state makes XLA copy the moments on a CPU.)
        after = jax.lax.cond(fine, update, lambda state, _: state, state, grads)
        trained_on = fingerprint(batch["tokens"]) + fingerprint(batch["loss_weights"])
        return after, Metrics(loss, norm, jnp.sum(rows.weight), 1 - fine.astype(jnp.int32), trained_on, rows)

    options = xla_options(chip_in_use()) if options is None else options
    return jax.jit(step, donate_argnums=0, compiler_options=options or None)


class Program(NamedTuple):
    """What a model, an adapter and an optimizer make together, and the shapes it works on: ShapeDtypeStructs in their
    places."""

    step: Step
    optimizer: optax.GradientTransformation
    params: Params  # all of the model's
    state: State
    frozen: Params  # the step's second argument


def make_program(
    model: ModelConfig, lora: LoraConfig | None, optim: ConfigDict, options: Options | None = None
) -> Program:
    """The train step of config.optim on the mesh in use; XLA options are those of its chip unless they are given."""
    graph, params, adapter = abstract(model, lora)
    trained, frozen = (adapter, params) if lora else (params, {})
    optimizer = make_optimizer(optim, trained)
    chunk, accumulate, supervised = optim.loss_chunk, optim.accumulate, optim.supervised_only
    step = make_step(graph, lora is not None, optimizer, chunk, accumulate, supervised, options)
    state = State(trained, placed(jax.eval_shape(optimizer.init, trained), jax.sharding.get_mesh()))
    return Program(step, optimizer, params, state, frozen)


def placed(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """ShapeDtypeStructs whose types say how they are spread, placed on a mesh; scalars whole on every device."""

    def one(x: Any) -> jax.ShapeDtypeStruct:
        spec = getattr(x.sharding, "spec", None) or jax.P()
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jax.NamedSharding(mesh, spec))

    return jax.tree.map(one, tree)
