"""Evaluates every checkpoint of a run, or any other models, on several tasks, and draws the curves.

    python -m evals.sweep --config=configs/evals/sweep.py --config.run=gs://bucket/msm-20 \\
        --config.tasks="('agentic_misalignment:split=dev,epochs=10',)" --config.judge=anthropic/…

Each model and task has Inspect's log in a directory of its own below OUT/logs: what is finished is skipped, what was
killed goes on from the samples it has, and no judge is asked a question twice (evals/sweeping/running.py). `--preview`
says what would be evaluated and asks nothing.

Output: sweep.json (first: what decides a result), logs/, results.jsonl (evals.rows), summary.json (for every model,
task and measure: n, mean, interval, missing), curves.{png,svg}, manifest.json (last: everything is there).
"""

import dataclasses
import importlib.metadata
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from etils import epath
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import Model, get_model
from ml_collections import ConfigDict

from evals import preview as cost
from evals import rows
from evals.reporting import figures, summary
from evals.sweeping import running, targets
from evals.sweeping import tasks as tasking
from evals.sweeping.running import Counter, Manner
from evals.sweeping.targets import Run, Target
from evals.sweeping.tasks import Spec, plain
from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError
from msm_jax.ownership import owned

STATE, LOGS, RESULTS, SUMMARY, CURVES = "sweep.json", "logs", "results.jsonl", "summary.json", "curves"


@dataclasses.dataclass(frozen=True)
class Plan:
    """samples: spec's label → generations it asks for. judged: labels of the specs that need a judge."""

    runs: list[Run]
    models: list[Target]
    specs: list[Spec]
    samples: dict[str, int]
    judged: list[str]
    model_args: dict[str, Any]

    def recipe(self, config: ConfigDict) -> dict[str, Any]:
        """What decides a result: tasks, their arguments, the judge and the models' arguments."""
        return {
            "tasks": sorted(spec.label for spec in self.specs),
            "judge": config.judge if self.judged else "",
            "model_args": self.model_args,
            "max_errors": config.max_errors,
        } | ({"max_tokens": config.max_tokens} if config.max_tokens else {})


def plan(config: ConfigDict) -> Plan:
    """Checks all that can be checked before a model is loaded or asked. Raises UserError."""
    for key in ("run", "judge", "out"):
        if not isinstance(config[key], str):
            raise UserError(f"config.{key}: must be text")
    if not config.tasks:
        raise UserError("config.tasks: none given; --config.tasks=\"('agentic_misalignment',)\"")
    if not config.out:
        raise UserError("config.out: no directory given")
    if config.every < 1 or config.retries < 1 or not 0 <= config.max_errors < 1:
        raise UserError("config: every and retries must be at least 1, max_errors from 0 to below 1")
    if config.max_connections < 0 or config.max_tokens < 0:
        raise UserError("config: max_connections and max_tokens must be 0 or more")
    runs = targets.runs_of([*([config.run] if config.run else []), *config.runs])
    models = targets.models_of(config.models)
    if not runs and not models:
        raise UserError("nothing to evaluate; name config.run, config.runs or config.models")
    twice = {(r.arm, r.seed) for r in runs} & {(m.arm, m.seed) for m in models}
    if twice:
        raise UserError(f"config.models: {min(twice)[0]} is a run's label too; write label@seed=model")
    for run in runs:
        if not targets.steps_of(run) and not (config.follow and targets.is_run(run)):
            raise UserError(
                f"{run.address}: a run without checkpoints; train it first, or name a model in config.models"
            )
    specs = [tasking.parse(text) for text in config.tasks]
    if len({spec.directory for spec in specs}) < len(specs):
        raise UserError("config.tasks: one task with the same arguments is there twice")
    built = {spec.label: spec.build() for spec in specs}
    return Plan(
        runs,
        models,
        specs,
        {spec.label: spec.samples(built[spec.label]) for spec in specs},
        [label for label, task in built.items() if tasking.is_judged(task)],
        tasking.read_args(config.model_args, "config.model_args"),
    )


