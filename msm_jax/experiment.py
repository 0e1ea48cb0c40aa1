"""Runs an experiment: a graph of stages, each one of this project's commands and one directory.

    python -m msm_jax.experiment --config=configs/experiments/toy_cheese.py

A stage whose artefact exists and matches is skipped, so a killed experiment is finished by the same command. Output
below config.out: a directory for each stage, logs/, and experiment.json with every command.
"""

import dataclasses
import importlib
import importlib.util
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from msm_jax import artifact, children, cli, storage
from msm_jax.cli import UserError
from msm_jax.ownership import owned

PLAN = "experiment.json"


@dataclasses.dataclass(frozen=True)
class Stage:
    """One command of the experiment.

    name: unique; the artefact is the directory of that name below the experiment's.
    module, args: `python -m MODULE ARGS` makes it; `--config.out` is added.
    needs: names of the stages whose artefacts it reads.
    cost: rough seconds, for the order of work and the time left.
    labels: what a report must know of it, for example {"seed": 0, "arm": "aft"}.
    """

    name: str
    module: str
    args: tuple[str, ...]
    needs: tuple[str, ...] = ()
    cost: float = 1.0
    labels: dict[str, Any] = dataclasses.field(default_factory=dict)

    def argv(self, root: Path) -> list[str]:
        return [self.module, *self.args, f"--config.out={root / self.name}"]

    def command(self, root: Path) -> str:
        quoted = [f'"{arg}"' if any(c in arg for c in "'( ") else arg for arg in self.argv(root)]
        return f"python -m {' '.join(quoted)}"


def load_stages(argv: list[str]) -> tuple[Any, list[Stage]]:
    """The configuration, and the stages its file's `get_stages(config)` makes of it, checked to be a graph."""
    config = cli.parse_config(argv)
    path = next(arg.split("=", 1)[1] for arg in argv if arg.startswith("--config=")).split(":")[0]
    spec = importlib.util.spec_from_file_location("experiment_config", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_stages"):
        raise UserError(f"{path}: an experiment needs get_stages(config); for one run use its own command")
    stages: list[Stage] = module.get_stages(config)
    seen: set[str] = set()
    for stage in stages:
        missing = [need for need in stage.needs if need not in seen]
        if stage.name in seen or missing:
            raise UserError(f"{path}: stage {stage.name!r} is listed twice or before its needs {missing}")
        seen.add(stage.name)
    return config, stages


def urgency(stages: list[Stage]) -> dict[str, float]:
    """Seconds from a stage's start to the end of the longest chain behind it: what must not wait."""
    cost = {stage.name: stage.cost for stage in stages}
    result = dict(cost)
    for stage in reversed(stages):
        for need in stage.needs:
            result[need] = max(result[need], cost[need] + result[stage.name])
    return result


def _cores() -> list[int]:
    """The cores this process may use, all of them where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _start_worker(parent: int, counter: Any, workers: int, cache: str) -> None:
    """A worker dies with its parent, keeps to its own core, and shares compiled programs with the others."""
    children.die_with_parent()
    if sys.platform == "linux":
        if os.getppid() != parent:
            os._exit(1)
        with counter.get_lock():
            number = counter.value
            counter.value += 1
        cores = _cores()
        if workers > 1 and len(cores) >= workers and os.environ.get("JAX_PLATFORMS", "cpu") == "cpu":
            os.sched_setaffinity(0, set(cores[number % workers :: workers]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def _run_stage(argv: list[str], log: str) -> str | None:
    """Runs one stage in a worker, its output in `log`; returns an error's one line."""
    with open(log, "a") as f:
        for stream in (1, 2):
            os.dup2(f.fileno(), stream)
        try:
            importlib.import_module(argv[0]).main(argv)
        except BaseException as error:  # the worker lives on; the parent reports
            known = cli.explained(error)
            if known:
                print(f"error: {known[0]}", file=sys.stderr, flush=True)
                return known[0]
            traceback.print_exc()
            return f"{type(error).__name__}: {error} (traceback in {log})"
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
    return None


def run(root: Path, stages: list[Stage], workers: int) -> None:
    """Runs all stages, most urgent first, `workers` at a time.

    Raises:
      UserError: a stage failed; stages already running are let finish.
    """
    context = multiprocessing.get_context("spawn")
    (root / "logs").mkdir(exist_ok=True)
    rank = urgency(stages)
    waiting = sorted(stages, key=lambda s: -rank[s.name])
    done: set[str] = set()
    running: dict[Future[str | None], tuple[Stage, float]] = {}
    failed: list[str] = []
    began, worked = time.monotonic(), 0.0
    initargs = (os.getpid(), context.Value("i", 0), workers, str((root / ".xla").absolute()))
    with ProcessPoolExecutor(workers, context, _start_worker, initargs) as pool:
        while waiting or running:
            ready = [s for s in waiting if done.issuperset(s.needs)] if not failed else []
            for stage in ready[: workers - len(running)]:
                waiting.remove(stage)
                log = root / "logs" / (stage.name.replace("/", ".") + ".log")
                (root / stage.name).parent.mkdir(parents=True, exist_ok=True)
                running[pool.submit(_run_stage, stage.argv(root), str(log))] = (stage, time.monotonic())
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                stage, started = running.pop(future)
                try:
                    error = future.result()
                except BrokenProcessPool:
                    error = "its worker process died (out of memory?); run the same command again"
                if error:
                    failed.append(f"{stage.name}: {error}")
                    continue
                done.add(stage.name)
                worked += stage.cost
                rest = sum(s.cost for s in waiting) + sum(s.cost for s, _ in running.values())
                elapsed = time.monotonic() - began
                cli.note(
                    f"[{len(done)}/{len(stages)}] {stage.name} {time.monotonic() - started:.0f} s; "
                    f"{elapsed:.0f} s so far, about {elapsed * rest / worked:.0f} s left"
                )
    if failed:
        raise UserError("; ".join(failed))


def main(argv: list[str]) -> None:
    config, stages = load_stages(argv)
    if config.workers < 0:
        raise UserError(f"config.workers = {config.workers}: must be 0 (one a core) or more")
    if storage.is_remote(config.out):
        raise UserError(f"config.out = {config.out}: must be a local directory; copy it when it is finished")
    root = Path(config.out)
    with owned(root):
        plan = [dataclasses.asdict(s) | {"command": s.command(root)} for s in stages]
        artifact.write_atomic(root / PLAN, json.dumps({"command": " ".join(argv[1:]), "stages": plan}, indent=1))
        run(root, stages, config.workers or min(8, len(_cores())))
    cli.note(f"{root}: all {len(stages)} stages are done")


if __name__ == "__main__":
    cli.entry(main)
