"""Kills a sweep at random moments until it has been killed so often, lets it finish, and asks the judge's server what it
was asked.

    python -m tests.faults.sweeps --cells=30 --kills=10 --seed=0

What is compared: the results are those of a sweep that nobody killed; and no question was judged twice but what was on
its way at a kill. Exit status 1 where something differs.
"""

import argparse
import collections
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.evals.sweeping import make_run
from tests.loopback.process import Server, serve
from tests.toy import ROOT

CONNECTIONS = 4  # of the judge, at most
STEPS = (2, 5, 9)
TOLD = ("task", "arm", "checkpoint", "cell", "sample", "epoch", "measures", "missing", "judge", "error")


def command(out: Path, run: Path, cells: int) -> list[str]:
    names = "-".join(f"c{i}" for i in range(cells))
    flags = {
        "out": out,
        "run": run,
        "tasks": f"('judged_choice:cells={names}', 'plain_choice:epochs=2')",
        "judge": "anthropic/claude-sonnet-5-5",
        "max_connections": CONNECTIONS,
    }
    module = "tests.faults.sweep_command"
    config = "--config=configs/evals/sweep.py"
    return [sys.executable, "-m", module, config, *(f"--config.{key}={value}" for key, value in flags.items())]


def results(out: Path) -> list[dict[str, Any]]:
    """All that rows say but for the logs' names."""
    rows = map(json.loads, (out / "results.jsonl").read_text().splitlines())
    return sorted(({key: row[key] for key in TOLD} for row in rows), key=json.dumps)


def asked(server: Server) -> collections.Counter[str]:
    """How often every question reached the judge."""
    return collections.Counter(json.dumps(row["body"]["messages"]) for row in server.requests())


def killed(child: subprocess.Popen, server: Server, rng: random.Random, before: int) -> bool:
    """Kills the command some time after it has begun to ask; False where it has ended by itself."""
    wanted = before + rng.randint(1, 60)
    while child.poll() is None:
        if sum(server.books()["requests"].get("/v1/messages", {}).values()) >= wanted:
            time.sleep(rng.random() * 0.1)
            child.send_signal(signal.SIGKILL)
            return child.wait() == -signal.SIGKILL
        time.sleep(0.02)
    return False


def play(root: Path, cells: int, kills: int, seed: int) -> dict[str, Any]:
    """Both sweeps; what was compared."""
    rng, run, done, starts = random.Random(seed), make_run(root / "run", STEPS), 0, 0
    server = {"responder": "tests.faults.sweep_command:judge", "latency": 20.0, "keep": 100_000}
    with serve(**server) as served, (root / "log.txt").open("w") as log:
        while True:
            before = sum(asked(served).values())
            told = command(root / "killed", run, cells)
            child = subprocess.Popen(told, cwd=ROOT, env=served.env, stdout=log, stderr=log)
            starts += 1
            if done < kills and killed(child, served, rng, before):
                done += 1
                continue
            if child.wait():
                raise SystemExit(f"status {child.returncode}: {(root / 'log.txt').read_text()[-2000:]}")
            break
        questions = asked(served)
        left = subprocess.run(
            command(root / "left", run, cells), cwd=ROOT, env=served.env, capture_output=True, text=True
        )
        if left.returncode:
            raise SystemExit(left.stderr[-2000:])
    again = sum(questions.values()) - len(questions)
    return {
        "kills": done,
        "starts": starts,
        "questions": len(questions),
        "asked_again": again,
        "may_be_asked_again": CONNECTIONS * done,
        "most_for_one": max(questions.values()),
        "results_equal": results(root / "killed") == results(root / "left"),
        "rows": len(results(root / "killed")),
    }


def wrong(report: dict[str, Any]) -> list[str]:
    found = []
    if not report["results_equal"]:
        found.append("the results differ from those of a sweep left alone")
    if report["asked_again"] > report["may_be_asked_again"]:
        found.append("more questions were judged again than can have been on their way")
    return found


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("tests.faults.sweeps")
    for name, default in (("cells", 30), ("kills", 10), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        report = play(Path(scratch), args.cells, args.kills, args.seed)
    print(json.dumps(report | {"wrong": wrong(report)}, indent=1))
    return bool(wrong(report))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
