"""What checkpoints, guards, stopping and starting cost: SmolLM2-135M, all parameters trained, float32, on a CPU.

    python benchmarks/checkpoint.py models/smollm2-135m [--steps=50] [--rows=2] [--seq_len=256] [--dir=DIR]
        [--json=FILE]

Rows of `seq_len` tokens are packed from Python's own language reference (pydoc_data.topics); an update has `rows` of
them. The state, parameters and two Adam moments, is 1.6 GB. Everything is written below `dir`, by default $TMPDIR, and
removed at the end; it needs 5 GB of disk and 10 GB of memory.

1. Stopping and starting. The real command (configs/smollm2_135m_msm.py with lora.rank=0) is started with an empty
   compile cache, told to stop (SIGTERM) after a few updates and started again twice: with the cache it has filled, and
   with another empty one. Each must end with status 143, and the next go on from the step it saved. The third saves all
   the time, so when it is told to stop it has, as a rule, two saves to wait for. The signal comes when an update has
   just begun and the next is on its way to the device, so both are waited for: the worst moment. Printed: where the
   seconds until the first update went, and the seconds from the signal until the process was gone.
2. Overhead. Two sides in one process, each with a state of its own, on the same batches, in turns of a few updates:
   `bare` is gradient and optimizer compiled without anything else, and a loop that fetches the losses after each turn;
   `trainer` is the trainer's step (finite or skipped, losses of rows, fingerprint of the batch) and its loop (metrics,
   anomalies, watchdog, preemption) with an asynchronous save, digests included, in the middle of every 50 updates. A
   turn in which it saves lasts until the save is complete, or the updates are over and the rest is waited for; then the
   bare loop does as many. Losses must agree to 1e-4 relative, or the benchmark ends with an error. The first update of
   each is not timed. Processor time is that of all threads of the process: it says the same on a busy machine.
"""

import functools
import itertools
import json
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pydoc_data import topics
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from etils import epath
from flax import nnx
from ml_collections import ConfigDict

from configs import smollm2_135m_msm
from data_gen import shards as packing
from msm_jax import cli, data, metrics, perf, timings
from msm_jax.checkpoint import Checkpoints, directory_of, latest_step
from msm_jax.cli import UserError
from msm_jax.guards import Anomalies, Watchdog
from msm_jax.mixture import Mixture
from msm_jax.pretrained import Model, open_model
from msm_jax.saving import STATUS_PREEMPTED, Preemption, Saving
from msm_jax.shards import open_shards
from msm_jax.spool import Spool
from msm_jax.step import Params, State, make_gradient, make_program
from msm_jax.train import AHEAD

ROOT = Path(__file__).resolve().parents[1]
BAR_RATIO, BAR_EXIT = 1.02, 20.0
TOLERANCE = 1e-4
EVERY = 50  # updates from save to save
TURN = 5  # updates that a side does before it is the other's turn
UPDATES = 3  # that a started process does before it is told to stop
SIGNAL_AFTER = 0.5  # seconds after the end of an update until the signal: another has begun, and one more is on its way
PATIENCE = 1800.0  # seconds until a started process counts as hung
PARTS = ("imports", "data and checks", "initial arrays", "restore", "compile", "first update")


def make_rows(work: Path, directory: str, seq_len: int) -> Path:
    """The language reference as packed rows."""
    documents, out = work / "documents.jsonl", work / "rows"
    texts = sorted(topics.topics.items())
    documents.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in texts))
    settings = {"documents": documents, "tokenizer": directory, "seq_len": seq_len, "out": out}
    arguments = [f"--config.{key}={value}" for key, value in settings.items()]
    packing.main(["", f"--config={ROOT / 'configs/data/shards.py'}", "--config.document_end=<|endoftext|>", *arguments])
    return out


# ----------------------------------------------------------------------------------------------- stopping and starting


class Life(NamedTuple):
    """Of one process, from its start until it is gone; seconds."""

    name: str
    start: dict[str, float]  # until the first update: the parts of a `ready` row
    exit: float  # from the signal on, and of it:
    updating: float  # until the updates on their way are done and the save begins
    saving: float
    leaving: float


