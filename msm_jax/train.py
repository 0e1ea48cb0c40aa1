"""Trains a model: pretraining, midtraining and alignment fine-tuning are this one program.

    python -m msm_jax.train --config=configs/toy/base.py --config.out=runs/base

Killed at any moment, the same command resumes from the last checkpoint and ends with the same weights. Output:
checkpoints/, metrics.jsonl, tensorboard/, receipt.txt (what is trained on, token by token), the tokenizer, and at
the end manifest.json.
"""

import functools
import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from data_gen.hf_tokenizer import open_tokenizer
from data_gen.tokenizer import UNK, AnyTokenizer, Tokenizer
from msm_jax import artifact, cli, data, metrics
from msm_jax.checkpoint import Checkpoints, checkpointed, params_digest
from msm_jax.cli import UserError
from msm_jax.mesh import check_mesh, default_dtype, make_mesh
from msm_jax.model import transformer
from msm_jax.model.config import ModelConfig
from msm_jax.model.lora import LoraConfig
from msm_jax.optim import make_optimizer
from msm_jax.pretrained import PeftAdapter, Pretrained, absolute, check_vocabulary, open_pretrained
from msm_jax.receipt import receipt
from msm_jax.step import Params, State, make_step

RUN_STATE = "run.json"


def validate(config: ConfigDict) -> None:
    """Raises UserError naming the first key whose value is impossible."""
    optim, rows = config.optim, config.data.batch_rows
    rules = [
        ("optim.steps", optim.steps >= 1, "at least 1"),
        ("optim.lr", optim.lr > 0, "above 0"),
        ("optim.warmup_steps", 0 <= optim.warmup_steps <= optim.steps, "between 0 and optim.steps"),
        ("optim.end_fraction", 0 <= optim.end_fraction <= 1, "between 0 and 1"),
        ("optim.b1", 0 <= optim.b1 < 1, "in [0, 1)"),
        ("optim.b2", 0 <= optim.b2 < 1, "in [0, 1)"),
        ("optim.weight_decay", optim.weight_decay >= 0, "0 or more"),
        ("optim.clip_norm", optim.clip_norm > 0, "above 0"),
        ("optim.eps", optim.eps > 0, "above 0"),
        (
            "optim.lr_multipliers",
            _is_multipliers(optim.lr_multipliers),
            "pairs of (regular expression, factor 0 or more)",
        ),
        ("init_words", _is_words(config), "pairs of (new word, known word), with config.init_from and without LoRA"),
        ("data.seed", config.data.seed >= 0, "0 or more"),
        ("model.rope_theta", config.model.get("rope_theta", 1) > 0, "above 0"),
        ("model.norm_eps", config.model.get("norm_eps", 1) > 0, "above 0"),
        ("optim.accumulate", optim.accumulate >= 1, "at least 1"),
        ("data.batch_rows", rows >= 1 and rows % max(1, optim.accumulate) == 0, "a multiple of optim.accumulate"),
        ("checkpoint.every_steps", config.checkpoint.every_steps >= 1, "at least 1"),
        ("checkpoint.keep", config.checkpoint.keep >= 1, "at least 1"),
        ("log.every_steps", config.log.every_steps >= 1, "at least 1"),
    ]
    flat = cli.flatten(config)
    for key, holds, must in rules:
        if not holds:
            raise UserError(f"config.{key} = {flat[key]!r}: must be {must}")


def _is_multipliers(rules: Any) -> bool:
    try:
        return all(re.compile(pattern) is not None and factor >= 0 for pattern, factor in rules)
    except (TypeError, ValueError, re.error):
        return False


def _is_words(config: ConfigDict) -> bool:
    pairs = config.init_words
    shaped = all(isinstance(p, tuple) and len(p) == 2 and all(isinstance(w, str) for w in p) for p in pairs)
    return shaped and (not pairs or (bool(config.init_from) and not config.lora.rank))


def check_divisible(config: ConfigDict, model: ModelConfig, mesh: jax.sharding.Mesh, seq_len: int) -> None:
    """Raises UserError where rows, the loss chunk or a dimension of the model cannot be split as asked."""
    size = mesh.shape
    spread = size["replica"] * size["fsdp"]
    micro = config.data.batch_rows // config.optim.accumulate
    if micro % spread:
        raise UserError(f"config.data.batch_rows: {micro} rows a microbatch cannot be split over {spread} devices")
    chunk = config.optim.loss_chunk
    if chunk < 0 or (chunk and seq_len % chunk):
        raise UserError(f"config.optim.loss_chunk = {chunk}: must divide the row length {seq_len}")
    check_mesh(model, mesh)


