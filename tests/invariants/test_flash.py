"""The TPU kernel, interpreted on the CPU, is the reference: outputs and gradients, alone and in the model."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msm_jax.cli import UserError
from msm_jax.mesh import make_mesh
from msm_jax.model import attention, blockwise, flash
from msm_jax.model.config import ModelConfig
from msm_jax.sharding import activations
from tests.invariants.support import assert_same, loss_and_grads, random_batch

WIDE = ModelConfig(V=64, D=32, L=2, H=4, K=2, h=8, F=64, qk_norm=True)
CUTS = [[256], [100, 156], [1, 127, 100, 28], [128, 128], [30] * 8 + [16], [255, 1]]


def segments(cuts, padding=0):
    ids = np.repeat(np.arange(1, len(cuts) + 1), cuts)
    ids[len(ids) - padding :] = 0
    return ids.astype(np.int32)


@pytest.mark.parametrize("blocks", [(128, 128, 128, 128), (256, 128, 128, 256), (128, 256, 256, 128)], ids=str)
@pytest.mark.parametrize(("H", "K", "h"), [(4, 2, 128), (2, 2, 64), (3, 1, 128)], ids=str)
def test_the_kernel_is_the_reference(blocks, H, K, h, one_device):
    S, rows = 256, np.stack([segments(cuts, padding=p) for cuts, p in zip(CUTS, (0, 20, 0, 5, 16, 1), strict=True)])
    rng = np.random.default_rng(0)
    q, k, v, do = (rng.normal(size=(len(rows), S, n, h)).astype(np.float32) for n in (H, K, K, H))
    mesh = jax.sharding.get_mesh()
    heads, row = (jax.NamedSharding(mesh, activations(*rest)) for rest in ((None, "tensor", None), (None,)))
    q, k, v, do, ids = (jax.device_put(x, row if x is rows else heads) for x in (q, k, v, do, rows))
    kernel = attention._flash(ids, flash.Blocks(*blocks), interpret=True)
    expected, expected_back = jax.vjp(attention.ATTENTION["reference"](ids), q, k, v)
    found, found_back = jax.vjp(kernel, q, k, v)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for ours, theirs in zip(found_back(do), expected_back(do), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * float(jnp.abs(theirs).max()))


def test_starts_are_where_segments_begin():
    ids = np.array([[1, 1, 2, 2, 2, 0, 0], [3, 1, 1, 1, 1, 1, 0]], np.int32)
    assert blockwise.segment_starts(jnp.asarray(ids)).tolist() == [[0, 0, 2, 2, 2, 5, 5], [0, 1, 1, 1, 1, 1, 6]]


MESHES = [  # interpreted, each takes a quarter of a minute
    ((2, 2, 2), "context"),
    ((1, 2, 1, 2), "none"),
    *(
        pytest.param(shape, remat, marks=pytest.mark.faults)
        for shape, remat in [
            ((1, 1, 1), "none"),
            ((1, 1, 1), "context"),
            ((2, 2, 2), "none"),
            ((1, 2, 1, 2), "context"),
        ]
    ),
]


@pytest.mark.parametrize(("shape", "remat"), MESHES, ids=str)
def test_the_kernel_in_the_model_is_the_reference(shape, remat, monkeypatch):
    interpreted = functools.partial(attention._flash, interpret=True)
    monkeypatch.setitem(attention.ATTENTION, "flash", interpreted)
    batch = random_batch(0, WIDE, rows=4, S=128)
    with jax.sharding.set_mesh(make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))])):
        expected = loss_and_grads(WIDE, batch)
        assert_same(loss_and_grads(dataclasses.replace(WIDE, attention="flash", remat=remat), batch), expected)


@pytest.mark.parametrize(("S", "h"), [(100, 128), (16384, 128), (256, 12)])
def test_shapes_the_kernel_cannot_do_are_refused(S, h):
    with pytest.raises(UserError, match="config.model.attention"):
        flash.check(S, h)