def live(command: list[str], run: Path, name: str, number: int) -> Life:
    """Starts the command as the run's start number `number` and stops it when it has done a few updates."""
    before, log = latest_step(run), run.parent / f"{name}.log"
    env = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=env | {"JAX_PLATFORMS": "cpu"}, stderr=file)
    try:
        began = time.time()
        while (rows := rows_of(run, number))[-1:] == [] or rows[-1]["step"] < before + UPDATES:
            if process.poll() is not None or time.time() - began > PATIENCE:
                raise UserError(f"{name}: it ended or hangs before update {before + UPDATES}: {last_line(log)}")
            time.sleep(0.1)
        if rows[0]["step"] != before:
            raise UserError(f"{name}: started from step {rows[0]['step']}, not from {before}")
        time.sleep(SIGNAL_AFTER)
        told = time.time()
        process.send_signal(signal.SIGTERM)
        status = process.wait(PATIENCE)
        gone = time.time()
    finally:
        process.kill()
        process.wait()
    rows = rows_of(run, number)
    if status != STATUS_PREEMPTED or latest_step(run) != rows[-1]["step"]:
        raise UserError(f"{name}: ended with status {status} and step {latest_step(run)} saved: {last_line(log)}")
    found = {row["event"]: row for row in rows}
    ready, save, end = found["ready"], found["checkpoint"], found["preempted"]["time"]
    parts = {key: ready[key] for key in (*PARTS, "seconds", "programs_from_cache") if key in ready}
    begun = save["time"] - save["seconds"]
    return Life(name, parts, gone - told, begun - told, end - begun, gone - end)


def rows_of(run: Path, number: int) -> list[dict[str, Any]]:
    """The timings of the run's start number `number`, [] before it."""
    rows = timings.read(run) if (run / timings.FILE).exists() else []
    starts = [n for n, row in enumerate(rows) if row["event"] == "start"]
    return rows[starts[number] :] if len(starts) > number else []


def last_line(log: Path) -> str:
    return next(reversed(log.read_text().split("\n")[:-1]), "it said nothing")


def lives(work: Path, directory: str, source: Path, rows: int) -> list[Life]:
    run = work / "run"
    settings = {"init_from": directory, "lora.rank": 0, "data.sources": (str(source),), "data.batch_rows": rows}
    settings |= {"out": run, "optim.steps": 1000, "checkpoint.every_steps": 0}
    command = [sys.executable, "-m", "msm_jax.train", f"--config={ROOT / 'configs/smollm2_135m_msm.py'}"]
    command += [f"--config.{key}={value}" for key, value in settings.items()]
    first = [*command, f"--config.compile_cache={work / 'programs'}"]
    last = [*command, f"--config.compile_cache={work / 'others'}", "--config.checkpoint.every_steps=1"]
    names = ("first start, empty cache", "resumed, filled cache", "resumed, empty cache")
    return [live(command, run, names[n], n) for n, command in enumerate((first, first, last))]


def print_lives(found: list[Life]) -> None:
    parts = [*PARTS, "seconds"]
    print(f"{'seconds until the first update':>32}: {', '.join([*PARTS, 'in all'])}; programs from the cache")
    for life in found:
        numbers = ", ".join(f"{life.start[key]:.1f}" if key in life.start else "–" for key in parts)
        print(f"{life.name:>32}: {numbers}; {life.start['programs_from_cache']}")
    print(
        f"{'seconds from SIGTERM to the end':>32}: updates on their way, saving, leaving, in all (bar {BAR_EXIT:.0f})"
    )
    for life in found:
        print(f"{life.name:>32}: {life.updating:.1f}, {life.saving:.1f}, {life.leaving:.1f}, {life.exit:.1f}")


# ------------------------------------------------------------------------------------------------------------ overhead


