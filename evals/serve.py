"""Serves a model by OpenAI's protocol, for harnesses of other people: lm-eval, clients of vLLM, Inspect's openai-api.

    python -m evals.serve --config=configs/evals/serve.py --config.model=runs/aft
    lm_eval --model local-completions --model_args \\
        model=aft,base_url=http://127.0.0.1:8000/v1/completions,tokenizer=runs/aft-hf,num_concurrent=16 --tasks …

GET /health, /v1/models; POST /v1/completions (text or token ids, echo, logprobs) and /v1/chat/completions. Requests at
the same time share batches. Answers are computed as a whole; a stream has one piece a choice. Only this machine can
reach it unless config.host says otherwise; config.api_key_env names an environment variable with the key to ask for.
"""

import asyncio
import contextlib
import dataclasses
import hmac
import json
import os
import socket
import traceback
from collections.abc import Awaitable, Callable, Iterator
from pathlib import PurePath

import uvicorn
from ml_collections import ConfigDict
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from data_gen.chat import ChatPolicy
from evals import protocol
from evals.protocol import Asked, Body, RefusedError, Told
from evals.served import Prompt, Served, TooLongError
from msm_jax import cli
from msm_jax.cli import UserError
from msm_jax.sampler import Completion

COMPLETION_TOKENS = 16  # of /v1/completions where nobody says, as the protocol has it
LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """The two kinds of answer. name: the model's, as clients know it. max_tokens: of a chat, where nobody says."""

    served: Served
    name: str
    max_tokens: int

    def check_name(self, body: Body) -> None:
        if body.get("model", self.name) != self.name:
            line = f"the model {body['model']!r} does not exist; there is {self.name!r}"
            raise RefusedError(line, "model", "model_not_found", status=404)

    # -------------------------------------------------------------------------------------------- /v1/completions
    async def completions(self, body: Body) -> Response:
        self.check_name(body)
        echo, wanted = bool(body.get("echo")), protocol.number(body, "max_tokens", COMPLETION_TOKENS, int)
        asked = protocol.read(body, self.served, wanted, protocol.number(body, "logprobs", None, int))
        if wanted < 0 or (wanted == 0 and not echo):
            raise RefusedError(f"max_tokens = {wanted}: must be at least 1, or 0 with echo", "max_tokens")
        prompts = protocol.prompts(body, self.served)
        for _, ids in prompts:
            self.served.room(ids, wanted)  # raises, so that no part of a bad request is computed
        found = await asyncio.gather(*(self._complete(text, ids, wanted, echo, asked) for text, ids in prompts))
        choices = [choice for some, _ in found for choice in some]
        choices = [{"index": index} | choice for index, choice in enumerate(choices)]
        into, out = sum(len(ids) for _, ids in prompts), sum(count for _, count in found)
        return _response(protocol.answer("text_completion", self.name, choices, into, out), asked)

    async def _complete(
        self, text: str, ids: list[int], wanted: int, echo: bool, asked: Asked
    ) -> tuple[list[Body], int]:
        """The choices of one prompt, and how many tokens were made."""
        before, extra, of_prompt = Told([], [], []), {}, None
        scoring = [count for count in (asked.logprobs if echo else None, asked.prompt_logprobs) if count is not None]
        if scoring:
            of_prompt = await asyncio.wrap_future(self.served.weigh(ids[:1], ids[1:], max(scoring)))
            if echo and asked.logprobs is not None:
                before = protocol.told_of_prompt(ids, of_prompt, asked.logprobs)
            if asked.prompt_logprobs is not None:
                whole = protocol.told_of_prompt(ids, of_prompt, asked.prompt_logprobs)
                extra = {"prompt_logprobs": protocol.vllm_logprobs(whole, self.served)}
        if of_prompt and wanted <= 1 and asked.settings.temperature == 0 and asked.n == 1:
            said = [self._after(*of_prompt.next, wanted)]
        else:
            said = await self._say(ids, asked, wanted) if wanted else []
        choices = []
        for finish, words, after in said:
            logprobs = protocol.completion_logprobs(before + after, self.served, asked)
            shown = {"text": (text if echo else "") + words, "finish_reason": finish, "logprobs": logprobs}
            choices.append(shown | extra)
        if not said:
            logprobs = protocol.completion_logprobs(before, self.served, asked)
            choices.append({"text": text, "finish_reason": "length", "logprobs": logprobs} | extra)
        return choices, sum(len(after.tokens) for _, _, after in said)

    def _after(self, token: int, log_p: float, wanted: int) -> tuple[str, str, Told]:
        """An answer of the likeliest token alone, told even where it ends the text: lm-eval drops the last token."""
        if not wanted:
            return "length", "", Told([], [], [])
        finish = "stop" if token in self.served.stop_ids else "length"
        return finish, self.served.model.tokenizer.decode([token]), Told([token], [log_p], [[(token, log_p)]])

    async def _say(self, ids: list[int], asked: Asked, wanted: int) -> list[tuple[str, str, Told]]:
        """(why it ended, text, tokens) of every answer."""
        settings = dataclasses.replace(asked.settings, max_tokens=self.served.room(ids, wanted))
        top = asked.logprobs or 0
        futures = [self.served.say(ids, settings, repeat, top) for repeat in range(asked.n)]
        said: list[Completion] = await asyncio.gather(*map(asyncio.wrap_future, futures))
        return [(one.finish, one.text, protocol.told_of_answer(one, top)) for one in said]

    # --------------------------------------------------------------------------------------- /v1/chat/completions
    async def chat(self, body: Body) -> Response:
        self.check_name(body)
        key = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
        wanted = protocol.number(body, key, self.max_tokens, int)
        if wanted < 1:
            raise RefusedError(f"{key} = {wanted}: must be at least 1", key)
        top = protocol.number(body, "top_logprobs", 0, int) if body.get("logprobs") else None
        asked = protocol.read(body, self.served, wanted, top)
        prompt = self._prompt(body)
        self.served.room(prompt.whole, wanted)
        extra = {}
        if asked.prompt_logprobs is not None:
            ids = prompt.whole
            scored = await asyncio.wrap_future(self.served.weigh(ids[:1], ids[1:], asked.prompt_logprobs))
            whole = protocol.told_of_prompt(ids, scored, asked.prompt_logprobs)
            extra = {"prompt_logprobs": protocol.vllm_logprobs(whole, self.served)}
        said = await self._say(prompt.whole, asked, wanted)
        choices = []
        for index, (finish, words, after) in enumerate(said):
            message = {"role": "assistant", "content": words}
            logprobs = protocol.chat_logprobs(after, self.served, asked)
            choices.append({"index": index, "message": message, "finish_reason": finish, "logprobs": logprobs})
        out = sum(len(after.tokens) for _, _, after in said)
        return _response(protocol.answer("chat.completion", self.name, choices, len(prompt.whole), out) | extra, asked)

    def _prompt(self, body: Body) -> Prompt:
        messages = protocol.messages(body)
        try:
            return self.served.prompt(messages)
        except UserError as error:
            raise RefusedError(str(error), "messages") from error


