"""A checkpoint written slice by slice is, to Orbax and to load, like any other; memory stays one slice's."""

import json
import signal
import subprocess
import sys
import traceback

import jax
import ml_dtypes
import numpy as np
import pytest
import tensorstore as ts
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from orbax.checkpoint import v1 as ocp

from msm_jax import checkpoint
from msm_jax.cli import UserError
from msm_jax.params_writer import Leaf, chunk_shape, write
from tests.gcs import gcs  # noqa: F401

BF16 = np.dtype(ml_dtypes.bfloat16)
SPECS = {
    "embed": P("tensor", "fsdp"),
    "final_norm": P(),
    "layers.gate": P(None, "fsdp", "tensor"),
    "layers.norm": P(),
    "layers.o": P(None, "tensor", None, "fsdp"),
}


def arrays(dtype):
    rng = np.random.default_rng(0)
    shapes = ((50, 16), (16,), (3, 16, 24), (3, 16), (3, 4, 6, 16))
    return {path: rng.normal(size=shape).astype(dtype) for path, shape in zip(SPECS, shapes, strict=True)}


def leaves(flat):
    cuts = {"embed": 1, "layers.gate": 1, "layers.o": 3}
    rows = {"embed": 8, "final_norm": 16}  # 50 rows by 8: the last slice is shorter
    return {
        path: Leaf(x.shape, x.dtype, lambda a, b, x=x: x[a:b], rows.get(path, 1), cuts.get(path))
        for path, x in flat.items()
    }


def nested(flat):
    tree = {"layers": {}}
    for path, x in flat.items():
        group, _, name = path.rpartition(".")
        (tree["layers"] if group else tree)[name] = x
    return tree


def abstract(flat, devices):
    mesh = jax.make_mesh((devices // 2 or 1, min(devices, 2)), ("fsdp", "tensor"), devices=jax.devices()[:devices])
    return nested(
        {p: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, SPECS[p])) for p, x in flat.items()}
    )


def assert_same(found, flat):
    expected = nested(flat)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert np.asarray(a).tobytes() == b.tobytes()


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), BF16])
@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("chunk_bytes", [100, 1 << 23])
def test_orbax_restores_the_same_bits(tmp_path, dtype, devices, chunk_bytes):
    flat = arrays(dtype)
    steps = []
    write(tmp_path, 7, leaves(flat), chunk_bytes=chunk_bytes, progress=steps.append)
    total = sum(x.nbytes for x in flat.values())
    assert sum(steps) == total
    with ocp.training.Checkpointer(tmp_path / "checkpoints") as checkpointer:
        assert checkpointer.latest.step == 7
        found = checkpointer.load_checkpointables(7, {"params": abstract(flat, devices)})["params"]
        assert_same(found, flat)
        assert all(len(x.sharding.device_set) == devices for x in jax.tree.leaves(found))


def test_each_host_reads_its_chunks_only(tmp_path, monkeypatch):
    """Half of a parameter's chunks removed: the other half of the devices can still be filled."""
    x = np.arange(2 * 16 * 32, dtype=np.float32).reshape(2, 16, 32)
    write(tmp_path, 0, {"w": Leaf(x.shape, x.dtype, lambda a, b: x[a:b], cut=1)}, chunk_bytes=x.nbytes // 16)
    chunks = sorted((tmp_path / "checkpoints/0/params/w/c").rglob("*"))
    assert sum(f.is_file() for f in chunks) == 16
    for layer in (0, 1):
        for i in range(4, 8):
            (tmp_path / f"checkpoints/0/params/w/c/{layer}/{i}/0").unlink()
    kvstore = {"driver": "file", "path": f"{tmp_path}/checkpoints/0/params/w/"}
    store = ts.open({"driver": "zarr3", "kvstore": kvstore, "fill_missing_data_reads": False}).result()
    assert np.array_equal(store[:, :8].read().result(), x[:, :8])
    with pytest.raises(ValueError, match="missing"):
        store[:, 8:].read().result()


def test_the_digest_is_that_of_load(tmp_path):
    flat = arrays(np.float32)
    digest = write(tmp_path, 0, leaves(flat))
    assert digest == checkpoint.params_digest(nested(flat))
    parts = dict.fromkeys(("kind", "id", "recipe", "config", "inputs", "counts", "versions")) | {"kind": "run"}
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps(parts | {"files": {"params": {"sha256": digest}}}))
    assert_same(checkpoint.load(tmp_path, "params", abstract(flat, 8)), flat)
    manifest.write_text(json.dumps(parts | {"files": {"params": {"sha256": "0"}}}))
    with pytest.raises(UserError, match="is not the one its manifest.json lists"):
        checkpoint.load(tmp_path, "params", abstract(flat, 8))


def test_a_damaged_chunk_is_noticed(tmp_path):
    flat = arrays(np.float32)
    write(tmp_path, 0, leaves(flat))
    chunk = tmp_path / "checkpoints/0/params/layers.gate/c/1/0/0"
    content = bytearray(chunk.read_bytes())
    content[100] ^= 1
    chunk.write_bytes(content)
    with ocp.training.Checkpointer(tmp_path / "checkpoints") as checkpointer, pytest.raises(Exception) as caught:  # noqa: PT011
        checkpointer.load_checkpointables(0, {"params": abstract(flat, 8)})
    assert f'DATA_LOSS: Error reading local file "{chunk}"' in "".join(traceback.format_exception(caught.value))


