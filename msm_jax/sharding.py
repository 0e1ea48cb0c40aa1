"""Which dimension of which array lives on which mesh axis. One table, read by initialisation and by the model.

Mesh axes: `replica` (between slices), `fsdp` (parameters, optimizer state and rows), `tensor` (heads, feed-forward,
vocabulary). The mesh is explicit: shardings are part of array types, and every gather below is visible in the code.
"""

import jax
from jax.sharding import PartitionSpec as P

AXES = ("replica", "fsdp", "tensor")
BATCH = ("replica", "fsdp")  # rows of a batch are spread over these
_AXIS_OF = {"D": "fsdp", "V": "tensor", "H": "tensor", "K": "tensor", "F": "tensor"}


def param_spec(letters: str) -> P:
    """`LDHh` → P(None, 'fsdp', 'tensor', None). Vectors (norms) are replicated."""
    if len(letters.replace("L", "")) < 2 or letters == "Lh":
        return P()
    return P(*(_AXIS_OF.get(letter) for letter in letters))


def tensor_axes(letters: str) -> list[str | None]:
    """For every dimension: is it split along `tensor`?"""
    return ["tensor" if _AXIS_OF.get(letter) == "tensor" else None for letter in letters]


def gathered(weight: jax.Array, letters: str) -> jax.Array:
    """A weight as the matrix product wants it: whole along `fsdp`, still split along `tensor`."""
    return jax.sharding.reshard(weight, P(*tensor_axes(letters)))


def activations(*rest: str | None) -> P:
    """Spec of an activation whose first dimension is the batch."""
    return P(BATCH, *rest)
