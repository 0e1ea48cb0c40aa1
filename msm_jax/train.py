"""Trains a model: pretraining, midtraining and alignment fine-tuning are this one program.

    python -m msm_jax.train --config=configs/toy/base.py --config.out=runs/base

Killed at any moment, the same command resumes from the last checkpoint and ends with the same weights. Output:
checkpoints/, metrics.jsonl, tensorboard/, receipt.txt (what is trained on, token by token), the tokenizer, and at
the end manifest.json.
"""

import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from data_gen.tokenizer import UNK, Tokenizer
from msm_jax import artifact, cli, data, metrics
from msm_jax.checkpoint import Checkpoints, load_params, params_digest
from msm_jax.cli import UserError
from msm_jax.mesh import make_mesh
from msm_jax.model import transformer
from msm_jax.model.config import ModelConfig
from msm_jax.optim import make_optimizer
from msm_jax.receipt import receipt
from msm_jax.runs import abstract_params
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
        ("init_words", _is_words(config), "pairs of (new word, known word), and only with config.init_from"),
        ("data.seed", config.data.seed >= 0, "0 or more"),
        ("model.rope_theta", config.model.rope_theta > 0, "above 0"),
        ("model.norm_eps", config.model.norm_eps > 0, "above 0"),
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
    return shaped and (not pairs or bool(config.init_from))


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
    for letter, axis in (("D", "fsdp"), ("H", "tensor"), ("K", "tensor"), ("F", "tensor"), ("V", "tensor")):
        if getattr(model, letter) % size[axis]:
            raise UserError(f"config.mesh.{axis} = {size[axis]}: does not divide {letter} = {getattr(model, letter)}")


def open_run(config: ConfigDict, mixture: data.Mixture, model: ModelConfig) -> dict[str, Any] | None:
    """The header of this run's manifest; None where config.out holds the finished run.

    Raises:
      UserError: the directory holds another run, or something that is not a run.
    """
    out = Path(config.out)
    inputs = {f"source{n}": {"kind": "shards", "id": s.manifest["id"]} for n, s in enumerate(mixture.sources)}
    if config.init_from:
        inputs |= artifact.inputs_of(init_from=config.init_from)
    recipe = {
        "seed": config.seed,
        "init_words": config.init_words,
        "model": model.to_dict(),
        "tokenizer": mixture.sources[0].manifest["counts"]["tokenizer"],
        "data": {key: config.data[key] for key in ("weights", "batch_rows", "seed")},
        "optim": config.optim.to_dict(),
    }
    header = artifact.header_of("run", recipe, inputs)
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


def copy_words(params: Params, tokenizer: Tokenizer, pairs: tuple[tuple[str, str], ...]) -> Params:
    """Embeddings (and head columns) of new words as copies of known ones: pairs of (new, known).

    Raises:
      UserError: a word that is not one token.
    """
    for new, known in pairs:
        ids = [tokenizer.encode(word) for word in (new, known)]
        for word, found in zip((new, known), ids, strict=True):
            if len(found) != 1 or found[0] == UNK:
                raise UserError(f"config.init_words: {word!r} is not one token of the tokenizer")
        (to,), (source,) = ids
        for name, axis in (("embed", 0), ("head", 1)):
            if name in params:
                whole = jnp.moveaxis(jax.sharding.reshard(params[name], jax.P(None, None)), axis, 0)
                whole = jnp.moveaxis(whole.at[to].set(whole[source]), 0, axis)
                params = params | {name: jax.sharding.reshard(whole, params[name].sharding)}
    return params


def initial_params(config: ConfigDict, model: ModelConfig, tokenizer: Tokenizer) -> Params:
    """Fresh parameters, or those of the run config.init_from, whose model must be the same."""
    if not config.init_from:
        return transformer.initialize(model, config.seed)
    found = artifact.read_manifest(config.init_from, "run")["config"]["model"]
    wrong = [f"{k} = {found.get(k)} there, {v} here" for k, v in model.to_dict().items() if found.get(k) != v]
    if wrong:
        raise UserError(f"{config.init_from}: another model ({'; '.join(wrong)})")
    if Tokenizer(config.init_from).digest() != tokenizer.digest():
        raise UserError(f"{config.init_from}: trained with another tokenizer than config.data.sources were made with")
    return copy_words(load_params(config.init_from, abstract_params(model)), tokenizer, tuple(config.init_words))


