"""Import and export of a synthetic multi-shard model: under a hard memory limit, and in GB/s beside transformers.

    python benchmarks/hf_io.py WORKDIR [tokenizer directory] [GB]

1. writes a random Qwen3-shaped bfloat16 model of about 4.5 GB in shards of 1 GB;
2. runs `python -m msm_jax.convert` on it with an address space of 2 GB (RLIMIT_AS, what `ulimit -v` sets);
3. reads it onto this machine's devices and writes it out again, and lets transformers do the same, in one process;
   files are in the page cache for both, and both come to rest on disk (fsync) before the clock stops.
"""

import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from msm_jax import export
from msm_jax.hf import config as hf_config
from msm_jax.hf import safetensors
from msm_jax.hf.safetensors import Spec
from msm_jax.hf.weights import names_of
from msm_jax.mesh import make_mesh
from msm_jax.model.config import ModelConfig, param_table
from msm_jax.pretrained import open_pretrained

LIMIT = 2_000_000_000  # bytes of address space
ROUNDS = 3


def make(directory: Path, tokenizer: Path, gigabytes: float) -> None:
    """A model of the given size; layers are added until it is reached."""
    cfg = ModelConfig(V=151_936, D=2048, L=1, H=16, K=8, h=128, F=6144, qk_norm=True, tie_embeddings=False)
    table = param_table(cfg)
    layer = sum(np.prod(p.hf_shape(cfg.dims)) for p in table.values() if p.stacked) * 2
    ends = sum(np.prod(p.hf_shape(cfg.dims)) for p in table.values() if not p.stacked) * 2
    cfg = ModelConfig(**(cfg.to_dict() | {"L": int(-(-(gigabytes * 1e9 - ends) // layer))}))
    rng = np.random.default_rng(0)

    def random(shape: tuple[int, ...]) -> np.ndarray:
        return (rng.standard_normal(shape, np.float32) * 0.02).astype(jnp.bfloat16)

    specs = [
        Spec(name, shape := table[path].hf_shape(cfg.dims), np.dtype(jnp.bfloat16), lambda shape=shape: random(shape))
        for path, _, name in names_of(table, cfg.dims)
    ]
    directory.mkdir(parents=True)
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    hf_config.write_json(
        directory / "config.json", hf_config.with_dtype(hf_config.config_json(cfg, special, 4096), "bfloat16")
    )
    for file in tokenizer.glob("*token*"):
        shutil.copyfile(file, directory / file.name)
    safetensors.write(directory, specs, 1_000_000_000)


def convert_in_little_memory(model: Path, out: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))

    command = [sys.executable, "-m", "msm_jax.convert", "--config=configs/convert.py"]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1"}
    began = time.perf_counter()
    subprocess.run([*command, f"--config.model={model}", f"--config.out={out}"], check=True, preexec_fn=limit, env=env)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print(f"converted in {time.perf_counter() - began:.1f} s with {LIMIT / 1e9:.0f} GB of address space; ", end="")
    print(f"largest resident size {peak:.2f} GB", flush=True)


def synced(directory: Path) -> None:
    for file in directory.iterdir():
        with file.open("rb") as f:
            os.fsync(f.fileno())


def compare(model: Path, work: Path, size: float) -> None:
    import torch
    import transformers

    best: dict[str, float] = {}

    def clock(name: str, began: float) -> None:
        best[name] = min(best.get(name, float("inf")), time.perf_counter() - began)

    for _ in range(ROUNDS):
        out = work / "out"
        with jax.sharding.set_mesh(make_mesh()):
            began = time.perf_counter()
            source = open_pretrained(str(model))
            cfg = ModelConfig(**source.shape, param_dtype="bfloat16")
            params = jax.block_until_ready(source.params(cfg))
            clock("import, msm_jax", began)
            out.mkdir()
            began = time.perf_counter()
            export.write_params(out, source, cfg, params, {}, "bfloat16", 5_000_000_000)
            clock("export, msm_jax", began)
            del params
        shutil.rmtree(out)
        began = time.perf_counter()
        theirs = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
        total = sum(float(p.view(torch.int16).view(-1)[::512].sum()) for p in theirs.parameters())  # every page is read
        clock("import, transformers", began)
        began = time.perf_counter()
        theirs.save_pretrained(out, max_shard_size="5GB")
        synced(out)
        clock("export, transformers", began)
        del theirs, total
        shutil.rmtree(out)
    for name, seconds in best.items():
        print(f"{name:>22}: {size / seconds:5.2f} GB/s")
    for what in ("import", "export"):
        print(f"{what} ratio {best[f'{what}, transformers'] / best[f'{what}, msm_jax']:.2f}")


def main(work: Path, tokenizer: Path, gigabytes: float = 4.5) -> None:
    model = work / "synthetic"
    if not model.exists():
        make(model, tokenizer, gigabytes)
    size = sum(file.stat().st_size for file in model.glob("*.safetensors")) / 1e9
    print(f"{size:.2f} GB in {len(list(model.glob('*.safetensors')))} shards", flush=True)
    shutil.rmtree(work / "converted", ignore_errors=True)
    convert_in_little_memory(model, work / "converted")
    compare(model, work, size)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(float, sys.argv[3:]))