def make_app(endpoint: Endpoint, key: str = "") -> Starlette:
    """`key`: what clients must show, empty for none."""
    listed = {"id": endpoint.name, "object": "model", "created": 0, "owned_by": "msm_jax"}
    listed |= {"max_model_len": endpoint.served.context}

    def posted(handler: Callable[[Body], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            with _refusing():
                _check_key(request, key)
                return await handler(_body(await request.body()))

        return handle

    async def models(request: Request) -> Response:
        _check_key(request, key)
        return JSONResponse({"object": "list", "data": [listed]})

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, RefusedError)
        return JSONResponse(error.body(), error.status)

    async def no_such(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse(RefusedError(error.detail, status=error.status_code).body(), error.status_code)

    async def broken(_: Request, error: Exception) -> Response:
        traceback.print_exception(error)
        return JSONResponse(RefusedError("the server failed; its own output says why", status=500).body(), 500)

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/models", models),
            Route("/v1/completions", posted(endpoint.completions), methods=["POST"]),
            Route("/v1/chat/completions", posted(endpoint.chat), methods=["POST"]),
        ],
        exception_handlers={RefusedError: refused, HTTPException: no_such, Exception: broken},
    )


def _check_key(request: Request, key: str) -> None:
    shown = request.headers.get("authorization", "").encode()
    if key and not hmac.compare_digest(shown, f"Bearer {key}".encode()):
        raise RefusedError("a wrong API key, or none", code="invalid_api_key", status=401)


def _body(raw: bytes) -> Body:
    try:
        body = json.loads(raw)
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise RefusedError("the body holds half a surrogate pair, which is no text") from error
    except (ValueError, RecursionError) as error:
        raise RefusedError("the body is not JSON") from error
    if not isinstance(body, dict):
        raise RefusedError("the body must be a JSON object")
    return body


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """What is wrong with a request is its sender's to mend."""
    try:
        yield
    except TooLongError as error:
        raise RefusedError(str(error), code="context_length_exceeded") from error
    except UserError as error:
        raise RefusedError(str(error)) from error


def _response(whole: Body, asked: Asked) -> Response:
    if asked.stream:
        return StreamingResponse(protocol.events(whole, asked.stream_usage), media_type="text/event-stream")
    return JSONResponse(whole)


def listen(host: str, port: int) -> socket.socket:
    """A socket to serve on; port 0 is any that is free. Raises UserError where it cannot be had."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"config.host = {host!r}, config.port = {port}: {reason}; choose others") from error
    return found


def make_server(app: Starlette) -> uvicorn.Server:
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    key = _key(config)
    if config.max_tokens < 1:
        raise UserError(f"config.max_tokens = {config.max_tokens}: must be at least 1")
    named = {name: config[name] for name in ("adapter", "step", "dtype", "batch", "context")}
    served = Served(config.model, template=config.chat.template, policy=ChatPolicy.from_config(config.chat), **named)
    name = config.name or PurePath(config.model).name
    taken = listen(config.host, config.port)
    served.warm_up()
    host, port = taken.getsockname()[:2]
    if config.host not in LOCAL and not key:
        cli.warn(f"whoever reaches {host}:{port} may ask; name a key by config.api_key_env")
    cli.note(f"{name}: http://{host}:{port}/v1")
    make_server(make_app(Endpoint(served, name, config.max_tokens), key)).run(sockets=[taken])


def _key(config: ConfigDict) -> str:
    if not config.api_key_env:
        return ""
    key = os.environ.get(config.api_key_env, "")
    if not key:
        raise UserError(f"config.api_key_env = {config.api_key_env!r}: not set in the environment, or empty")
    return key


if __name__ == "__main__":
    cli.entry(main)
