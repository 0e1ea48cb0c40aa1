"""OpenAI's protocol: what a request's body asks for, and answers in the shape that clients read.

Of vLLM's additions it knows `prompt_logprobs` and `continue_final_message`. What would change an answer and is not
there is refused; keys that nobody knows are ignored, as others do.
"""

import dataclasses
import json
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from data_gen.chat import Message
from evals.served import Served, new_seed
from msm_jax.cli import UserError
from msm_jax.sampler import TOPS, Completion, Scored, Settings, Top

Body = dict[str, Any]
MOST = 128  # answers to one prompt
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
NEUTRAL: dict[str, tuple[Any, ...]] = {  # keys of settings that are not there, with the values that ask for nothing
    "best_of": (1,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "frequency_penalty": (0,),
    "functions": ([],),
    "guided_json": (),
    "logit_bias": ({},),
    "min_p": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "structured_outputs": (),
    "suffix": ("",),
    "tools": ([],),
    "top_k": (0, -1),
}


class RefusedError(Exception):
    """An answer other than 200. `param`: the key of the body that is wrong."""

    def __init__(self, message: str, param: str = "", code: str = "", status: int = 400) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status

    def body(self) -> Body:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        about = {"message": str(self), "type": kind, "param": self.param or None, "code": self.code or None}
        return {"error": about}


@dataclasses.dataclass(frozen=True)
class Asked:
    """What both endpoints understand. logprobs: how many of the likeliest tokens to tell, None for no
    log-probabilities; prompt_logprobs: the same of the prompt."""

    settings: Settings
    n: int
    logprobs: int | None
    prompt_logprobs: int | None
    stream: bool
    stream_usage: bool


def read(body: Body, served: Served, max_tokens: int, logprobs: int | None) -> Asked:
    """Raises RefusedError. `max_tokens` and `logprobs` are read by the endpoint, which has its own names for them; a
    max_tokens of 0 is its own affair."""
    for key, allowed in NEUTRAL.items():
        if body.get(key) is not None and body[key] not in allowed:
            raise RefusedError(f"{key} is not supported here; leave it out", key)
    stop = body.get("stop")
    stop = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(string, str) for string in stop):
        raise RefusedError("stop must be a string or a list of them", "stop")
    seed = number(body, "seed", None, int)
    n = number(body, "n", 1, int)
    if not 1 <= n <= MOST:
        raise RefusedError(f"n = {n}: must be from 1 to {MOST}", "n")
    try:
        settings = Settings(
            max_tokens=max(max_tokens, 1),
            temperature=number(body, "temperature", 1.0, float),
            top_p=number(body, "top_p", 1.0, float),
            seed=new_seed() if seed is None else seed % 2**32,
            stop_ids=served.stop_ids,
            stop=tuple(string for string in stop if string),
        )
    except UserError as error:
        line = str(error).replace("config.", "")
        raise RefusedError(line, line.partition(" = ")[0]) from error
    asked_of_prompt = number(body, "prompt_logprobs", None, int)
    for key, wanted in (("logprobs", logprobs), ("prompt_logprobs", asked_of_prompt)):
        if wanted is not None and not 0 <= wanted <= TOPS[-1]:
            raise RefusedError(f"{key}: {wanted} of the likeliest tokens; must be from 0 to {TOPS[-1]}", key)
    options = body.get("stream_options") or {}
    usage = isinstance(options, dict) and bool(options.get("include_usage"))
    return Asked(settings, n, logprobs, asked_of_prompt, bool(body.get("stream")), usage)


def number(body: Body, key: str, default: Any, kind: type) -> Any:
    """A number of the body, or the default. Raises RefusedError on anything else."""
    value = body.get(key)
    if value is None:
        return default
    if not isinstance(value, int if kind is int else int | float) or isinstance(value, bool) or abs(value) > 2**64:
        raise RefusedError(f"{key} must be a {'whole ' if kind is int else ''}number", key)
    return kind(value)


def prompts(body: Body, served: Served) -> list[tuple[str, list[int]]]:
    """Text and ids of all prompts: a text, ids, or a list of either. Raises RefusedError."""
    given = body.get("prompt")
    if isinstance(given, list) and given and all(isinstance(token, int) for token in given):
        given = [given]
    many = given if isinstance(given, list) else [given]
    found = []
    for one in many:
        if isinstance(one, str) and one:
            found.append((one, served.text_ids(one)))
        elif isinstance(one, list) and one and all(isinstance(t, int) and not isinstance(t, bool) for t in one):
            served.room(one, 0)  # before anything is decoded
            found.append((served.model.tokenizer.decode(one, special=True), one))
        else:
            raise RefusedError("prompt must be a text, token ids, or a list of either, and not empty", "prompt")
    if not found:
        raise RefusedError("prompt is empty", "prompt")
    return found


