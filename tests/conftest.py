"""Eight simulated devices, and one small world whose artefacts are made once by the real commands."""

import os
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
# Eight devices on a busy machine of two cores wait long for one another; by default that ends the process.
os.environ["XLA_FLAGS"] = " ".join(
    (
        "--xla_force_host_platform_device_count=8",
        "--xla_cpu_collective_call_terminate_timeout_seconds=900",
        "--xla_cpu_collective_timeout_seconds=900",
    )
)
# Many tests build the same step anew; a compile cache of this session alone spares them the compiler.
_cache = tempfile.TemporaryDirectory(prefix="msm_jax_xla_")
os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"

import dataclasses
from pathlib import Path

import jax
import pytest

from data_gen import shards, tokenizer
from data_gen.toy import write
from msm_jax import train
from msm_jax.mesh import make_mesh

ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class ToyArtefacts:
    """Directories of a small world: `world`, `tokenizer`, `shards/NAME`."""

    root: Path

    @property
    def world(self) -> Path:
        return self.root / "world"

    @property
    def tokenizer(self) -> Path:
        return self.root / "tokenizer"

    def shards(self, name: str) -> Path:
        return self.root / "shards" / name


@pytest.fixture(autouse=True)
def _in_project(monkeypatch):
    """Commands name configs/ and specs/ relative to the project."""
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    made = ToyArtefacts(tmp_path_factory.mktemp("toy"))
    before = Path.cwd()
    os.chdir(ROOT)
    small = [f"--config.documents.{name}={n}" for name, n in (("base", 1500), ("msm", 200), ("aft", 100), ("it", 100))]
    write.main(["", "--config=configs/toy/world.py", f"--config.out={made.world}", *small])
    corpora = ("base", "msm-affordability", "aft", "it")
    every = tuple(str(path) for path in sorted(made.world.glob("*.jsonl")) if path.stem != "items")
    tokenizer.main(
        ["", "--config=configs/toy/tokenizer.py", f"--config.out={made.tokenizer}", f"--config.documents={every}"]
    )
    for name in corpora:
        make_shards(made.world / f"{name}.jsonl", made.tokenizer, made.shards(name))
    os.chdir(before)
    return made


def make_shards(documents, tokenizer_dir, out, *more):
    """The real command, on one JSONL file."""
    where = [f"--config.documents={documents}", f"--config.tokenizer={tokenizer_dir}", f"--config.out={out}"]
    shards.main(["", "--config=configs/toy/shards.py", *where, *more])


def tiny_settings():
    """A model small enough for a test; 12 updates of 8 rows."""
    size = [f"--config.model.{k}={v}" for k, v in (("D", 32), ("L", 2), ("H", 4), ("K", 2), ("h", 8), ("F", 48))]
    return [*size, "--config.data.batch_rows=8", "--config.optim.steps=12", "--config.optim.warmup_steps=2"]


def train_tiny(out, sources, *more):
    """The real command, with tiny_settings."""
    sources = tuple(map(str, sources))
    train.main(["", "--config=configs/common.py", f"--config.out={out}", f"--config.data.sources={sources}",
                *tiny_settings(), *more])  # fmt: skip


@pytest.fixture(scope="session")
def tiny_run(toy):
    """A finished run of 12 steps on the base corpus."""
    before = Path.cwd()
    os.chdir(ROOT)
    out = toy.root / "run"
    train_tiny(out, [toy.shards("base")])
    os.chdir(before)
    return out


@pytest.fixture
def one_device():
    """The mesh of a single device, in use."""
    mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
    with jax.sharding.set_mesh(mesh):
        yield mesh
