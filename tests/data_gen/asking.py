"""Asking the offline model without a store on disk, with faults where a test wants them."""

import dataclasses
from collections.abc import AsyncGenerator, Callable, Iterable

from data_gen.api.offline import Offline
from data_gen.api.request import Reply, Request


class Memory:
    """An Asker (data_gen.work). spoil: what becomes of a reply; every question may be asked once only."""

    def __init__(self, spoil: Callable[[Reply], Reply] = lambda reply: reply) -> None:
        self.answers: dict[str, Reply] = {}
        self.requests: dict[str, Request] = {}
        self._provider, self._spoil = Offline(), spoil

    async def ask_all(
        self, requests: Iterable[Request], batch: bool = False, *, label: str = ""
    ) -> AsyncGenerator[Reply, None]:
        for request in list(requests):
            assert request.key not in self.answers, f"{request.key} asked twice"
            self.requests[request.key] = request
            self.answers[request.key] = self._spoil(await self._provider.ask(request))
            yield self.answers[request.key]


def cut(reply: Reply, characters: int) -> Reply:
    return dataclasses.replace(reply, text=reply.text[:characters])
