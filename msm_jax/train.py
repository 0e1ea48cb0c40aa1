"""Trains a model: pretraining, midtraining and alignment fine-tuning are this one program.

    python -m msm_jax.train --config=configs/toy/base.py --config.out=runs/base

Killed at any moment, the same command resumes from the last checkpoint and ends with the same weights. On several
hosts the same command is started on every one of them. Told to stop (SIGTERM) it saves and ends with status 143.
Output, to a directory or a gs:// address: run.json, checkpoints/, metrics.jsonl, anomalies.jsonl, timings.jsonl,
tensorboard/, receipt.txt (what is trained on, token by token), the tokenizer, and at the end manifest.json.
"""

import functools
import itertools
import json
import math
import os
import re
import sys
import tempfile
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from data_gen.tokenizer import AnyTokenizer
from msm_jax import artifact, cli, data, distributed, length, metrics, perf, run_directory, storage
from msm_jax.checkpoint import Checkpoints, latest_step, params_digest
from msm_jax.cli import UserError
from msm_jax.guards import Anomalies, Watchdog
from msm_jax.mesh import check_mesh, make_mesh
from msm_jax.mixture import Mixture
from msm_jax.model.check_attention import check_suited
from msm_jax.model.config import ModelConfig
from msm_jax.model.lora import LoraConfig
from msm_jax.ownership import owned
from msm_jax.pretrained import Pretrained
from msm_jax.profiling import Profile
from msm_jax.receipt import receipt
from msm_jax.saving import STATUS_PREEMPTED, Preemption, Saving
from msm_jax.sharding import BATCH
from msm_jax.shards import open_shards
from msm_jax.spool import Spool
from msm_jax.starts import (
    frozen_arrays,
    initial_arrays,
    lora_config,
    model_config,
    open_start,
    tokenizer_of,
)
from msm_jax.step import State, make_program
from msm_jax.timings import Startup, Timings

AHEAD = 1  # updates that may wait behind the one that runs, so that the devices always have the next
CACHED_SECONDS = 0.5  # programs that took longer to compile are kept
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
        ("accept", all(isinstance(key, str) for key in config.accept), "a tuple of keys, as ('optim.lr',)"),
        ("data.stages", _is_stages(config.data.stages), "pairs of (step above 0, weights), in order of steps"),
        ("checkpoint.every_steps", config.checkpoint.every_steps >= 0, "0 or more"),
        ("checkpoint.every_minutes", config.checkpoint.every_minutes >= 0, "0 or more"),
        ("checkpoint.keep", config.checkpoint.keep >= 1, "at least 1"),
        ("guards.max_skipped", config.guards.max_skipped >= 0, "0 or more"),
        ("guards.spike", config.guards.spike >= 0, "0 or more"),
        ("guards.hang_minutes", config.guards.hang_minutes >= 0, "0 or more"),
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


def _is_stages(stages: Any) -> bool:
    try:
        steps = [step for step, weights in stages if all(weight >= 0 for weight in weights)]
    except (TypeError, ValueError):
        return False
    return len(steps) == len(stages) and all(a < b for a, b in itertools.pairwise([0, *steps]))


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


def facts(config: ConfigDict, header: dict[str, Any] | None, first: int) -> dict[str, Any]:
    """What must be the same on all processes. Where things lie may differ from host to host; what they are may not."""
    places = ("out", "compile_cache", "init_from", "data.sources", "lora.init_from", "lora.base")
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
    startup = Startup()
    config = cli.parse_config(argv)
    with distributed.joined(config.distributed):
        finished = prepare_and_train(config, startup)
    if not finished:
        sys.exit(STATUS_PREEMPTED)