def tokenizer_of(sources: list[data.Shards]) -> AnyTokenizer:
    """The sources' tokenizer, with the chat template of those that have one: it goes with the run.

    Raises:
      UserError: two sources were made with different templates.
    """
    templates = {s.manifest["inputs"]["template"]["id"]: s for s in sources if "template" in s.manifest["inputs"]}
    if len(templates) > 1:
        a, b = (str(shards.directory) for shards in list(templates.values())[:2])
        raise UserError(f"config.data.sources: {a} and {b} have different chat templates; make both with the same one")
    return open_tokenizer([*templates.values(), *sources][0].directory)


def open_start(config: ConfigDict) -> Pretrained | None:
    """The model to start from, with the adapter that is laid on it; None for fresh parameters."""
    if not config.lora.init_from:
        return open_pretrained(config.init_from, base=config.lora.base) if config.init_from else None
    if not (config.init_from and config.lora.rank):
        raise UserError("config.lora.init_from: an adapter needs its model, config.init_from, and config.lora.rank")
    start = open_pretrained(config.lora.init_from, base=config.init_from)
    if not isinstance(start, PeftAdapter):
        raise UserError(f"{config.lora.init_from}: not a peft adapter; a LoRA run is continued by config.init_from")
    if config.lora.restart:
        raise UserError(
            "config.lora.restart: a peft adapter is merged by msm_jax.export first; start from what it writes"
        )
    return start


def model_config(config: ConfigDict, start: Pretrained | None, tokenizer: AnyTokenizer) -> ModelConfig:
    """The shape that the start has, or config.model's; dtypes and recomputation are always config.model's.

    Raises:
      UserError: config.model says another shape than the start has, or the tokenizer has more ids than it.
    """
    given = config.model.to_dict()
    if not given["dtype"]:
        given["dtype"] = default_dtype()
    if not given["param_dtype"]:  # what is trained deserves float32; what is frozen only passes through the products
        given["param_dtype"] = given["dtype"] if config.lora.rank else "float32"
    if not start and "D" not in given:
        raise UserError("config.init_from: empty, and config.model has no shape for fresh parameters; set it")
    shape = start.shape if start else {"V": padded_vocab(tokenizer.vocab_size)}
    cfg = ModelConfig(**(given | shape))
    if start:
        wrong = unlike(cfg.shape(), ModelConfig(**(shape | given)).shape())
        if wrong:
            raise UserError(f"{start.reference}: another model than config.model ({wrong})")
        if start.tokenizer().digest() != tokenizer.digest():
            raise UserError(f"{start.reference}: has another tokenizer than config.data.sources were made with")
    check_vocabulary(tokenizer, cfg)
    return cfg


def unlike(there: dict[str, Any], here: dict[str, Any]) -> str:
    """The keys whose values differ, in words; "" where none does."""
    return "; ".join(f"{k} = {v!r} there, {here[k]!r} here" for k, v in there.items() if here[k] != v)


def lora_config(config: ConfigDict, start: Pretrained | None) -> LoraConfig | None:
    """The adapter to train, None for full parameters. The start's own adapter goes on being trained, unless
    config.lora.restart merges it first.

    Raises:
      UserError: a start whose adapter has another rank, alpha or targets, or would be dropped unasked.
    """
    settings = {k: v for k, v in config.lora.to_dict().items() if k not in ("init_from", "base", "restart")}
    lora = LoraConfig(**settings) if config.lora.rank else None
    if lora and start is None:
        raise UserError("config.lora.rank: an adapter of fresh parameters; set config.init_from, or rank 0")
    if start and start.lora and not config.lora.restart:
        if lora is None:
            raise UserError(
                f"{start.reference}: has an adapter; set config.lora.rank = {start.lora.rank} to go on training it, "
                "or config.lora.restart=True to merge it first"
            )
        wrong = unlike(start.lora.shape(), lora.shape())
        if wrong:
            raise UserError(
                f"{start.reference}: another adapter than config.lora ({wrong}); set the same, or "
                "config.lora.restart=True to merge it and start afresh"
            )
    return lora


