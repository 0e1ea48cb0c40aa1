"""The loopback server, asked by the real anthropic package wherever that can ask."""

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

anthropic = pytest.importorskip("anthropic")
aiohttp = pytest.importorskip("aiohttp")
pydantic = pytest.importorskip("pydantic")

from tests.loopback import damage, faults, limiter, refusals, responder, schemas
from tests.loopback.load import HEADERS
from tests.loopback.process import ROOT, serve

MODEL = "claude-sonnet-5-5"
SCHEMA = {
    "type": "object",
    "properties": {
        "names": {"type": "array", "items": {"type": "string"}, "description": "{minItems: 4, maxItems: 4}"}
    },
    "required": ["names"],
    "additionalProperties": False,
}
FORMAT = {"format": {"type": "json_schema", "schema": SCHEMA}}


def ask(user="Write.", **more):
    return {"model": MODEL, "max_tokens": 2000, "messages": [{"role": "user", "content": user}]} | more


def client(server):
    return anthropic.Anthropic(base_url=server.url, api_key="loopback", max_retries=0)


def text(message):
    return "".join(block.text for block in message.content if block.type == "text")


@pytest.fixture(scope="module")
def server():
    with serve(batch_seconds=0.1) as server:
        yield server
        assert server.books()["crashes"] == []


@pytest.fixture(autouse=True)
def _no_fault_waits(server):
    yield
    assert server.script() == 0


@pytest.fixture(scope="module")
def api(server):
    with client(server) as api:
        yield api


def told(usage):
    """The usage of an answer of the package, as the books keep it."""
    return {key: value for key, value in usage.model_dump().items() if value is not None}


def ended(api, batch):
    for _ in range(200):
        batch = api.messages.batches.retrieve(batch.id)
        if batch.processing_status == "ended":
            return batch
        time.sleep(0.02)
    raise AssertionError("the batch does not end")


def items(*users, **more):
    return [{"custom_id": f"item-{i}", "params": ask(user, **more)} for i, user in enumerate(users)]


# -- answers ------------------------------------------------------------------------------------------------------------


def test_answers_are_billed_as_they_are_told(server, api):
    since = len(server.books()["billed"])
    direct = api.messages.create(**ask("one"), extra_headers={"x-msm-request": "key-1"})
    with api.messages.stream(**ask("one", model="claude-opus-5-5"), extra_headers={"x-msm-request": "key-2"}) as stream:
        streamed = stream.get_final_message()
    rows = server.books(since)["billed"]
    assert [row["request"] for row in rows] == ["key-1", "key-2"]
    assert [row["id"] for row in rows] == [direct.id, streamed.id]
    assert rows[0]["usage"] == told(direct.usage)
    assert rows[1]["usage"]["output_tokens"] == streamed.usage.output_tokens
    assert rows[1]["usage"]["output_tokens_details"]["thinking_tokens"] == 40
    assert direct.usage.output_tokens == -(-len(text(direct)) // 4)
    assert text(direct).startswith("<plan>")
    assert text(direct).endswith("</document>")
    assert [block.type for block in streamed.content] == ["thinking", "text"]


def test_a_stream_says_what_a_direct_answer_says(api):
    direct = api.messages.create(**ask("same"))
    with api.messages.stream(**ask("same")) as stream:
        assert "".join(stream.text_stream) == text(direct)


def test_a_schema_is_kept_and_so_are_limits_told_in_words(api):
    class Inner(pydantic.BaseModel):
        kind: str = pydantic.Field(json_schema_extra={"enum": ["a", "b"]})
        weight: float | None

    class Outer(pydantic.BaseModel):
        names: list[str] = pydantic.Field(min_length=5, max_length=5)
        inner: list[Inner] = pydantic.Field(min_length=2, max_length=2)
        count: int = pydantic.Field(ge=3, le=4)

    found = api.messages.parse(**ask("parse"), output_format=Outer).parsed_output
    assert len(set(found.names)) == 5
    assert len(found.inner) == 2
    assert found.inner[0].kind in ("a", "b")
    assert found.count in (3, 4)


def test_count_tokens_is_the_prompt_that_is_billed(api):
    question = ask("x" * 399, system="y" * 401, output_config=FORMAT)
    asked = {key: value for key, value in question.items() if key != "max_tokens"}
    counted = api.messages.count_tokens(**asked).input_tokens
    assert counted == api.messages.create(**question).usage.input_tokens
    assert 200 <= counted <= 300


def test_an_answer_ends_at_max_tokens_and_at_a_stop_sequence(api):
    cut = api.messages.create(**ask("cut", max_tokens=10))
    assert (cut.stop_reason, cut.usage.output_tokens, len(text(cut))) == ("max_tokens", 10, 40)
    stopped = api.messages.create(**ask("cut", stop_sequences=["</plan>"]))
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "</plan>")
    assert "</plan>" not in text(stopped)