def main(argv: list[str]) -> None:
    # ------------------------------------------------------------------------------------------------ configuration
    config = cli.parse_config(argv)
    validate(config)

    # --------------------------------------------------------------------------------------------------------- data
    sources = [data.open_shards(path, config.data.verify) for path in config.data.sources]
    mixture = data.Mixture(sources, config.data.weights, config.data.seed)
    tokenizer = Tokenizer(sources[0].directory)

    # --------------------------------------------------------------------------------------------------------- mesh
    mesh = make_mesh(**config.mesh.to_dict())
    model = ModelConfig(V=padded_vocab(tokenizer.vocab_size), **config.model.to_dict())
    check_divisible(config, model, mesh, mixture.seq_len)
    header = open_run(config, mixture, model)
    if header is None:
        return
    with jax.sharding.set_mesh(mesh):
        train(config, mixture, tokenizer, model, header)


def padded_vocab(pieces: int, multiple: int = 64) -> int:
    """The vocabulary rounded up, so that it splits over any sensible `tensor` axis."""
    return -(-pieces // multiple) * multiple


def train(
    config: ConfigDict, mixture: data.Mixture, tokenizer: Tokenizer, model: ModelConfig, header: dict[str, Any]
) -> None:
    # -------------------------------------------------------------------------------------------- model and optimizer
    out, optim = Path(config.out), config.optim
    graph, shape = transformer.abstract(model)
    optimizer = make_optimizer(optim, shape)
    step_fn = make_step(graph, optimizer, optim.loss_chunk, optim.accumulate)

    # --------------------------------------------------------------------------- initial state: resumed, given or fresh
    params = initial_params(config, model, tokenizer)
    state = State(params, jax.jit(optimizer.init)(params))
    shown = receipt(mixture, tokenizer, config.data.batch_rows)
    out.mkdir(parents=True, exist_ok=True)  # nothing above writes: a bad setting leaves no trace
    artifact.write_atomic(out / RUN_STATE, json.dumps(header, indent=1))
    checkpoints = Checkpoints(out, config.checkpoint.every_steps, config.checkpoint.keep)
    start = checkpoints.latest() or 0
    if start:
        state = checkpoints.restore(start, state)
    else:
        tokenizer.copy_to(out)
        artifact.write_atomic(out / "receipt.txt", shown)
    n_params = sum(x.size for x in jax.tree.leaves(params))
    tokens = config.data.batch_rows * mixture.seq_len
    cli.note(
        f"{out}: {n_params:,} parameters, {optim.steps} updates of {tokens:,} tokens, from "
        + (f"step {start}" if start else config.init_from or "fresh parameters")
    )

    # --------------------------------------------------------------------------------------------------------- loop
    writer = metrics.Writer(out, start, optim.steps, config.log.every_steps, tokens)
    steps = range(start, optim.steps)
    for step, batch in zip(steps, data.batches(mixture, steps, config.data.batch_rows, optim.accumulate), strict=True):
        state, measured = step_fn(state, batch)
        writer.write(step, measured)
        last = step + 1 == optim.steps
        if last or checkpoints.due(step + 1):
            writer.flush()
            checkpoints.save(step + 1, state)
    writer.close()
    checkpoints.close()

    # ------------------------------------------------------------------------------------------------------- manifest
    files = {"params": {"sha256": params_digest(state.params)}}
    counts = {"updates": optim.steps, "tokens": optim.steps * tokens, "parameters": n_params}
    artifact.write_atomic(out / artifact.MANIFEST, json.dumps(artifact.seal(header, files, counts), indent=1))


if __name__ == "__main__":
    cli.entry(main)