def the_judge(config: ConfigDict, made: Plan) -> Model | None:
    """The judge, with its key; None where no task asks for one. Raises UserError."""
    if not made.judged:
        return None
    if not config.judge:
        raise UserError(f"config.judge: {made.judged[0]} needs a judge; --config.judge=anthropic/<model>")
    targets.check_model(config.judge, "config.judge")
    return _model(config.judge, {}, "config.judge")


def _model(name: str, args: dict[str, Any], key: str) -> Model:
    try:
        with running.quietly():
            return get_model(name, memoize=False, **args)
    except PrerequisiteError as error:
        raise UserError(f"{key}: {name}: {plain(error)}") from error
    except UserError:
        raise
    except (ImportError, OSError, TypeError, ValueError) as error:
        raise UserError(f"{key}: {name}: {' '.join(str(error).split())[:300]}") from error


def claim(out: epath.Path, recipe: dict[str, Any]) -> None:
    """Writes sweep.json, or compares it. Raises UserError where the directory holds something else."""
    if storage.is_file(out / STATE):
        try:
            found = json.loads(storage.read_text(out / STATE))["config"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{out / STATE}: damaged; copy it back, or choose another config.out") from error
        here = json.loads(json.dumps(recipe))
        different = sorted(key for key in found.keys() | here.keys() if found.get(key) != here.get(key))
        if different:
            shown = "; ".join(f"{key} {found.get(key)!r} there, {here.get(key)!r} here" for key in different)
            raise UserError(f"{out}: another sweep ({shown}); choose another config.out, or the same settings")
        return
    if any(not name.startswith(".") and name != "owner.json" for name in storage.files(out)):
        raise UserError(f"{out}: not empty and not a sweep; choose another config.out")
    storage.write_atomic(out / STATE, json.dumps({"config": recipe, "versions": versions()}, indent=1))


def versions() -> dict[str, str]:
    return artifact.versions() | {"inspect-ai": importlib.metadata.version("inspect-ai")}


@dataclasses.dataclass
class Sweep:
    """failures: what → why. vanished: checkpoints that rotation removed before they were evaluated."""

    config: ConfigDict
    plan: Plan
    manner: Manner
    failures: dict[str, str] = dataclasses.field(default_factory=dict)
    vanished: dict[str, Target] = dataclasses.field(default_factory=dict)

    def targets(self) -> list[Target]:
        """All that is there to evaluate now."""
        found = [t for run in self.plan.runs for t in self._checkpoints(run)]
        return [t for t in [*found, *self.plan.models] if str(t) not in self.vanished]

    def _checkpoints(self, run: Run) -> list[Target]:
        return targets.checkpoints_of(run, self.config.every, self.config.steps)

    def pending(self, target: Target) -> list[Spec]:
        return [s for s in self.plan.specs if not running.is_done(self.manner.directory(target, s))]

    def round(self, wanted: list[Target]) -> int:
        """Evaluates what is pending of these; returns how many pairs were."""
        todo = {target: specs for target in wanted if (specs := self.pending(target))}
        counter = Counter(sum(self.plan.samples[spec.label] for specs in todo.values() for spec in specs))
        pairs = 0
        with running.heard(counter):
            for target, specs in todo.items():
                pairs += self._evaluate(target, specs, counter)
        return pairs

    def _evaluate(self, target: Target, specs: list[Spec], counter: Counter) -> int:
        """Loads the model once for all its tasks, and lets it go."""
        name, args = targets.inspect_model(target, self.plan.model_args)
        if self._gone(target):
            return 0
        try:
            model = _model(name, args, str(target))
        except UserError as error:
            if not self._gone(target):
                self.failures[str(target)] = str(error)
                cli.warn(str(error))
            return 0
        try:
            for spec in specs:
                what = f"{target}, {spec.label}"
                self.failures.pop(what, None)
                wrong = running.evaluate(target, model, spec, self.manner)
                counter.pair(self.plan.samples[spec.label])
                if wrong and self._gone(target):
                    return 1
                if wrong:
                    self.failures[what] = wrong
                    cli.warn(f"{what}: {wrong}")
        finally:
            if not target.is_elsewhere:
                running.close(model)
        return len(specs)

    def _gone(self, target: Target) -> bool:
        """Has the run's rotation removed this checkpoint? Then it is reported, and no more asked for."""
        if target.step is None:
            return False
        gone = target.step not in targets.steps_of(Run(target.arm, target.seed, target.run))
        if gone and str(target) not in self.vanished:
            self.vanished[str(target)] = target
            cli.warn(f"{target}: removed by its run before it was evaluated; a larger config.checkpoint.keep keeps it")
        return gone

    def run(self) -> bool:
        """Evaluates all there is, waiting for live runs where that is wanted. False: gave up waiting."""
        quiet = time.monotonic()
        while True:
            final = [targets.is_final(run) for run in self.plan.runs]  # asked first: no checkpoint can follow
            news = self.round(self.targets())
            if not self.config.follow or all(final):
                return True
            if news:
                self.publish()
                quiet = time.monotonic()
            if time.monotonic() - quiet > self.config.timeout_seconds:
                return False
            time.sleep(self.config.poll_seconds)

    # -- results -----------------------------------------------------------------------------------------------------

    def publish(self) -> dict[str, Any]:
        """Writes results, summary and curves from the logs there are; returns the counts."""
        out = storage.at(self.config.out)
        found = rows.read(out / LOGS)
        arms = [run.arm for run in self.plan.runs] + [model.arm for model in self.plan.models]
        tasks = [spec.label for spec in self.plan.specs]
        found.rows.sort(key=lambda row: (tasks.index(row["task"]), arms.index(row["arm"]), row["seed"]))
        made = summary.entries(found.rows, found.tasks)
        counts = found.counts | {"vanished": sorted(self.vanished), "failed": self.failures}
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found.rows)
        storage.write_atomic(out / RESULTS, text)
        told = {
            "entries": made,
            "tasks": found.tasks,
            "judge": self.plan.recipe(self.config)["judge"],
            "counts": counts,
        }
        storage.write_atomic(out / SUMMARY, json.dumps(told, indent=1, ensure_ascii=False))
        with tempfile.TemporaryDirectory() as scratch:
            figures.save(figures.curves(made), Path(scratch) / CURVES)
            for kind in ("png", "svg"):
                storage.write_atomic(out / f"{CURVES}.{kind}", (Path(scratch) / f"{CURVES}.{kind}").read_bytes())
        return counts

    def header(self) -> dict[str, Any]:
        """Of the manifest: the recipe, and everything that was evaluated by it."""
        done = [str(t) for t in self.targets()]
        inputs = {f"{run.arm}@{run.seed}": {"kind": "run", "id": targets.recipe_of(run)} for run in self.plan.runs}
        recipe = self.plan.recipe(self.config) | {"targets": done, "vanished": sorted(self.vanished)}
        return artifact.header_of("sweep", recipe, inputs)

    def seal(self, counts: dict[str, Any]) -> None:
        out = storage.at(self.config.out)
        logs = {f"{LOGS}/{name}": path for name, path in rows.files(out / LOGS).items()}
        names: dict[str, epath.PathLike] = {
            **logs, **{name: out / name for name in (STATE, RESULTS, SUMMARY, f"{CURVES}.png", f"{CURVES}.svg")}
        }  # fmt: skip
        files = {n: {"sha256": storage.sha256(p), "bytes": storage.size(p)} for n, p in sorted(names.items())}
        manifest = artifact.seal(self.header(), files, counts)
        storage.write_atomic(out / artifact.MANIFEST, json.dumps(manifest, indent=1))