def prepare_and_train(config: ConfigDict, startup: Startup) -> bool:
    """Trains, or finds that it is done. False where the run was told to stop, and can be resumed."""
    # ------------------------------------------------------------------------------------------------ configuration
    validate(config)
    out = storage.at(config.out)
    keep_programs(config.compile_cache)

    # --------------------------------------------------------------------------------------------------------- data
    sources = [open_shards(path, config.data.verify) for path in config.data.sources]
    later = [(step * config.data.batch_rows, weights) for step, weights in config.data.stages]
    mixture = Mixture(sources, config.data.weights, config.data.seed, later)
    tokenizer = tokenizer_of(sources)
    config.optim = length.resolved(config.optim, mixture, config.data.batch_rows)

    # -------------------------------------------------------------------------------------------------- model and mesh
    start = open_start(config)
    model = model_config(config, start, tokenizer)
    lora = lora_config(config, start)
    mesh = make_mesh(**config.mesh.to_dict())
    check_divisible(config, model, mesh, mixture.seq_len)

    # -------------------------------------------------------------------------------------------- one run, or refused
    first = latest_step(out)
    header = run_directory.claim(config, run_directory.header_of(config, mixture, model, lora, start), first)
    distributed.agree(facts(config, header, first), config.distributed.timeout)
    if header is None:
        return True
    check_suited(model, mesh, mixture.seq_len)
    startup.part("data and checks")
    with jax.sharding.set_mesh(mesh), ExitStack() as stack:
        return train(config, mixture, tokenizer, model, lora, start, header, first, startup, stack)


def keep_programs(directory: str) -> None:
    """Compiled programs are kept for the next start; what JAX was told otherwise (its own variables) counts more."""
    if directory and not jax.config.values["jax_compilation_cache_dir"]:
        local = os.path.abspath(os.path.expanduser(directory))
        jax.config.update("jax_compilation_cache_dir", directory if storage.is_remote(directory) else local)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", CACHED_SECONDS)