def open_run(
    config: ConfigDict, mixture: data.Mixture, model: ModelConfig, lora: LoraConfig | None, start: Pretrained | None
) -> dict[str, Any] | None:
    """The header of this run's manifest; None where config.out holds the finished run.

    Raises:
      UserError: the directory holds another run, or something that is not a run.
    """
    artifact.check_local(config.out)
    out = Path(config.out)
    inputs = {f"source{n}": {"kind": "shards", "id": s.manifest["id"]} for n, s in enumerate(mixture.sources)}
    base = None
    if start:
        inputs["init_from"] = {"kind": "model", "id": start.id}
        if lora:
            base = start.base if continues(config, start) else start
            inputs["base"] = {"kind": "model", "id": base.id}
    recipe = {
        "seed": config.seed,
        "init_words": config.init_words,
        "model": model.to_dict(),
        "lora": lora.to_dict() if lora else None,
        "tokenizer": mixture.sources[0].manifest["counts"]["tokenizer"],
        "data": {key: config.data[key] for key in ("weights", "batch_rows", "seed")},
        "optim": config.optim.to_dict(),
    }
    header = artifact.header_of("run", recipe, inputs)
    if base:
        header["base"] = absolute(base.reference)  # where to find it: not part of the recipe
    if (out / artifact.MANIFEST).is_file():
        artifact.is_done(out, header)
        return None
    if (out / RUN_STATE).is_file():
        found = json.loads((out / RUN_STATE).read_text())
        if found["recipe"] != header["recipe"]:
            difference = artifact.difference(found, header)
            raise UserError(f"{out}: an unfinished run of another recipe ({difference}); choose another config.out")
        return header
    if out.exists() and any(path.suffix != ".tmp" for path in out.iterdir()):
        raise UserError(f"{out}: not empty and not a run; choose another config.out")
    return header


def continues(config: ConfigDict, start: Pretrained) -> bool:
    """Is the start's own adapter trained on?"""
    return start.lora is not None and not config.lora.restart


def copy_words(params: Params, tokenizer: AnyTokenizer, pairs: tuple[tuple[str, str], ...]) -> Params:
    """Embeddings (and head columns) of new words as copies of known ones: pairs of (new, known).

    Raises:
      UserError: a word that is not one token.
    """
    for new, known in pairs:
        ids = [tokenizer.encode(word) for word in (new, known)]
        for word, found in zip((new, known), ids, strict=True):
            if len(found) != 1 or (isinstance(tokenizer, Tokenizer) and found[0] == UNK):
                raise UserError(f"config.init_words: {word!r} is not one token of the tokenizer")
        (to,), (source,) = ids
        for name, axis in (("embed", 0), ("head", 1)):
            if name in params:
                whole = jnp.moveaxis(jax.sharding.reshard(params[name], jax.P(None, None)), axis, 0)
                whole = jnp.moveaxis(whole.at[to].set(whole[source]), 0, axis)
                params = params | {name: jax.sharding.reshard(whole, params[name].sharding)}
    return params


def initial_arrays(
    config: ConfigDict, model: ModelConfig, lora: LoraConfig | None, start: Pretrained | None, tokenizer: AnyTokenizer
) -> Params:
    """What is trained, before the first update: parameters, or with LoRA the adapter."""
    if start is None:
        return transformer.initialize(model, config.seed)
    if lora is None:
        return copy_words(start.merged(model), tokenizer, tuple(config.init_words))
    if continues(config, start):
        return jax.tree.map(lambda x: x.astype(lora.dtype), start.adapter(model))
    return transformer.initialize_adapter(model, lora, config.seed)


def frozen_arrays(config: ConfigDict, model: ModelConfig, lora: LoraConfig | None, start: Pretrained | None) -> Params:
    """The parameters under an adapter, {} where parameters themselves are trained."""
    if lora is None or start is None:
        return {}
    return start.params(model) if continues(config, start) else start.merged(model)