KILLED = """
import os, signal, sys
import numpy as np
from msm_jax.params_writer import Leaf, write
def read(start, stop):
    if start == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return np.ones((1, 8), np.float32)
write(sys.argv[1], 3, {"w": Leaf((4, 8), np.dtype(np.float32), read)})
"""


def test_killed_half_way_there_is_no_checkpoint(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)])
    assert done.returncode == -signal.SIGKILL
    directory = tmp_path / "checkpoints"
    assert any(directory.iterdir())  # what was written lies under a temporary name
    with ocp.training.Checkpointer(directory) as checkpointer:
        assert checkpointer.latest is None
    with pytest.raises(UserError, match="no complete checkpoint"):
        checkpoint.load(tmp_path, "params", {})
    x = np.ones((4, 8), np.float32)
    write(tmp_path, 3, {"w": Leaf(x.shape, x.dtype, lambda a, b: x[a:b])})  # anew, over the remains
    assert [p.name for p in directory.iterdir()] == ["3"]


def test_refusals(tmp_path):
    x = np.ones((4, 8), np.float32)
    for wrong in (x, x[:1, :4], x[:1].astype(np.float64)):
        with pytest.raises(ValueError, match=r"w: wanted float32 \[1, 8\], got"):
            write(tmp_path, 0, {"w": Leaf(x.shape, x.dtype, lambda a, b, wrong=wrong: wrong)})
    with pytest.raises(UserError, match="w is float16; parameters are float32 or bfloat16"):
        write(tmp_path, 0, {"w": Leaf(x.shape, np.dtype(np.float16), lambda a, b: x[a:b])})
    leaf = {"w": Leaf(x.shape, x.dtype, lambda a, b: x[a:b])}
    write(tmp_path, 0, leaf)
    with pytest.raises(UserError, match="checkpoints/0: there already"):
        write(tmp_path, 0, leaf)


def test_chunks_are_cut_along_the_sharded_dimension_first():
    def shape(shape, limit, **more):
        return chunk_shape(Leaf(shape, np.dtype(np.float32), lambda a, b: None, **more), limit)

    assert shape((32, 4096, 14336), 1 << 23, cut=1) == (1, 128, 14336)
    assert shape((32, 14336, 4096), 1 << 23, cut=2) == (1, 14336, 128)
    assert shape((32, 4096, 14336), 1 << 23) == (1, 1024, 1792)
    assert shape((151936, 4096), 1 << 23, cut=1, rows=2048) == (2048, 1024)
    assert shape((4096,), 1 << 23, rows=4096) == (4096,)
    assert shape((4096,), 1 << 10, rows=4096) == (4096,)  # never within a slice's rows
    assert shape((5, 7), 1 << 23, rows=8) == (5, 7)


MEMORY = """
import resource, sys
import numpy as np
from msm_jax.params_writer import Leaf, write
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
x = np.ones((4, 8), np.float32)
write(sys.argv[1], 0, {"w": Leaf(x.shape, x.dtype, lambda a, b: x[a:b])})  # what Orbax itself needs
before = peak()
shape = (16, 2048, 4096)
write(sys.argv[1], 1, {"w": Leaf(shape, np.dtype(np.float32), lambda a, b: np.full((1, *shape[1:]), a, np.float32), cut=1)})
print(peak() - before)
"""


def test_memory_is_that_of_a_slice(tmp_path):
    """512 MiB in slices of 32 MiB; and the eight buffers of 8 MiB."""
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 32 + 64 + 64


REMOTE = """
import sys
import ml_dtypes, numpy as np
from msm_jax.cli import UserError
from msm_jax.params_writer import Leaf, write
from orbax.checkpoint import v1 as ocp
run = sys.argv[1]
x = np.arange(4 * 8 * 6, dtype=np.float32).reshape(4, 8, 6).astype(ml_dtypes.bfloat16)
def fail(start, stop):
    if start == 2:
        raise RuntimeError("upstream")
    return x[start:stop]
try:
    write(run, 5, {"layers.w": Leaf(x.shape, x.dtype, fail)})
except RuntimeError:
    pass
with ocp.training.Checkpointer(run + "/checkpoints") as c:
    assert c.latest is None
write(run, 5, {"layers.w": Leaf(x.shape, x.dtype, lambda a, b: x[a:b])})
with ocp.training.Checkpointer(run + "/checkpoints") as c:
    assert c.latest.step == 5
    found = c.load_checkpointables(5, {"params": {"layers": {"w": np.zeros(x.shape, x.dtype)}}})["params"]["layers"]["w"]
    assert found.tobytes() == x.tobytes()
try:
    write(run, 5, {"layers.w": Leaf(x.shape, x.dtype, lambda a, b: x[a:b])})
except UserError as error:
    print(error)
"""


def test_google_cloud_storage(gcs):  # noqa: F811
    assert "there already" in gcs.run(REMOTE, f"{gcs.bucket}/run")
