"""Small models and random batches for the invariants."""

import functools

import jax
import numpy as np

from msm_jax import checkpoint, metrics
from msm_jax.mesh import make_mesh
from msm_jax.model import transformer
from msm_jax.model.config import ModelConfig
from msm_jax.model.lora import LoraConfig
from msm_jax.sharding import BATCH
from msm_jax.step import make_gradient


class KilledError(Exception):
    """Stands for the kill of a process."""


def stop_at(monkeypatch, step):
    """Makes the trainer die just before this step's metrics are written, as a kill would, no save being under way."""
    write, save = metrics.Writer.write, checkpoint.Checkpoints.save

    def saving(self, *args):
        save(self, *args)
        self.wait()  # what is killed here lives on, and would finish its save at some time during the next run

    def dying(self, at, *values):
        if at == step:
            raise KilledError
        write(self, at, *values)

    monkeypatch.setattr(metrics.Writer, "write", dying)
    monkeypatch.setattr(checkpoint.Checkpoints, "save", saving)


ADAPTER = LoraConfig(rank=4, alpha=6.0, targets=("q", "v", "o", "up", "down"))
TINY = ModelConfig(V=64, D=32, L=2, H=4, K=2, h=8, F=48)
QWEN = ModelConfig(V=64, D=32, L=2, H=4, K=4, h=16, F=48, qk_norm=True, tie_embeddings=False)


def random_documents(seed, lengths, vocabulary):
    rng = np.random.default_rng(seed)
    documents = [rng.integers(4, vocabulary, n).astype(np.int32) for n in lengths]
    weights = [np.concatenate([[0], rng.uniform(0, 2, n - 1) * (rng.random(n - 1) < 0.7)]) for n in lengths]
    return documents, weights


def rows_of(documents, weights, layout, S):
    """Batch {field: [rows, S]}; `layout` lists the documents of each row."""
    batch = {
        "tokens": np.full((len(layout), S), 3, np.int32),
        "segment_ids": np.zeros((len(layout), S), np.int32),
        "positions": np.zeros((len(layout), S), np.int32),
        "loss_weights": np.zeros((len(layout), S), np.float32),
    }
    for row, members in enumerate(layout):
        at = 0
        for segment, d in enumerate(members, 1):
            here = slice(at, at + len(documents[d]))
            batch["tokens"][row, here] = documents[d]
            batch["segment_ids"][row, here] = segment
            batch["positions"][row, here] = np.arange(len(documents[d]))
            batch["loss_weights"][row, here] = weights[d]
            at = here.stop
    return batch


def random_batch(seed, cfg, rows=8, S=32):
    """Rows of several segments with padding and uneven weights."""
    rng = np.random.default_rng(seed)
    lengths, layout = [], []
    for _ in range(rows):
        members, room = [], S
        while room >= 4 and len(members) < 3:
            n = int(rng.integers(2, min(room, 14) + 1))
            members.append(len(lengths))
            lengths.append(n)
            room -= n
        layout.append(members)
    return rows_of(*random_documents(seed, lengths, cfg.V), layout, S)


def on_mesh(batch, accumulate=1):
    """[rows, S] → [accumulate, rows/accumulate, S] on the mesh in use."""
    sharding = jax.NamedSharding(jax.sharding.get_mesh(), jax.P(None, BATCH, None))
    return {k: jax.device_put(v.reshape(accumulate, -1, v.shape[-1]), sharding) for k, v in batch.items()}


@functools.cache
def host_params(cfg, seed=0):
    """Parameters as numpy, made once on one device."""
    with jax.sharding.set_mesh(make_mesh(1, 1, 1, devices=jax.devices()[:1])):
        return jax.tree.map(np.asarray, transformer.initialize(cfg, seed))


def params_on_mesh(cfg, seed=0):
    """The same parameters on whatever mesh is in use."""
    return jax.device_put(host_params(cfg, seed), transformer.shardings(cfg))


def adapter_on_mesh(cfg, lora, seed=0):
    """A fresh adapter whose b is not zero, the same whatever the mesh."""
    with jax.sharding.set_mesh(make_mesh(1, 1, 1, devices=jax.devices()[:1])):
        fresh = jax.tree.map(np.asarray, transformer.initialize_adapter(cfg, lora, seed))
    away = jax.tree.map(lambda x: x + 0.05 * np.sin(np.arange(x.size, dtype=np.float32)).reshape(x.shape), fresh)
    return jax.device_put(away, transformer.adapter_shardings(lora))


def loss_and_grads(cfg, batch, *, chunk=0, accumulate=1, seed=0, lora=None, supervised_only=False):
    """Loss, Σ weights and gradients on the mesh in use, as numpy; the same arrays whatever the mesh."""
    graph = transformer.abstract(cfg, lora)[0]
    params = params_on_mesh(cfg, seed)
    trained, frozen = (adapter_on_mesh(cfg, lora), params) if lora else (params, {})
    gradient = jax.jit(make_gradient(graph, lora is not None, chunk, accumulate, supervised_only))
    loss, rows, grads = jax.tree.map(np.asarray, gradient(trained, frozen, on_mesh(batch, accumulate)))
    return loss, rows.weight.sum(), grads


def assert_same(a, b, rtol=2e-5, atol=2e-6):
    for (path, x), (_, y) in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree_util.tree_leaves_with_path(b), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol, err_msg=str(path))