def messages(body: Body) -> list[Message]:
    """Raises RefusedError."""
    given = body.get("messages")
    if not isinstance(given, list) or not given or not all(isinstance(message, dict) for message in given):
        raise RefusedError("messages must be a list of {role, content}, and not empty", "messages")
    found = []
    for i, message in enumerate(given):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES or message.get("tool_calls"):
            raise RefusedError(
                f"message {i} has role {role!r}; must be one of {', '.join(ROLES)}, without tools", "messages"
            )
        if isinstance(content, list):
            if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
                raise RefusedError(f"message {i} holds more than text", "messages")
            content = "\n".join(part["text"] for part in content)
        if not isinstance(content, str):
            raise RefusedError(f"message {i} has no text as content", "messages")
        found.append({"role": ROLES[role], "content": content})
    if found[-1]["role"] == "assistant" and not body.get("continue_final_message"):
        raise RefusedError(
            "the last message is the assistant's; say continue_final_message=true to go on from it", "messages"
        )
    return found


# ------------------------------------------------------------------------------------------------------------- answers
@dataclasses.dataclass(frozen=True)
class Told:
    """Tokens in a row with their log-probabilities (None: nothing came before) and the likeliest in their places."""

    tokens: list[int]
    log_p: list[float | None]
    top: list[list[tuple[int, float]]]

    def __add__(self, other: "Told") -> "Told":
        return Told(self.tokens + other.tokens, self.log_p + other.log_p, self.top + other.top)


def told(tokens: Sequence[int], log_p: Sequence[float | None], top: Top | None, count: int) -> Told:
    """`count` of the likeliest of each place."""
    if top is None or not count:
        return Told(list(tokens), list(log_p), [[] for _ in tokens])
    pairs = zip(top.ids[:, :count].tolist(), top.log_p[:, :count].tolist(), strict=True)
    return Told(list(tokens), list(log_p), [list(zip(ids, values, strict=True)) for ids, values in pairs])


def told_of_prompt(tokens: list[int], scored: Scored, count: int) -> Told:
    """Of a whole prompt, whose first token nothing came before."""
    return Told(tokens[:1], [None], [[]]) + told(tokens[1:], scored.log_p.tolist(), scored.top, count)


def told_of_answer(completion: Completion, count: int) -> Told:
    return told(completion.tokens, completion.log_p.tolist(), completion.top, count)


def completion_logprobs(these: Told, served: Served, asked: Asked) -> Body | None:
    """As /v1/completions has them."""
    if asked.logprobs is None:
        return None
    texts = [served.token_text(token) for token in these.tokens]
    offsets = [0]
    for text in texts[:-1]:
        offsets.append(offsets[-1] + len(text))
    likeliest: list[dict[str, float] | None] = []
    for text, value, top in zip(texts, these.log_p, these.top, strict=True):
        if value is None:
            likeliest.append(None)
            continue
        best: dict[str, float] = {}
        for token, its in top:  # falling: of two tokens that read alike the likelier one counts
            best.setdefault(served.token_text(token), its)
        best.setdefault(text, value)
        likeliest.append(best)
    return {
        "tokens": texts,
        "token_logprobs": these.log_p,
        "top_logprobs": likeliest if asked.logprobs else None,
        "text_offset": offsets[: len(texts)],
    }


def chat_logprobs(these: Told, served: Served, asked: Asked) -> Body | None:
    """As /v1/chat/completions has them."""
    if asked.logprobs is None:
        return None

    def one(token: int, value: float | None) -> Body:
        text = served.token_text(token)
        return {"token": text, "logprob": value, "bytes": None if "�" in text else list(text.encode())}

    content = [
        one(token, value) | {"top_logprobs": [one(*pair) for pair in top]}
        for token, value, top in zip(these.tokens, these.log_p, these.top, strict=True)
    ]
    return {"content": content}


def vllm_logprobs(these: Told, served: Served) -> list[Body | None]:
    """Of a prompt, as vLLM has them: the token itself stands first."""
    found: list[Body | None] = []
    for token, value, top in zip(these.tokens, these.log_p, these.top, strict=True):
        pairs = [] if value is None else [(token, value), *(pair for pair in top if pair[0] != token)]
        entry = {str(one): {"logprob": its, "decoded_token": served.token_text(one)} for one, its in pairs}
        found.append(entry or None)
    return found


def answer(kind: str, model: str, choices: list[Body], into: int, out: int) -> Body:
    usage = {"prompt_tokens": into, "completion_tokens": out, "total_tokens": into + out}
    short = {"chat.completion": "chatcmpl", "text_completion": "cmpl"}[kind]
    head = {"id": f"{short}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}
    return head | {"choices": choices, "usage": usage}


def events(whole: Body, with_usage: bool) -> Iterator[str]:
    """An answer as a stream of server-sent events: it is computed as a whole, so each choice comes in one piece."""
    chat = whole["object"] == "chat.completion"
    head = {key: whole[key] for key in ("id", "created", "model")}
    head["object"] = "chat.completion.chunk" if chat else "text_completion"

    def event(**more: Any) -> str:
        return f"data: {json.dumps(head | more, ensure_ascii=False)}\n\n"

    for choice in whole["choices"]:
        index, logprobs = choice["index"], choice["logprobs"]
        said = {"delta": choice["message"]} if chat else {"text": choice["text"]}
        nothing: Body = {"delta": {}} if chat else {"text": ""}
        yield event(choices=[{"index": index, "logprobs": logprobs, "finish_reason": None} | said])
        last = {"index": index, "logprobs": None, "finish_reason": choice["finish_reason"]}
        yield event(choices=[last | nothing])
    if with_usage:
        yield event(choices=[], usage=whole["usage"])
    yield "data: [DONE]\n\n"
