"""Anthropic's API by its SDK: messages, streamed where they may be long, and message batches.

The SDK's own retries are off: every attempt passes the ledger. Prompts are cached by the system text, for an hour.
"""

import asyncio
import functools
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx2

from data_gen.api import transport
from data_gen.api.prices import LEAST_BYTES_PER_TOKEN, Prices
from data_gen.api.provider import BatchResult, BatchState, Declined, Failure, Heard, ignore, said
from data_gen.api.request import Reply, Request, Stop, Usage
from msm_jax.cli import UserError

KEY_NAME = "ANTHROPIC_API_KEY"
STREAM_ABOVE = 16_000  # max_tokens; the SDK refuses to wait for more than about 21,000 in one piece
_LIMIT_HEADERS = "anthropic-ratelimit-"
_STOPS = {
    "end_turn": Stop.END,
    "stop_sequence": Stop.END,
    "max_tokens": Stop.LENGTH,
    "refusal": Stop.REFUSAL,
    "model_context_window_exceeded": Stop.CONTEXT,
}
_TRANSIENT = ("api_error", "overloaded_error", "rate_limit_error", "timeout_error")  # of a batch's requests
_NOT_DONE = {"expired", "canceled"}


class Anthropic:
    """The provider, and its batches. `base_url`: empty: ANTHROPIC_BASE_URL, or the API itself.

    Raises:
      UserError: no ANTHROPIC_API_KEY in the environment.
    """

    name = "anthropic"
    price_as = ""

    def __init__(self, prices: Prices, *, base_url: str = "", timeout_seconds: float = 600.0) -> None:
        self._key = os.environ.get(KEY_NAME, "")
        if not self._key:
            raise UserError(f"{KEY_NAME}: not set in the environment; export your key of the API, or ask offline")
        self._prices, self._timeout = prices, timeout_seconds
        self._sdk = anthropic.AsyncAnthropic(
            api_key=self._key,
            base_url=base_url or None,
            max_retries=0,
            timeout=httpx2.Timeout(timeout_seconds, connect=min(timeout_seconds, transport.CONNECT_SECONDS)),
            open_telemetry=False,
            http_client=anthropic.DefaultAioHttpClient(),
        )
        self.batches = self

    async def close(self) -> None:
        await self._sdk.close()

    def _translated(self) -> Any:
        return transport.translated(anthropic.APIConnectionError, anthropic.APIStatusError, self._key)

    def caches(self, request: Request) -> bool:
        """May the system text be long enough? To mark one that is not costs nothing."""
        least = self._prices.terms(request.model).min_cache_tokens
        return 0 < least <= len(request.system.encode(errors="replace")) / LEAST_BYTES_PER_TOKEN

    def _params(self, request: Request) -> dict[str, Any]:
        params: dict[str, Any] = {
            "model": request.model,
            "max_tokens": request.max_tokens,
            "messages": [{"role": "user", "content": request.user}],
        }
        if request.system:
            block: dict[str, Any] = {"type": "text", "text": request.system}
            if self.caches(request):
                block["cache_control"] = {"type": "ephemeral", "ttl": "1h"}
            params["system"] = [block]
        config: dict[str, Any] = {}
        if request.schema is not None:
            config["format"] = {"type": "json_schema", "schema": _adapted(json.dumps(request.schema))}
        if request.effort:
            config["effort"] = request.effort
        if config:
            params["output_config"] = config
        return params

    async def ask(self, request: Request, attempt: int, heard: Heard = ignore) -> Reply:
        headers = {transport.ATTEMPT_HEADER: str(attempt)}
        params = self._params(request)
        with self._translated():
            try:
                async with asyncio.timeout(self._timeout):
                    if request.max_tokens > STREAM_ABOVE:
                        message, got = await self._streamed(params, headers)
                    else:
                        raw = await self._sdk.messages.with_raw_response.create(**params, extra_headers=headers)
                        message, got = json.loads(raw.http_response.content), raw.headers
            except anthropic.APIStatusError as error:
                heard(transport.allowance(error.response.headers, _LIMIT_HEADERS))
                raise
            heard(transport.allowance(got, _LIMIT_HEADERS))
            return _reply(request.key, message, got.get("request-id", ""))

    async def _streamed(self, params: dict[str, Any], headers: dict[str, str]) -> tuple[dict[str, Any], httpx2.Headers]:
        async with self._sdk.messages.stream(**params, extra_headers=headers) as stream:
            last = ""
            async for event in stream:
                last = event.type
            if last != "message_stop":
                raise httpx2.StreamError("the stream ended before the message did")
            return (await stream.get_final_message()).to_dict(), stream.response.headers

    # Batches

    def encoded_bytes(self, request: Request) -> int:
        return len(json.dumps({"custom_id": request.key, "params": self._params(request)}).encode()) + 2

    async def create(self, requests: list[Request], batch: int) -> str:
        items = [{"custom_id": request.key, "params": self._params(request)} for request in requests]
        with self._translated():
            made = await self._sdk.messages.batches.create(
                requests=items,  # type: ignore[arg-type]
                extra_headers={transport.ATTEMPT_HEADER: f"batch-{batch}"},
            )
            return made.id

    async def status(self, batch: str) -> BatchState:
        with self._translated():
            return _state(await self._sdk.messages.batches.retrieve(batch))

    async def results(self, batch: str) -> AsyncIterator[BatchResult]:
        with self._translated():
            async for item in await self._sdk.messages.batches.results(batch):
                result = item.result
                if result.type == "succeeded":
                    yield BatchResult(item.custom_id, _reply(item.custom_id, result.message.to_dict(), "", batch))
                elif result.type == "errored":
                    error = result.error.error
                    failure = Failure(
                        item.custom_id, said(error.type)[:64], said(error.message, self._key), error.type in _TRANSIENT
                    )
                    yield BatchResult(item.custom_id, failure)
                else:
                    kind = result.type if result.type in _NOT_DONE else "unknown_result"
                    yield BatchResult(item.custom_id, Failure(item.custom_id, kind, again=True))

    async def cancel(self, batch: str) -> None:
        try:
            with self._translated():
                await self._sdk.messages.batches.cancel(batch)
        except Declined as error:
            if error.status not in (400, 409):  # it has ended meanwhile
                raise

    async def created_since(self, when: float) -> AsyncIterator[BatchState]:
        with self._translated():
            async for batch in self._sdk.messages.batches.list(limit=100):
                state = _state(batch)
                if state.created_at < when:
                    return
                yield state