def preview(sweep: Sweep) -> None:
    """What would be evaluated, a line a pair, on stdout."""
    wanted = sweep.targets()
    asked = 0
    for target in wanted:
        pending = sweep.pending(target)
        for spec in sweep.plan.specs:
            state = "to do" if spec in pending else "done"
            asked += sweep.plan.samples[spec.label] if spec in pending else 0
            print(f"{target}\t{spec.label}\t{sweep.plan.samples[spec.label]} samples\t{state}")
    judged = sum(sweep.plan.samples[s.label] for t in wanted for s in sweep.pending(t) if s.label in sweep.plan.judged)
    print(f"{len(wanted)} models, {len(sweep.plan.specs)} tasks; to do: {asked} samples, {judged} of them judged")
    for spec in sweep.plan.specs:
        times = sum(spec in sweep.pending(target) for target in wanted)
        if spec.label in sweep.plan.judged and times:
            price(spec, times, sweep.config.judge)
    sys.stdout.flush()


def price(spec: Spec, times: int, judge: str) -> None:
    """Prints what the judge of a task will cost, by evals.preview; a judge without a listed price is no error."""
    argv = [
        "",
        "--config=configs/evals/preview.py",
        f"--config.tasks=({spec.label!r},)",
        f"--config.checkpoints={times}",
    ]
    argv += [f"--config.epochs={spec.build().epochs or 1}", *([f"--config.judge={judge}"] if judge else [])]
    try:
        cost.main(argv)
    except UserError as error:
        cli.note(f"{spec.label}: {error}")


