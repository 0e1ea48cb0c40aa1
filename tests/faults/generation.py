"""Makes a corpus against a failing server, killed again and again, and compares it, and the bill, with one left alone.

    python -m tests.faults.generation --documents=5000 --faults=0.05 --kills=20 --seed=0
    python -m tests.faults.generation --documents=5000 --faults=0.05 --kills=20 --seed=0 --batch

What is compared: every planned document is there once or rejected with a reason; the documents are those of a run that
nobody killed; every answer that the server billed is a row of the ledger and the other way round, up to those whose
outcome the ledger itself calls unknown; and no question was paid for twice but where the first answer was lost.
Exit status 1 where something differs.
"""

import argparse
import collections
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.loopback.process import Server, serve
from tests.toy import ROOT

CONFIG = "tests/faults/documents_config.py"
# What becomes of an answer is a function of the question: asked again after a kill, it comes back the same.
SAME_ANSWER = ("text", "request", "sections", "domain", "subdomain", "assertions", "document_type", "idea", "seed")


@dataclasses.dataclass(frozen=True)
class Made:
    """What a run left, and what the server says of it."""

    documents: dict[str, dict[str, Any]]
    rejects: list[dict[str, Any]]
    ledger: list[dict[str, Any]]
    books: dict[str, Any]
    planned: int
    starts: int
    seconds: float


def command(out: Path, counts: dict[str, int], *more: str) -> list[str]:
    flags = [f"--config.counts.{name}={n}" for name, n in counts.items()]
    return [sys.executable, "-m", "data_gen.documents", f"--config={CONFIG}", f"--config.out={out}", *flags, *more]


def counts_of(documents: int) -> dict[str, int]:
    """Ten ideas of each of ten types, in five domains or fewer."""
    topics = max(1, documents // 100)
    domains = next(d for d in (10, 5, 4, 2, 1) if topics % d == 0)
    return {"domains": domains, "topics": topics // domains, "types": 10, "ideas": 10}


def environment(server: Server) -> dict[str, str]:
    return server.env | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


def run(root: Path, documents: int, kills: int, rng: random.Random, server: dict[str, Any], *more: str) -> Made:
    """Starts the command until it has been killed so many times, then lets it finish."""
    out, log = root / "corpus", root / "log.txt"
    counts = counts_of(documents)
    began, starts = time.monotonic(), 0
    with serve(**server) as served, log.open("w") as err:
        env = environment(served)
        while True:
            child = subprocess.Popen(command(out, counts, *more), cwd=ROOT, env=env, stdout=err, stderr=err)
            starts += 1
            if kills and killed(child, served, rng):
                kills -= 1
                continue
            if child.wait() != 0:
                raise SystemExit(f"{log}: status {child.returncode}: {log.read_text()[-2000:]}")
            break
        books = served.books()
    rows = [json.loads(line) for line in (out / "documents.jsonl").read_text().splitlines()]
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows), "a document is there twice"
    rejects = [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]
    ledger = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    return Made(found, rejects, ledger, books, documents, starts, time.monotonic() - began)


def killed(child: "subprocess.Popen[bytes]", served: Server, rng: random.Random) -> bool:
    """Waits until some answers were billed to this start, a number that is drawn, then kills. False: it ended before."""
    before = len(served.books()["billed"])
    wanted = before + int(rng.paretovariate(0.7) * 5) - 5
    pause = rng.random() * 0.3
    while child.poll() is None:
        if len(served.books(since=before)["billed"]) + before >= wanted:
            time.sleep(pause)
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            return True
        time.sleep(0.02)
    if child.returncode != 0:
        raise SystemExit(f"ended by itself with status {child.returncode}")
    return False


def differences(made: Made, alone: Made | None) -> list[str]:
    """What is wrong with a run, one line each."""
    wrong: list[str] = []

    def check(fine: bool, text: str) -> None:
        if not fine:
            wrong.append(text)

    lost = sum(row["documents"] for row in made.rejects)
    check(len(made.documents) + lost == made.planned, f"{len(made.documents)} + {lost} documents, not {made.planned}")
    check(all(row["reason"] for row in made.rejects), "a reject without a reason")
    if alone:
        for identity in sorted(made.documents.keys() ^ alone.documents.keys()):
            check(False, f"{identity}: only in one of the two")
        for identity, row in made.documents.items():
            other = alone.documents.get(identity, row)
            odd = [key for key in SAME_ANSWER if row[key] != other[key]]
            check(not odd, f"{identity}: {', '.join(odd)} differ")
    wrong += bill(made)
    check(not made.books["crashes"], f"the server itself failed: {made.books['crashes'][:1]}")
    return wrong


def bill(made: Made) -> list[str]:
    """The server's bill against the ledger, request by request."""
    wrong = []
    ledger = {_name(row): row for row in made.ledger}
    if len(ledger) < len(made.ledger):
        wrong.append("two rows of the ledger have one name")
    billed: dict[str, dict[str, Any]] = {}
    for row in made.books["billed"]:
        name = f"{row['batch']}/{row['custom_id']}" if row["batch"] else row["request"]
        if name in billed:
            wrong.append(f"{name}: billed twice under one name")
        billed[name] = row
        if name not in ledger:
            wrong.append(f"{name}: billed, not in the ledger")
        elif ledger[name]["outcome"] not in ("answered", "unknown"):
            wrong.append(f"{name}: billed, and the ledger says {ledger[name]['outcome']}")
    for name, row in ledger.items():
        if row["outcome"] == "answered":
            if name not in billed:
                wrong.append(f"{name}: answered by the ledger, never billed")
            elif tokens(billed[name]["usage"]) != [row[key] for key in ("input", "cache_read", "output")]:
                wrong.append(f"{name}: other tokens than the server's")
        elif row["outcome"] == "sent":
            wrong.append(f"{name}: still open at the end")
    paid = collections.Counter(ledger[name]["key"] for name in billed if name in ledger)
    unknown = collections.Counter(row["key"] for row in made.ledger if row["outcome"] == "unknown")
    wrong += [f"{key}: paid {n} times" for key, n in paid.items() if n - 1 > unknown[key]]
    return wrong


def _name(row: dict[str, Any]) -> str:
    return f"{row['batch']}/{row['key']}" if row["mode"] == "batch" else str(row["id"])


def tokens(usage: dict[str, Any]) -> list[int]:
    return [usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]]


