"""Trains a model: pretraining, midtraining and alignment fine-tuning are this one program.

    python -m msm_jax.train --config=configs/toy/base.py --config.out=runs/base

Killed at any moment, the same command resumes from the last checkpoint and ends with the same weights. On several
hosts the same command is started on every one of them. Output: checkpoints/, metrics.jsonl, timings.jsonl,
tensorboard/, receipt.txt (what is trained on, token by token), the tokenizer, and at the end manifest.json.
"""

import functools
import json
import math
import re
import time
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from data_gen.tokenizer import AnyTokenizer
from msm_jax import artifact, cli, data, distributed, length, metrics, perf
from msm_jax.checkpoint import Checkpoints, latest_step, params_digest
from msm_jax.cli import UserError
from msm_jax.mesh import check_mesh, make_mesh
from msm_jax.model.check_attention import check_suited
from msm_jax.model.config import ModelConfig
from msm_jax.model.lora import LoraConfig
from msm_jax.pretrained import Pretrained, absolute
from msm_jax.profiling import Profile
from msm_jax.receipt import receipt
from msm_jax.sharding import BATCH
from msm_jax.starts import (
    continues,
    empty,
    frozen_arrays,
    initial_arrays,
    lora_config,
    model_config,
    open_start,
    tokenizer_of,
)
from msm_jax.step import State, make_program
from msm_jax.timings import Timings

RUN_STATE = "run.json"
FLOATS = ("float32", "bfloat16")


