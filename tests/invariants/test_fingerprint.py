"""A fingerprint is of bits and places, not of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msm_jax.fingerprint import fingerprint, fingerprints
from msm_jax.mesh import make_mesh


def array(dtype, shape=(8, 6, 16)):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_the_same_on_every_mesh(dtype):
    host = array(dtype) * 8
    found = set()
    for shape, spec in (((1, 1), jax.P()), ((4, 2), jax.P("fsdp", None, "tensor")), ((2, 4), jax.P(None, None, ("fsdp", "tensor")))):  # fmt: skip
        mesh = make_mesh(1, *shape[:1], tensor=shape[1], devices=jax.devices()[: shape[0] * shape[1]])
        with jax.sharding.set_mesh(mesh):
            found.add(int(fingerprints(jax.device_put(host, jax.NamedSharding(mesh, spec)))))
    assert len(found) == 1


def test_every_flipped_bit_is_seen(one_device):
    one = np.asarray(array("float32", (5, 7)))
    of = jax.jit(fingerprint)
    found = {int(of(one))}
    for place in range(one.size):
        for bit in (0, 7, 22, 31):
            damaged = one.copy()
            damaged.view(np.uint32).flat[place] ^= np.uint32(1 << bit)
            assert int(of(damaged)) != int(of(one)), (place, bit)
            found.add(int(of(damaged)))
    assert len(found) == 1 + one.size * 4, "two different arrays have one fingerprint"


def test_places_count(one_device):
    a = np.ones((4, 3), np.float32)
    a[1, 2] = 2.0
    assert int(fingerprint(jnp.asarray(a))) != int(fingerprint(jnp.asarray(a[::-1])))
    assert int(fingerprint(jnp.asarray(a))) != int(fingerprint(jnp.asarray(a.T)))
    assert int(fingerprint(jnp.float32(3))) != int(fingerprint(jnp.float32(4)))