def _state(batch: Any) -> BatchState:
    counts = batch.request_counts
    count = sum((counts.processing, counts.succeeded, counts.errored, counts.canceled, counts.expired))
    return BatchState(batch.id, batch.created_at.timestamp(), batch.processing_status == "ended", count)


@functools.lru_cache(maxsize=256)
def _adapted(schema: str) -> dict[str, Any]:
    """A JSON schema as the API takes it: what it does not support goes into descriptions."""
    return anthropic.transform_schema(json.loads(schema))


def _reply(key: str, message: dict[str, Any], request_id: str, batch: str = "") -> Reply:
    """A message as a reply; blocks are told by their type, since thoughts may come before the text."""
    text = "".join(block["text"] for block in message["content"] if block["type"] == "text")
    usage = message["usage"]
    written = usage.get("cache_creation_input_tokens") or 0
    short = (usage.get("cache_creation") or {}).get("ephemeral_5m_input_tokens") or 0
    stop = _STOPS.get(message["stop_reason"] or "", Stop.OTHER)
    counted = Usage(
        input=usage["input_tokens"],
        cache_read=usage.get("cache_read_input_tokens") or 0,
        cache_write_5m=short,
        cache_write_1h=written - short,
        output=usage["output_tokens"],
    )
    return Reply(key, transport.whole(text), stop, message["model"], counted, request_id or message["id"], batch)
