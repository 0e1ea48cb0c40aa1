"""Every implementation of attention gives what the reference gives, forward and backward, on one device and on eight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msm_jax.cli import UserError
from msm_jax.mesh import make_mesh
from msm_jax.model import attention, blockwise, check_attention, gpu_attention
from msm_jax.model.config import ModelConfig
from msm_jax.sharding import activations

MESHES = {"one device": (1, 1, 1), "eight": (2, 2, 2)}
on_meshes = pytest.mark.parametrize("shape", list(MESHES.values()), ids=list(MESHES))


def mesh_of(shape):
    return make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))])


def config(H=4, K=2, h=16, **more):
    return ModelConfig(V=64, D=32, L=1, H=H, K=K, h=h, F=32, **more)


def placed(ids):
    sharding = jax.NamedSharding(jax.sharding.get_mesh(), activations(None))
    return jax.device_put(jnp.asarray(ids, jnp.int32), sharding)


def reference(q, k, v, segments):
    return attention.attend(q, k, v, attention.segment_mask(segments))


def output_and_gradients(attend, arrays, segments):
    def loss(q, k, v):
        out = attend(q, k, v, segments)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)), out

    (_, out), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*arrays)
    return [np.asarray(x) for x in (out, *gradients)]


@on_meshes
@pytest.mark.parametrize(("length", "block"), [(96, 32), (96, 512), (90, 32), (1, 32)])
@pytest.mark.parametrize(("H", "K"), [(4, 4), (8, 2)])
def test_blockwise_is_the_reference(shape, length, block, H, K):
    mesh = mesh_of(shape)
    with jax.sharding.set_mesh(mesh):
        if length == 1:
            (q, k, v), segments = check_attention.example(config(H, K), mesh, 8)
            arrays, segments = [x[:, :1] for x in (q, k, v)], segments[:, :1]
        else:
            arrays, segments = check_attention.example(config(H, K), mesh, length)
        wanted = output_and_gradients(reference, arrays, segments)
        found = output_and_gradients(functools.partial(blockwise.attend, block=block), arrays, segments)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ids", [[0] * 64, [1] * 64, list(range(1, 65)), [1] * 33 + [2] * 30 + [0]])
def test_blockwise_of_any_layout(ids, one_device):
    arrays, _ = check_attention.example(config(), one_device, 64)
    segments = placed([ids])
    wanted = output_and_gradients(reference, arrays, segments)
    found = output_and_gradients(functools.partial(blockwise.attend, block=16), arrays, segments)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_blockwise_never_holds_a_whole_row_of_scores(one_device):
    """Neither forward nor backward: no array of S × S in the compiled program."""
    S = 256
    arrays, segments = check_attention.example(config(), one_device, S)

    def loss(q, k, v):
        return jnp.sum(blockwise.attend(q, k, v, segments, block=32))

    text = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*arrays).compile().as_text()
    assert f"{S},{S}]" not in text
    assert "32,32]" in text


def test_blockwise_leaves_other_segments_out(one_device):
    """Keys before the segment are not read: they may be NaN where whole blocks of them are."""
    arrays, _ = check_attention.example(config(), one_device, 64)
    segments = placed([[1] * 32 + [2] * 32])
    q, k, v = (x.at[:, :32].set(jnp.nan) for x in arrays)
    out = blockwise.attend(q, k, v, segments, block=16)
    assert np.isfinite(np.asarray(out)[:, 32:]).all()


@on_meshes
def test_gpu_kernel_interpreted_is_the_reference(shape):
    mesh = mesh_of(shape)
    with jax.sharding.set_mesh(mesh):
        arrays, segments = check_attention.example(config(), mesh, 128)
        wanted = output_and_gradients(reference, arrays, segments)
        found = output_and_gradients(functools.partial(gpu_attention.attend, interpret=True), arrays, segments)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("length", "h", "message"), [(200, 16, "multiple of 128"), (128, 24, "not 24")])
def test_gpu_kernel_says_what_it_does_not_take(length, h, message, one_device):
    arrays, segments = check_attention.example(config(h=h), one_device, length)
    with pytest.raises(UserError, match=message):
        gpu_attention.attend(*arrays, segments)


@on_meshes
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_check_accepts_what_is_right(shape, dtype):
    check_attention.check(blockwise.attend, config(dtype=dtype), mesh_of(shape))


def test_check_names_what_is_wrong(one_device):
    def not_causal(q, k, v, segments):
        return attention.attend(q, k, v, segments[:, :, None] == segments[:, None, :])

    @jax.custom_vjp
    def bad_gradient(q, k, v, segments):
        return reference(q, k, v, segments)

    def forward(q, k, v, segments):
        return reference(q, k, v, segments), (q, k, v)

    bad_gradient.defvjp(forward, lambda saved, g: (*map(jnp.zeros_like, saved), None))

    def broken(q, k, v, segments):
        raise NotImplementedError("no such\nkernel here")

    with pytest.raises(UserError, match="the output is off by"):
        check_attention.check(not_causal, config(), one_device, "not_causal")
    with pytest.raises(UserError, match="the gradient of q is off by"):
        check_attention.check(bad_gradient, config(), one_device, "bad_gradient")
    with pytest.raises(UserError, match="broken does not run on cpu .no such kernel here"):
        check_attention.check(broken, config(), one_device, "broken")
