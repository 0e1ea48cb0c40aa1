"""The provider through the real SDK, against a server on the loopback."""

import asyncio
import json

import pytest

from data_gen.api import anthropic, transport
from data_gen.api.anthropic import Anthropic
from data_gen.api.prices import Prices
from data_gen.api.provider import Allowance, Declined, Failure, Lost
from data_gen.api.request import Stop
from msm_jax.cli import UserError
from tests.data_gen.api.support import SETTINGS, SPEC, asking, many

SCHEMA = {
    "type": "object",
    "properties": {
        "names": {"type": "array", "items": {"type": "string", "minLength": 3}, "minItems": 2},
        "tone": {"enum": ["dry", "warm"]},
    },
    "required": ["names", "tone"],
    "additionalProperties": False,
}


def provider(**how):
    return Anthropic(Prices(), **how)


def ask(*requests, heard=None, **how):
    """Each one after the other: its reply, or the error it ended in."""

    async def main():
        asked = provider(**how)
        found = []
        for i, request in enumerate(requests):
            try:
                found.append(await asked.ask(request, i, *([heard] if heard else [])))
            except (Declined, Lost) as error:
                found.append(error)
        await asked.close()
        return found

    return asyncio.run(main())


def test_a_reply_and_its_usage(server):
    one, two = ask(asking("usage 1"), asking("usage 2"))
    assert one.stop == Stop.END
    assert one.text
    assert one.model == "claude-haiku-5-5"
    assert one.request_id.startswith("req")
    assert one.usage.cache_write_1h > 500
    assert one.usage.cache_read == one.usage.cache_write_5m == 0
    assert two.usage.cache_read == one.usage.cache_write_1h
    assert two.usage.input > 0
    assert two.usage.output > 0