def bare_step(graph: nnx.GraphDef, optimizer: optax.GradientTransformation, optim: ConfigDict) -> Any:
    """(state, frozen, batch) → (state, loss): what msm_jax.step.make_step would be without guards."""
    gradient = make_gradient(graph, False, optim.loss_chunk, optim.accumulate)

    def step(state: State, frozen: Params, batch: dict[str, jax.Array]) -> tuple[State, jax.Array]:
        loss, _, grads = gradient(state.trained, frozen, batch)
        updates, opt = optimizer.update(grads, state.opt, state.trained)
        return State(optax.apply_updates(state.trained, updates), opt), loss

    return jax.jit(step, donate_argnums=0)


class Turn(NamedTuple):
    """The same updates of both sides, nothing being saved; seconds."""

    updates: int
    bare: float
    trainer: float
    bare_cpu: float  # seconds of processor time, all threads
    trainer_cpu: float


class Save(NamedTuple):
    """From its beginning until it was complete; seconds."""

    updates: int
    bare: float  # for these updates
    still: float  # no update ran, because the save began
    trainer: float  # for the updates
    waited: float  # after the last update
    complete: float  # all in all, for the save
    size: int  # bytes
    bare_cpu: float  # seconds of processor time, all threads
    trainer_cpu: float


class Bare:
    """Nothing but updates."""

    def __init__(self, step: Any, state: State, batches: Any) -> None:
        self._step, self._state, self._batches = step, state, batches
        self.losses: list[float] = []

    def run(self, count: int) -> None:
        losses, running = [], deque[jax.Array]()
        for batch, _ in itertools.islice(self._batches, count):
            self._state, loss = self._step(self._state, {}, batch)
            losses.append(loss)
            running.append(loss)
            if len(running) > AHEAD:
                jax.block_until_ready(running.popleft())
        self.losses += map(float, jax.device_get(losses))


class Trainer:
    """The loop of msm_jax.train.train, to be run in turns. Keep it like that one."""

    def __init__(
        self, out: Path, config: ConfigDict, model: Model, mixture: Mixture, step: Any, state: State, steps: range
    ) -> None:
        rows, seq_len, place = config.data.batch_rows, mixture.seq_len, epath.Path(out)
        out.mkdir()
        self._step, self._state, self._done = step, state, steps.start
        self._batches = data.batches(mixture, steps, rows, config.optim.accumulate)
        self._spool = Spool(place)
        flops = functools.partial(perf.step_flops, model.cfg, None)
        self._timings = timings.Timings(self._spool, tokens_per_step=rows * seq_len, flops=flops, peak=None)
        anomalies = Anomalies(mixture, rows, config.guards.spike, config.guards.max_skipped, [])
        every = config.log.every_steps
        self._writer = metrics.Writer(self._spool, {}, steps.start, steps.stop, every, self._timings, anomalies)
        self._saving = Saving(EVERY, 0.0, every)
        self._watchdog = Watchdog(config.guards.hang_minutes, self._spool.directory)
        self._running = deque[jax.Array]()
        self.preemption = Preemption()
        self.checkpoints = Checkpoints(place, "params", keep=1)
        self.checkpoints.prepare(state)

    def _one(self) -> bool:
        """One update; whether a save is due after it."""
        batch, content = next(self._batches)
        self._state, measured = self._step(self._state, {}, batch)
        self._running.append(measured.loss)
        if len(self._running) > AHEAD:
            jax.block_until_ready(self._running.popleft())
        self._watchdog.beat()
        self._writer.write(self._done, measured, content)
        self.checkpoints.check()
        self._done += 1
        return not self.preemption.reached(self._done) and self._saving.due(self._done, self.checkpoints.busy)

    def run(self, count: int) -> bool:
        """So many updates, all of them finished; whether a save is due after them."""
        self._timings.begin()
        due = [self._one() for _ in range(count)][-1]
        self._writer.flush()
        return due

    def save(self, at_most: int) -> Save:
        """Saves, and goes on with updates until the save is complete; `bare` and `size` are not known here."""
        began, cpu = time.perf_counter(), time.process_time()
        self.checkpoints.save(self._done, self._state, self._writer.logs())
        self._saving.saved()
        still = time.perf_counter() - began
        with ThreadPoolExecutor(1) as pool:
            complete = pool.submit(self._complete)
            self._timings.begin()
            count = 0
            while count < at_most and not complete.done():
                self._one()
                count += 1
            self._writer.flush()
            updated = time.perf_counter() - began - still
            seconds = complete.result() - began
        waited = time.perf_counter() - began - still - updated
        cpu = time.process_time() - cpu
        return Save(count, 0.0, still, updated, waited, seconds, 0, 0.0, cpu)

    def _complete(self) -> float:
        while self.checkpoints.busy:
            time.sleep(0.05)
        return time.perf_counter()

    def close(self) -> None:
        self._watchdog.close()
        self._writer.close()
        self.checkpoints.close()
        self._timings.close()
        self._spool.close()


