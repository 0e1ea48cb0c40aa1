"""Processes that ask, to be killed. The imports take seconds, so one process makes them, and a copy of it asks.

`python -m tests.data_gen.api.asker` reads lines `DIRECTORY COUNT direct|batch`; for each it prints the copy's process
id, and the copy prints "done" after every request has its answer.
"""

import asyncio
import dataclasses
import os
import sys
from pathlib import Path

from data_gen.api.anthropic import Anthropic
from data_gen.api.budget import Budget
from data_gen.api.client import Client
from data_gen.api.prices import Prices
from data_gen.api.request import Reply
from data_gen.api.store import Store
from tests.data_gen.api.support import QUICK, SETTINGS, many

BATCHES = dataclasses.replace(QUICK, max_requests=20, settle_seconds=1.0)


async def ask(directory, count, mode):
    with Store(Path(directory) / "store.sqlite") as store:
        prices = Prices()
        settings = dataclasses.replace(SETTINGS, tries=50, batches=BATCHES)
        provider = Anthropic(prices, timeout_seconds=5.0)
        async with Client(provider, store, prices, Budget(100.0, store), settings) as client:
            requests = many(int(count), mode)
            replies = [o async for o in client.ask_all(requests, batch=mode == "batch") if isinstance(o, Reply)]
            assert len(replies) == len(requests)
    print("done", flush=True)


def main():
    for line in sys.stdin:
        directory, count, mode, url = line.split()
        if child := os.fork():
            print(child, flush=True)
            os.waitpid(child, 0)
            print("ended", flush=True)
            continue
        os.environ["ANTHROPIC_BASE_URL"] = url
        asyncio.run(ask(directory, count, mode))
        os._exit(0)


if __name__ == "__main__":
    main()
