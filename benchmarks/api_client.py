"""Requests per second and peak memory of the client for language models, against a server on the loopback.

    python benchmarks/api_client.py [--count=20000] [--concurrency=64] [--batch] [--faults=0.05] [--json=FILE]

The server (tests/loopback) is another process. Each request is a system text of some 1,700 words, the same for all, and
a short question; an answer is some 300 tokens. Everything is as in real work: the ledger on disk before a request is
sent, the answer after, commits with fsync. Peak memory is this process's, the server's not counted. At the end the
ledger is held against what the server billed.
"""

import argparse
import asyncio
import dataclasses
import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from data_gen.api.anthropic import Anthropic
from data_gen.api.batches import BatchSettings
from data_gen.api.budget import Budget
from data_gen.api.client import Client, Settings
from data_gen.api.prices import Prices
from data_gen.api.request import Reply, Request
from data_gen.api.store import Store
from tests.loopback.process import serve

SYSTEM = "Whoever reads this sentence knows what the spec is about, and why. " * 130


@dataclasses.dataclass(frozen=True)
class Planned:
    """Requests that come into being as they are asked for, each time anew."""

    count: int

    def __iter__(self) -> Iterator[Request]:
        for i in range(self.count):
            user = f"Write document {i}. " + "It has a title, an author and a reason to exist. " * 20
            yield Request(f"bench-{i:08d}", "documents", "claude-haiku-5-5", SYSTEM, user, 4000)


async def run(flags: argparse.Namespace, url: str, directory: Path) -> dict[str, float]:
    with Store(directory / "store.sqlite") as store:
        prices = Prices()
        settings = Settings(
            concurrency=flags.concurrency, tries=20, first_wait=0.05, batches=BatchSettings(poll_seconds=0.5)
        )
        async with Client(Anthropic(prices, base_url=url), store, prices, Budget(1e6, store), settings) as client:
            began, cpu, answered = time.monotonic(), time.process_time(), 0
            async for outcome in client.ask_all(Planned(flags.count), batch=flags.batch, total=flags.count):
                answered += isinstance(outcome, Reply)
            seconds, cpu = time.monotonic() - began, time.process_time() - cpu
        totals = store.totals()["documents"]
        cached = totals["cache_read"] / (totals["cache_read"] + totals["cache_write_1h"] + totals["cache_write_5m"])
    return {
        "answered": answered,
        "requests_per_second": answered / seconds,
        "client_cpu_ms_per_request": 1000 * cpu / answered,
        "cache_hit_rate": cached,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "ledger_answered": totals["answered"],
        "ledger_unknown": totals["unknown"],
        "usd": totals["usd"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--batch", action="store_true")
    parser.add_argument("--faults", type=float, default=0.0)
    parser.add_argument("--latency", type=float, default=0.0, help="ms, mean")
    parser.add_argument("--json")
    flags = parser.parse_args()
    os.environ["ANTHROPIC_API_KEY"] = "loopback"
    with (
        tempfile.TemporaryDirectory() as directory,
        serve(faults=flags.faults, latency=flags.latency, keep=1, retry_after=0.1) as server,
    ):
        result = asyncio.run(run(flags, server.url, Path(directory)))
        result["server_billed"] = len(server.books()["billed"])
    result |= {"count": flags.count, "concurrency": flags.concurrency, "batch": flags.batch, "faults": flags.faults}
    print(json.dumps(result, indent=1))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    if flags.json:
        Path(flags.json).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
