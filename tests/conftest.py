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

from pathlib import Path

import jax
import pytest

from msm_jax import train
from msm_jax.mesh import make_mesh
from tests.toy import ROOT, make_toy
from tests.toy import make_shards as make_shards


@pytest.fixture(autouse=True)
def _in_project(monkeypatch):
    """Commands name configs/ and specs/ relative to the project."""
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    return make_toy(tmp_path_factory.mktemp("toy"))


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
