"""The provider and the client that a configuration's `api` group names (configs/data/api.py)."""

import asyncio
import os

from ml_collections import ConfigDict

from data_gen.api.batches import BatchSettings
from data_gen.api.budget import Budget
from data_gen.api.client import Client, Settings
from data_gen.api.prices import Prices
from data_gen.api.provider import Provider
from data_gen.api.store import Store
from msm_jax.cli import UserError


def open_provider(api: ConfigDict, prices: Prices) -> Provider:
    """Raises UserError where there is no key, or no address."""
    if api.provider == "offline":
        from data_gen.api.offline import Offline

        return Offline()
    if api.provider == "openai":
        from data_gen.api.openai import OpenAI

        key = api.key_variable or ("OPENAI_API_KEY" if "OPENAI_API_KEY" in os.environ else "")
        return OpenAI(api.base_url, key_name=key, timeout_seconds=api.timeout_seconds)
    if api.provider == "anthropic":
        from data_gen.api.anthropic import Anthropic

        return Anthropic(prices, base_url=api.base_url, timeout_seconds=api.timeout_seconds)
    raise UserError(f"config.api.provider = {api.provider!r}: must be anthropic, openai or offline")


def check(api: ConfigDict, prices: Prices) -> None:
    """Raises UserError where open_provider would."""

    async def opened() -> None:
        await open_provider(api, prices).close()

    asyncio.run(opened())


def open_client(api: ConfigDict, provider: Provider, prices: Prices, store: Store) -> Client:
    """A client under the configuration's cap; what the store has paid for counts."""
    cap = api.cap_usd or float("inf")  # 0 only where nothing costs anything
    budget = Budget(cap, store, fraction=api.yield_fraction, window_usd=api.yield_window_usd)
    return Client(provider, store, prices, budget, client_settings(api))


def client_settings(api: ConfigDict) -> Settings:
    batches = BatchSettings(
        max_requests=api.batch_requests,
        max_bytes=api.batch_megabytes * 1_000_000,
        poll_seconds=api.batch_poll_seconds,
        max_hours=api.batch_hours,
    )
    return Settings(concurrency=api.concurrency, tries=api.tries, batches=batches)