# -- refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"temperature": 1.0}, 400, "temperature"),
        ({"top_p": 0.9, "model": "claude-haiku-4-5"}, 400, "top_p"),
        ({"colour": 1}, 400, "colour: Extra inputs"),
        ({"model": "claude-nothing"}, 404, "claude-nothing"),
        ({"max_tokens": 128_001}, 400, "128000"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, 400, "non-empty"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, 400, "prefill"),
        ({"tools": [{"name": "t", "input_schema": {}}], "tool_choice": {"type": "any"}}, 400, "tool_choice"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, 400, "budget_tokens"),
        ({"thinking": {"type": "disabled"}, "model": "claude-opus-5-5"}, 400, "thinking"),
        ({"output_config": {"effort": "huge"}}, 400, "effort"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "array"}}}}, 400, "object"),
        ({"messages": [{"role": "user", "content": "x" * 800_004}], "model": "claude-haiku-4-5"}, 400, "too long"),
        (
            {
                "system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}],
                "cache_control": {"type": "ephemeral", "ttl": "1h"},
            },
            400,
            "ttl",
        ),
        ({"system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}] * 5}, 400, "maximum of 4"),
    ],
)
def test_what_the_api_refuses_is_refused_and_not_billed(server, api, change, status, words):
    since = len(server.books()["billed"])
    with pytest.raises(anthropic.APIStatusError) as caught:
        api.post("/v1/messages", body=ask() | change, cast_to=object)
    assert caught.value.status_code == status
    assert words in caught.value.body["error"]["message"]
    assert caught.value.response.headers["anthropic-ratelimit-requests-remaining"]
    assert server.books(since)["billed"] == []


def test_no_nonsense_breaks_the_server(server):
    """Each value of a valid request, at any depth, replaced by each of some others."""
    block = {"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}
    tool = {"name": "t", "input_schema": {"type": "object"}}
    whole = ask([block], system=[block], tools=[tool], tool_choice={"type": "auto"}, thinking={"type": "adaptive"},
                output_config={"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}}, stop_sequences=["x"])  # fmt: skip

    def places(value, way=()):
        yield way
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            yield from places(value[key], (*way, key))

    def broken(way, value):
        made = json.loads(json.dumps(whole))
        *before, last = way
        inner = made
        for key in before:
            inner = inner[key]
        inner[last] = value
        return made

    bodies = [broken(way, value) for way in places(whole) if way for value in (None, 7, "x", [], {}, [3], True)]
    found = asyncio.run(_outcomes(server.url, [*enumerate([whole, *bodies])], 8))
    assert found.pop(0)[0].startswith("(200")
    assert len(found) > 200
    assert {seen[0][1:4] for seen in found.values()} == {"200", "400", "404"}
    assert server.books()["crashes"] == []


def test_a_key_is_needed_and_a_wrong_one_is_refused():
    with serve(key="right") as server:
        with client(server) as api, pytest.raises(anthropic.AuthenticationError):
            api.messages.create(**ask())
        url = f"{server.url}/v1/messages"
        for headers, status in ({}, 401), ({"x-api-key": "right"}, 400):
            assert asyncio.run(_post(url, ask(), headers))[0] == status
        assert asyncio.run(_post(url, ask(), HEADERS | {"x-api-key": "right"}))[0] == 200


async def _post(url, body, headers=HEADERS):
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as answer:
        return answer.status, await answer.json()


def _object(**properties):
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"type": "array", "items": {"type": "string"}, "minItems": 2}, "minItems"),
        ({"type": "array", "items": {"type": "string"}, "maxItems": 2}, "maxItems"),
        ({"type": "string", "minLength": 1}, "minLength"),
        ({"type": "string", "maxLength": 1}, "maxLength"),
        ({"type": "string", "pattern": r"(?=a)b"}, "pattern"),
        ({"type": "string", "format": "regex"}, "format"),
        ({"type": "integer", "minimum": 0}, "minimum"),
        ({"type": "number", "multipleOf": 2}, "multipleOf"),
        ({"type": "object", "properties": {}}, "additionalProperties"),
        ({"type": "object", "properties": {}, "additionalProperties": True}, "additionalProperties"),
        ({"enum": [["a"]]}, "enum"),
        ({"$ref": "https://example.org/a"}, "external"),
        ({"oneOf": [{"type": "string"}]}, "type"),
        ({"anyOf": [{"type": "string", "maxLength": 2}]}, "maxLength"),
        ({"$ref": "#/$defs/a"}, "recursive"),
    ],
)
def test_schemas_that_structured_outputs_do_not_take(wrong, words):
    held = _object(next={"$ref": "#/$defs/a"})
    assert words in schemas.wrong(_object(value=wrong) | ({"$defs": {"a": held}} if words == "recursive" else {}))


