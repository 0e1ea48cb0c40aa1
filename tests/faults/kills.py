"""Kills training runs at random moments until they are finished, and compares them with runs left alone.

    python -m tests.faults.kills --kills=100 --seed=0

A case is one run directory: the same command is started and killed over and over, then left to finish. What is drawn
for a case (how often it is killed, in which phase, how, whom of two processes) follows from the seed and the case's
number alone; the moment itself also depends on the machine. A case that fails keeps its directory, and the report says
how to run it alone (--case). Exit status 1 where something failed.
"""

import argparse
import collections
import dataclasses
import json
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from msm_jax.saving import STATUS_PREEMPTED
from tests.faults import checks, watch
from tests.faults.checks import Reference
from tests.faults.command import Started, Workshop
from tests.faults.watch import PHASES, Sight
from tests.toy import make_toy

KINDS = {"single": 1, "pair": 2}
POLL_SECONDS = 0.001
START_SECONDS = 240.0  # no start takes longer, on however busy a machine
ALONE_SECONDS = 120.0  # one whose partner was killed has ended by then
NOTICE_SECONDS = 120.0  # and one that was told to end


@dataclasses.dataclass(frozen=True)
class Plan:
    """One start and its kill. `at`: 0 to 1, how far into the phase; `victims`: processes; `term`: SIGTERM it is."""

    phase: str
    at: float
    victims: tuple[int, ...]
    term: bool


def plans(rng: random.Random, processes: int, terminate: float) -> list[Plan]:
    """The kills of one case: all phases on the way, then the end, and what comes after a kill at the end."""
    way = ["imports", "restore", "compile", "loop", "save", *rng.choices(("loop", "save"), k=rng.randint(0, 2))]
    rng.shuffle(way)
    way += ["end", *rng.choices(("imports", "restore", "compile", "end"), k=rng.randint(0, 2))]
    drawn = []
    for phase in way[rng.randint(0, 2) :]:
        victims = rng.choice([tuple(range(processes)), *((i,) for i in range(processes))])
        drawn.append(Plan(phase, rng.random(), victims, rng.random() < terminate))
    return drawn


def moment(plan: Plan, sight: Sight, began: float, typical: dict[str, float]) -> float | None:
    """When to send the signal, by the monotonic clock, as of what is seen now; None where it is too early to say."""
    now = time.monotonic()
    if plan.phase == "imports":
        return began + plan.at * typical["imports"]
    if plan.phase == "restore":
        return now + plan.at * typical["restore"] if sight.touched or sight.spoke else None
    if plan.phase == "compile":
        return now + plan.at * typical["compile"] if sight.spoke else None
    if plan.phase == "loop" and max(sight.steps, default=0) < sight.last_step:
        first = max(sight.steps, default=0) if not sight.looping else 0
        wanted = first + plan.at * (sight.last_step - first)
        return now + 0.02 * (plan.at * 7 % 1) if sight.looping and sight.rows >= wanted else None
    if plan.phase == "save" and max(sight.steps, default=0) < sight.last_step:
        # Beginnings and ends of saves take turns: the first to the sixth of them, and some milliseconds more.
        return now + 0.03 * (plan.at * 6 % 1) ** 2 if sight.spoke and sight.saves > int(plan.at * 6) else None
    late = sight.spoke and (sight.rows >= sight.last_step or sight.last_step in sight.steps)
    if sight.sealing or sight.sealed:
        return now
    return now + (plan.at * 1.5 - 0.5) * typical["end"] if late and plan.at < 0.7 else None


