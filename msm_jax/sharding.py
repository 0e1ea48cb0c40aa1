"""Which dimension of which array lives on which mesh axis. One table, read by initialisation and by the model.

Mesh axes: `replica` (between slices), `fsdp` and `ring` (together: parameters, optimizer state and rows), `tensor`
(heads, feed-forward, vocabulary). The mesh is explicit: shardings are part of array types, and every gather below is
visible in the code. `ring` is 1 unless a slice is a torus of two rings, as v5e's is: there one gather over both becomes
one over each, and only so do gradients leave by reduce-scatter (docs/performance.md).
"""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

AXES = ("replica", "fsdp", "ring", "tensor")
FSDP = ("fsdp", "ring")
BATCH = ("replica", "fsdp", "ring")  # rows of a batch are spread over these
_AXIS_OF = {"D": FSDP, "V": "tensor", "H": "tensor", "K": "tensor", "F": "tensor"}


def param_spec(letters: str) -> P:
    """`LDHh` → P(None, FSDP, 'tensor', None). Vectors (norms) are replicated."""
    if len(letters.replace("L", "")) < 2 or letters == "Lh":
        return P()
    return P(*(_AXIS_OF.get(letter) for letter in letters))


def factor_spec(letters: str, rank: int) -> P:
    """`param_spec` for a factor of an adapter. One without D has its rank spread over fsdp, if it can be."""
    spec = param_spec(letters)
    if "D" in letters or rank % jax.sharding.get_mesh().shape["fsdp"]:
        return spec
    return P(*("fsdp" if letter == "r" else axis for letter, axis in zip(letters, spec, strict=True)))


def tensor_axes(letters: str) -> list[str | None]:
    """For every dimension: is it split along `tensor`?"""
    return ["tensor" if _AXIS_OF.get(letter) == "tensor" else None for letter in letters]


def gathered(weight: jax.Array, letters: str) -> jax.Array:
    """A weight as the matrix product wants it: whole along `fsdp` and `ring`, still split along `tensor`.

    Its type says that the gradient will come as each device's own sum (`reduced`), so that the way back is the way
    here in reverse: a reduce-scatter along fsdp, one along ring, and what is left is summed over the replicas.
    """
    axes, kept = tensor_axes(letters), jax.typeof(weight).sharding.spec
    split = [n for n, axis in enumerate(kept) if axis == "fsdp" or axis == FSDP]
    if not split:
        return jax.sharding.reshard(weight, P(*axes))
    here = split[0]
    for spec, done in ((FSDP, {"replica"}), ("fsdp", {"replica", "ring"}), (None, {"replica", "ring", "fsdp"})):
        weight = jax.sharding.reshard(weight, P(*axes[:here], spec, *axes[here + 1 :], reduced=done))
    return weight


def local_gather(shard: jax.Array, axis: int) -> jax.Array:
    """`gathered` for the inside of a shard_map."""
    for name in ("ring", "fsdp"):
        shard = joined(shard, name, axis)
    return shard


def joined(shard: jax.Array, name: str, axis: int) -> jax.Array:
    """All devices' parts along a mesh axis put together, for the inside of a shard_map. Where there is only one part a
    CPU would copy it."""
    return shard if jax.lax.axis_size(name) == 1 else jax.lax.all_gather(shard, name, axis=axis, tiled=True)


def local_scatter(gradient: jax.Array, axis: int) -> jax.Array:
    """The transpose of `local_gather` for a matrix: this device's shard of the sum over all devices.

    Of a dimension that is no multiple of 256 (Qwen3's vocabulary of 151,936, say) the TPU compiler would make an
    all-reduce of twice the bytes, so zeros are added on the way.
    """
    size = gradient.shape[1 - axis]
    pad = [(0, 0), (0, 0)]
    pad[1 - axis] = (0, -size % 256)
    gradient = jnp.pad(gradient, pad)
    for name in ("fsdp", "ring"):
        gradient = jax.lax.psum_scatter(gradient, name, scatter_dimension=axis, tiled=True)
    return jax.lax.psum(jax.lax.slice_in_dim(gradient, 0, size, axis=1 - axis), "replica")


def activations(*rest: str | None) -> P:
    """Spec of an activation whose first dimension is the batch."""
    return P(BATCH, *rest)