def test_schemas_that_structured_outputs_take():
    many = {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/a"}}
    schema = _object(
        many=many, date={"type": "string", "format": "date"}, one={"anyOf": [{"const": 1}, {"type": "null"}]}
    )
    assert schemas.wrong(schema | {"$defs": {"a": _object(x={"type": ["string", "null"]})}}) == ""


@pytest.mark.parametrize(
    ("requests", "words"),
    [
        ([], "at least one"),
        (items("a") * 2, "unique"),
        ([{"custom_id": "a b", "params": ask()}], "pattern"),
        ([{"custom_id": "x" * 65, "params": ask()}], "pattern"),
    ],
)
def test_batches_that_are_refused(server, api, requests, words):
    before = len(server.books()["batches"])
    with pytest.raises(anthropic.BadRequestError, match=words):
        api.post("/v1/messages/batches", body={"requests": requests}, cast_to=object)
    assert len(server.books()["batches"]) == before


def test_a_batch_has_no_more_items_than_the_api_takes():
    requests = [{"custom_id": f"{i}", "params": {}} for i in range(100_001)]
    assert len(refusals.check_batch({"requests": requests[1:]})) == 100_000
    with pytest.raises(refusals.RefusedError, match="100000"):
        refusals.check_batch({"requests": requests})


# -- faults -------------------------------------------------------------------------------------------------------------

BILLED = {"429": 0, "529": 0, "500": 0, "drop_before": 0}  # the other kinds are billed once
TRIED = [
    *((kind, way) for kind in ("429", "529", "500", "drop_before", "drop_after") for way in ("direct", "stream")),
    *((kind, "stream") for kind in ("slow", "stream_error", "truncated", "hostile")),
    *((kind, "direct") for kind in faults.CONTENT),
]


@pytest.mark.parametrize(("kind", "way"), TRIED)
def test_every_fault_is_seen_and_billed_as_it_should(server, api, kind, way):
    since = len(server.books()["billed"])
    schema = {"output_config": FORMAT} if kind == "malformed" else {}
    whole = text(api.messages.create(**ask("fault", **schema)))
    server.script(kind)
    try:
        if way == "stream":
            with api.messages.stream(**ask("fault", **schema)) as stream:
                seen = stream.get_final_message()
        else:
            seen = api.messages.create(**ask("fault", **schema))
        outcome, found = seen.stop_reason, text(seen)
    except anthropic.APIStatusError as error:
        outcome, found = error.status_code, ""
        headers = error.response.headers
    except (anthropic.APIConnectionError, anthropic.APIError, json.JSONDecodeError) as error:
        outcome, found = type(error), ""
    except Exception as error:  # what a stream ends in is the package's HTTP library's
        assert way == "stream"
        assert kind == "drop_after"
        outcome, found = type(error), ""
    rows = server.books(since)["billed"][1:]
    assert [row["fault"] for row in rows] == [kind] * BILLED.get(kind, 1)
    expected = {"429": 429, "529": 529, "500": 500, "refusal": "refusal", "truncated": "max_tokens"}
    if kind == "429":
        assert headers["retry-after"].isdecimal()
    if kind.startswith("drop"):
        assert isinstance(outcome, type)
    elif kind != "stream_error":
        assert outcome == expected.get(kind, "end_turn")
    assert (found == whole) == (kind == "slow")
    if kind == "huge":
        assert len(found) >= damage.HUGE
        assert rows[0]["usage"]["output_tokens"] == 2000
    if kind == "malformed":
        with pytest.raises((ValueError, AttributeError, AssertionError)):  # no JSON, no object, not what was asked for
            assert json.loads(found).keys() == {"names"}


@pytest.mark.parametrize("bait", range(len(damage.HOSTILE)))
def test_hostile_text_keeps_its_form(bait):
    given = json.dumps({"names": ["a", "b"], "kind": "c"})
    schema = _object(names={"type": "array", "items": {"type": "string"}}, kind={"enum": ["c"]})
    made, stop = damage.apply("hostile", given, schema, bait)
    assert (json.loads(made), stop) == ({"names": [damage.HOSTILE[bait]] * 2, "kind": "c"}, "end_turn")
    made, _ = damage.apply("hostile", "<plan>a</plan><document>b</document>", None, bait)
    assert made == f"<plan>a</plan><document>{damage.HOSTILE[bait]}</document>"


def test_items_of_batches_meet_faults_too(server, api):
    kinds = ["errored", "expired", "canceled", "refusal", "truncated", "empty", "hostile", "untagged"]
    for i, kind in enumerate(kinds):
        server.script({"kind": kind, "match": f"faulty {i}."})
    batch = api.messages.batches.create(requests=items(*(f"faulty {i}." for i in range(len(kinds) + 1))))
    batch = ended(api, batch)
    results = {row.custom_id: row.result for row in api.messages.batches.results(batch.id)}
    types = [results[f"item-{i}"].type for i in range(len(kinds) + 1)]
    assert types == ["errored", "expired", "canceled", *["succeeded"] * 6]
    assert results["item-3"].message.stop_reason == "refusal"
    billed = {row["custom_id"]: row for row in server.books()["billed"] if row["batch"] == batch.id}
    assert billed.keys() == {f"item-{i}" for i in range(3, 9)}
    assert all(row["usage"] == told(results[name].message.usage) for name, row in billed.items())
    assert batch.request_counts.model_dump() == {
        "canceled": 1, "errored": 1, "expired": 1, "processing": 0, "succeeded": 6,
    }  # fmt: skip


def test_results_are_lost_in_the_middle_and_then_come_whole(server, api):
    batch = ended(api, api.messages.batches.create(requests=items(*"abcdefgh")))
    whole = [row.custom_id for row in api.messages.batches.results(batch.id)]
    lengths = set()
    for _ in range(20):
        server.script("none", "drop_after")  # the package looks at the batch first
        found, error = [], None
        try:
            for row in api.messages.batches.results(batch.id):
                found.append(row.custom_id)
        except Exception as raised:  # in the middle it is an error of the package's HTTP library
            error = raised
        assert error is not None
        assert found == whole[: len(found)]
        lengths.add(len(found))
    assert 0 in lengths
    assert len(lengths) > 2
    assert [row.custom_id for row in api.messages.batches.results(batch.id)] == whole


async def _outcomes(url, bodies, at_once):
    """What became of each body asked, by its index: an answer's id, a status, or the dropped connection."""
    found, left = {}, iter(bodies)

    async def work(session):
        for i, body in left:
            try:
                async with session.post(f"{url}/v1/messages", json=body, headers=HEADERS) as answer:
                    made = await answer.json()
                    found.setdefault(i, []).append((answer.status, made.get("id"), json.dumps(made.get("content"))))
            except aiohttp.ClientError:
                found.setdefault(i, []).append("dropped")

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(work(session) for _ in range(at_once)))
    return {i: sorted(map(str, seen)) for i, seen in found.items()}