@dataclasses.dataclass
class Tally:
    """What was done and found by all cases; every case's thread adds to it."""

    wanted: int
    began: float = dataclasses.field(default_factory=time.monotonic)
    kills: int = 0
    promised: int = 0
    missed: int = 0
    starts: int = 0
    resumes: int = 0
    runs: int = 0
    phases: dict[str, collections.Counter] = dataclasses.field(
        default_factory=lambda: {kind: collections.Counter() for kind in KINDS}
    )
    signals: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    after_notice: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    alone_seconds: list[float] = dataclasses.field(default_factory=list)
    failures: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self._next = 0

    def cases(self) -> Iterator[int]:
        """Numbers of cases, each to one thread, until there are kills enough."""
        while True:
            with self.lock:
                if self.kills >= self.wanted or len(self.failures) >= 20:
                    return
                free = self.promised < self.wanted
                number = self._next
                self._next += free
            if free:
                yield number
            else:  # those promised may yet be missed
                time.sleep(0.2)

    def promise(self) -> bool:
        """May the caller kill? Who misses gives the promise back."""
        with self.lock:
            allowed = self.promised < self.wanted
            self.promised += allowed
            return allowed

    def miss(self) -> None:
        """The command had ended before the signal came."""
        with self.lock:
            self.promised -= 1
            self.missed += 1

    def count(self, kind: str, phase: str, what: signal.Signals) -> None:
        with self.lock:
            self.kills += 1
            self.phases[kind][phase] += 1
            self.signals[what.name] += 1

    def line(self) -> str:
        took = time.monotonic() - self.began
        rate = self.kills / took
        phases = sum(self.phases.values(), collections.Counter())
        shown = " ".join(f"{phase} {phases[phase]}" for phase in PHASES)
        left = f"{(self.wanted - self.kills) / rate:.0f} s left" if rate else ""
        bad = f", {len(self.failures)} FAILED" if self.failures else ""
        return f"{self.kills}/{self.wanted} kills ({shown}), {self.runs} runs{bad}, {rate * 60:.1f} a minute, {left}"

    def report(self) -> dict[str, Any]:
        took = time.monotonic() - self.began
        return {
            "kills": self.kills,
            "by_kind_and_phase": {kind: dict(count) for kind, count in self.phases.items() if count},
            "signals": dict(self.signals),
            "missed": self.missed,  # ended by themselves before the signal came
            "starts": self.starts,
            "resumes": self.resumes,
            "finished_runs": self.runs,
            "statuses_after_sigterm": dict(self.after_notice),
            "longest_alone_seconds": round(max(self.alone_seconds, default=0.0), 1),
            "seconds": round(took, 1),
            "kills_per_minute": round(60 * self.kills / took, 1),
            "failures": self.failures,
        }


class WrongError(Exception):
    """Something that must hold does not."""


