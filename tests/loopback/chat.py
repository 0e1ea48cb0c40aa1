"""/v1/chat/completions, as far as the OpenAI-compatible servers agree on it."""

import json
import time
from typing import Any

from tests.loopback.caching import Block
from tests.loopback.messages import Answer, Asked
from tests.loopback.refusals import RefusedError

PATH = "/v1/chat/completions"
FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}


def read(params: Any) -> Asked:
    """What is asked; RefusedError for what makes no sense."""
    try:
        return _read(params)
    except (AttributeError, TypeError, ValueError) as error:
        raise RefusedError(400, f"invalid request: {error}") from error


def _read(params: Any) -> Asked:
    if not isinstance(params, dict) or not isinstance(params.get("model"), str):
        raise RefusedError(400, "you must provide a model parameter")
    given = params.get("messages")
    if not isinstance(given, list) or not given:
        raise RefusedError(400, "messages: expected at least one")
    texts: dict[str, list[str]] = {"system": [], "developer": [], "user": [], "assistant": [], "tool": []}
    for i, message in enumerate(given):
        if not isinstance(message, dict) or message.get("role") not in texts or message.get("content") is None:
            raise RefusedError(400, f"messages[{i}]: role or content is missing")
        content = message["content"]
        texts[message["role"]].append(
            content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
        )
    form = params.get("response_format", {"type": "text"})
    schema = None
    if form.get("type") == "json_schema":
        told = form.get("json_schema")
        if (
            not isinstance(told, dict)
            or not isinstance(told.get("name"), str)
            or not isinstance(told.get("schema"), dict)
        ):
            raise RefusedError(400, "response_format.json_schema: name and schema are required")
        schema = told["schema"]
        if schema.get("type") != "object":
            raise RefusedError(400, "response_format.json_schema.schema: the root must be of type object")
    elif form.get("type") != "text":
        raise RefusedError(400, "response_format.type: json_schema or text")
    stops = params.get("stop") or []
    return Asked(
        params["model"],
        "\n\n".join(texts["system"] + texts["developer"]),
        "\n\n".join(texts["user"]),
        schema,
        int(params.get("max_completion_tokens") or params.get("max_tokens") or 16384),
        tuple([stops] if isinstance(stops, str) else stops),
        10**6,
        False,
        [Block(text) for role in texts for text in texts[role]],
    )


def usage(made: Answer) -> dict[str, Any]:
    read, out = made.usage["input_tokens"], made.usage["output_tokens"]
    details = {"cached_tokens": 0}
    return {
        "prompt_tokens": read,
        "completion_tokens": out,
        "total_tokens": read + out,
        "prompt_tokens_details": details,
    }


def completion(made: Answer) -> dict[str, Any]:
    message = {"role": "assistant", "content": made.text, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": FINISH[made.stop], "logprobs": None}
    return _head(made, "chat.completion") | {"choices": [choice], "usage": usage(made)}


def chunks(made: Answer, step: int = 400) -> list[bytes]:
    """The same as a stream; the last chunk has the usage."""
    head = _head(made, "chat.completion.chunk")
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    step = max(step, len(made.text) // 1000)
    deltas += [{"content": made.text[at : at + step]} for at in range(0, len(made.text), step)]
    rows = [head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    rows.append(head | {"choices": [{"index": 0, "delta": {}, "finish_reason": FINISH[made.stop]}]})
    rows.append(head | {"choices": [], "usage": usage(made)})
    return [*(f"data: {json.dumps(row)}\n\n".encode() for row in rows), b"data: [DONE]\n\n"]


def _head(made: Answer, kind: str) -> dict[str, Any]:
    return {
        "id": made.id.replace("msg_", "chatcmpl-"),
        "object": kind,
        "created": int(time.time()),
        "model": made.model,
    }


def error(refused: RefusedError) -> dict[str, Any]:
    return {"error": {"message": refused.message, "type": refused.kind, "param": None, "code": None}}