def test_faults_are_of_the_seed_the_body_and_the_count_alone():
    bodies = [(i, ask(f"question {i}")) for i in range(100)] * 2
    found, met = [], []
    for seed, at_once in (7, 1), (7, 16), (8, 16):
        with serve(seed=seed, faults=0.4) as server:
            shuffled = random.Random(at_once).sample(bodies, len(bodies))
            found.append(asyncio.run(_outcomes(server.url, shuffled, at_once)))
            books = server.books()
            met.append(books["faults"])
            assert (
                len(books["billed"])
                == books["requests"]["/v1/messages"]["200"] + books["requests"]["/v1/messages"]["drop_after"]
            )
    assert found[0] == found[1]
    assert met[0] == met[1]
    assert found[0] != found[2]
    assert 40 < sum(met[0].values()) < 120


def test_only_the_kinds_that_are_named_befall():
    with serve(faults=0.5, only="529,refusal", rates="500=0.2") as server:
        asyncio.run(_outcomes(server.url, [(i, ask(f"{i}")) for i in range(100)], 8))
        met = server.books()["faults"]
    assert met.keys() == {"529", "refusal", "500"}
    assert 10 <= met["500"] <= 35


def test_a_fault_that_no_one_knows_is_an_error():
    from tests.loopback.settings import Settings

    with pytest.raises(ValueError, match="huge"):
        faults.Faults(Settings(only="hugee"))