@dataclasses.dataclass
class Case:
    """One run directory, killed and started again until it is finished."""

    shop: Workshop
    kind: str
    number: int
    references: dict[str, Reference]
    typical: dict[str, float]
    tally: Tally
    terminate: float

    def __post_init__(self) -> None:
        self.processes = KINDS[self.kind]
        self.root = self.shop.root / "cases" / f"{self.kind}-{self.number}"
        self.run, self.start, self.floor = self.root / "run", 0, 0

    def play(self, seed: int) -> None:
        """All of it.

        Raises:
          WrongError: what must hold did not.
        """
        shutil.rmtree(self.root, ignore_errors=True)
        drawn = plans(random.Random(f"{seed}/{self.number}"), self.processes, self.terminate)
        for plan in drawn:
            if not self.tally.promise() or self._once(plan):
                break
        for _ in range(3):  # what follows SIGTERM may take a start more
            if self._once(None):
                break
        else:
            raise WrongError("left alone three times, and still not finished")
        self._expect(checks.finished(self.run, self.references[self.kind]))
        with self.tally.lock:
            self.tally.runs += 1
        shutil.rmtree(self.root)

    def _expect(self, wrong: Iterator[str]) -> None:
        for what in wrong:
            raise WrongError(what)

    def _once(self, plan: Plan | None) -> bool:
        """Starts the command and carries out the plan; True where the run is finished."""
        logs = self.root / f"start{self.start}"
        self.start += 1
        there = watch.names(self.run)[0]
        sight = Sight(self.run, logs / "0.txt", self.shop.steps)
        began = time.monotonic()
        with self.shop.start(self.run, self.processes, logs) as started:
            with self.tally.lock:
                self.tally.starts += 1
            due = None
            while started.running() and (due is None or time.monotonic() < due):
                sight.look()
                if plan is not None and due is None:
                    due = moment(plan, sight, began, self.typical)
                if time.monotonic() > began + START_SECONDS:
                    raise WrongError(f"neither ends nor goes on: {sight.phase()}, {sight.rows} rows of metrics")
                if len(started.running()) < self.processes and not started.wait(ALONE_SECONDS):
                    raise WrongError(f"of the processes only {started.running()} go on")
                if due is None or due - time.monotonic() > POLL_SECONDS:
                    time.sleep(POLL_SECONDS)
            sight.look()
            hit = plan is not None and self._strike(started, plan, sight)
            started.end()
            said, statuses = started.said(), started.statuses()
        sight.look()
        first = watch.start_of(said)
        if first is not None:
            with self.tally.lock:
                self.tally.resumes += first > 0
            if first < self.floor or (first and first not in there):
                raise WrongError(f"goes on from step {first}; complete checkpoints: {sorted(there)}, seen {self.floor}")
        self.floor = max([self.floor, *sight.seen])
        if sight.sealed:
            return True
        if not hit and statuses != [0] * self.processes:
            raise WrongError(f"ended with {statuses}, and nobody had killed it: {said.strip().splitlines()[-1:]}")
        if not hit and plan is None and statuses == [0] * self.processes and self.terminate == 0:
            raise WrongError("ended with status 0, but there is no manifest")
        self._expect(checks.unfinished(self.run, self.references[self.kind]))
        return False

    def _strike(self, started: Started, plan: Plan, sight: Sight) -> bool:
        """Sends the signal and waits for the end; False where all had ended before it came."""
        what = signal.SIGTERM if plan.term else signal.SIGKILL
        phase = sight.phase()
        victims = started.send(list(plan.victims), what)
        if not victims:
            self.tally.miss()
            return False
        self.tally.count(self.kind, phase, what)
        since = time.monotonic()
        if plan.term:
            ended = started.wait(NOTICE_SECONDS)
            with self.tally.lock:
                for status in started.statuses():
                    self.tally.after_notice["went on" if status is None else str(status)] += 1
            if not ended:
                raise WrongError(f"{NOTICE_SECONDS:.0f} s after SIGTERM to {victims}, {started.running()} go on")
            sight.look()
            if not sight.sealed and not set(started.statuses()) <= {STATUS_PREEMPTED, -signal.SIGTERM}:
                raise WrongError(f"SIGTERM to {victims} in phase {phase}: ended with {started.statuses()}")
            return True
        if not started.wait(ALONE_SECONDS):
            raise WrongError(f"{ALONE_SECONDS:.0f} s after process {victims} was killed, {started.running()} go on")
        with self.tally.lock:
            self.tally.alone_seconds.append(time.monotonic() - since)
        sight.look()
        others = [status for i, status in enumerate(started.statuses()) if i not in victims]
        if any(status == 0 for status in others) and not sight.sealed:
            raise WrongError(f"process {victims} was killed in phase {phase}, and another ended with status 0")
        return True

    def failure(self, what: str, command: str) -> dict[str, Any]:
        """For the report: what is wrong, the last words of the last start, and how to do it again."""
        logs = sorted(self.root.glob(f"start{self.start - 1}/*.txt"))
        last = {log.name: log.read_text(errors="replace").strip().splitlines()[-4:] for log in logs}
        place = {"case": self.number, "kind": self.kind, "start": self.start - 1, "directory": str(self.root)}
        return place | {"what": what, "said": last, "again": command}


def left_alone(shop: Workshop, kind: str, name: str, *more: str) -> tuple[Path, dict[str, float]]:
    """A run that nobody disturbs, and the seconds its phases take."""
    run, logs = shop.root / "alone" / f"{kind}-{name}", shop.root / "alone" / f"{kind}-{name}-said"
    shutil.rmtree(run, ignore_errors=True)
    sight, began, ends = Sight(run, logs / "0.txt", shop.steps), time.monotonic(), {}
    with shop.start(run, KINDS[kind], logs, *more) as started:
        while started.running():
            sight.look()
            ends[sight.phase()] = time.monotonic()
            time.sleep(POLL_SECONDS)
        if any(started.statuses()):
            raise SystemExit(f"error: the run to compare with does not end well: {started.said()}")
    typical, before = dict.fromkeys(PHASES, 0.1), began
    for phase in sorted(ends, key=ends.__getitem__):
        typical[phase], before = ends[phase] - before, ends[phase]
    return run, typical


