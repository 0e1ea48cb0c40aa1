"""What the Messages API refuses, in the order and roughly the words it does.

Sources: the API reference and the pages on structured outputs, prompt caching and message batches at
platform.claude.com/docs, its migration guides for the models and for API version 2026-10-21, and the types of the
anthropic package 2.12.0.
"""

import re
from typing import Any

from tests.loopback import schemas

KIND = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}
CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
ITEMS = 100_000  # of one batch, at most
BATCH_BYTES, MESSAGE_BYTES = 256 * 2**20, 32 * 2**20

# Longest answer and context window, in tokens, by the beginning of the model's name; the first that fits.
MODELS = {
    "claude-haiku-4-5": (64_000, 200_000),
    "claude-sonnet-4-5": (64_000, 200_000),
    "claude-opus-4-5": (64_000, 200_000),
    "claude-sonnet-4-6": (128_000, 1_000_000),
    "claude-opus-4-": (128_000, 1_000_000),
    "claude-haiku-5": (128_000, 1_000_000),
    "claude-sonnet-5": (128_000, 1_000_000),
    "claude-opus-5": (128_000, 1_000_000),
    "claude-fable-5": (128_000, 1_000_000),
    "claude-mythos": (128_000, 1_000_000),
}
FIVE = re.compile(r"claude-(haiku|sonnet|opus|fable|mythos)-5")
PREFILLED = re.compile(r"claude-(haiku|sonnet|opus)-4-5")  # the last that continue an assistant's message
UNSAMPLED = "2026-10-21"  # the API version from which no model takes sampling parameters
FIVE_FIVE = re.compile(r"claude-(haiku|sonnet|opus)-5-5")
_KEYS = """
model max_tokens messages system tools tool_choice metadata stop_sequences stream temperature top_p top_k thinking
output_config service_tier cache_control container diagnostics inference_geo speed user_profile_id
"""
KEYS = frozenset(_KEYS.split())
COUNTED = KEYS - {"max_tokens", "stream", "stop_sequences", "metadata"}
TYPES: dict[str, type] = {
    "tools": list,
    "tool_choice": dict,
    "thinking": dict,
    "output_config": dict,
    "stop_sequences": list,
    "metadata": dict,
    "cache_control": dict,
    "stream": bool,
}
EFFORTS = ("low", "medium", "high", "xhigh", "max")