# -- the prompt cache ---------------------------------------------------------------------------------------------------


def _cached(spec, user="q", ttl="1h", **more):
    return ask(
        user, system=[{"type": "text", "text": spec, "cache_control": {"type": "ephemeral", "ttl": ttl}}], **more
    )


def test_a_prefix_is_written_once_and_then_read(api):
    spec = "spec one " * 400
    first, second = (api.messages.create(**_cached(spec, user)).usage for user in ("a", "b" * 40))
    assert (first.cache_creation_input_tokens, first.cache_read_input_tokens) == (900, 0)
    assert first.cache_creation.ephemeral_1h_input_tokens == 900
    assert (second.cache_creation_input_tokens, second.cache_read_input_tokens, second.input_tokens) == (0, 900, 10)
    assert api.messages.create(**_cached(spec, "c", "5m")).usage.cache_read_input_tokens == 900
    other = api.messages.create(**_cached(spec, model="claude-haiku-5-5")).usage
    assert other.cache_read_input_tokens == 0
    formed = api.messages.create(**_cached(spec, output_config=FORMAT)).usage
    assert formed.cache_read_input_tokens == 0
    assert formed.cache_creation_input_tokens > 900


def test_a_longer_prompt_reads_the_shorter_one_and_writes_the_rest(api):
    spec, talk = "spec two " * 400, {"type": "text", "text": "t" * 400, "cache_control": {"type": "ephemeral"}}
    api.messages.create(**_cached(spec))
    usage = api.messages.create(**_cached(spec, messages=[{"role": "user", "content": [talk]}])).usage
    assert usage.cache_read_input_tokens == 900
    assert usage.cache_creation.ephemeral_5m_input_tokens == 100
    assert usage.input_tokens == 0


def test_a_short_prefix_is_not_cached(api):
    for _ in range(2):
        usage = api.messages.create(**_cached("s" * 4 * 511)).usage
        assert (usage.cache_creation_input_tokens, usage.cache_read_input_tokens) == (0, 0)


def test_questions_asked_at_once_all_write_the_cache():
    async def both(url):
        return await asyncio.gather(*(_post(f"{url}/v1/messages", _cached("s" * 4000, str(i))) for i in range(2)))

    with serve(latency=100) as server:
        usages = [body["usage"] for _, body in asyncio.run(both(server.url))]
    assert [usage["cache_creation_input_tokens"] for usage in usages] == [1000, 1000]