def reference(shop: Workshop, kind: str) -> tuple[Reference, dict[str, float]]:
    """A run that keeps all checkpoints; then another, which finds everything compiled, for the time that phases take.

    The two must be equal already, or no comparison with a killed one means anything.
    """
    found = Reference.of(left_alone(shop, kind, "first", "--config.checkpoint.keep=1000")[0])
    again, typical = left_alone(shop, kind, "second")
    for wrong in checks.finished(again, found):
        raise SystemExit(f"error: two runs left alone differ: {wrong}")
    return found, typical


def play_all(
    shop: Workshop,
    kinds: list[str],
    *,
    kills: int,
    seed: int,
    jobs: int = 1,
    terminate: float = 0.0,
    case: int | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """References, then cases until there are kills enough; returns the report."""
    references, typical = {}, {}
    began = time.monotonic()
    for kind in kinds if case is None else [kinds[case % len(kinds)]]:
        references[kind], typical[kind] = reference(shop, kind)
        note(f"left alone, {kind}: " + ", ".join(f"{phase} {s:.2f} s" for phase, s in typical[kind].items()))
    prepared, tally = time.monotonic() - began, Tally(kills)

    def work(numbers: Iterator[int]) -> None:
        for number in numbers:
            kind = kinds[number % len(kinds)]
            played = Case(shop, kind, number, references, typical[kind], tally, terminate)
            try:
                played.play(seed)
            except WrongError as error:
                again = f"python -m tests.faults.kills --seed={seed} --case={number} --terminate={terminate}"
                found = played.failure(str(error), f"{again} --kinds={','.join(kinds)} --steps={shop.steps}")
            except Exception as error:
                found = played.failure(f"the harness itself: {error!r}", "")
            else:
                continue
            with tally.lock:
                tally.failures.append(found)
            note(f"FAILED: {found['what']} (in {found['directory']})")

    threads = [threading.Thread(target=work, args=(tally.cases(),)) for _ in range(jobs if case is None else 0)]
    for thread in threads:
        thread.start()
    if case is not None:
        work(iter([case]))
    while any(thread.is_alive() for thread in threads):
        for _ in range(100):
            time.sleep(0.1 if any(thread.is_alive() for thread in threads) else 0.0)
        note(tally.line())
    return {"seed": seed, "jobs": jobs, "references_seconds": round(prepared, 1)} | tally.report()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--kinds", default="single,pair", help="single processes, pairs of processes, or both")
    parser.add_argument("--terminate", type=float, default=0.0, help="share of the signals that are SIGTERM")
    parser.add_argument("--steps", type=int, default=40, help="updates of a run")
    parser.add_argument("--case", type=int, help="only this one")
    parser.add_argument("--work", type=Path, help="where to work; what fails stays there (default: a new directory)")
    parser.add_argument("--report", type=Path, help="where the report goes (default: report.json in --work)")
    asked = parser.parse_args()
    kinds = asked.kinds.split(",")
    if wrong := set(kinds) - KINDS.keys():
        parser.error(f"--kinds: no {', '.join(sorted(wrong))}; there are {', '.join(KINDS)}")
    root = asked.work or Path(tempfile.mkdtemp(prefix="msm_jax_kills_"))
    shop = Workshop(make_toy(root / "toy"), root, asked.steps)
    report = play_all(
        shop,
        kinds,
        kills=asked.kills,
        seed=asked.seed,
        jobs=asked.jobs,
        terminate=asked.terminate,
        case=asked.case,
        note=lambda text: print(text, file=sys.stderr, flush=True),
    )
    text = json.dumps(report, indent=1)
    (asked.report or root / "report.json").write_text(text + "\n")
    print(text)
    if not report["failures"] and asked.work is None:
        shutil.rmtree(root)
    sys.exit(1 if report["failures"] else 0)


if __name__ == "__main__":
    main()
