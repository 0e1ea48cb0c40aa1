"""The step computes the same thing however it is packed, split, accumulated or chunked."""

import dataclasses

import jax
import numpy as np
import pytest

from msm_jax.mesh import make_mesh
from msm_jax.model import transformer
from msm_jax.model.lora import merged
from msm_jax.sharding import FSDP
from msm_jax.step import make_gradient

from .support import (
    ADAPTER,
    QWEN,
    TINY,
    adapter_on_mesh,
    assert_same,
    loss_and_grads,
    on_mesh,
    params_on_mesh,
    random_batch,
    random_documents,
    rows_of,
)

FAMILIES = pytest.mark.parametrize("cfg", [TINY, QWEN], ids=["llama", "qwen3"])


@FAMILIES
def test_packed_is_unpacked(cfg, one_device):
    lengths = [5, 9, 12, 7, 16, 3]
    documents, weights = random_documents(1, lengths, cfg.V)
    packed = rows_of(documents, weights, [[0, 1, 2], [3, 4, 5]], 32)
    alone = rows_of(documents, weights, [[d] for d in range(6)], 16)
    assert_same(loss_and_grads(cfg, packed), loss_and_grads(cfg, alone))

    model = transformer.bind(transformer.abstract(cfg)[0], params_on_mesh(cfg), {})

    def logits(batch):
        fields = {k: v[0] for k, v in on_mesh(batch).items()}
        hidden = model(fields["tokens"], fields["segment_ids"], fields["positions"])
        return np.asarray(model.logits(hidden))[batch["segment_ids"] > 0]

    a, b = logits(packed), logits(alone)  # both in order of documents and positions
    assert a.shape == (sum(lengths), cfg.V)
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("cfg", "shape"), [(TINY, (1, 8, 1)), (TINY, (2, 2, 2)), (QWEN, (1, 2, 4)), (QWEN, (2, 4, 1))], ids=str
)
def test_eight_devices_are_one(cfg, shape, one_device):
    batch = random_batch(2, cfg)
    expected = loss_and_grads(cfg, batch)
    with jax.sharding.set_mesh(make_mesh(*shape)):
        assert_same(loss_and_grads(cfg, batch), expected)


def test_gradients_are_sharded_like_parameters():
    mesh = make_mesh(1, 4, 2)
    with jax.sharding.set_mesh(mesh):
        params, adapter, batch = params_on_mesh(TINY), adapter_on_mesh(TINY, ADAPTER), on_mesh(random_batch(3, TINY))
        full, lora = (transformer.abstract(TINY, lora)[0] for lora in (None, ADAPTER))
        of_params = jax.jit(make_gradient(full, False, 0, 1))(params, {}, batch)[2]
        of_adapter = jax.jit(make_gradient(lora, True, 0, 1))(adapter, params, batch)[2]
    for trained, grads in ((params, of_params), (adapter, of_adapter)):
        same = jax.tree.map(lambda p, g: g.sharding.is_equivalent_to(p.sharding, p.ndim), trained, grads)
        assert all(jax.tree.leaves(same)), same
    assert FSDP in params["layers"]["q"].sharding.spec
    assert FSDP in adapter["q"]["a"].sharding.spec


@pytest.mark.parametrize(("accumulate", "shape"), [(4, (1, 1, 1)), (4, (1, 2, 1))], ids=str)
def test_accumulation_changes_nothing(accumulate, shape):
    batch = random_batch(4, TINY)
    batch["loss_weights"][:3] = 0.0  # microbatches of very different weight: a mean of means would be wrong
    with jax.sharding.set_mesh(make_mesh(*shape, devices=jax.devices()[: shape[1]])):
        expected = loss_and_grads(TINY, batch)
        assert_same(loss_and_grads(TINY, batch, accumulate=accumulate), expected)


@pytest.mark.parametrize(("cfg", "chunk"), [(TINY, 1), (TINY, 16), (QWEN, 8)], ids=str)
def test_chunked_loss_is_full_loss(cfg, chunk, one_device):
    batch = random_batch(5, cfg)
    assert_same(loss_and_grads(cfg, batch, chunk=chunk), loss_and_grads(cfg, batch))


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2), (1, 2, 1, 4)], ids=str)
@pytest.mark.parametrize("supervised_only", [False, True])
def test_chunked_loss_is_full_loss_on_every_mesh(shape, supervised_only):
    """One row has nothing supervised; with supervised_only the others are cut short at different places."""
    cfg, batch = dataclasses.replace(TINY, tie_embeddings=False), random_batch(13, TINY)
    batch["loss_weights"][0] = 0.0
    batch["loss_weights"][1, 4:] = 0.0
    with jax.sharding.set_mesh(make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))])):
        expected = loss_and_grads(cfg, batch)
        assert_same(loss_and_grads(cfg, batch, chunk=8, supervised_only=supervised_only), expected)


@pytest.mark.parametrize("remat", ["offload", "full", "context", "products", "k+gate", "input@host+v"])
def test_remat_changes_nothing(remat, one_device):
    batch = random_batch(6, QWEN)
    assert_same(loss_and_grads(dataclasses.replace(QWEN, remat=remat), batch), loss_and_grads(QWEN, batch))


