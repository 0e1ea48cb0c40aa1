"""A message's parameters read, and its answer made: the same for direct requests, streams and batches."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from tests.loopback import caching, damage, refusals
from tests.loopback.caching import Block, Share
from tests.loopback.faults import Draw

Responder = Callable[[str, str, str, dict[str, Any] | None], str]
THINKING = 40  # tokens of the thoughts before an answer; they are billed as output and not shown


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    model: str
    system: str
    user: str
    schema: dict[str, Any] | None
    max_tokens: int
    stops: tuple[str, ...]
    window: int  # tokens of prompt and answer together, at most
    thinks: bool
    blocks: list[Block]  # of the prompt, in the order in which the API caches them

    @property
    def traits(self) -> frozenset[str]:
        return _SCHEMA if self.schema is not None else _PLAIN


_SCHEMA, _PLAIN = frozenset({"answer", "schema"}), frozenset({"answer", "plain"})


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    id: str
    model: str
    text: str
    stop: str
    usage: dict[str, Any]  # as the API tells it
    content: list[dict[str, Any]]
    stop_sequence: str | None = None

    def message(self) -> dict[str, Any]:
        details = None
        if self.stop == "refusal":
            details = {"type": "refusal", "category": "general_harms", "explanation": "The reply was stopped."}
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": self.content,
            "stop_reason": self.stop,
            "stop_sequence": self.stop_sequence,
            "stop_details": details,
            "usage": self.usage,
        }


def read(params: dict[str, Any]) -> Asked:
    """Reads parameters that refusals.check has passed; RefusedError if they exceed the model's context window."""
    form = (params.get("output_config") or {}).get("format")
    blocks = [Block(_json(tool), _ttl(tool)) for tool in params.get("tools") or ()]
    if form:
        blocks.append(Block(_json(form)))
    system = _texts(params.get("system") or [], blocks)
    said = [(message["role"], _texts(message["content"], blocks)) for message in params["messages"]]
    if params.get("cache_control"):
        blocks[-1] = dataclasses.replace(blocks[-1], ttl=params["cache_control"].get("ttl", "5m"))
    model = params["model"]
    _, window = refusals.limits(model)
    prompt = caching.tokens(sum(len(block.text) for block in blocks))
    if prompt >= window:
        raise refusals.RefusedError(400, f"prompt is too long: {prompt} tokens > {window} maximum")
    thought = (params.get("thinking") or {}).get("type", "adaptive" if model.startswith("claude-opus-5-5") else "")
    return Asked(
        model,
        system,
        "\n\n".join(text for role, text in said if role == "user"),
        form["schema"] if form else None,
        params.get("max_tokens", 1),
        tuple(params.get("stop_sequences") or ()),
        window,
        thought in ("adaptive", "enabled"),
        blocks,
    )


def _texts(content: str | list[dict[str, Any]], blocks: list[Block]) -> str:
    """The text of a content; appends its blocks."""
    if isinstance(content, str):
        blocks.append(Block(content))
        return content
    for block in content:
        blocks.append(Block(block["text"] if block["type"] == "text" else _json(block), _ttl(block)))
    return "\n\n".join(block["text"] for block in content if block["type"] == "text")


def _ttl(block: dict[str, Any]) -> str:
    return (block.get("cache_control") or {}).get("ttl", "5m") if block.get("cache_control") else ""


def _json(block: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in block.items() if key != "cache_control"})


def count(asked: Asked) -> int:
    """Tokens of the prompt."""
    return caching.tokens(sum(len(block.text) for block in asked.blocks))


def answer(asked: Asked, share: Share, draw: Draw, respond: Responder, tier: str = "standard") -> Answer:
    text = respond(asked.model, asked.system, asked.user, asked.schema)
    text, stop = damage.apply(draw.kind, text, asked.schema, draw.bits)
    sequence = None
    found = [(text.find(s), s) for s in asked.stops if s in text] if asked.stops else []
    if found:
        at, sequence = min(found)
        text, stop = text[:at], "stop_sequence"
    left = asked.window - count(asked)
    full = "max_tokens" if asked.max_tokens <= left else "model_context_window_exceeded"
    room = min(asked.max_tokens, left)
    thoughts = min(THINKING, room - 1) if asked.thinks else 0
    room -= thoughts
    output = max(1, caching.tokens(len(text)))
    if output > room:
        output = room  # what a huge reply claims to have cost stays within what was asked for
        if draw.kind != "huge":
            text, stop, sequence = text[: room * 4], full, None
    usage = {
        "input_tokens": share.fresh,
        "cache_creation_input_tokens": share.write_5m + share.write_1h,
        "cache_read_input_tokens": share.read,
        "cache_creation": {"ephemeral_5m_input_tokens": share.write_5m, "ephemeral_1h_input_tokens": share.write_1h},
        "output_tokens": output + thoughts,
        "service_tier": tier,
    }
    content: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    if asked.thinks:
        usage["output_tokens_details"] = {"thinking_tokens": thoughts}
        content.insert(0, {"type": "thinking", "thinking": "", "signature": draw.name})
    return Answer(f"msg_{draw.name[:24]}", asked.model, text, stop, usage, content, sequence)


def events(made: Answer, step: int = 400) -> list[bytes]:
    """The answer as the events of a stream, `step` characters a piece."""
    start = made.message() | {"content": [], "stop_reason": None, "stop_sequence": None, "stop_details": None}
    start["usage"] = made.usage | {"output_tokens": 1}
    sent = [_event({"type": "message_start", "message": start}), _event({"type": "ping"})]
    for index, block in enumerate(made.content):
        kind = block["type"]
        empty = {"type": "text", "text": ""} if kind == "text" else {"type": kind, "thinking": "", "signature": ""}
        sent.append(_event({"type": "content_block_start", "index": index, "content_block": empty}))
        pieces = [{"type": "signature_delta", "signature": block.get("signature")}]
        if kind == "text":
            text = block["text"]
            step = max(step, len(text) // 1000)
            pieces = [{"type": "text_delta", "text": text[at : at + step]} for at in range(0, len(text), step)]
        sent += [_event({"type": "content_block_delta", "index": index, "delta": piece}) for piece in pieces]
        sent.append(_event({"type": "content_block_stop", "index": index}))
    message = made.message()
    delta = {key: message[key] for key in ("stop_reason", "stop_sequence", "stop_details")}
    usage = {key: value for key, value in made.usage.items() if key not in ("cache_creation", "service_tier")}
    return [*sent, _event({"type": "message_delta", "delta": delta, "usage": usage}), _event({"type": "message_stop"})]


def _event(data: dict[str, Any]) -> bytes:
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n".encode()


def error_event(kind: str, told: str) -> bytes:
    return _event({"type": "error", "error": {"type": kind, "message": told}})
