"""safetensors files: ours read by others, others' read by us, every damage named, memory bounded."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

torch = pytest.importorskip("torch")
import safetensors.torch

from msm_jax.cli import UserError
from msm_jax.hf.safetensors import Spec, Tensors, write
from tests.gcs import gcs  # noqa: F401

BF16 = np.dtype(ml_dtypes.bfloat16)


def arrays():
    rng = np.random.default_rng(0)
    return {
        "z.weight": rng.normal(size=(7, 5)).astype(np.float32),
        "a.weight": rng.normal(size=(5, 3, 2)).astype(BF16),
        "half": rng.normal(size=(4,)).astype(np.float16),
        "double": rng.normal(size=(2, 2)),
        "scalar": np.array(3.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
    }


def specs(tensors):
    return [Spec(name, x.shape, x.dtype, lambda x=x: x) for name, x in tensors.items()]


def same(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def header_file(path, header, data=b""):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_our_file_is_read_by_the_safetensors_package(tmp_path):
    tensors = arrays()
    assert write(tmp_path, specs(tensors)) == ["model.safetensors"]
    path = tmp_path / "model.safetensors"
    found = safetensors.torch.load_file(path)
    assert set(found) == set(tensors)
    for name, x in tensors.items():
        got = found[name]
        got = got.view(torch.int16).numpy().view(BF16) if got.dtype == torch.bfloat16 else got.numpy()
        assert same(got, x), name
    plain = {name: x for name, x in tensors.items() if x.dtype != BF16}
    assert all(same(safetensors.numpy.load_file(path)[name], x) for name, x in plain.items())
    with safetensors.safe_open(path, "np") as f:
        assert f.metadata() == {"format": "pt"}
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0
    assert path.stat().st_mode & 0o777 == 0o644
    assert [f.name for f in tmp_path.iterdir()] == ["model.safetensors"]


def test_their_file_is_read_by_us(tmp_path):
    tensors = arrays()
    as_torch = {
        name: torch.from_numpy(x.view(np.int16).copy()).view(torch.bfloat16) if x.dtype == BF16 else torch.from_numpy(x)
        for name, x in tensors.items()
    }
    safetensors.torch.save_file(as_torch, tmp_path / "model.safetensors")
    ours = Tensors(tmp_path)
    assert sorted(ours.names()) == sorted(tensors)
    for name, x in tensors.items():
        assert ours.shape(name) == x.shape
        assert ours.dtype(name) == x.dtype
        assert same(ours.read(name), x)
        assert name in ours.names()
    assert "other" not in ours.names()
    assert same(ours.read("z.weight", rows=slice(2, 5)), tensors["z.weight"][2:5])
    assert same(ours.read("a.weight", rows=slice(-2, None)), tensors["a.weight"][-2:])
    assert ours.read("z.weight", rows=slice(5, 2)).shape == (0, 5)
    with pytest.raises(ValueError, match="without a step"):
        ours.read("z.weight", rows=slice(0, 4, 2))
    result = ours.read("z.weight")
    result[:] = 0  # fresh and writable


@pytest.mark.parametrize("limit", [60, 100, 10_000])
def test_shards_and_index(tmp_path, limit):
    tensors = arrays()
    steps = []
    names = write(tmp_path, specs(tensors), limit, progress=steps.append)
    total = sum(x.nbytes for x in tensors.values())
    assert sum(steps) == total
    assert len(steps) == len(tensors)
    ours = Tensors(tmp_path)
    assert set(ours.names()) == set(tensors)
    assert all(same(ours.read(name), x) for name, x in tensors.items())
    if limit > total:
        return
    shards = len(names) - 1
    assert names[0] == f"model-00001-of-{shards:05d}.safetensors"
    index = json.loads((tmp_path / names[-1]).read_text())
    assert index["metadata"] == {"total_parameters": sum(x.size for x in tensors.values()), "total_size": total}
    assert index["weight_map"] == {name: ours.file(name).name for name in tensors}
    for name in names[:-1]:
        sizes = [x.numel() * x.element_size() for x in safetensors.torch.load_file(tmp_path / name).values()]
        assert sum(sizes) <= limit or sum(size > 0 for size in sizes) == 1  # a larger tensor has its own shard


@pytest.mark.parametrize("limit", [40_000, 10**9])
def test_transformers_reads_ours_and_we_its(tmp_path, limit):
    transformers = pytest.importorskip("transformers")
    config = transformers.Qwen3Config(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, intermediate_size=48, tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.Qwen3ForCausalLM(config)
    model.save_pretrained(tmp_path / "theirs", max_shard_size=limit)
    theirs = Tensors(tmp_path / "theirs")
    state = {name: x.detach().numpy() for name, x in model.state_dict().items()}
    assert set(theirs.names()) == set(state)
    assert all(same(theirs.read(name), x) for name, x in state.items())

    names = [name for name in state if name in theirs.names()]
    copied = [Spec(n, theirs.shape(n), theirs.dtype(n), lambda n=n: theirs.read(n)) for n in names]
    written = write(tmp_path / "ours", copied, limit)
    (tmp_path / "ours" / "config.json").write_bytes((tmp_path / "theirs" / "config.json").read_bytes())
    again = transformers.Qwen3ForCausalLM.from_pretrained(tmp_path / "ours")
    assert all(same(x.detach().numpy(), state[name]) for name, x in again.state_dict().items())
    index = "model.safetensors.index.json"
    assert (index in written) == (tmp_path / "theirs" / index).exists()
    if index in written:
        ours_index, their_index = (json.loads((tmp_path / d / index).read_text()) for d in ("ours", "theirs"))
        assert ours_index["metadata"] == their_index["metadata"]
        assert ours_index["weight_map"].keys() == their_index["weight_map"].keys()


def test_adapter_name_and_single_file(tmp_path):
    tensors = {"x.lora_A.weight": np.ones((2, 3), np.float32)}
    assert write(tmp_path, specs(tensors), name="adapter_model") == ["adapter_model.safetensors"]
    assert Tensors(tmp_path / "adapter_model.safetensors").names() == ["x.lora_A.weight"]


def test_transposed_arrays_are_written_in_c_order(tmp_path, monkeypatch):
    monkeypatch.setattr("msm_jax.hf.safetensors._PIECE", 64)
    x = np.arange(35 * 11, dtype=np.float32).reshape(35, 11)
    write(tmp_path, specs({"t": x.T, "s": x[::2, 1:], "v": x[:, 3], "whole": x}))
    ours = Tensors(tmp_path)
    for name, expected in {"t": x.T, "s": x[::2, 1:], "v": x[:, 3], "whole": x}.items():
        assert np.array_equal(ours.read(name), expected)


def test_threads_read_at_once(tmp_path):
    tensors = {f"t{i}": np.full((1000, 37), i, np.float32) for i in range(40)}
    write(tmp_path, specs(tensors), 300_000)
    ours = Tensors(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        assert all(same(x, tensors[name]) for name, x in zip(tensors, pool.map(ours.read, tensors), strict=True))


def test_a_failed_write_leaves_nothing(tmp_path):
    def fail():
        raise RuntimeError("upstream")

    good, bad = specs({"a": np.ones(30, np.float32)}), Spec("b", (2,), np.dtype(np.float32), fail)
    with pytest.raises(RuntimeError, match="upstream"):
        write(tmp_path, [*good, bad], 100)
    assert list(tmp_path.iterdir()) == []


def test_write_refuses(tmp_path):
    x = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match="announced float32 \\[2, 3\\], got float32 \\[3, 2\\]"):
        write(tmp_path, [Spec("a", (2, 3), x.dtype, lambda: x.T)])
    with pytest.raises(ValueError, match="got float64"):
        write(tmp_path, [Spec("a", (2, 3), x.dtype, lambda: x.astype(np.float64))])
    with pytest.raises(ValueError, match="twice: \\['a'\\]"):
        write(tmp_path, [*specs({"a": x}), *specs({"a": x})])
    with pytest.raises(UserError, match="tensor a is int32; can write float64, float32, float16, bfloat16"):
        write(tmp_path, specs({"a": x.astype(np.int32)}))
    write(tmp_path, specs({"a": x}))
    with pytest.raises(UserError, match="model.safetensors: there already; move it away"):
        write(tmp_path, specs({"a": x}))


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"{not json", b"", "damaged: not JSON"),
        (b"[]", b"", "no table of tensors"),
        ({"a": entry()}, b"1234567", r"cut off: tensor a ends at byte \d+ of \d+; copy it again"),
        ({"a": entry()}, b"123456789", "damaged: 1 bytes after its last tensor"),
        ({"a": entry(shape=(3,))}, b"12345678", r"damaged: tensor a is F32 \[3\] in 8 bytes"),
        ({"a": entry(offsets=(4, 12))}, b"123456789012", "tensor a does not begin where the one before ends"),
        ({"a": entry(), "b": entry()}, b"12345678", "tensor b does not begin where the one before ends"),
        ({"a": {"dtype": "F32"}}, b"", "entry of tensor a makes no sense"),
        ({"a": entry(shape=(-2,))}, b"12345678", "entry of tensor a makes no sense"),
        (b'{"a": {"dtype":"F32","shape":[0],"data_offsets":[0,0]}, "a": {}}', b"", "a is there twice"),
    ],
)
def test_damage_is_named(tmp_path, header, data, message):
    path = header_file(tmp_path / "model.safetensors", header, data)
    with pytest.raises(UserError, match=message) as caught:
        Tensors(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("content", [b"", b"1234", (100).to_bytes(8, "little") + b"{}", b"\xff" * 40])
def test_headers_that_are_not_whole(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="model.safetensors: damaged or cut off: its header is not whole"):
        Tensors(tmp_path)


def test_missing_files_and_tensors(tmp_path):
    with pytest.raises(UserError, match="neither model.safetensors nor model.safetensors.index.json there"):
        Tensors(tmp_path)
    with pytest.raises(UserError, match="adapter_model.safetensors: no such file"):
        Tensors(tmp_path / "adapter_model.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    for content in ("{}", "[]", '{"weight_map": {}}', '{"weight_map": {"a": "../x.safetensors"}}'):
        index.write_text(content)
        with pytest.raises(UserError, match="index.json: damaged: no weight_map"):
            Tensors(tmp_path)
    index.write_text("{")
    with pytest.raises(UserError, match="index.json: damaged: not JSON"):
        Tensors(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}))
    header_file(tmp_path / "1.safetensors", {"a": entry()}, b"12345678")
    with pytest.raises(UserError, match="2.safetensors: no such file"):
        Tensors(tmp_path)
    header_file(tmp_path / "2.safetensors", {"c": entry()}, b"12345678")
    with pytest.raises(UserError, match="2.safetensors: tensor b is listed in the index but not in the file"):
        Tensors(tmp_path)
    header_file(tmp_path / "2.safetensors", {"a": entry()}, b"12345678")
    with pytest.raises(UserError, match="2.safetensors: tensor a is there twice, also in 1.safetensors"):
        Tensors(tmp_path)
    header_file(tmp_path / "2.safetensors", {"b": entry()}, b"12345678")
    with pytest.raises(UserError, match="no tensor x"):
        Tensors(tmp_path).read("x")


def test_other_dtypes_are_refused_by_name_when_read(tmp_path):
    header_file(
        tmp_path / "model.safetensors", {"a": entry("I64", (1,)), "b": entry(offsets=(8, 16))}, b"1234567890123456"
    )
    ours = Tensors(tmp_path)
    assert ours.read("b").shape == (2,)
    with pytest.raises(UserError, match="model.safetensors: tensor a has dtype I64; can read F64, F32, F16, BF16"):
        ours.read("a")


def test_cut_off_after_opening(tmp_path):
    write(tmp_path, specs({"a": np.ones(100, np.float32)}))
    ours = Tensors(tmp_path)
    with (tmp_path / "model.safetensors").open("r+b") as f:
        f.truncate(300)
    with pytest.raises(UserError, match="cut off within tensor a"):
        ours.read("a")


MEMORY = """
import sys, tracemalloc
import numpy as np
from msm_jax.hf.safetensors import Spec, Tensors, write
N, MB = 12, 1 << 20
write_specs = [Spec(f"t{i}", (8 * MB,), np.dtype(np.float32), lambda i=i: np.full(8 * MB, i, np.float32)) for i in range(N)]
tracemalloc.start()
write(sys.argv[1], write_specs, 100 * MB)
written = tracemalloc.get_traced_memory()[1]
tracemalloc.reset_peak()
ours = Tensors(sys.argv[1])
for name in ours.names():
    assert ours.read(name)[-1] == int(name[1:])