class RefusedError(Exception):
    def __init__(self, status: int, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind or KIND[status]
        self.headers: dict[str, str] = {}


def body(error: RefusedError, request_id: str | None) -> dict[str, Any]:
    told = {"type": error.kind, "message": error.message}
    return {"type": "error", "error": told, "request_id": request_id}


def check(params: Any, version: str, counted: bool = False) -> None:
    """Raises RefusedError for what the API of this version would refuse of a message's parameters.

    counted: they are asked of count_tokens.
    """
    if not isinstance(params, dict):
        raise RefusedError(400, "the request's body must be an object")
    for key in params.keys() - (COUNTED if counted else KEYS):
        raise RefusedError(400, f"{key}: Extra inputs are not permitted")
    for key in ("model", "messages") if counted else ("model", "max_tokens", "messages"):
        if key not in params:
            raise RefusedError(400, f"{key}: Field required")
    for key, kind in TYPES.items():
        if params.get(key) is not None and not isinstance(params[key], kind):
            raise RefusedError(400, f"{key}: Input should be a valid {kind.__name__}")
    model = params["model"]
    longest, _ = limits(model)
    for key in ("temperature", "top_p", "top_k"):
        if key in params and (version >= UNSAMPLED or FIVE.match(model)):
            raise RefusedError(400, f"{key}: sampling parameters are not supported, even at their default")
    if not counted:
        _numbers(params, longest, model)
    _messages(params["messages"], model)
    _content(params.get("system") or "", "system")
    for i, stop in enumerate(params.get("stop_sequences") or ()):
        if not isinstance(stop, str) or not stop.strip():
            raise RefusedError(400, f"stop_sequences.{i}: each stop sequence must contain non-whitespace")
    for i, tool in enumerate(params.get("tools") or ()):
        if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
            raise RefusedError(400, f"tools.{i}.name: Field required")
    _thinking(params.get("thinking"), model)
    _output(params.get("output_config"))
    choice = params.get("tool_choice") or {}
    if choice and not params.get("tools"):
        raise RefusedError(400, "tool_choice: may only be specified while providing tools")
    if choice.get("type") in ("any", "tool") and FIVE_FIVE.match(model):
        raise RefusedError(400, f"tool_choice: forced tool use is not supported on {model}")
    _caching(params)


def limits(model: Any) -> tuple[int, int]:
    """A model's longest answer and its context window, in tokens."""
    found = [MODELS[name] for name in MODELS if isinstance(model, str) and model.startswith(name)]
    if not found:
        raise RefusedError(404, f"model: {model}")
    return found[0]


def _numbers(params: dict[str, Any], longest: int, model: str) -> None:
    most = params["max_tokens"]
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        raise RefusedError(400, "max_tokens: Input should be an integer greater than or equal to 1")
    if most > longest:
        raise RefusedError(
            400,
            f"max_tokens: {most} > {longest}, which is the maximum allowed number of output tokens for {model}",
        )


def _messages(messages: Any, model: str) -> None:
    if not isinstance(messages, list) or not messages:
        raise RefusedError(400, "messages: at least one message is required")
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in ("user", "assistant"):
            raise RefusedError(400, f"messages.{i}.role: Input should be 'user' or 'assistant'")
        if not message.get("content"):
            raise RefusedError(400, f"messages.{i}: all messages must have non-empty content")
        _content(message["content"], f"messages.{i}.content")
    if messages[0]["role"] != "user":
        raise RefusedError(400, "messages: first message must use the user role")
    if messages[-1]["role"] == "assistant" and not PREFILLED.match(model):
        raise RefusedError(
            400, "This model does not support assistant message prefill; the conversation must end with a user message"
        )


def _content(content: Any, where: str) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise RefusedError(400, f"{where}: Input should be a string or a list of content blocks")
    for i, block in enumerate(content):
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise RefusedError(400, f"{where}.{i}.type: Field required")
        if block["type"] == "text" and not (isinstance(block.get("text"), str) and block["text"]):
            raise RefusedError(400, f"{where}.{i}: text content blocks must be non-empty")


def _thinking(thinking: Any, model: str) -> None:
    if thinking is None:
        return
    kind = thinking.get("type")
    if kind not in ("enabled", "disabled", "adaptive", "between_tools"):
        raise RefusedError(400, "thinking.type: Input should be 'adaptive', 'between_tools', 'enabled' or 'disabled'")
    if FIVE_FIVE.match(model) and kind == "enabled":
        raise RefusedError(400, f"thinking.budget_tokens: not supported on {model}; use output_config.effort")
    if model.startswith("claude-opus-5-5") and kind == "disabled":
        raise RefusedError(400, f"thinking: cannot be disabled on {model}; use output_config.effort")


def _output(config: Any) -> None:
    if config is None:
        return
    for key in config.keys() - {"effort", "format"}:
        raise RefusedError(400, f"output_config.{key}: Extra inputs are not permitted")
    if config.get("effort") is not None and config["effort"] not in EFFORTS:
        raise RefusedError(400, f"output_config.effort: Input should be one of {', '.join(EFFORTS)}")
    form = config.get("format")
    if form is not None:
        if not isinstance(form, dict) or form.get("type") != "json_schema" or form.keys() != {"type", "schema"}:
            raise RefusedError(400, "output_config.format: Input should be {'type': 'json_schema', 'schema': …}")
        if wrong := schemas.wrong(form["schema"]):
            raise RefusedError(400, f"output_config.format.schema: {wrong}")


def _caching(params: dict[str, Any]) -> None:
    marks = [block["cache_control"] for block in marked(params)]
    if params.get("cache_control"):
        marks.append(params["cache_control"])
    if len(marks) > 4:
        raise RefusedError(400, f"A maximum of 4 blocks with cache_control may be provided. Found {len(marks)}.")
    for mark in marks:
        if not isinstance(mark, dict) or mark.get("type") != "ephemeral" or mark.get("ttl", "5m") not in ("5m", "1h"):
            raise RefusedError(400, "cache_control: Input should be {'type': 'ephemeral', 'ttl': '5m' or '1h'}")
    lasting = [mark.get("ttl", "5m") for mark in marks]
    if sorted(lasting) != lasting:  # "1h" sorts before "5m"
        raise RefusedError(400, "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block")


def marked(params: dict[str, Any]) -> list[dict[str, Any]]:
    """Every block with a cache_control, in the order of the prompt."""
    parts = [params.get("tools"), params.get("system"), *(m.get("content") for m in params["messages"])]
    return [
        b for part in parts if isinstance(part, list) for b in part if isinstance(b, dict) and b.get("cache_control")
    ]


def check_batch(given: Any) -> list[dict[str, Any]]:
    """The requests of a batch. Their parameters are not checked here: the API does that later, item by item."""
    if not isinstance(given, dict) or not isinstance(given.get("requests"), list) or not given["requests"]:
        raise RefusedError(400, "requests: at least one request is required")
    for key in given.keys() - {"requests"}:
        raise RefusedError(400, f"{key}: Extra inputs are not permitted")
    requests = given["requests"]
    if len(requests) > ITEMS:
        raise RefusedError(400, f"requests: List should have at most {ITEMS} items")
    seen: set[str] = set()
    for i, item in enumerate(requests):
        if not isinstance(item, dict) or item.keys() != {"custom_id", "params"} or not isinstance(item["params"], dict):
            raise RefusedError(400, f"requests.{i}: Input should be {{'custom_id', 'params'}}")
        name = item["custom_id"]
        if not isinstance(name, str) or not CUSTOM_ID.fullmatch(name):
            raise RefusedError(400, f"requests.{i}.custom_id: String should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'")
        if name in seen:
            raise RefusedError(400, f"requests.{i}.custom_id: duplicate custom_id {name}; each must be unique")
        seen.add(name)
    return requests