def overhead(
    work: Path, directory: str, source: Path, rows: int, steps: int
) -> tuple[list[Turn], list[Save], dict[str, list[float]]]:
    """Turns without a save, saves, and the losses of both sides."""
    config = smollm2_135m_msm.get_config()
    first = EVERY - min(steps, EVERY) // 2  # so that a save falls in the middle
    done, last, out = first, first + steps, work / "trainer"
    config.data.batch_rows, config.optim.steps = rows, last
    model = open_model(directory, dtype="float32")
    mixture = Mixture([open_shards(str(source), verify=False)], (1.0,), 0)
    with jax.sharding.set_mesh(model.mesh):
        program = make_program(model.cfg, None, config.optim)
        params, init = model.arrays()[0], jax.jit(program.optimizer.init)
        states = [State(own, init(own)) for own in (params, jax.tree.map(jnp.copy, params))]
        del params  # each side donates its own
        abstract = data.abstract_batch(rows, config.optim.accumulate, mixture.seq_len)
        plain = bare_step(model.graph, program.optimizer, config.optim)
        ours, theirs = (step.lower(states[0], {}, abstract).compile() for step in (program.step, plain))
        span = range(first - 1, last)  # with one update that is not timed
        trainer = Trainer(out, config, model, mixture, ours, states.pop(), span)
        bare = Bare(theirs, states.pop(), data.batches(mixture, span, rows, config.optim.accumulate))
        turns: list[Turn] = []
        saves: list[Save] = []
        with trainer.preemption:
            trainer.run(1)
            bare.run(1)
            while done < last:
                count = min(TURN, last - done, EVERY - done % EVERY)
                due, seconds = False, {}
                for name in ("bare", "trainer") if len(turns) % 2 else ("trainer", "bare"):
                    began, cpu = time.perf_counter(), time.process_time()
                    if name == "bare":
                        bare.run(count)
                    else:
                        due = trainer.run(count)
                    seconds[name], seconds[f"{name}_cpu"] = time.perf_counter() - began, time.process_time() - cpu
                turns.append(Turn(count, **seconds))
                done += count
                if due and done < last:
                    save = trainer.save(last - done)
                    began, cpu = time.perf_counter(), time.process_time()
                    bare.run(save.updates)
                    save = save._replace(bare=time.perf_counter() - began, bare_cpu=time.process_time() - cpu)
                    files = [path for path in Path(directory_of(out) / str(done)).rglob("*") if path.is_file()]
                    saves.append(save._replace(size=sum(path.stat().st_size for path in files)))
                    done += save.updates
        trainer.close()
    return turns, saves, {"bare": bare.losses, "trainer": [row["loss"] for row in metrics.read(out)]}