def main(argv: list[str]) -> None:
    # ------------------------------------------------------------------------------------------------ configuration
    config = cli.parse_config(argv)
    validate(config)

    # --------------------------------------------------------------------------------------------------------- data
    sources = [data.open_shards(path, config.data.verify) for path in config.data.sources]
    mixture = data.Mixture(sources, config.data.weights, config.data.seed)
    tokenizer = tokenizer_of(sources)

    # -------------------------------------------------------------------------------------------------- model and mesh
    start = open_start(config)
    model = model_config(config, start, tokenizer)
    lora = lora_config(config, start)
    mesh = make_mesh(**config.mesh.to_dict())
    check_divisible(config, model, mesh, mixture.seq_len)
    header = open_run(config, mixture, model, lora, start)
    if header is None:
        return
    with jax.sharding.set_mesh(mesh):
        train(config, mixture, tokenizer, model, lora, start, header)


def padded_vocab(pieces: int, multiple: int = 64) -> int:
    """The vocabulary rounded up, so that it splits over any sensible `tensor` axis."""
    return -(-pieces // multiple) * multiple


def train(
    config: ConfigDict,
    mixture: data.Mixture,
    tokenizer: AnyTokenizer,
    model: ModelConfig,
    lora: LoraConfig | None,
    start: Pretrained | None,
    header: dict[str, Any],
) -> None:
    # -------------------------------------------------------------------------------------------- model and optimizer
    out, optim, item = Path(config.out), config.optim, "adapter" if lora else "params"
    graph, *shapes = transformer.abstract(model, lora)
    shape = shapes[1] if lora else shapes[0]
    optimizer = make_optimizer(optim, shape)
    step_fn = make_step(graph, lora is not None, optimizer, optim.loss_chunk, optim.accumulate)

    # ------------------------------------------------------------------------------- state: resumed, or the first one
    shown = receipt(mixture, tokenizer, config.data.batch_rows)
    frozen = frozen_arrays(config, model, lora, start)
    resumed = checkpointed(out)
    # Of a run that is resumed only the shapes count: its start need not be read again.
    trained = empty(shape) if resumed else initial_arrays(config, model, lora, start, tokenizer)
    state = State(trained, jax.jit(optimizer.init)(trained))
    out.mkdir(parents=True, exist_ok=True)  # nothing above writes: a bad setting leaves no trace
    artifact.write_atomic(out / RUN_STATE, json.dumps(header, indent=1))
    checkpoints = Checkpoints(out, item, config.checkpoint.every_steps, config.checkpoint.keep)
    first = checkpoints.latest() or 0
    if first:
        state = checkpoints.restore(first, state)
    else:
        tokenizer.copy_to(out)
        if start:
            start.write_hf_files(out)
        artifact.write_atomic(out / "receipt.txt", shown)
    n_trained = sum(x.size for x in jax.tree.leaves(shape))
    n_params = sum(x.size for x in jax.tree.leaves(shapes[0]))
    tokens = config.data.batch_rows * mixture.seq_len
    cli.note(
        f"{out}: {n_params:,} parameters"
        + (f", an adapter of {n_trained:,} trained" if lora else "")
        + f", {optim.steps} updates of {tokens:,} tokens, from "
        + (f"step {first}" if first else start.reference if start else "fresh parameters")
    )

    # --------------------------------------------------------------------------------------------------------- loop
    writer = metrics.Writer(out, first, optim.steps, config.log.every_steps, tokens)
    steps = range(first, optim.steps)
    for step, batch in zip(steps, data.batches(mixture, steps, config.data.batch_rows, optim.accumulate), strict=True):
        state, measured = step_fn(state, frozen, batch)
        writer.write(step, measured)
        last = step + 1 == optim.steps
        if last or checkpoints.due(step + 1):
            writer.flush()
            checkpoints.save(step + 1, state)
    writer.close()
    checkpoints.close()

    # ------------------------------------------------------------------------------------------------------- manifest
    files = {item: {"sha256": params_digest(state.trained)}}
    counts = {"updates": optim.steps, "tokens": optim.steps * tokens, "parameters": n_params, "trained": n_trained}
    artifact.write_atomic(out / artifact.MANIFEST, json.dumps(artifact.seal(header, files, counts), indent=1))


def empty(shape: Params) -> Params:
    """Zeros of these shapes, dtypes and shardings."""
    zeros = functools.partial(jax.tree.map, lambda x: jnp.zeros(x.shape, x.dtype), shape)
    return jax.jit(zeros, out_shardings=jax.tree.map(lambda x: x.sharding, shape))()


if __name__ == "__main__":
    cli.entry(main)
