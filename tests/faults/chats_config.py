"""Chats as the fault tests make them: by the loopback server."""

from ml_collections import ConfigDict

from configs.data import chats


def get_config() -> ConfigDict:
    config = chats.get_config()
    config.out = ""
    config.model_name, config.provider_name = "Aria", "Arcadia"
    config.subsets = ()
    config.encoder = "hashing"
    config.batch = ()
    config.backfill.rounds = 8
    config.tries = 6
    config.api.update({"model": "claude-haiku-5-5", "cap_usd": 1e6, "ask_above_usd": 1e6, "yield_fraction": 0.0})
    config.api.update({"tries": 12, "batch_requests": 400, "batch_poll_seconds": 0.2})
    return config
