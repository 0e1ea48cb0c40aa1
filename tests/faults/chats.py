"""Makes chats against a failing server, killed again and again, and compares them, and the bill, with those left alone.

    python -m tests.faults.chats --chats=5000 --faults=0.05 --kills=20 --seed=0
    python -m tests.faults.chats --chats=5000 --faults=0.05 --kills=20 --seed=0 --batch

What is compared: the chats are exactly as many as were wanted, no two questions as near as the threshold (by brute
force), the twins are the same row by row but for the thoughts, every question asked for is a chat or a reject with a
reason; the chats are those of a run that nobody killed; and the bill is the ledger, as in tests/faults/generation.py.
Exit status 1 where something differs.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from data_gen.chat_artefact import stripped
from tests.data_gen import hashing
from tests.faults import generation
from tests.faults.generation import Made
from tests.loopback.process import serve
from tests.toy import ROOT

CONFIG = "tests/faults/chats_config.py"
THRESHOLD = 0.91
SAME_ANSWER = ("messages", "request", "parents", "domain", "question_id", "question_kind", "reasons")


def command(out: Path, chats: int, *more: str) -> list[str]:
    """40 domains or fewer, with so many questions each as make up the target if all pass."""
    domains = min(40, max(2, chats // 25))
    counts = {"target": chats, "counts.domains": domains, "counts.questions": -(-chats // domains)}
    flags = [f"--config.{name}={n}" for name, n in counts.items()]
    module = "tests.faults.chats_command"
    return [sys.executable, "-m", module, f"--config={CONFIG}", f"--config.out={out}", *flags, *more]


def run(root: Path, chats: int, kills: int, rng: random.Random, server: dict[str, Any], *more: str) -> Made:
    """Starts the command until it has been killed so many times, then lets it finish. documents: the chats."""
    out, log = root / "chats", root / "log.txt"
    began, starts = time.monotonic(), 0
    with serve(**server) as served, log.open("w") as err:
        env = generation.environment(served)
        while True:
            child = subprocess.Popen(command(out, chats, *more), cwd=ROOT, env=env, stdout=err, stderr=err)
            starts += 1
            if kills and generation.killed(child, served, rng):
                kills -= 1
                continue
            if child.wait() != 0:
                raise SystemExit(f"{log}: status {child.returncode}: {log.read_text()[-2000:]}")
            break
        books = served.books()
    found = {row["id"]: row for row in _rows(out / "chats-cot.jsonl")}
    rejects, ledger = _rows(out / "rejects.jsonl"), _rows(out / "ledger.jsonl")
    return Made(found, rejects, ledger, books, chats, starts, time.monotonic() - began)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def differences(root: Path, made: Made, alone: Made | None) -> list[str]:
    """What is wrong with a run, one line each."""
    wrong: list[str] = []

    def check(fine: bool, text: str) -> None:
        if not fine:
            wrong.append(text)

    out = root / "chats"
    thinking, plain = _rows(out / "chats-cot.jsonl"), _rows(out / "chats.jsonl")
    asked = json.loads((out / "manifest.json").read_text())["counts"]["asked"]
    check(len(made.documents) == len(thinking) == len(plain) == made.planned, f"{len(plain)} chats, not {made.planned}")
    check(len(plain) + len(made.rejects) == asked, f"{len(plain)} + {len(made.rejects)}, and {asked} were asked for")
    check(all(row["reason"] for row in made.rejects), "a reject without a reason")
    check([stripped(row) for row in thinking] == plain, "the twins differ in more than the thoughts")
    check(all("<think>" in row["messages"][1]["content"] for row in thinking), "a chat without thoughts")
    vectors = hashing.encode([row["messages"][0]["content"] for row in plain])
    close = vectors @ vectors.T
    np.fill_diagonal(close, 0)
    check(bool(close.max() < THRESHOLD), f"two questions have a cosine of {close.max():.4f}")
    if alone:
        check(list(made.documents) == list(alone.documents), "other chats than left alone, or in another order")
        for identity, row in made.documents.items():
            other = alone.documents.get(identity, row)
            odd = [key for key in SAME_ANSWER if row[key] != other[key]]
            check(not odd, f"{identity}: {', '.join(odd)} differ")
    check(not made.books["crashes"], f"the server itself failed: {made.books['crashes'][:1]}")
    return wrong + generation.bill(made)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chats", type=int, default=5000)
    parser.add_argument("--faults", type=float, default=0.05)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", action="store_true", help="responses and verdicts through batches")
    args = parser.parse_args()
    more = ["--config.batch=('responses', 'verdicts')"] if args.batch else []
    server = {"seed": args.seed, "faults": args.faults, "responder": "data_gen.api.offline:reply"}
    root = Path(tempfile.mkdtemp(prefix="chats_"))
    (root / "alone").mkdir()
    (root / "killed").mkdir()
    alone = run(root / "alone", args.chats, 0, random.Random(0), server, *more)
    generation.report("left alone", alone)
    killed = run(root / "killed", args.chats, args.kills, random.Random(args.seed), server, *more)
    generation.report("killed", killed)
    wrong = [f"left alone: {line}" for line in differences(root / "alone", alone, None)]
    wrong += [f"killed: {line}" for line in differences(root / "killed", killed, alone)]
    for line in wrong[:20]:
        print(line)
    print(f"{len(wrong)} differences" + (f"; see {root}" if wrong else ""))
    if not wrong:
        shutil.rmtree(root)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