def test_unrolled_layers_change_nothing(one_device):
    batch = random_batch(6, TINY)
    assert_same(loss_and_grads(dataclasses.replace(TINY, unroll=TINY.L), batch), loss_and_grads(TINY, batch))


def test_loss_is_the_definition(one_device):
    """Against numpy: Σ weight·−log p over Σ weight, of the token at each position given those before it."""
    batch = random_batch(7, TINY)
    model = transformer.bind(transformer.abstract(TINY)[0], params_on_mesh(TINY), {})
    fields = {k: v[0] for k, v in on_mesh(batch).items()}
    logits = np.asarray(model.logits(model(fields["tokens"], fields["segment_ids"], fields["positions"])), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    total = weight = 0.0
    for row in range(batch["tokens"].shape[0]):
        for t in range(1, batch["tokens"].shape[1]):
            total -= batch["loss_weights"][row, t] * log_p[row, t - 1, batch["tokens"][row, t]]
            weight += batch["loss_weights"][row, t]
    loss, found_weight, _ = loss_and_grads(TINY, batch)
    np.testing.assert_allclose(found_weight, weight, rtol=1e-6)
    np.testing.assert_allclose(loss, total / weight, rtol=1e-5)


@pytest.mark.parametrize("cfg", [TINY, dataclasses.replace(QWEN, qkv_bias=True)], ids=["llama", "qwen"])
@pytest.mark.parametrize("shape", [(1, 2, 4), (2, 4, 1)], ids=str)
def test_an_adapter_trains_alike_everywhere(cfg, shape, one_device):
    """Eight devices, accumulation, a chunked loss and recomputation at once, against none of them."""
    cfg = dataclasses.replace(cfg, H=4, K=4)
    batch = random_batch(9, cfg, rows=16)
    expected = loss_and_grads(cfg, batch, lora=ADAPTER)
    assert set(expected[2]) == set(ADAPTER.targets)
    with jax.sharding.set_mesh(make_mesh(*shape)):
        again = dataclasses.replace(cfg, remat="full")
        assert_same(loss_and_grads(again, batch, lora=ADAPTER, accumulate=2, chunk=8), expected)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2), (1, 2, 2, 2)], ids=str)
def test_the_embedding_gradient_added_row_by_row_is_the_product(shape, monkeypatch):
    batch = random_batch(12, TINY)
    with jax.sharding.set_mesh(make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))])):
        expected = loss_and_grads(TINY, batch)
        monkeypatch.setattr(transformer, "ONE_HOT_VOCABULARY", 0)
        assert_same(loss_and_grads(TINY, batch), expected)


def test_an_adapter_is_its_product(one_device):
    """x·W + alpha/r·(x·a)·b, in numpy, at the logits; and merging is the same."""
    params, adapter, batch = params_on_mesh(TINY), adapter_on_mesh(TINY, ADAPTER), random_batch(10, TINY, rows=2)
    fields = {k: v[0] for k, v in on_mesh(batch).items()}

    def logits(lora, params, adapter):
        model = transformer.bind(transformer.abstract(TINY, lora)[0], params, adapter)
        return np.asarray(model.logits(model(fields["tokens"], fields["segment_ids"], fields["positions"])))

    by_hand = {name: np.asarray(array) for name, array in params["layers"].items()}
    for name, factors in adapter.items():
        a, b = (np.asarray(factors[f], np.float64) for f in "ab")
        flat = np.stack([a[i].reshape(-1, 4) @ b[i].reshape(4, -1) for i in range(TINY.L)])
        by_hand[name] = (by_hand[name] + 6.0 / 4 * flat.reshape(by_hand[name].shape)).astype(np.float32)
    expected = logits(None, jax.device_put(params | {"layers": by_hand}, transformer.shardings(TINY)), {})
    assert np.abs(expected - logits(None, params, {})).max() > 0.1
    np.testing.assert_allclose(logits(ADAPTER, params, adapter), expected, atol=1e-5)
    np.testing.assert_allclose(logits(None, merged(params, adapter, ADAPTER), {}), expected, atol=1e-5)


def test_a_fresh_adapter_changes_nothing(one_device):
    params, fresh = params_on_mesh(TINY), transformer.initialize_adapter(TINY, ADAPTER, 3)
    assert all(np.abs(np.asarray(f["a"])).max() > 0 for f in fresh.values())
    for name in ADAPTER.targets:
        np.testing.assert_array_equal(merged(params, fresh, ADAPTER)["layers"][name], params["layers"][name])


def test_weights_scale_out(one_device):
    """Doubling every weight leaves the mean loss and its gradient where they were."""
    batch = random_batch(8, TINY)
    doubled = batch | {"loss_weights": batch["loss_weights"] * 2}
    (a, wa, ga), (b, wb, gb) = loss_and_grads(TINY, batch), loss_and_grads(TINY, doubled)
    np.testing.assert_allclose(wb, 2 * wa, rtol=1e-6)
    assert_same((a, ga), (b, gb))
