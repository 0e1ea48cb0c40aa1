"""An endpoint that speaks OpenAI's chat completions: a vLLM server of one's own, or another's API."""

import asyncio
import json
import os
from typing import Any

import httpx2
import openai

from data_gen.api import transport
from data_gen.api.provider import Heard, ignore
from data_gen.api.request import Reply, Request, Stop, Usage
from msm_jax.cli import UserError

_STOPS = {"stop": Stop.END, "length": Stop.LENGTH, "content_filter": Stop.REFUSAL}


class OpenAI:
    """The provider. base_url: such as http://localhost:8000/v1. price_as: the price file's entry for its models
    (`local`: they cost nothing); empty: each model's own. key_name: of the environment's variable with the key; empty:
    none is needed.

    Raises:
      UserError: no base_url, or no key where one is needed.
    """

    name = "openai"
    batches = None

    def __init__(
        self, base_url: str, *, key_name: str = "", price_as: str = "local", timeout_seconds: float = 600.0
    ) -> None:
        if not base_url:
            raise UserError("config.api.base_url: empty; give the endpoint's address, such as http://localhost:8000/v1")
        self._key = os.environ.get(key_name, "") if key_name else "none"
        if not self._key:
            raise UserError(f"{key_name}: not set in the environment; export the endpoint's key")
        self.price_as, self._timeout = price_as, timeout_seconds
        self._sdk = openai.AsyncOpenAI(
            api_key=self._key,
            base_url=base_url,
            max_retries=0,
            timeout=httpx2.Timeout(timeout_seconds, connect=min(timeout_seconds, transport.CONNECT_SECONDS)),
            http_client=openai.DefaultAioHttpClient(),
        )

    async def close(self) -> None:
        await self._sdk.close()

    def caches(self, request: Request) -> bool:
        """Servers cache prefixes by themselves; nobody need wait for it."""
        return False

    async def ask(self, request: Request, attempt: int, heard: Heard = ignore) -> Reply:
        messages = [{"role": "system", "content": request.system}] if request.system else []
        params: dict[str, Any] = {
            "model": request.model,
            "max_tokens": request.max_tokens,
            "messages": [*messages, {"role": "user", "content": request.user}],
        }
        if request.schema is not None:
            schema = {"name": "reply", "schema": request.schema, "strict": True}
            params["response_format"] = {"type": "json_schema", "json_schema": schema}
        if request.effort:
            params["reasoning_effort"] = request.effort
        with transport.translated(openai.APIConnectionError, openai.APIStatusError, self._key):
            async with asyncio.timeout(self._timeout):
                raw = await self._sdk.chat.completions.with_raw_response.create(
                    **params, extra_headers={transport.ATTEMPT_HEADER: str(attempt)}
                )
                return _reply(request.key, json.loads(raw.http_response.content), raw.headers.get("x-request-id", ""))


def _reply(key: str, completion: dict[str, Any], request_id: str) -> Reply:
    choice = completion["choices"][0]
    refusal = choice["message"].get("refusal")
    usage = completion["usage"]
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Reply(
        key,
        transport.whole(choice["message"].get("content") or refusal or ""),
        Stop.REFUSAL if refusal else _STOPS.get(choice["finish_reason"], Stop.OTHER),
        completion["model"],
        Usage(input=usage["prompt_tokens"] - cached, cache_read=cached, output=usage["completion_tokens"]),
        request_id or completion.get("id", ""),
    )
