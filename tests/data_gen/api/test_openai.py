"""The OpenAI-compatible provider through the real SDK, against the server on the loopback."""

import asyncio

import pytest

from data_gen.api.openai import OpenAI
from data_gen.api.provider import Declined, Lost
from data_gen.api.request import Stop
from msm_jax.cli import UserError
from tests.data_gen.api.support import asking

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


def ask(server, *requests, **how):
    async def main():
        asked, found = OpenAI(f"{server.url}/v1", **how), []
        for i, request in enumerate(requests):
            try:
                found.append(await asked.ask(request, i))
            except (Declined, Lost) as error:
                found.append(error)
        await asked.close()
        return found

    return asyncio.run(main())


def test_replies_and_their_ends(server):
    server.script("none", "truncated", "refusal")
    plain, cut, refused = ask(server, asking("a", schema=SCHEMA), asking("b"), asking("c"))
    assert plain.text.startswith("{")
    assert [r.stop for r in (plain, cut, refused)] == [Stop.END, Stop.LENGTH, Stop.REFUSAL]
    assert plain.usage.prompt > 500
    assert plain.usage.output > 0


def test_faults(server):
    for fault in ("429", "500", "drop_before", "drop_after"):
        server.script(fault)
        error, reply = ask(server, asking(fault), asking(fault))
        assert isinstance(error, Lost if fault.startswith("drop") else Declined)
        assert reply.text


def test_it_costs_nothing_by_default(server, work):
    provider = OpenAI(f"{server.url}/v1")
    reply = work.run(provider, lambda client: client.ask(asking("free", model="any/model")))
    assert reply.cost == 0.0
    assert work.outcomes() == {"answered": 1}


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(UserError, match="config.api.base_url: empty"):
        OpenAI("")
    with pytest.raises(UserError, match="MY_KEY: not set"):
        OpenAI("http://x/v1", key_name="MY_KEY")