def validate(config: ConfigDict) -> None:
    """Raises UserError naming the first key whose value is impossible."""
    optim, rows = config.optim, config.data.batch_rows
    rules = [
        ("optim.steps", optim.steps >= 0, "at least 1, or 0 to follow from optim.epochs"),
        ("optim.epochs", 0 < optim.epochs < float("inf"), "above 0"),
        ("optim.min_updates", optim.min_updates >= 1, "at least 1"),
        ("optim.lr", optim.lr > 0, "above 0"),
        ("optim.warmup_steps", optim.warmup_steps >= 0, "between 0 and the number of updates"),
        ("optim.warmup_fraction", 0 <= optim.warmup_fraction <= 1, "between 0 and 1"),
        ("optim.end_fraction", 0 <= optim.end_fraction <= 1, "between 0 and 1"),
        ("optim.b1", 0 <= optim.b1 < 1, "in [0, 1)"),
        ("optim.b2", 0 <= optim.b2 < 1, "in [0, 1)"),
        ("optim.weight_decay", optim.weight_decay >= 0, "0 or more"),
        ("optim.clip_norm", optim.clip_norm > 0, "above 0"),
        ("optim.eps", optim.eps > 0, "above 0"),
        ("optim.mu_dtype", optim.mu_dtype in FLOATS, f"one of {', '.join(FLOATS)}"),
        ("optim.nu_dtype", optim.nu_dtype in FLOATS, f"one of {', '.join(FLOATS)}"),
        ("optim.supervised_only", not optim.supervised_only or optim.loss_chunk > 0, "False without loss_chunk"),
        (
            "optim.lr_multipliers",
            _is_multipliers(optim.lr_multipliers),
            "pairs of (regular expression, factor 0 or more)",
        ),
        ("init_words", _is_words(config), "pairs of (new word, known word), with config.init_from and without LoRA"),
        ("data.seed", config.data.seed >= 0, "0 or more"),
        ("data.seq_len", config.data.seq_len >= 0, "0 or more"),
        ("model.rope_theta", config.model.get("rope_theta", 1) > 0, "above 0"),
        ("model.norm_eps", config.model.get("norm_eps", 1) > 0, "above 0"),
        ("optim.accumulate", optim.accumulate >= 1, "at least 1"),
        ("data.batch_rows", rows >= 1 and rows % max(1, optim.accumulate) == 0, "a multiple of optim.accumulate"),
        ("checkpoint.every_steps", config.checkpoint.every_steps >= 1, "at least 1"),
        ("checkpoint.keep", config.checkpoint.keep >= 1, "at least 1"),
        ("log.every_steps", config.log.every_steps >= 1, "at least 1"),
        ("log.profile_start", config.log.profile_start >= 0, "0 or more"),
        ("log.profile_steps", config.log.profile_steps >= 0, "0 or more"),
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
    """Raises UserError where rows are not as long as asked, or they, the loss chunk or a dimension of the model cannot
    be split as asked."""
    if config.data.seq_len not in (0, seq_len):
        raise UserError(
            f"config.data.seq_len = {config.data.seq_len}: {config.data.sources[0]} has rows of {seq_len}; make its "
            "shards with the same seq_len, or set 0"
        )
    size = mesh.shape
    spread = math.prod(size[axis] for axis in BATCH)
    micro = config.data.batch_rows // config.optim.accumulate
    if micro % spread:
        raise UserError(f"config.data.batch_rows: {micro} rows a microbatch cannot be split over {spread} devices")
    chunk = config.optim.loss_chunk
    if chunk < 0 or (chunk and seq_len % chunk):
        raise UserError(f"config.optim.loss_chunk = {chunk}: must divide the row length {seq_len}")
    check_mesh(model, mesh)


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


def facts(config: ConfigDict, header: dict[str, Any] | None, first: int) -> dict[str, Any]:
    """What must be the same on all processes. Where things lie may differ from host to host; what they are may not."""
    places = ("out", "init_from", "data.sources", "lora.init_from", "lora.base")
    found = {f"config.{k}": v for k, v in cli.flatten(config).items() if k not in places and "distributed" not in k}
    if header:
        found |= {f"the id of {name}": entry["id"] for name, entry in header["inputs"].items()}
        found["the model"] = header["config"]["model"]
    return found | {
        "the version of jax": jax.__version__,
        "the hash of the code": artifact.code_digest(),
        "the run": "finished" if header is None else f"at step {first}",
    }


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    with distributed.joined(config.distributed):
        prepare_and_train(config)


def prepare_and_train(config: ConfigDict) -> None:
    began = time.time()
    # ------------------------------------------------------------------------------------------------ configuration
    validate(config)

    # --------------------------------------------------------------------------------------------------------- data
    sources = [data.open_shards(path, config.data.verify) for path in config.data.sources]
    mixture = data.Mixture(sources, config.data.weights, config.data.seed)
    tokenizer = tokenizer_of(sources)
    config.optim = length.resolved(config.optim, mixture, config.data.batch_rows)

    # -------------------------------------------------------------------------------------------------- model and mesh
    start = open_start(config)
    model = model_config(config, start, tokenizer)
    lora = lora_config(config, start)
    mesh = make_mesh(**config.mesh.to_dict())
    check_divisible(config, model, mesh, mixture.seq_len)

    # -------------------------------------------------------------------------------------------- one run, or refused
    header, first = open_run(config, mixture, model, lora, start), latest_step(config.out)
    distributed.agree(facts(config, header, first), config.distributed.timeout)
    if header is None:
        return
    check_suited(model, mesh, mixture.seq_len)
    with jax.sharding.set_mesh(mesh):
        train(config, mixture, tokenizer, model, lora, start, header, first, began)


def train(
    config: ConfigDict,
    mixture: data.Mixture,
    tokenizer: AnyTokenizer,
    model: ModelConfig,
    lora: LoraConfig | None,
    start: Pretrained | None,
    header: dict[str, Any],
    first: int,
    began: float,
) -> None:
    """`first`: updates already done, by the newest checkpoint; `began`: Unix seconds when this process started."""
    # -------------------------------------------------------------------------------------------- model and optimizer
    out, optim, item = Path(config.out), config.optim, "adapter" if lora else "params"
    rows, writes = config.data.batch_rows, distributed.is_first()
    program = make_program(model, lora, optim)
    shape, optimizer, step_fn = program.trained, program.optimizer, program.step

    # ------------------------------------------------------------------------------- state: resumed, or the first one
    shown = receipt(mixture, tokenizer, rows) if writes else ""
    frozen = frozen_arrays(config, model, lora, start)
    # Of a run that is resumed only the shapes count: its start need not be read again.
    trained = empty(shape) if first else initial_arrays(config, model, lora, start, tokenizer)
    state = State(trained, jax.jit(optimizer.init)(trained))
    if writes:  # nothing above writes: a bad setting leaves no trace
        out.mkdir(parents=True, exist_ok=True)
        artifact.write_atomic(out / RUN_STATE, json.dumps(header, indent=1))
    distributed.check_shared(out / RUN_STATE, config.distributed.timeout)
    checkpoints = Checkpoints(out, item, config.checkpoint.every_steps, config.checkpoint.keep)
    if first:
        state = checkpoints.restore(first, state)
    elif writes:
        tokenizer.copy_to(out)
        if start:
            start.write_hf_files(out)
        artifact.write_atomic(out / "receipt.txt", shown)
    n_trained, n_params = (sum(x.size for x in jax.tree.leaves(tree)) for tree in (shape, program.params))
    tokens = rows * mixture.seq_len
    cli.note(
        f"{out}: {n_params:,} parameters"
        + (f", an adapter of {n_trained:,} trained" if lora else "")
        + f", {optim.steps} updates of {tokens:,} tokens, from "
        + (f"step {first}" if first else start.reference if start else "fresh parameters")
    )

    # ------------------------------------------------------------------------------------- clock, and the compiled step
    chip = perf.chip_of(jax.devices()[0].device_kind)
    timings = Timings(
        out if writes else None,
        tokens_per_step=tokens,
        flops=functools.partial(perf.step_flops, model, lora),
        peak=chip.flops * jax.device_count() if chip else None,
    )
    hardware = {"device_kind": jax.devices()[0].device_kind, "devices": jax.device_count()}
    timings.event("start", first, at=began, **hardware, processes=jax.process_count())
    with timings.pause("compile", first):  # ahead of the loop, so that its time is known and no step is slow
        compiled = step_fn.lower(state, frozen, data.abstract_batch(rows, optim.accumulate, mixture.seq_len)).compile()

    # --------------------------------------------------------------------------------------------------------- loop
    writer = metrics.Writer(out if writes else None, first, optim.steps, config.log.every_steps, timings)
    profile = Profile(out, first + config.log.profile_start, config.log.profile_steps)
    steps = range(first, optim.steps)
    for step, (batch, content) in zip(steps, data.batches(mixture, steps, rows, optim.accumulate), strict=True):
        profile.before(step)
        state, measured = compiled(state, frozen, batch)
        profile.after(step, measured)
        writer.write(step, measured, content)
        last = step + 1 == optim.steps
        if last or checkpoints.due(step + 1):
            writer.flush()
            with timings.pause("checkpoint", step + 1):
                checkpoints.save(step + 1, state)
    profile.close()
    writer.close()
    checkpoints.close()

    # ------------------------------------------------------------------------------------------------------- manifest
    files = {item: {"sha256": params_digest(state.trained)}}
    counts = {"updates": optim.steps, "tokens": optim.steps * tokens, "parameters": n_params, "trained": n_trained}
    goodput = timings.event("end", optim.steps, goodput=timings.goodput())["goodput"]
    timings.close()
    if writes:
        artifact.write_atomic(out / artifact.MANIFEST, json.dumps(artifact.seal(header, files, counts), indent=1))
    cli.note(f"{out}: finished; {goodput:.0%} of the time since its first start went into updates that count")


if __name__ == "__main__":
    cli.entry(main)