# -- batches ------------------------------------------------------------------------------------------------------------


def test_a_batch_ends_with_its_results_in_another_order(server, api):
    wrong = {"custom_id": "wrong", "params": ask(temperature=1)}
    batch = api.messages.batches.create(requests=[*items(*"abcdefgh"), wrong])
    assert batch.processing_status == "in_progress"
    assert batch.request_counts.processing == 9
    assert (batch.expires_at - batch.created_at).total_seconds() == 86400
    with pytest.raises(anthropic.AnthropicError):
        api.messages.batches.results(batch.id)
    batch = ended(api, batch)
    assert batch.results_url.startswith(server.url)
    rows = list(api.messages.batches.results(batch.id))
    names = [row.custom_id for row in rows]
    assert sorted(names) == sorted([f"item-{i}" for i in range(8)] + ["wrong"])
    assert names != [f"item-{i}" for i in range(8)] + ["wrong"]
    refused = next(row.result for row in rows if row.custom_id == "wrong")
    assert (refused.type, refused.error.error.type) == ("errored", "invalid_request_error")
    assert rows[0].result.message.usage.service_tier == "batch"
    billed = {row["custom_id"] for row in server.books()["billed"] if row["batch"] == batch.id}
    assert billed == {f"item-{i}" for i in range(8)}


def test_a_canceled_batch_is_done_in_part():
    found = []
    for _ in range(2):
        with serve(batch_polls=3) as server, client(server) as api:
            batch = api.messages.batches.create(requests=items(*map(str, range(40))))
            assert api.messages.batches.cancel(batch.id).processing_status == "canceling"
            batch = ended(api, batch)
            types = {row.custom_id: row.result.type for row in api.messages.batches.results(batch.id)}
            assert set(types.values()) == {"succeeded", "canceled"}
            assert batch.cancel_initiated_at
            assert len(server.books()["billed"]) == batch.request_counts.succeeded
            found.append(types)
    assert found[0] == found[1]


def test_a_batch_ends_at_a_poll_or_expires():
    with serve(batch_polls=2) as server, client(server) as api:
        batch = api.messages.batches.create(requests=items("a"))
        states = [api.messages.batches.retrieve(batch.id).processing_status for _ in range(3)]
        assert states == ["in_progress", "in_progress", "ended"]
    with serve(batch_polls=1000, expire_seconds=0.2) as server, client(server) as api:
        batch = ended(api, api.messages.batches.create(requests=items(*map(str, range(40)))))
        assert batch.request_counts.expired > 0
        assert batch.request_counts.expired + batch.request_counts.succeeded == 40


def test_batches_are_listed_newest_first_page_by_page(server, api):
    made = [api.messages.batches.create(requests=items(f"page {i}")).id for i in range(5)][::-1]
    page = api.messages.batches.list(limit=2)
    assert ([b.id for b in page.data], page.has_more, page.last_id) == (made[:2], True, made[1])
    assert [b.id for b in api.messages.batches.list(limit=3, after_id=made[1]).data] == made[2:5]
    back = api.messages.batches.list(limit=2, before_id=made[3])
    assert ([b.id for b in back.data], back.has_more) == (made[1:3], True)
    assert [b.id for b in api.messages.batches.list(limit=2)][:5] == made


def test_an_orphan_is_a_batch_that_is_there_and_billed():
    with serve(orphan=1, batch_seconds=0) as server, client(server) as api:
        with pytest.raises(anthropic.APIConnectionError):
            api.messages.batches.create(requests=items("a", "b"))
        (batch,) = api.messages.batches.list().data
        assert ended(api, batch).request_counts.succeeded == 2
        assert len(server.books()["billed"]) == 2
        assert server.books()["batches"][0]["orphan"]


# -- the rest -----------------------------------------------------------------------------------------------------------


