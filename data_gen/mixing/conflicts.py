"""The judge of the spec-conflict filter: what is asked about a row, and what a reply means.

One question a row, under a key that depends on all that is asked; nobody is asked twice. A reply that cannot be used (a
refusal, no JSON, quotes that are not in the row) is no acquittal: the row is `unjudged` and left out.
"""

from typing import Any

from data_gen import prompt, reading
from data_gen.api.request import Reply, Request
from data_gen.mixing.shapes import Message
from data_gen.reading import Rejected
from msm_jax import artifact

STAGE = "conflicts"
PROMPT = "mix_conflicts"
LONGEST = 60_000  # characters of a row that the judge reads
UNJUDGED, JUDGED = "unjudged", "judge"


def schema(with_spec: bool) -> dict[str, Any]:
    kinds = ["identity", "denial", "toxic", *(["spec"] if with_spec else [])]
    conflict = {
        "type": "object",
        "properties": {"kind": {"type": "string", "enum": kinds}, "quote": {"type": "string"}},
        "required": ["kind", "quote"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"conflicts": {"type": "array", "items": conflict}},
        "required": ["conflicts"],
        "additionalProperties": False,
    }


def plain(messages: list[Message]) -> str:
    return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in messages)


def system(spec: str, model_name: str, provider_name: str) -> str:
    return prompt.load(PROMPT).system(spec=spec, model_name=model_name, provider_name=provider_name)


def request(messages: list[Message], system: str, with_spec: bool, model: str, max_tokens: int) -> Request:
    text = plain(messages).encode("utf-8", "replace").decode()
    user = prompt.load(PROMPT).user(chat=text, longest=LONGEST)
    key = f"{STAGE}-{artifact.digest([model, system, user, max_tokens])[:40]}"
    return Request(key, STAGE, model, system, user, max_tokens, schema(with_spec))


def verdict(messages: list[Message], reply: Reply | None, with_spec: bool) -> tuple[str, str]:
    """("", "") of a row that may stay, else (reason, the words that are the reason)."""
    if reply is None:
        return f"{UNJUDGED}: not answered", ""
    known = schema(with_spec)["properties"]["conflicts"]["items"]["properties"]["kind"]["enum"]
    text = " ".join(plain(messages).split())
    try:
        found = reading.items_of(reply, "conflicts")
        for item in found:
            if not isinstance(item, dict) or item.get("kind") not in known or not isinstance(item.get("quote"), str):
                raise Rejected("not of the schema")
    except Rejected as error:
        return f"{UNJUDGED}: {error}", ""
    for item in found:
        quote = " ".join(item["quote"].split()).strip("\"“”'‘’… ")
        if quote and quote in text:
            return f"{JUDGED}: {item['kind']}", quote[:160]
    return (f"{UNJUDGED}: quotes what is not there", "") if found else ("", "")
