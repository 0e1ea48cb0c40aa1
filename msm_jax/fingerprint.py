"""A number for the bits of an array, computed where the array lies and the same wherever that is.

Every element's bits are stirred (by a function that has an inverse), multiplied by an odd number made of its place, and
added up modulo 2³². Such sums have no order, so devices, processes and shardings make no difference; and an odd factor
lets no single changed element vanish. Other damage goes unseen once in 2³² times. It finds damage, not forgery: where
somebody might want to deceive, a manifest's sha256 counts.
"""

from typing import Any

import jax
import jax.numpy as jnp

_SPREAD = 2_654_435_761  # Knuth's multiplicative hash, 2³² divided by the golden ratio


def fingerprint(array: jax.Array) -> jax.Array:
    """uint32 scalar of an array of any shape, with elements of 1, 2 or 4 bytes; replicated."""
    bits = jax.lax.bitcast_convert_type(array, jnp.dtype(f"uint{8 * array.dtype.itemsize}")).astype(jnp.uint32)
    bits = (bits ^ (bits >> 16)) * jnp.uint32(_SPREAD)
    if array.ndim == 0:
        return bits
    place, sharding = jnp.uint32(0), jax.typeof(array).sharding
    for axis, size in enumerate(array.shape):
        along = jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis, out_sharding=sharding)
        place = place * jnp.uint32(size % 2**32) + along
    factor = place * jnp.uint32(_SPREAD) | jnp.uint32(1)
    return jnp.sum(bits * factor, dtype=jnp.uint32)


@jax.jit
def fingerprints(tree: Any) -> Any:
    """The same of every array of a tree, all in one program."""
    return jax.tree.map(fingerprint, tree)