def train(
    config: ConfigDict,
    mixture: Mixture,
    tokenizer: AnyTokenizer,
    model: ModelConfig,
    lora: LoraConfig | None,
    start: Pretrained | None,
    header: dict[str, Any],
    first: int,
    startup: Startup,
    stack: ExitStack,
) -> bool:
    """`first`: updates already done, by the newest checkpoint; `stack`: closed after the run, however it ends. False
    where the run was told to stop."""
    # -------------------------------------------------------------------------------------------- model and optimizer
    out, optim, item = storage.at(config.out), config.optim, "adapter" if lora else "params"
    rows, writes = config.data.batch_rows, distributed.is_first()
    program = make_program(model, lora, optim)

    # ------------------------------------------------------------------------------- state: resumed, or the first one
    shown = receipt(mixture, tokenizer, rows) if writes else ""
    frozen = frozen_arrays(config, model, lora, start)
    state = program.state  # of a run that is resumed only the shapes count: its start need not be read again
    if not first:
        trained = initial_arrays(config, model, lora, start, tokenizer)
        state = State(trained, jax.jit(program.optimizer.init)(trained))
    check_owner = stack.enter_context(owned(out)) if writes else lambda: None
    if writes:  # nothing above writes: a bad setting leaves no trace
        if latest_step(out) != first:
            raise UserError(f"{out}: another process has just saved there; run the same command again")
        run_directory.write_state(config, header)
    distributed.check_shared(out / run_directory.STATE, config.distributed.timeout)
    checkpoints = Checkpoints(out, item, config.checkpoint.keep, config.checkpoint.digests)
    logs: dict[str, str] = {}
    if first:
        state, logs = checkpoints.restore(first, state)
    elif writes:
        tokenizer.copy_to(out)
        if start:
            start.write_hf_files(out)
        storage.write_atomic(out / "receipt.txt", shown)
    n_trained, n_params = (
        sum(x.size for x in jax.tree.leaves(tree)) for tree in (program.state.trained, program.params)
    )
    tokens = rows * mixture.seq_len
    cli.note(
        f"{out}: {n_params:,} parameters"
        + (f", an adapter of {n_trained:,} trained" if lora else "")
        + f", {optim.steps} updates of {tokens:,} tokens, from "
        + (f"step {first}" if first else start.reference if start else "fresh parameters")
    )
    startup.part("restore" if first else "initial arrays")

    # ------------------------------------------------------------------------------------- clock, and the compiled step
    chip = perf.chip_of(jax.devices()[0].device_kind)
    spool = Spool(out) if writes else None
    if spool:
        stack.callback(spool.close)
    timings = Timings(
        spool,
        tokens_per_step=tokens,
        flops=functools.partial(perf.step_flops, model, lora),
        peak=chip.flops * jax.device_count() if chip else None,
    )
    hardware = {"device_kind": jax.devices()[0].device_kind, "devices": jax.device_count()}
    timings.event("start", first, at=startup.began, **hardware, processes=jax.process_count())
    steps = range(first, optim.steps)
    if steps:  # ahead of the loop, so that its time is known and no step is slow
        abstract = data.abstract_batch(rows, optim.accumulate, mixture.seq_len)
        compiled = program.step.lower(state, frozen, abstract).compile()
        checkpoints.prepare(state)
    startup.part("compile")

    # --------------------------------------------------------------------------------------------------------- loop
    losses = [row["loss"] for row in map(json.loads, logs.get(metrics.FILE, "").splitlines())]
    anomalies = Anomalies(mixture, rows, config.guards.spike, config.guards.max_skipped, losses)
    writer = metrics.Writer(spool, logs, first, optim.steps, config.log.every_steps, timings, anomalies)
    profile = Profile(out, first + config.log.profile_start, config.log.profile_steps)
    saving = Saving(config.checkpoint.every_steps, config.checkpoint.every_minutes, config.log.every_steps)
    watchdog = Watchdog(config.guards.hang_minutes, Path(tempfile.gettempdir()) if spool is None else spool.directory)
    stack.callback(watchdog.close)
    done, running = first, deque[jax.Array]()
    with checkpoints, Preemption() as preemption:
        for step, (batch, content) in zip(steps, data.batches(mixture, steps, rows, optim.accumulate), strict=True):
            profile.before(step)
            state, measured = compiled(state, frozen, batch)
            profile.after(step, measured)
            running.append(measured.loss)
            if len(running) > AHEAD or step == first:  # so that the loop knows how far the devices are
                jax.block_until_ready(running.popleft())
            watchdog.beat()
            done = step + 1
            if step == first:
                startup.part("first update")
                fields, line = startup.summary()
                timings.event("ready", done, **fields)
                cli.note(line)
            writer.write(step, measured, content)
            checkpoints.check()
            stop = preemption.reached(done)
            if stop or done == optim.steps or saving.due(done, checkpoints.busy):
                writer.flush()
                check_owner()
                with timings.pause("checkpoint", done):
                    checkpoints.save(done, state, writer.logs())
                saving.saved()
            if stop:
                break
    watchdog.close()
    profile.close()
    writer.close()
    if done < optim.steps:
        timings.event("preempted", done)
        timings.close()
        if spool:
            spool.close()
        cli.note(f"{out}: told to stop, saved after {done} of {optim.steps} updates; the same command goes on there")
        return False

    # ------------------------------------------------------------------------------------------------------- manifest
    files = {item: {"sha256": params_digest(state.trained)}}
    skipped = sum(row["skipped"] for row in map(json.loads, writer.logs()[metrics.FILE].splitlines()))
    counts = {"updates": optim.steps, "skipped": skipped, "tokens": optim.steps * tokens}
    counts |= {"parameters": n_params, "trained": n_trained}
    goodput = timings.event("end", optim.steps, goodput=timings.goodput())["goodput"]
    timings.close()
    if spool:
        spool.close()
    if writes:
        manifest = artifact.seal(header, files, counts)
        storage.write_atomic(out / artifact.MANIFEST, json.dumps(manifest, indent=1))
    cli.note(f"{out}: finished; {goodput:.0%} of the time since its first start went into updates that count")
    return True


if __name__ == "__main__":
    cli.entry(main)