def test_a_limit_of_requests_is_honest():
    with serve(rpm=60) as server, client(server) as api:
        answer = api.messages.with_raw_response.create(**ask("a"))
        assert answer.headers["anthropic-ratelimit-requests-limit"] == "60"
        with pytest.raises(anthropic.RateLimitError) as caught:
            api.messages.create(**ask("b"))
        assert caught.value.response.headers["retry-after"] == "1"
        assert caught.value.response.headers["anthropic-ratelimit-requests-remaining"] == "0"
        assert len(server.books()["billed"]) == 1


def test_a_limit_fills_evenly(monkeypatch):
    now = 0.0
    monkeypatch.setattr(limiter.time, "monotonic", lambda: now)
    bucket = limiter.Limiter(120)
    assert [bucket.take() for _ in range(3)] == [0.0, 0.0, 0.5]
    now = 0.5
    assert [bucket.take() for _ in range(2)] == [0.0, 0.5]


def test_questions_wait_for_a_place():
    with serve(latency=5, concurrency=3) as server:
        found = asyncio.run(_outcomes(server.url, [(i, ask(f"{i}")) for i in range(30)], 10))
        assert all("200" in seen[0] for seen in found.values())
        assert server.books()["peak"] == 3


def test_chat_completions_speak_json_schema_and_faults(server):
    url = f"{server.url}/v1/chat/completions"
    headers = {"authorization": "Bearer x"}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}
    question = {"model": "any", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}
    status, made = asyncio.run(_post(url, question | {"response_format": form}, headers))
    choice = made["choices"][0]
    assert (status, choice["finish_reason"]) == (200, "stop")
    assert len(json.loads(choice["message"]["content"])["names"]) == 4
    row = server.books()["billed"][-1]
    assert row["usage"]["output_tokens"] == made["usage"]["completion_tokens"]
    assert asyncio.run(_post(url, question | {"max_tokens": 3}, headers))[1]["choices"][0]["finish_reason"] == "length"
    server.script("429")
    status, made = asyncio.run(_post(url, question, headers))
    assert (status, made["error"]["type"]) == (429, "rate_limit_error")
    assert asyncio.run(_post(url, question, {}))[0] == 401
    for nonsense in (
        {"stop": 7},
        {"response_format": []},
        {"messages": [7]},
        {"messages": [{"role": "user", "content": [7]}]},
    ):
        assert asyncio.run(_post(url, question | nonsense, headers))[0] == 400


def test_a_client_that_is_killed_has_paid():
    async def leave(url):
        timeout = aiohttp.ClientTimeout(total=0.1)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            with pytest.raises(asyncio.TimeoutError):
                await session.post(f"{url}/v1/messages", json=ask("slow one"), headers=HEADERS)

    with serve(latency=400) as server:
        asyncio.run(leave(server.url))
        for _ in range(100):
            if server.books()["billed"]:
                break
            time.sleep(0.05)
        assert len(server.books()["billed"]) == 1


def test_the_server_remembers_what_was_asked_but_no_key(server, api):
    api.messages.create(**ask("remember"), extra_headers={"x-msm-request": "r"})
    last = server.requests()[-1]
    assert last["body"] == ask("remember")
    assert last["headers"]["x-msm-request"] == "r"
    assert not {"authorization", "x-api-key"} & last["headers"].keys()


def test_the_server_ends_with_its_parent():
    code = "from tests.loopback.process import serve\nwith serve() as s: print(s.pid, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    for _ in range(100):
        try:
            if ") Z " in Path(f"/proc/{pid}/stat").read_text():  # dead, and nobody has asked after it
                return
        except FileNotFoundError:
            return
        time.sleep(0.05)
    raise AssertionError("the server lives on")


def test_the_books_are_left_behind(tmp_path):
    with serve(state=tmp_path) as server, client(server) as api:
        api.messages.create(**ask("last"))
    assert len(json.loads((tmp_path / "books.json").read_text())["billed"]) == 1


def test_the_default_responder_is_a_function_of_the_question():
    assert responder.reply("m", "s", "u", SCHEMA) == responder.reply("m", "s", "u", SCHEMA)
    assert responder.reply("m", "s", "u", SCHEMA) != responder.reply("m", "s", "v", SCHEMA)