def main(argv: list[str]) -> None:
    only_preview = "--preview" in argv
    config = cli.parse_config([arg for arg in argv if arg != "--preview"])
    made = plan(config)
    out = storage.at(config.out)
    logs = f"{str(config.out).rstrip('/')}/{LOGS}"
    if only_preview:
        preview(Sweep(config, made, Manner(logs, None, 0, 0.0, 1)))
        return
    judge = the_judge(config, made)
    for target in made.models:
        if target.is_elsewhere:
            _model(*targets.inspect_model(target, made.model_args), "config.models")
    manner = Manner(logs, judge, config.max_connections, config.max_errors, config.retries, config.max_tokens)
    sweep = Sweep(config, made, manner)
    with owned(out):
        claim(out, made.recipe(config))
        if artifact.is_finished(out) and not config.follow and not any(map(sweep.pending, sweep.targets())):
            found = artifact.read_manifest(out, "sweep")
            if found["recipe"] == sweep.header()["recipe"]:
                cli.note(f"{out}: already made, skipped")
                return
        with running.cached(_cache(config)):
            waited = sweep.run()
        counts = sweep.publish()
        for wrong, number in _told(counts):
            cli.note(f"{wrong}: {number}")
        if sweep.failures:
            what, why = next(iter(sweep.failures.items()))
            more = f", and {len(sweep.failures) - 1} more" if len(sweep.failures) > 1 else ""
            raise UserError(f"{what}: {why}{more}; mend it and run the same command: what is done is kept")
        if not waited:
            raise UserError(
                f"{out}: no new checkpoint for {config.timeout_seconds:g} s; the same command goes on waiting"
            )
        sweep.seal(counts)
    cli.note(f"{config.out}/{SUMMARY}")


def _cache(config: ConfigDict) -> Path | None:
    if config.cache:
        return Path(config.cache)
    return None if storage.is_remote(config.out) else Path(config.out) / "cache"


def _told(counts: dict[str, Any]) -> list[tuple[str, Any]]:
    """What a reader must know before the numbers: what is not in them."""
    named = [("samples without a row", counts["expected"] - counts["samples"])]
    named += [(f"samples failed ({reason})", n) for reason, n in counts["errors"].items()]
    named += [("samples not scored", counts["unscored"]), ("logs that cannot be read", len(counts["unreadable"]))]
    for task, measures in counts["missing"].items():
        for measure, reasons in measures.items():
            named += [(f"{task}: {measure} missing ({reason})", n) for reason, n in reasons.items()]
    return [(what, n) for what, n in named if n]


if __name__ == "__main__":
    cli.entry(main)
