"""Requests a second of a server, by a client that does nothing else.

taskset -c 0 python -m tests.loopback.server           # prints URL
taskset -c 1 python -m tests.loopback.load URL 5000 64  # how many requests, how many at once
"""

import asyncio
import collections
import json
import sys
import time

import aiohttp

HEADERS = {"x-api-key": "loopback", "anthropic-version": "2026-10-21", "content-type": "application/json"}


async def load(url: str, total: int, at_once: int) -> None:
    outcomes: collections.Counter[object] = collections.Counter()
    numbers = iter(range(total))

    async def ask(session: aiohttp.ClientSession) -> None:
        for i in numbers:
            question = {"role": "user", "content": f"Write document {i}."}
            body = {"model": "claude-sonnet-5-5", "max_tokens": 2000, "messages": [question]}
            try:
                async with session.post(f"{url}/v1/messages", data=json.dumps(body).encode()) as answer:
                    await answer.read()
                    outcomes[answer.status] += 1
            except aiohttp.ClientError as error:
                outcomes[type(error).__name__] += 1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=at_once), headers=HEADERS) as session:
        began = time.perf_counter()
        await asyncio.gather(*(ask(session) for _ in range(at_once)))
        took = time.perf_counter() - began
    print(f"{total / took:.0f} requests/s, {dict(outcomes)}")


if __name__ == "__main__":
    asyncio.run(load(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