print(written / MB, tracemalloc.get_traced_memory()[1] / MB)
"""


def test_memory_is_that_of_the_largest_tensor(tmp_path):
    """12 tensors of 32 MiB each."""
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True)
    written, read = map(float, done.stdout.split())
    assert written < 34
    assert read < 34


REMOTE = """
import sys
import ml_dtypes, numpy as np
from msm_jax.cli import UserError
from msm_jax.hf.safetensors import Spec, Tensors, write
where, local = sys.argv[1:]
here = Tensors(local)
names = write(where, [Spec(n, here.shape(n), here.dtype(n), lambda n=n: here.read(n)) for n in here.names()], 100)
there = Tensors(where)
assert there.names() and len(names) > 2, names
for n in here.names():
    assert there.read(n).tobytes() == here.read(n).tobytes(), n
assert (there.read("z.weight", rows=slice(2, 5)) == here.read("z.weight")[2:5]).all()
from etils import epath
assert sorted(p.name for p in epath.Path(where).iterdir()) == sorted(names)
for wrong, words in ((where + "/none", "neither"), (where + "/x.safetensors", "no such file")):
    try:
        Tensors(wrong)
    except UserError as error:
        assert words in str(error), error
    else:
        raise AssertionError(wrong)
try:
    write(where, [], 100)
except UserError as error:
    print(error)
"""


def test_google_cloud_storage(tmp_path, gcs):  # noqa: F811
    write(tmp_path, specs(arrays()))
    assert "there already" in gcs.run(REMOTE, f"{gcs.bucket}/model", tmp_path)