def test_what_is_sent(server):
    ask(asking("sent", schema=SCHEMA, effort="low"), asking("short", system="Be brief."))
    full, short = server.requests()[-2:]
    headers = {name.lower(): value for name, value in full["headers"].items()}
    assert headers["x-msm-request"] == "0"
    body = full["body"] if isinstance(full["body"], dict) else json.loads(full["body"])
    assert body["system"] == [{"type": "text", "text": SPEC, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    assert body["output_config"]["effort"] == "low"
    schema = body["output_config"]["format"]["schema"]
    assert schema["required"] == ["names", "tone"]
    assert schema["properties"]["tone"] == {"enum": ["dry", "warm"]}
    assert "minItems" not in schema["properties"]["names"]
    assert "minItems: 2" in schema["properties"]["names"]["description"]
    assert "stream" not in body or body["stream"] is False
    body = short["body"] if isinstance(short["body"], dict) else json.loads(short["body"])
    assert body["system"] == [{"type": "text", "text": "Be brief."}]


def test_long_answers_are_streamed_and_come_out_the_same(server):
    short, long = ask(
        asking("streamed", max_tokens=anthropic.STREAM_ABOVE),
        asking("streamed", max_tokens=anthropic.STREAM_ABOVE + 1),
    )
    body = server.requests()[-1]["body"]
    assert (body if isinstance(body, dict) else json.loads(body))["stream"] is True
    assert (short.stop, short.usage.output > 0) == (long.stop, long.usage.output > 0)
    assert long.text
    assert long.usage.cache_read > 0
    assert long.request_id


@pytest.mark.parametrize(
    ("fault", "stop"), [("refusal", Stop.REFUSAL), ("truncated", Stop.LENGTH), ("empty", Stop.END)]
)
@pytest.mark.parametrize("max_tokens", [1000, anthropic.STREAM_ABOVE + 1])
def test_how_replies_end(server, fault, stop, max_tokens):
    server.script(fault)
    (reply,) = ask(asking(f"{fault} {max_tokens}", max_tokens=max_tokens))
    assert reply.stop == stop


@pytest.mark.parametrize("max_tokens", [1000, anthropic.STREAM_ABOVE + 1])
@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [("429", 429, "rate_limit_error"), ("529", 529, "overloaded_error"), ("500", 500, "api_error")],
)
def test_refusals_say_what_they_are(server, fault, status, kind, max_tokens):
    server.script(fault)
    error, reply = ask(asking(fault, max_tokens=max_tokens), asking(fault, max_tokens=max_tokens))
    assert isinstance(error, Declined)
    assert (error.status, error.kind, error.fatal) == (status, kind, False)
    assert (error.retry_after is not None) == (fault == "429")
    assert reply.text


@pytest.mark.parametrize(
    ("fault", "max_tokens"),
    [(f, m) for f in ("drop_before", "drop_after") for m in (1000, 20_000)] + [("stream_error", 20_000)],
)
def test_dropped_answers_are_lost(server, fault, max_tokens):
    server.script(fault)
    error, reply = ask(asking(fault, max_tokens=max_tokens), asking(fault, max_tokens=max_tokens))
    assert isinstance(error, Lost)
    assert reply.text


def test_a_stream_that_takes_too_long_is_lost(server):
    server.script("slow")
    (error,) = ask(asking("slow", max_tokens=20_000), timeout_seconds=0.4)
    assert isinstance(error, Lost)
    assert str(error) == "no answer in time"


def test_no_connection_is_no_bill():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANTHROPIC_API_KEY", "sk-ant-secret-0123456789")
        (error,) = ask(asking(1), base_url="http://127.0.0.1:9")
    assert isinstance(error, Declined)
    assert (error.status, error.kind, error.fatal) == (0, "not_connected", False)


def test_a_request_that_the_api_does_not_take_is_declined_for_good(server):
    (error,) = ask(asking("bad", max_tokens=0))
    assert isinstance(error, Declined)
    assert (error.status, error.fatal) == (400, True)
    assert "max_tokens" in error.message


def test_no_key_is_one_line(monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(UserError, match="ANTHROPIC_API_KEY: not set"):
        provider()


def test_no_secret_is_told_or_stored(server, work, monkeypatch):
    key = "sk-ant-loopback-secret-0123456789"

    async def echo(request, **_):  # the worst server: it tells our key
        response = transport.httpx2.Response(
            400,
            json={"error": {"type": f"bad_{key}", "message": f"x-api-key: {key}\nand Bearer abcdefgh12345"}},
            request=request,
        )
        return response

    asked = provider()
    monkeypatch.setattr(asked._sdk._client, "send", echo)
    with pytest.raises(UserError) as raised:
        work.ask_all(asked, many(3))
    error = raised.value
    told = [str(error), repr(error), *(str(e) for e in (error.__cause__,) if e)]
    assert "declined with 400" in told[0]
    assert "\n" not in told[0]
    stored = b"".join(path.read_bytes() for path in work.path.parent.iterdir())
    assert "secret" not in "".join(told) + json.dumps(work.ledger)
    assert "abcdefgh12345" not in "".join(told)
    assert b"loopback-secret" not in stored


def test_rate_limit_headers():
    heard = transport.allowance(
        {
            "anthropic-ratelimit-requests-remaining": "12",
            "anthropic-ratelimit-requests-reset": "2020-01-01T00:00:00Z",
            "anthropic-ratelimit-input-tokens-remaining": "many",
            "anthropic-ratelimit-output-tokens-reset": "2999-01-01T00:00:00Z",
            "content-type": "text",
        },
        "anthropic-ratelimit-",
    )
    assert heard.remaining == {"requests": 12}
    assert heard.reset["requests"] == 0.0
    assert heard.reset["output-tokens"] > 1e9
    assert transport.allowance({}, "anthropic-ratelimit-") == Allowance({}, {})


def test_half_a_surrogate_pair_is_replaced():
    assert transport.whole("a 😀 b") == "a 😀 b"
    assert transport.whole("a \ud83d b") == "a � b"
    assert transport.whole("\ud83d\ude00") == "😀"


def test_batches_through_the_sdk(server, work):
    server.script("errored", "expired", "canceled", "none", "none")
    before = len(server.books()["billed"])
    requests = [asking(i, "in batches") for i in range(12)]
    requests[5] = asking(5, "in batches", max_tokens=0)
    outcomes = work.ask_all(provider(), requests, SETTINGS, batch=True)
    assert sorted(o.key for o in outcomes) == sorted(r.key for r in requests)
    failures = [o for o in outcomes if isinstance(o, Failure)]
    assert [(f.key, f.kind) for f in failures] == [(requests[5].key, "invalid_request_error")]
    assert "max_tokens" in failures[0].message
    billed = server.books()["billed"][before:]
    answered = [row for row in work.ledger if row["outcome"] == "answered"]
    assert sorted(row["custom_id"] for row in billed) == sorted(row["key"] for row in answered)
    assert {row["error"] for row in work.ledger if row["outcome"] == "refused"} >= {"expired", "canceled"}


def test_an_orphan_is_found_through_the_sdk(server, work):
    server.script("orphan")
    before = len(server.books()["billed"])
    requests = [asking(i, "orphans") for i in range(6)]
    assert len(work.ask_all(provider(), requests, SETTINGS, batch=True)) == 6
    assert len(server.books()["billed"]) - before == 6
    assert work.outcomes() == {"answered": 6}