def report(name: str, made: Made) -> None:
    outcomes = collections.Counter(row["outcome"] for row in made.ledger)
    billed = len(made.books["billed"])
    twice = billed - len({row["key"] for row in made.ledger if row["outcome"] == "answered"})
    usage = collections.Counter()
    for row in made.ledger:
        usage.update({key: row[key] for key in ("cache_read", "cache_write_5m", "cache_write_1h")})
    cacheable = sum(usage.values())
    print(
        f"{name}: {made.starts} starts, {made.seconds:.0f} s, {len(made.documents)} made, "
        f"{sum(row.get('documents', 1) for row in made.rejects)} rejected; {billed} billed; ledger {dict(outcomes)}; "
        f"{twice} paid again; faults {made.books['faults']}; cache hits "
        f"{usage['cache_read'] / cacheable if cacheable else 0:.4f} of {cacheable:,} cacheable tokens"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=5000, help="a multiple of 100")
    parser.add_argument("--faults", type=float, default=0.05)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", action="store_true", help="documents and ideas through batches")
    parser.add_argument("--latency", type=float, default=20.0, help="ms, of the server's answers")
    args = parser.parse_args()
    more = ["--config.batch=('ideas', 'documents')"] if args.batch else []
    server = {
        "seed": args.seed,
        "faults": args.faults,
        "latency": args.latency,
        "responder": "data_gen.api.offline:reply",
    }
    root = Path(tempfile.mkdtemp(prefix="generation_"))
    alone = run(_new(root / "alone"), args.documents, 0, random.Random(0), server, *more)
    report("left alone", alone)
    killed = run(_new(root / "killed"), args.documents, args.kills, random.Random(args.seed), server, *more)
    report("killed", killed)
    wrong = [f"left alone: {line}" for line in differences(alone, None)]
    wrong += [f"killed: {line}" for line in differences(killed, alone)]
    for line in wrong[:20]:
        print(line)
    print(f"{len(wrong)} differences" + (f"; see {root}" if wrong else ""))
    if not wrong:
        shutil.rmtree(root)
    return int(bool(wrong))


def _new(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


if __name__ == "__main__":
    sys.exit(main())