def print_overhead(turns: list[Turn], saves: list[Save]) -> dict[str, float]:
    """And the ratios."""
    parts: list[Any] = [*turns, *saves]
    updates = sum(part.updates for part in parts)
    plain = {name: sum(getattr(turn, name) for turn in turns) for name in ("bare", "trainer")}
    total = {"bare": plain["bare"] + sum(save.bare for save in saves)}
    total["trainer"] = plain["trainer"] + sum(save.still + save.trainer + save.waited for save in saves)
    print(f"{updates} updates, {len(saves)} of them followed by a save")
    for name, seconds in total.items():
        each = [getattr(part, name) / part.updates for part in parts if part.updates]
        print(f"{name:>32}: {seconds:.1f} s, median {statistics.median(each):.3f} s an update")
    cpu = {name: sum(getattr(part, f"{name}_cpu") for part in parts) for name in total}
    found = {
        "ratio": total["trainer"] / total["bare"],
        "cpu_ratio": cpu["trainer"] / cpu["bare"],
        "guards": plain["trainer"] / plain["bare"],
        "guards_median": statistics.median(turn.trainer / turn.bare for turn in turns),
        "guards_cpu": sum(turn.trainer_cpu for turn in turns) / sum(turn.bare_cpu for turn in turns),
    }
    print(f"{'ratio':>32}: {found['ratio']:.4f} (bar {BAR_RATIO}), of processor time {found['cpu_ratio']:.4f}")
    print(
        f"{'guards alone':>32}: {found['guards']:.4f}, median of the turns {found['guards_median']:.4f}, "
        f"of processor time {found['guards_cpu']:.4f}"
    )
    for save in saves:
        print(
            f"{'save':>32}: stood still {save.still:.2f} s; {save.updates} updates meanwhile took "
            f"{save.trainer - save.bare:+.2f} s more than {save.bare:.2f}; {save.waited:.2f} s waited for after them; "
            f"complete after {save.complete:.2f} s, {save.size / 1e9:.3f} GB; "
            f"{save.trainer_cpu - save.bare_cpu:.1f} s of processor time more"
        )
    return found


def main(argv: list[str]) -> None:
    options = {"steps": "50", "rows": "2", "seq_len": "256", "dir": "", "json": ""}
    chunk = smollm2_135m_msm.get_config().optim.loss_chunk
    for argument in argv[2:]:
        name, equals, value = argument.removeprefix("--").partition("=")
        if name not in options or not equals:
            raise UserError(
                f"unexpected argument {argument!r}; after the model's directory come --{'=, --'.join(options)}="
            )
        options[name] = value
    if len(argv) < 2:
        raise UserError("no model given: python benchmarks/checkpoint.py models/smollm2-135m")
    least = {"steps": 2, "rows": 1, "seq_len": chunk}
    for name, value in least.items():
        if not options[name].isdigit() or int(options[name]) < value:
            raise UserError(f"--{name}={options[name]}: must be a number, at least {value}")
    steps, rows, seq_len = (int(options[name]) for name in least)
    if seq_len % chunk:
        raise UserError(f"--seq_len={seq_len}: must be a multiple of {chunk}, the config's optim.loss_chunk")
    for place in (options["dir"], str(Path(options["json"]).parent)):
        if place and not Path(place).is_dir():
            raise UserError(f"{place}: not a directory")
    directory = str(Path(argv[1]).absolute())

    with tempfile.TemporaryDirectory(prefix="msm_jax_checkpoint_", dir=options["dir"] or None) as scratch:
        work = Path(scratch)
        source = make_rows(work, directory, seq_len)
        print(f"rows of {seq_len} tokens, {rows} an update; {os.cpu_count()} cores, {platform.machine()}", flush=True)
        processes = lives(work, directory, source, rows)
        print_lives(processes)
        sys.stdout.flush()
        turns, saves, losses = overhead(work, directory, source, rows, steps)
    ratios = print_overhead(turns, saves)
    difference = max(abs(a - b) / abs(b) for a, b in zip(*losses.values(), strict=True))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"losses differ by at most {difference:.1e} (relative); largest resident size {memory:.1f} GB")
    if options["json"]:
        record: dict[str, Any] = {
            "steps": steps,
            "rows": rows,
            "seq_len": seq_len,
            "jax": jax.__version__,
            "losses": losses,
        } | ratios
        record |= {"processes": [life._asdict() for life in processes]}
        record |= {"turns": [turn._asdict() for turn in turns], "saves": [save._asdict() for save in saves]}
        Path(options["json"]).write_text(json.dumps(record | {"loss_difference": difference}, indent=1))
    if difference > TOLERANCE:
        raise UserError(f"the two sides' losses differ by {difference:.1e}, more than {TOLERANCE:.0e}")


if __name__ == "__main__":
    cli.entry(main)
