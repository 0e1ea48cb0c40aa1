"""Turns a Hugging Face directory into a checkpoint of ours, for models larger than this machine's memory.

    python -m msm_jax.convert --config=configs/convert.py --config.model=Qwen3-32B --config.out=models/qwen3-32b

Tensor by tensor: memory is that of a layer's largest tensor, twice, or a quarter of the head, and a constant. A run
starts from the result as it does from the directory itself; of a checkpoint each host reads only what its devices hold.
"""

from collections.abc import Callable, Iterator

import jax.numpy as jnp
import numpy as np

from msm_jax import artifact, cli, params_writer
from msm_jax.cli import UserError
from msm_jax.hf.safetensors import Tensors
from msm_jax.model.config import ModelConfig, Param, param_table
from msm_jax.params_writer import Leaf
from msm_jax.pretrained import HfDirectory, absolute, check_vocabulary, inputs_of, open_pretrained

BLOCK_BYTES = 1 << 26  # of the embedding, that much is read and written at a time
HEAD_PARTS = 4  # in which the head is written; for each the file's tensor is read once
PANEL_ROWS = 4096  # of the head's tensor, read at a time


def leaves(tensors: Tensors, cfg: ModelConfig) -> Iterator[tuple[str, Leaf]]:
    """(path, how to write it) of every parameter, in cfg.param_dtype."""
    dtype = np.dtype(jnp.dtype(cfg.param_dtype))
    for path, param in param_table(cfg).items():
        shape = param.shape(cfg.dims)
        row_bytes = int(np.prod(shape[1:])) * dtype.itemsize
        rows = 1 if param.stacked else -(-shape[0] // HEAD_PARTS) if param.ins else max(1, BLOCK_BYTES // row_bytes)
        cut = param.letters.find("D")  # what meshes spread over fsdp
        yield path, Leaf(shape, dtype, _reader(tensors, param, cfg, dtype), rows, cut if cut > 0 else None)


def _reader(tensors: Tensors, param: Param, cfg: ModelConfig, dtype: np.dtype) -> Callable[[int, int], np.ndarray]:
    """read(start, stop) of params_writer.Leaf: layers of a stacked parameter, else rows of the first dimension."""
    shape = param.shape(cfg.dims)

    def layer(start: int, stop: int) -> np.ndarray:
        assert stop == start + 1
        raw = tensors.read(param.hf.format(start))
        turned = raw.T if param.ins else raw
        return turned.reshape(1, *shape[1:]).astype(dtype, copy=False)

    def rows(start: int, stop: int) -> np.ndarray:
        return tensors.read(param.hf, slice(start, stop)).astype(dtype, copy=False)

    def columns(start: int, stop: int) -> np.ndarray:
        """The head is [V, D] there and [D, V] here, so a block of its rows is gathered from all of the file's."""
        block = np.empty((stop - start, shape[1]), dtype)
        for at in range(0, shape[1], PANEL_ROWS):
            block[:, at : at + PANEL_ROWS] = tensors.read(param.hf, slice(at, at + PANEL_ROWS))[:, start:stop].T
        return block

    return layer if param.stacked else columns if param.ins else rows


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    if config.dtype not in ("", "float32", "bfloat16"):
        raise UserError(f"config.dtype = {config.dtype!r}: float32, bfloat16, or empty for the model's own")
    source = open_pretrained(config.model)
    if not isinstance(source, HfDirectory):
        raise UserError(f"{config.model}: not a Hugging Face directory; runs and adapters need no conversion")
    cfg = ModelConfig(**source.shape, param_dtype=config.dtype or source.stored_dtype)
    tokenizer = source.tokenizer()
    check_vocabulary(tokenizer, cfg)
    settings = {"model": cfg.to_dict(), "lora": None}
    job = artifact.begin(config.out, "model", settings, inputs_of(source, tokenizer))
    if job is None:
        return
    job.header["source"] = absolute(source.reference)  # what adapters of it are said to stand on
    with job:
        tokenizer.copy_to(job.tmp)
        source.write_hf_files(job.tmp)
        table = dict(leaves(source.tensors, cfg))
        total = sum(leaf.nbytes for leaf in table.values())
        digest = params_writer.write(job.place, 0, table, progress=cli.Progress(f"writing {config.out}", total, "GB"))
        parameters = sum(int(np.prod(leaf.shape)) for leaf in table.values())
        job.finish(files={"params": {"sha256": digest}}, parameters=parameters)
    cli.note(f"{config.out}: {parameters:,} parameters, {total / 1e9:.3g} GB in {cfg.param_dtype}")


if __name__ == "__main__":
    cli.entry(main)
