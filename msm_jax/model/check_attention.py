"""Is an implementation of attention right on the devices at hand? Asked once, when a step is built."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from msm_jax.cli import UserError
from msm_jax.model import attention
from msm_jax.model.config import ModelConfig
from msm_jax.sharding import BATCH, activations

Attend = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]
"""q [B, S, H, h], k and v [B, S, K, h], segment_ids [B, S] → [B, S, H, h]."""

LENGTH = 512
# Largest difference, relative to the largest number. bfloat16 rounds to 2⁻⁸; accelerators multiply float32 in fewer
# bits, 2⁻¹¹ or coarser.
TOLERANCE = {"bfloat16": 3e-2, "float32": 1e-2}
EXACT = 1e-4  # float32 on a CPU


def check_suited(cfg: ModelConfig, mesh: jax.sharding.Mesh, seq_len: int) -> str:
    """The name of the attention that a step of these rows uses on the mesh; a kernel's is checked there first.

    Raises:
      UserError: it is wrong, or cannot be used.
    """
    with jax.sharding.set_mesh(mesh):
        name = attention.suited(cfg.attention, seq_len, cfg.h)
    if name in ("flash", "gpu"):
        check(lambda q, k, v, segments: attention.ATTENTION[name](segments)(q, k, v), cfg, mesh, name)
    return name


def check(attend: Attend, cfg: ModelConfig, mesh: jax.sharding.Mesh, name: str = "") -> None:
    """Compares output and gradients with the reference, for the model's heads and dtype, on rows of several segments
    and padding spread over the mesh.

    Raises:
      UserError: they differ by more than rounding, or the implementation does not run here.
    """
    label = name or getattr(attend, "__module__", "the implementation")
    with jax.sharding.set_mesh(mesh):
        arrays, segments = example(cfg, mesh)
        exact = [x.astype(jnp.float32) for x in arrays]
        with jax.default_matmul_precision("highest"):
            wanted = _output_and_gradients(_reference, exact, segments)
        try:
            found = jax.block_until_ready(_output_and_gradients(attend, arrays, segments))
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"config.model.attention: {label} does not run on {_device(mesh)} ({reason})") from error
        allowed = EXACT if cfg.dtype == "float32" and jax.default_backend() == "cpu" else TOLERANCE[cfg.dtype]
        for what, a, b in zip(("the output", "the gradient of q", "of k", "of v"), found, wanted, strict=True):
            off = float(_difference(a, b))
            if not off <= allowed:  # NaN too
                raise UserError(
                    f"config.model.attention: {label} is wrong on {_device(mesh)}: {what} is off by {off:.1e} of its "
                    f"largest number, more than {allowed:.0e}; choose another"
                )


def example(cfg: ModelConfig, mesh: jax.sharding.Mesh, length: int = LENGTH) -> tuple[list[jax.Array], jax.Array]:
    """q, k, v in cfg.dtype and segment ids on the mesh in use: one row a device, segments of uneven lengths, then
    padding."""
    rng, rows = np.random.default_rng(0), math.prod(mesh.shape[axis] for axis in BATCH)

    def place(x: np.ndarray, spec: jax.P, dtype: str) -> jax.Array:
        return jax.device_put(jnp.asarray(x, dtype), jax.NamedSharding(mesh, spec))

    spec = activations(None, "tensor", None)
    arrays = [place(rng.normal(size=(rows, length, heads, cfg.h)), spec, cfg.dtype) for heads in (cfg.H, cfg.K, cfg.K)]
    cuts = np.sort(rng.integers(1, length, (rows, 4)), axis=1)
    segments = 1 + (np.arange(length) >= cuts[:, :3, None]).sum(axis=1)
    segments = np.where(np.arange(length) < cuts[:, 3:], segments, 0)
    return arrays, place(segments, activations(None), "int32")


def _reference(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array) -> jax.Array:
    return attention.attend(q, k, v, attention.segment_mask(segments))


def _output_and_gradients(attend: Attend, arrays: list[jax.Array], segments: jax.Array) -> tuple[jax.Array, ...]:
    """And the gradients of q, k, v for a smooth and uneven gradient of the output."""

    def both(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, ...]:
        out, pull = jax.vjp(lambda q, k, v: attend(q, k, v, segments), q, k, v)
        return out, *pull(jnp.cos(q.astype(jnp.float32) * 3).astype(out.dtype))

    return jax.jit(both)(*arrays)


@jax.jit
def _difference(a: jax.Array, b: jax.Array) -> jax.Array:
    b = b.astype(jnp.float32)
    return jnp.max(jnp.abs(a.astype(jnp.float32) - b)) / jnp.max(jnp.abs(b))


def _device(mesh: jax.sharding.Mesh) -> str:
    return mesh.devices.flat[0].device_kind
